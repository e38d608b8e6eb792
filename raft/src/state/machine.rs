//! openraft's state machine over [`State`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::background;
use crate::metrics::StateMetrics;
use crate::state::checkpoint::Checkpoints;
use crate::state::{SnapshotData, State, View};
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// The newest published view, and a way to wait for a newer one.
#[derive(Clone)]
pub(crate) struct Published {
    view: Arc<ArcSwap<State>>,
    applied_index: watch::Sender<u64>,
    applied_bytes: Arc<AtomicU64>,
}

impl Published {
    pub(crate) fn new(view: View) -> Self {
        let (applied_index, _) = watch::channel(view.revision());
        Self { view: Arc::new(ArcSwap::new(view)), applied_index, applied_bytes: Arc::default() }
    }

    /// Bytes of commands applied since the start.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn view(&self) -> View {
        self.view.load_full()
    }

    /// The first view that includes log index `index`. Waits without a bound: the caller has one.
    pub(crate) async fn view_at(&self, index: u64) -> View {
        let mut applied = self.applied_index.subscribe();
        // The sender lives in `self`.
        drop(applied.wait_for(|applied| *applied >= index).await);
        self.view()
    }

    /// A receiver that changes with every published view.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.applied_index.subscribe()
    }

    fn publish(&self, view: View) {
        let revision = view.revision();
        self.view.store(view);
        self.applied_index.send_replace(revision);
    }
}

/// Applies committed entries, builds checkpoints and installs snapshots.
pub struct StateMachine {
    state: State,
    published: Published,
    checkpoints: Arc<Checkpoints>,
    metrics: StateMetrics,
}

impl StateMachine {
    pub(crate) fn new(
        state: State,
        published: Published,
        checkpoints: Arc<Checkpoints>,
        metrics: StateMetrics,
    ) -> Self {
        metrics.observe(&state);
        Self { state, published, checkpoints, metrics }
    }

    fn publish(&self) {
        self.published.publish(Arc::new(self.state.clone()));
        self.metrics.observe(&self.state);
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = CheckpointBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.state.last_applied, (*self.state.membership).clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut replies = Vec::new();
        let mut applied: u32 = 0;
        while let Some((entry, responder)) = entries.try_next().await? {
            if let EntryPayload::Normal(command) = &entry.payload {
                self.published.applied_bytes.fetch_add(command.bytes().len() as u64, Ordering::Relaxed);
            }
            let reply = self.state.apply(entry)?;
            applied += 1;
            if let Some(responder) = responder {
                replies.push((responder, reply));
            }
        }
        self.publish();
        self.metrics.apply_batch_entries.observe(f64::from(applied));
        for (responder, reply) in replies {
            responder.send(reply);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointBuilder {
        CheckpointBuilder { checkpoints: Arc::clone(&self.checkpoints), view: self.published.view() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        let checkpoints = Arc::clone(&self.checkpoints);
        let meta = meta.clone();
        let state = tokio::task::spawn_blocking(move || {
            let view = Arc::clone(data.view());
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
            }
            Ok(view)
        })
        .await
        .map_err(io::Error::other)??;
        let old = (std::mem::replace(&mut self.state, (*state).clone()), self.published.view());
        self.publish();
        self.metrics.snapshot_installs.inc();
        // Nobody waits for that.
        drop(background::dispose(old));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let last = self.checkpoints.last();
        Ok(last.last_applied.is_some().then(|| snapshot_of(last)))
    }
}

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

fn snapshot_of(view: View) -> Snapshot {
    Snapshot { meta: view.meta(), snapshot: SnapshotData::View(view) }
}

/// Makes the view durable, then reports it to openraft as a snapshot, which lets the log be purged.
pub struct CheckpointBuilder {
    checkpoints: Arc<Checkpoints>,
    view: View,
}

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(snapshot_of(self.checkpoints.write(Arc::clone(&self.view)).await?))
    }
}
