//! The Raft log and the vote, on disk.
//!
//! **Idea.** One log of typed records, appended to files of `segment_bytes`, with group commit: at most one
//! fdatasync is under way, and everything that comes meanwhile waits for the next one, together, as one
//! *frame*. The slower the disk, the larger the groups; no timer is involved. Files are filled with zeros
//! ahead, so that an fdatasync writes data and nothing else. Where each entry lies is kept in memory, and
//! so are the recent entries themselves.
//!
//! | file | |
//! |---|---|
//! | `frame` | how records lie in a file, so that a torn write can be told from damage |
//! | `records` | the records and their bytes |
//! | `segment`, `newest` | the files, and the marker that names the newest |
//! | `entries` | where each entry lies, and the recent ones |
//! | `wal` | the log in memory, and the groups that wait for the disk |
//! | `writer` | the thread that writes them |
//! | `recovery` | what the files say at a start |
//!
//! **Invariants.**
//! - Nothing is reported durable before the fdatasync that covers it returned (invariant 1 of the
//!   design). Entries are readable before that: replication does not wait for the local disk.
//! - Vote and log records go through one queue in the order in which openraft asked for them, so
//!   they never reorder. See openraft's `docs::protocol::io_ordering`.
//! - A failed or short write or fsync is never retried: the failure sticks, every waiter and every later
//!   call gets it, openraft stops, and so does the node (invariant 6).
//! - Only what a crash left of the last frame is cut off at a start. Anything else that is not as it was
//!   written is an error that names file and offset (invariant 7). A disk that loses the whole of the last
//!   frame cannot be told from one that never got it, but for the marker.
//! - A file that is gone is noticed. Frames are numbered through all files; and since a log without its newest
//!   file only looks shorter than it was, the marker `log-newest` beside the directory names a file and
//!   how far it reached, and is written before anything in the next file is reported durable.
//! - The log is purged only as far as openraft asks, and openraft only asks for what a checkpoint
//!   durably holds (invariant 4, see [`crate::state`]). A file is removed behind a durable record of that.
//!
//! **Absent on purpose.** `save_committed` writes nothing by itself: the record rides along with the next
//! group. Losing it costs a restart nothing but a later apply. Files are not recycled: their old content would
//! have to be told from the new.
//!
//! **Why not `raft-log`**, which this log was built on before: it appends, so each fdatasync writes the file's new
//! length too; and it takes a length that points past the end of a file for a torn write.

mod entries;
mod frame;
mod held;
mod newest;
pub(crate) mod records;
mod recovery;
mod segment;
mod underway;
mod wal;
mod writer;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::{Bound, Deref, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use prometheus::{Histogram, HistogramOpts, Registry};
use rustix::fs::{FlockOperation, flock};

pub(crate) use self::held::HeldVote;
use self::newest::Newest;
use self::segment::Segment;
pub(crate) use self::underway::Underway;
use self::wal::{Waiter, Wal};
use self::writer::Writer;
use crate::codec::{LogIdV1, VoteV1};
use crate::lock::once_free;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Bounds of the log, all in bytes.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Size at which a file is closed and the next one begun. Space is given back a file at a time.
    pub segment_bytes: u64,
    /// Memory for recent entries, besides those that are not written yet.
    pub memory_bytes: u64,
    /// Most bytes that one read hands to replication; a single larger entry still passes.
    pub read_bytes_max: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 32 << 20, memory_bytes: 32 << 20, read_bytes_max: 1 << 20 }
    }
}

/// The log store: openraft's storage and, as a clone, its log reader. The files are closed and
/// their lock is given up when the last clone is dropped.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Owner>,
}

/// What the clones of [`LogStore`] share; the writer has a share of what is in it only.
struct Owner {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// No other process, nor an earlier life of this one, writes the files.
    _lock: File,
}

impl Deref for Owner {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }
}

struct Shared {
    wal: Mutex<Wal>,
    /// Notified when there is work for the writer and it sleeps.
    work: Condvar,
    read_bytes_max: u64,
    fsync_seconds: Histogram,
    underway: Arc<Underway>,
    held: Arc<HeldVote>,
}

