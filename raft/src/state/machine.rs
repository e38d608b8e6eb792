//! openraft's state machine over [`State`].
//!
//! **When views are published.** While a view shares the nodes of the maps, a change copies the nodes
//! on its path instead of writing into them: several times the cost of the change itself. So a batch
//! publishes a view only when somebody took one since the last, or waits for one, and otherwise lets go of
//! the last one, which would also keep every value that is overwritten. As long as there are reads, every batch publishes and no read touches the lock; only the first read after a stretch
//! without any makes its view itself, under the lock that a batch holds while it is applied. What looks
//! again and again, like the clock of times to live, must do without a view: each one would have the
//! next changes copy again.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::background;
use crate::metrics::StateMetrics;
use crate::state::checkpoint::{Checkpoints, Place};
use crate::state::event::Changes;
use crate::state::{Frozen, SnapshotData, State, View, Watches};
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries that are applied in one go, and then answered: what a read may have to wait for.
const BATCH_ENTRIES_MAX: usize = 4096;
/// Entries that a batch has room for from the beginning.
const BATCH_ENTRIES_COMMON: usize = 32;

/// The state that entries are applied to, the newest view of it, and a way to wait for a newer one.
#[derive(Clone)]
pub(crate) struct Published(Arc<Shared>);

struct Shared {
    /// Locked while a batch is applied, and by who makes a view.
    state: Mutex<State>,
    /// `None` when entries were applied since.
    view: ArcSwapOption<State>,
    /// Whether somebody took a view since the last was published, or waits for the next.
    wanted: AtomicBool,
    /// Log index of the last entry applied.
    applied: AtomicU64,
    /// The same, for who waits.
    applied_index: watch::Sender<u64>,
    applied_bytes: AtomicU64,
    data_bytes: AtomicU64,
    clock_ms: AtomicU64,
    due_ms: AtomicU64,
    started: AtomicBool,
}

impl Published {
    pub(crate) fn new(view: View) -> Self {
        let applied = view.revision();
        let (applied_index, _) = watch::channel(applied);
        Self(Arc::new(Shared {
            state: Mutex::new(State::thawed(&view)),
            data_bytes: AtomicU64::new(view.data_bytes),
            clock_ms: AtomicU64::new(view.clock_ms),
            due_ms: AtomicU64::new(view.due_ms()),
            view: ArcSwapOption::new(Some(view)),
            wanted: AtomicBool::new(false),
            applied: AtomicU64::new(applied),
            applied_index,
            applied_bytes: AtomicU64::new(0),
            started: AtomicBool::new(false),
        }))
    }

    /// Log index of the last entry that was applied.
    pub(crate) fn applied_index(&self) -> u64 {
        self.0.applied.load(Ordering::Acquire)
    }

    /// Bytes of commands applied since the start.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.0.applied_bytes.load(Ordering::Relaxed)
    }

    /// [`State::data_bytes`] after the last entry that was applied.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.0.data_bytes.load(Ordering::Relaxed)
    }

    /// [`State::clock_ms`] after the last entry that was applied.
    pub(crate) fn clock_ms(&self) -> u64 {
        self.0.clock_ms.load(Ordering::Relaxed)
    }

    /// [`State::due_ms`] after the last entry that was applied.
    pub(crate) fn due_ms(&self) -> u64 {
        self.0.due_ms.load(Ordering::Relaxed)
    }

    /// What `look` finds in the state, without a view: nothing is shared, so that nothing has to be
    /// copied afterwards. Holds up applying: for a few figures only.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For a checkpoint, with what it has to write. Nothing is published: readers would keep it.
    ///
    /// # Errors
    /// When applying an entry panicked: a half of it must not get to disk.
    pub(crate) fn freeze(&self) -> io::Result<Frozen> {
        Ok(self.lock()?.freeze())
    }

    /// Openraft has started: from here on it asks for a snapshot only to send it.
    pub(crate) fn started(&self) {
        self.0.started.store(true, Ordering::Relaxed);
    }

    /// The view that was published last, if it is kept.
    fn newest(&self) -> Option<View> {
        self.0.view.load_full()
    }

    /// A view that includes every entry whose reply was sent before the call.
    pub(crate) fn view(&self) -> View {
        self.want();
        if let Some(view) = self.newest()
            && view.revision() >= self.applied_index()
        {
            return view;
        }
        // If applying panicked half-way, Raft is down: nothing that is half there was answered, or will be,
        // and the node stops.
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.newest() {
            // Others waited for the lock as well.
            Some(view) if view.revision() >= state.revision() => view,
            _ => self.publish(&state),
        }
    }

    /// The first view that includes log index `index`. Waits without a bound: the caller has one.
    pub(crate) async fn view_at(&self, index: u64) -> View {
        self.want();
        if self.applied_index() >= index {
            return self.view();
        }
        let mut applied = self.0.applied_index.subscribe();
        // The sender lives in `self`.
        drop(applied.wait_for(|applied| *applied >= index).await);
        self.view()
    }

    /// A receiver that changes with every applied batch.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.applied_index.subscribe()
    }

    /// Has the next batch publish a view.
    fn want(&self) {
        // Nearly always set already: then this cache line is only read.
        if !self.0.wanted.load(Ordering::Relaxed) {
            self.0.wanted.store(true, Ordering::SeqCst);
        }
    }

    fn publish(&self, state: &State) -> View {
        let view = Arc::new(state.clone());
        self.0.view.store(Some(Arc::clone(&view)));
        view
    }

    /// Publishes `state`, which was just changed, when somebody wants a view, and lets everybody know how far it is.
    fn applied(&self, state: &State) {
        self.0.data_bytes.store(state.data_bytes, Ordering::Relaxed);
        self.0.clock_ms.store(state.clock_ms, Ordering::Relaxed);
        self.0.due_ms.store(state.due_ms(), Ordering::Relaxed);
        if self.0.wanted.swap(false, Ordering::SeqCst) {
            self.publish(state);
        } else {
            self.0.view.store(None);
        }
        self.0.applied.store(state.revision(), Ordering::Release);
        self.0.applied_index.send_replace(state.revision());
    }

    fn lock(&self) -> io::Result<std::sync::MutexGuard<'_, State>> {
        self.0.state.lock().map_err(|_| io::Error::other("applying an entry panicked"))
    }
}

