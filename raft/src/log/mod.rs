//! The Raft log and the vote, on disk.
//!
//! **Idea.** `raft-log` keeps one write-ahead log of typed records in chunk files, with the recent
//! entries in memory. This module puts group commit on top: at most one fdatasync is under way, and
//! everything that is appended meanwhile waits for the next one, together. The slower the disk, the
//! larger the groups; no timer is involved.
//!
//! **Invariants.**
//! - Nothing is reported durable before the fdatasync that covers it returned (invariant 1 of the
//!   design). Entries are readable before that: replication does not wait for the local disk.
//! - Vote and log records go through one queue in the order in which openraft asked for them, so
//!   they never reorder. See openraft's `docs::protocol::io_ordering`.
//! - A failed write or fsync is never retried: the failure sticks, every waiter and every later
//!   call gets it, openraft stops, and so does the node (invariant 6).
//! - A chunk file that is gone is noticed. raft-log finds a gap between two chunks, but without its
//!   newest file a log only looks shorter than it was. So the marker `log-newest` beside the directory
//!   names a chunk and how far it reached, and it is written before anything in the next chunk is
//!   reported durable.
//! - The log is purged only as far as openraft asks, and openraft only asks for what a checkpoint
//!   durably holds (invariant 4, see [`crate::state`]).
//!
//! **Absent on purpose.** `save_committed` writes no fsync and not even a write of its own: the
//! record rides along with the next append. Losing it costs a restart nothing but a later apply.

mod files;
mod held;
pub(crate) mod records;
mod underway;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Deref, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use prometheus::{Histogram, HistogramOpts, Registry};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::chunked_wal::Segment;
use raft_log::codeq::Span as _;
use raft_log::{Callback, RaftLog};

use self::files::Newest;
pub(crate) use self::held::HeldVote;
use self::records::{StoredPayload, WalTypes};
use self::underway::Begun;
pub(crate) use self::underway::Underway;
use crate::codec::{LogIdV1, VoteV1};
use crate::lock::once_free;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Bounds of the log, all in bytes unless they say otherwise.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Size at which a chunk file is closed and the next one begun. Space is given back a chunk at
    /// a time, and the entries of the open chunk always stay in memory.
    pub chunk_bytes: usize,
    /// Memory for the entries of closed chunks.
    pub cache_bytes: usize,
    /// Most bytes that one read hands to replication; a single larger entry still passes.
    pub read_bytes_max: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { chunk_bytes: 32 << 20, cache_bytes: 32 << 20, read_bytes_max: 1 << 20 }
    }
}

/// Entries that a chunk holds, and that the cache keeps, at most.
const CHUNK_RECORDS_MAX: usize = 256 * 1024;

/// The replay buffer at start. raft-log's default of 64 MiB would stay in the process's memory.
const REPLAY_BUFFER_BYTES: usize = 1 << 20;

/// The log store: openraft's storage and, as a clone, its log reader. The files are closed and
/// their lock is given up when the last clone is dropped.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Owner>,
}

/// What the clones of [`LogStore`] share. The flush worker holds [`Shared`] only while it reports a
/// group, and must not be the one to drop it: that would make it wait for its own end.
struct Owner(Arc<Shared>);

impl Deref for Owner {
    type Target = Arc<Shared>;

    fn deref(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut wal = self.0.lock();
        wal.closing = true;
        while wal.syncing {
            wal = self.0.synced.wait(wal).unwrap_or_else(PoisonError::into_inner);
        }
        // The worker has given the lock back; now it also lets go of `Shared`.
        if let Err(error) = wal.log.wait_worker_idle() {
            tracing::debug!(%error, "the log was closed after a failure");
        }
    }
}

struct Shared {
    wal: Mutex<Wal>,
    /// Notified when an fdatasync ended and no other began.
    synced: Condvar,
    read_bytes_max: u64,
    fsync_seconds: Histogram,
    underway: Arc<Underway>,
    held: Arc<HeldVote>,
    newest_path: PathBuf,
}