impl LogStore {
    /// Creates an empty log in `dir`, which must exist, unless there is one already.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(dir: &Path) -> io::Result<()> {
        let newest_path = newest::path(dir);
        if Newest::read(&newest_path)?.is_some() {
            return Ok(());
        }
        let _lock = lock(dir)?;
        // Of a log without a marker, or of a try that a crash ended before the marker: in the first file only,
        // and with nothing in it. Which of them it is, opening tells.
        let files = segment::files(dir)?;
        let newest = files.keys().next_back().copied().unwrap_or(1);
        let unfinished =
            files.values().try_fold(true, |all, path| Ok::<_, io::Error>(all && is_blank(path)?))?;
        if unfinished {
            let segment = Segment::create(dir, 1)?;
            writer::write_whole(&segment.file, &wal::empty()?.bytes, 0)?;
        }
        segment::sync(dir)?;
        Newest { segment: newest, durable_end: 0 }.write(&newest_path)
    }

    /// Opens the log in `dir`. A torn last write is cut off.
    ///
    /// # Errors
    /// What the file system says, or `InvalidData` when a record is damaged or a file is missing.
    pub fn open(dir: &Path, options: &LogOptions, registry: &Registry) -> io::Result<Self> {
        let lock = match lock(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the directory is missing"));
            }
            lock => lock?,
        };
        let newest_path = newest::path(dir);
        let recovered = recovery::recover(dir, &newest_path, options.memory_bytes)?;
        // A process that was killed may have written what it had no time to sync. openraft takes what
        // it reads now for durable. And what was cut off must be gone before anything is written there.
        segment::sync(dir)?;
        let segment = recovered.newest.clone();
        // The marker may be of the file before, and is of an earlier time.
        Newest { segment: segment.number, durable_end: segment.end }.write(&newest_path)?;

        let fsync_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "hearth_raft_fsync_duration_seconds",
                "Time from handing a group of log records to the disk until fdatasync returned.",
            )
            .buckets(prometheus::exponential_buckets(0.000_05, 2.0, 18).map_err(io::Error::other)?),
        )
        .map_err(io::Error::other)?;
        registry.register(Box::new(fsync_seconds.clone())).map_err(io::Error::other)?;

        let held = Arc::new(HeldVote::new(recovered.hard.vote));
        let shared = Arc::new(Shared {
            wal: Mutex::new(Wal::new(recovered, options.segment_bytes)?),
            work: Condvar::new(),
            read_bytes_max: options.read_bytes_max,
            fsync_seconds,
            underway: Arc::default(),
            held,
        });
        let writer = Writer { dir: dir.to_owned(), newest_path, segment };
        let writer = std::thread::Builder::new().name("raft-log".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || writer.run(&shared)
        })?;
        Ok(Self { shared: Arc::new(Owner { shared, writer: Some(writer), _lock: lock }) })
    }

    /// Whether nothing was ever written to it.
    pub fn is_blank(&self) -> bool {
        let wal = self.shared.lock();
        wal.hard.vote.is_none() && wal.last().is_none()
    }

    /// Up to where the log is purged.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.lock().hard.purged.map(LogId::from)
    }

    /// Bytes that the log takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.lock().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The fdatasyncs that are under way.
    pub(crate) fn underway(&self) -> Arc<Underway> {
        Arc::clone(&self.shared.underway)
    }

    /// The vote that this node holds.
    pub(crate) fn held_vote(&self) -> Arc<HeldVote> {
        Arc::clone(&self.shared.held)
    }

    /// Makes a change to the log and waits until it is durable, with everything before it.
    async fn durably(&self, change: impl FnOnce(&mut Wal) -> io::Result<()>) -> io::Result<()> {
        let (done, durable) = tokio::sync::oneshot::channel();
        self.shared.change(|wal| {
            change(wal)?;
            wal.wait(Waiter::Signal(done));
            Ok(())
        })?;
        durable.await.map_err(|_| io::Error::other("the log's writer stopped")).flatten()
    }

    /// The entries with `from <= index < to`, until `bytes_max` is reached; at least one.
    fn read(&self, from: u64, to: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let found = {
            let wal = self.shared.lock();
            wal.entries.find(from, to, bytes_max, &wal.segments)
        };
        found.read()
    }
}

/// Locks the directory for this process, once another that closes it has.
fn lock(dir: &Path) -> io::Result<File> {
    let lock = File::open(dir)?;
    once_free(|| Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive)?))?;
    Ok(lock)
}

/// Whether there are only zeros in the file.
fn is_blank(path: &Path) -> io::Result<bool> {
    Ok(std::fs::read(path)?.iter().all(|byte| *byte == 0))
}

impl Shared {
    /// A poisoned lock means that a holder panicked between two memory operations; the
    /// node is going down anyway, and the failure mark below keeps it from acknowledging.
    fn lock(&self) -> MutexGuard<'_, Wal> {
        self.wal.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut wal = poisoned.into_inner();
            wal.fail("a thread panicked while it held the log");
            wal
        })
    }

    /// Makes a change to the log, and wakes the writer if it sleeps. A change that fails half-way sticks.
    fn change(&self, change: impl FnOnce(&mut Wal) -> io::Result<()>) -> io::Result<()> {
        let mut wal = self.lock();
        wal.check()?;
        if let Err(error) = change(&mut wal) {
            wal.fail(&error);
            return Err(error);
        }
        if std::mem::replace(&mut wal.idle, false) {
            drop(wal);
            self.work.notify_one();
        }
        Ok(())
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
        Ok(self.shared.lock().hard.vote.map(Vote::from))
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
        Ok(LogState {
            last_purged_log_id: wal.hard.purged.map(LogId::from),
            last_log_id: wal.last().map(LogId::from),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = VoteV1::from(*vote);
        self.durably(|wal| {
            // Before it can have any effect.
            self.shared.held.set(vote);
            wal.save_vote(vote)
        })
        .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut wal = self.shared.lock();
        wal.check()?;
        // After a snapshot was installed openraft may commit past the local log; the state itself
        // then says how far it got.
        if let Some(committed) = committed.map(LogIdV1::from)
            && wal.last() >= Some(committed)
        {
            wal.save_committed(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().hard.committed.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.shared.change(|wal| {
            entries.into_iter().try_for_each(|entry| wal.append(entry))?;
            wal.wait(Waiter::Raft(callback));
            Ok(())
        })
    }

    /// Durable when it returns. Entries that follow would make it so, but what follows may be a snapshot,
    /// which is installed elsewhere: with that on disk and the entries that contradict it still in the log
    /// no node would start.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let next = last_log_id.map_or(0, |id| id.index + 1);
        let nothing_follows = self.shared.lock().entries.next() <= next;
        if nothing_follows {
            return Ok(());
        }
        self.durably(|wal| wal.truncate(next)).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.shared.change(|wal| wal.purge(log_id.into()))
    }
}

#[cfg(test)]
mod tests;