/// Applies committed entries, builds checkpoints and installs snapshots.
pub struct StateMachine {
    published: Published,
    checkpoints: Arc<Checkpoints>,
    watches: Arc<Watches>,
    /// Of the batch that is being applied.
    changes: Changes,
    metrics: StateMetrics,
}

impl StateMachine {
    pub(crate) fn new(
        published: Published,
        checkpoints: Arc<Checkpoints>,
        watches: Arc<Watches>,
        metrics: StateMetrics,
    ) -> Self {
        metrics.observe(&published.view());
        Self { published, checkpoints, watches, changes: Changes::default(), metrics }
    }

    fn apply_batch(&mut self, batch: &mut Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut replies = Vec::with_capacity(batch.len());
        self.metrics.apply_batch_entries.observe(batch.len() as f64);
        let woken = {
            let mut state = self.published.lock()?;
            for (entry, responder) in batch.drain(..) {
                if let EntryPayload::Normal(command) = &entry.payload {
                    let bytes = command.bytes().len() as u64;
                    self.published.0.applied_bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                let reply = state.apply(entry, &mut self.changes)?;
                if let Some(responder) = responder {
                    replies.push((responder, reply));
                }
            }
            self.published.applied(&state);
            self.metrics.observe(&state);
            // After that: who is told of a change finds it in every view.
            self.watches.record(state.revision(), &mut self.changes)
        };
        for (responder, reply) in replies {
            responder.send(reply);
        }
        woken.wake();
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = CheckpointBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.published.lock()?;
        Ok((state.last_applied, (*state.membership).clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::with_capacity(BATCH_ENTRIES_COMMON);
        while let Some(entry) = entries.try_next().await? {
            batch.push(entry);
            if batch.len() == BATCH_ENTRIES_MAX {
                self.apply_batch(&mut batch)?;
            }
        }
        if !batch.is_empty() {
            self.apply_batch(&mut batch)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointBuilder {
        CheckpointBuilder {
            checkpoints: Arc::clone(&self.checkpoints),
            frozen: Some(self.published.freeze()),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        let checkpoints = Arc::clone(&self.checkpoints);
        let meta = meta.clone();
        let state = tokio::task::spawn_blocking(move || {
            let view = data
                .view()
                .cloned()
                .ok_or_else(|| io::Error::other("a checkpoint is where it was written"))?;
            // The restart path of openraft hands back the very checkpoint that is loaded.
            if view.meta() != meta {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("snapshot: its content is {:?}, announced as {meta:?}", view.meta()),
                ));
            }
            match data {
                // What came from a leader is on disk already: Raft answers nobody while this runs.
                SnapshotData::Incoming(incoming) => checkpoints.install(incoming)?,
                SnapshotData::View(view) => checkpoints.replace(view)?,
                SnapshotData::AtRest => {}
            }
            Ok(view)
        })
        .await
        .map_err(io::Error::other)??;
        let (old, woken) = {
            let mut current = self.published.lock()?;
            // Also takes the old view out of sight, so that it can be freed.
            let old = (std::mem::replace(&mut *current, State::thawed(&state)), self.published.newest());
            self.published.want();
            self.published.applied(&current);
            self.metrics.observe(&current);
            (old, self.watches.restart(current.revision()))
        };
        woken.wake();
        self.metrics.snapshot_installs.inc();
        // Nobody waits for that.
        drop(background::dispose(old));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let last = self.checkpoints.last();
        if last.last_applied.is_none() {
            return Ok(None);
        }
        // Whoever gets a snapshot wants the newest state, and the checkpoint's is not kept in memory. But
        // while openraft starts, it takes the answer for what is at rest, and would purge up to there.
        let view = Arc::new(self.published.lock()?.clone());
        Ok(Some(match self.published.0.started.load(Ordering::Relaxed) || view.meta() == last.meta() {
            true => Snapshot { meta: view.meta(), snapshot: SnapshotData::View(view) },
            false => at_rest(&last),
        }))
    }
}

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

fn at_rest(place: &Place) -> Snapshot {
    Snapshot { meta: place.meta(), snapshot: SnapshotData::AtRest }
}

/// Makes a frozen state durable, then reports it to openraft as a snapshot, which lets the log be purged.
pub struct CheckpointBuilder {
    checkpoints: Arc<Checkpoints>,
    /// `None` once it is being written.
    frozen: Option<io::Result<Frozen>>,
}

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let frozen = self.frozen.take().ok_or_else(|| io::Error::other("a checkpoint is written once"))??;
        Ok(at_rest(&*self.checkpoints.write(frozen).await?))
    }
}

#[cfg(test)]
mod tests;