/// Guarded by one std mutex: every holder only touches memory, or reads an old chunk.
struct Wal {
    log: RaftLog<WalTypes>,
    /// Appends that the next group commit will cover.
    waiting: Vec<IOFlushed<TypeConfig>>,
    /// Whether an fdatasync is under way; when it ends it starts the next one.
    syncing: bool,
    /// Whether somebody waits until none is: telling nobody costs a system call, too.
    closing: bool,
    /// Where the newest chunk begins that the marker names, or will name when the fdatasync under way
    /// has returned.
    newest: u64,
    /// Where the log ends, in bytes since it was created.
    end: u64,
    /// Records since `newest` was found out, at most.
    records: usize,
    chunk_bytes: u64,
    /// The first failure of a write or fsync. It never goes away.
    failed: Option<String>,
}

impl LogStore {
    /// Creates an empty log in `dir`, which must exist, unless there is one already.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(dir: &Path) -> io::Result<()> {
        let path = files::newest_path(dir);
        if Newest::read(&path)?.is_some() {
            return Ok(());
        }
        let config = Arc::new(raft_log::Config::new(dir.display()));
        let log = once_free(|| RaftLog::<WalTypes>::open(Arc::clone(&config)))?;
        let chunk = log.stat().open_chunk;
        files::sync(dir)?;
        Newest { path, chunk: chunk.chunk_id.0, durable_end: chunk.global_end }.write()
    }

    /// Opens the log in `dir`. A torn last record is cut off.
    ///
    /// # Errors
    /// What the file system says, or `InvalidData` when a record is damaged or a file is missing.
    pub fn open(dir: &Path, options: &LogOptions, registry: &Registry) -> io::Result<Self> {
        let newest_path = files::newest_path(dir);
        files::check(dir, &newest_path)?;
        let mut config = raft_log::Config::new(dir.display());
        config.log_cache_max_items = Some(CHUNK_RECORDS_MAX);
        config.log_cache_capacity = Some(options.cache_bytes);
        config.wal.chunk_max_size = Some(options.chunk_bytes);
        config.wal.chunk_max_records = Some(CHUNK_RECORDS_MAX);
        config.wal.read_buffer_size = Some(REPLAY_BUFFER_BYTES);
        // Groups are formed here, by what waits; raft-log must not wait for more.
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        // Never blocks: the flush worker itself starts the next group, see `GroupSynced`. What is
        // queued is bounded by the writes in flight.
        config.wal.flush_queue_max_bytes = Some(usize::MAX);

        let fsync_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "hearth_raft_fsync_duration_seconds",
                "Time from handing a group of log records to the disk until fdatasync returned.",
            )
            .buckets(prometheus::exponential_buckets(0.000_05, 2.0, 18).map_err(io::Error::other)?),
        )
        .map_err(io::Error::other)?;
        registry.register(Box::new(fsync_seconds.clone())).map_err(io::Error::other)?;

        let config = Arc::new(config);
        let log = once_free(|| RaftLog::open(Arc::clone(&config)))?;
        files::check_first_entry(&log)?;
        // A process that was killed may have written what it had no time to sync. openraft takes what
        // it reads now for durable.
        files::sync(dir)?;
        let held = Arc::new(HeldVote::new(log.log_state().vote().map(|vote| vote.0)));
        let open_chunk = log.stat().open_chunk;
        let wal = Wal {
            log,
            waiting: Vec::new(),
            syncing: false,
            closing: false,
            newest: open_chunk.chunk_id.0,
            end: open_chunk.global_end,
            records: usize::try_from(open_chunk.records_count).unwrap_or(usize::MAX),
            chunk_bytes: options.chunk_bytes as u64,
            failed: None,
        };
        // What is left of a crash between a new chunk and its marker. And nothing was cut off: what is
        // here from now on is what was found.
        Newest { path: newest_path.clone(), chunk: wal.newest, durable_end: wal.end }.write()?;
        Ok(Self {
            shared: Arc::new(Owner(Arc::new(Shared {
                wal: Mutex::new(wal),
                synced: Condvar::new(),
                read_bytes_max: options.read_bytes_max,
                fsync_seconds,
                underway: Arc::default(),
                held,
                newest_path,
            }))),
        })
    }

    /// Whether nothing was ever written to it.
    pub fn is_blank(&self) -> bool {
        let wal = self.shared.lock();
        let state = wal.log.log_state();
        state.vote().is_none() && state.last().is_none() && state.purged().is_none()
    }

    /// Up to where the log is purged.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.lock().log.log_state().purged().map(|id| id.0.into())
    }

    /// Bytes that the log takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.lock().log.on_disk_size()
    }

    /// The fdatasyncs that are under way.
    pub(crate) fn underway(&self) -> Arc<Underway> {
        Arc::clone(&self.shared.underway)
    }

    /// The vote that this node holds.
    pub(crate) fn held_vote(&self) -> Arc<HeldVote> {
        Arc::clone(&self.shared.held)
    }

    /// Hands everything appended so far to the disk and waits until it is durable.
    async fn sync(&self) -> io::Result<()> {
        let (done, synced) = tokio::sync::oneshot::channel();
        {
            let mut wal = self.shared.lock();
            wal.check()?;
            let synced = wal.synced(&self.shared);
            wal.log.flush(true, Some(OnSynced::Signal(done, synced)))?;
        }
        let synced = synced.await.map_err(|_| io::Error::other("the log's flush worker stopped")).flatten();
        if let Err(error) = &synced {
            self.shared.lock().failed.get_or_insert_with(|| error.to_string());
        }
        synced
    }
}

