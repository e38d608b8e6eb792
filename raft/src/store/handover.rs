//! Handing leadership over: at a stop, and when the leader's disk stalls.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use crate::store::routes::Leadership;
use crate::types::Raft;

/// How long a leader that stops waits for its successor.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks another voter to take over.
pub(super) struct HandOver {
    raft: Raft,
    leadership: watch::Receiver<Leadership>,
}

impl HandOver {
    pub(super) fn new(raft: Raft, leadership: watch::Receiver<Leadership>) -> Self {
        Self { raft, leadership }
    }

    /// If this node leads: asks the voter that is furthest to take over, and waits for it, bounded.
    pub(super) async fn and_wait(&self) {
        let Some(successor) = self.ask(&[]).await else { return };
        let mut leadership = self.leadership.clone();
        let moved = leadership.wait_for(|now| !now.here && now.leader.is_some());
        if tokio::time::timeout(TRANSFER_TIMEOUT, moved).await.is_err() {
            tracing::warn!(successor, "no other node took leadership over in {TRANSFER_TIMEOUT:?}");
        }
    }

    /// If this node leads: asks the voter that is furthest, other than those in `tried`, and says which
    /// one that is. It takes over as soon as its log is on its disk.
    pub(super) async fn ask(&self, tried: &[u64]) -> Option<u64> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let replication = metrics.replication.filter(|_| self.leadership.borrow().here)?;
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let (successor, _) = replication
            .into_iter()
            .filter(|(id, _)| *id != metrics.id && voters.contains(id) && !tried.contains(id))
            .max_by_key(|(_, matched)| *matched)?;
        match self.raft.trigger().transfer_leader(successor).await {
            Ok(()) => Some(successor),
            Err(error) => {
                tracing::warn!(%error, "cannot hand leadership over");
                None
            }
        }
    }
}