impl Shared {
    /// A poisoned lock means that a holder panicked between two memory operations of raft-log; the
    /// node is going down anyway, and the failure mark below keeps it from acknowledging.
    fn lock(&self) -> MutexGuard<'_, Wal> {
        self.wal.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut wal = poisoned.into_inner();
            wal.failed.get_or_insert_with(|| "a thread panicked while it held the log".to_owned());
            wal
        })
    }
}

impl Wal {
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(reason) => Err(io::Error::other(reason.clone())),
        }
    }

    /// Takes note of what was appended to raft-log.
    fn appended(&mut self, segment: Segment, records: usize) {
        self.end = segment.end().0;
        self.records += records;
    }

    /// What is to be done when the next fdatasync has returned.
    fn synced(&mut self, shared: &Shared) -> Synced {
        // raft-log's own condition for beginning a new chunk; looking is not for every group.
        let may_be_new = self.end - self.newest >= self.chunk_bytes || self.records >= CHUNK_RECORDS_MAX;
        let newest = may_be_new.then(|| self.log.stat().open_chunk);
        let newest = newest.filter(|chunk| chunk.chunk_id.0 != self.newest).map(|chunk| {
            self.newest = chunk.chunk_id.0;
            self.records = usize::try_from(chunk.records_count).unwrap_or(usize::MAX);
            Newest {
                path: shared.newest_path.clone(),
                chunk: chunk.chunk_id.0,
                durable_end: chunk.global_end,
            }
        });
        Synced { newest, begun: shared.underway.begin() }
    }

    /// Starts the fdatasync for everything that waits.
    fn sync_group(&mut self, shared: &Arc<Shared>) {
        let group = std::mem::take(&mut self.waiting);
        self.syncing = true;
        let synced = self.synced(shared);
        let on_synced = OnSynced::Group(GroupSynced { shared: Arc::clone(shared), group, synced });
        // The callback is dropped, and with it the group, when the worker is gone: openraft
        // notices through the next append, which fails the same way.
        if let Err(error) = self.log.flush(true, Some(on_synced)) {
            self.failed.get_or_insert_with(|| error.to_string());
            self.syncing = false;
            shared.synced.notify_all();
        }
    }
}

/// What the flush worker calls after each write.
enum OnSynced {
    Group(GroupSynced),
    Signal(tokio::sync::oneshot::Sender<io::Result<()>>, Synced),
}

/// An fdatasync that is under way.
struct Synced {
    /// The chunk that began since the one before.
    newest: Option<Newest>,
    begun: Begun,
}

impl Synced {
    /// Runs on the flush worker: what it answers may be reported. Whatever fails here is a failed fsync.
    fn end(self, result: io::Result<()>) -> io::Result<()> {
        result.and_then(|()| match &self.newest {
            Some(newest) => newest.write(),
            None => Ok(()),
        })
    }
}

struct GroupSynced {
    shared: Arc<Shared>,
    group: Vec<IOFlushed<TypeConfig>>,
    synced: Synced,
}

impl Callback for OnSynced {
    fn send(self, result: io::Result<()>) {
        match self {
            OnSynced::Group(synced) => synced.complete(result),
            // The waiter may have gone away; then nobody relies on the answer.
            OnSynced::Signal(done, synced) => drop(done.send(synced.end(result))),
        }
    }
}

impl GroupSynced {
    /// Runs on the flush worker: reports the group, then starts the next one if any appends came in
    /// meanwhile.
    fn complete(self, result: io::Result<()>) {
        self.shared.fsync_seconds.observe(self.synced.begun.elapsed().as_secs_f64());
        let result = self.synced.end(result);
        let report = |callback: IOFlushed<TypeConfig>, result: &io::Result<()>| {
            callback.io_completed(match result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        };
        for callback in self.group {
            report(callback, &result);
        }
        let mut wal = self.shared.lock();
        wal.syncing = false;
        if let Err(error) = &result {
            wal.failed.get_or_insert_with(|| error.to_string());
            for callback in std::mem::take(&mut wal.waiting) {
                report(callback, &result);
            }
        } else if !wal.waiting.is_empty() {
            wal.sync_group(&self.shared);
            return;
        }
        if wal.closing {
            self.shared.synced.notify_all();
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        self.read(from, to, u64::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, self.shared.read_bytes_max)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.lock().log.log_state().vote().map(|vote| vote.0.into()))
    }
}

impl LogStore {
    /// The entries with `from <= index < to`, until `bytes_max` is reached; at least one.
    fn read(&self, from: u64, to: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let wal = self.shared.lock();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for item in wal.log.read(from, to) {
            let (log_id, payload) = item?;
            bytes += payload.bytes();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(Entry { log_id: log_id.0.into(), payload: payload.0 });
        }
        Ok(entries)
    }
}

/// The half-open form of `range`.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (from, to.max(from))
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let wal = self.shared.lock();
        let state = wal.log.log_state();
        Ok(LogState {
            last_purged_log_id: state.purged().map(|id| id.0.into()),
            last_log_id: state.last().map(|id| id.0.into()),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        {
            let mut wal = self.shared.lock();
            wal.check()?;
            let vote = VoteV1::from(*vote);
            // Before it can have any effect.
            self.shared.held.set(vote);
            let segment = wal.log.save_vote(records::WalVote(vote))?;
            wal.appended(segment, 1);
        }
        self.sync().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut wal = self.shared.lock();
        wal.check()?;
        let Some(committed) = committed.map(|id| records::WalLogId(id.into())) else { return Ok(()) };
        // After a snapshot was installed openraft may commit past the local log; the state itself
        // then says how far it got.
        if wal.log.log_state().last() >= Some(&committed) {
            let segment = wal.log.commit(committed)?;
            wal.appended(segment, 1);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().log.log_state().committed().map(|id| id.0.into()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut wal = self.shared.lock();
        wal.check()?;
        let mut records = 0;
        let segment = wal.log.append(entries.into_iter().map(|entry| {
            records += 1;
            (records::WalLogId(LogIdV1::from(entry.log_id)), StoredPayload(entry.payload))
        }))?;
        wal.appended(segment, records);
        wal.waiting.push(callback);
        if !wal.syncing {
            wal.sync_group(&self.shared);
        }
        Ok(())
    }

    /// Durable when it returns. Entries that follow would make it so, but what follows may be a snapshot,
    /// which is installed elsewhere: with that on disk and the entries that contradict it still in the log
    /// no node would start.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        {
            let mut wal = self.shared.lock();
            wal.check()?;
            let next = last_log_id.map_or(0, |id| id.index + 1);
            // Nothing follows: raft-log would call that an error.
            if wal.log.log_state().last().is_none_or(|last| last.0.index < next) {
                return Ok(());
            }
            let segment = wal.log.truncate(next)?;
            wal.appended(segment, 1);
        }
        self.sync().await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut wal = self.shared.lock();
        wal.check()?;
        let segment = wal.log.purge(records::WalLogId(log_id.into()))?;
        wal.appended(segment, 1);
        // Chunk files are removed only behind a synced purge record.
        wal.log.flush(true, None)
    }
}

#[cfg(test)]
mod tests;
