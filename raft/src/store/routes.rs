//! The way to the leader, wherever it is.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::command::Command;
use crate::local::Local;
use crate::metrics::RaftGauges;
use crate::peer::Lane;
use crate::peer::link::CallError;
use crate::peer::message::{RequestV1, ResponseV1, WriteRefusalV1, WrittenV1};
use crate::peer::network::Peers;
use crate::store::MemberReport;
use crate::types::{Member, Raft};

/// How long a member may take to report on itself.
const REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long one question for a read index may take: everybody who waits shares it, so a leader that
/// hangs must not hold them for their whole time.
pub(super) const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before the leader that is known is tried again, when nothing changed meanwhile.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Leadership {
    term: u64,
    /// Shared: every write looks.
    pub(super) leader: Option<(u64, Arc<Member>)>,
    pub(super) here: bool,
}

/// Finds the leader, for writes and for read indexes.
pub(super) struct Routes {
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) local: Arc<Local>,
    pub(super) peers: Arc<Peers>,
}

impl Routes {
    /// One attempt to have `command` applied. `NotLeader` means that it was not proposed.
    pub(super) async fn write_once(
        &self,
        command: &Command,
        deadline: Instant,
    ) -> Result<WrittenV1, WriteRefusalV1> {
        let leadership = self.leadership.borrow().clone();
        let (id, member) = match leadership.leader {
            _ if leadership.here => return self.local.propose(command.clone()).await,
            Some(leader) => leader,
            None => return Err(WriteRefusalV1::NotLeader(None)),
        };
        let link = self.peers.link(Lane::Forward, id, &member.peer);
        let request = RequestV1::Write { command: command.bytes() };
        let timeout = deadline.saturating_duration_since(Instant::now());
        let (result, label) = match link.call(&request, timeout).await {
            Ok(ResponseV1::Write(Ok(written))) => (Ok(written), "applied"),
            Ok(ResponseV1::Write(Err(refusal))) => (Err(refusal), "refused"),
            Ok(other) => {
                let reason = format!("{member}: unexpected answer to a write: {other:?}");
                (Err(WriteRefusalV1::OutcomeUnknown(reason)), "unknown")
            }
            Err(CallError::NotSent(reason)) => {
                tracing::debug!(leader = %member, reason, "a write could not be forwarded");
                (Err(WriteRefusalV1::NotLeader(None)), "not_sent")
            }
            Err(CallError::Unanswered(reason)) => (Err(WriteRefusalV1::OutcomeUnknown(reason)), "unknown"),
        };
        self.local.note_forwarded(label);
        result
    }

    /// One question for a read index, here or at the leader.
    pub(super) async fn read_index_once(&self) -> Result<u64, ()> {
        let leadership = self.leadership.borrow().clone();
        let (id, member) = match leadership.leader {
            _ if leadership.here => return self.local.read_index.get().await.map_err(|_| ()),
            Some(leader) => leader,
            None => return Err(()),
        };
        let link = self.peers.link(Lane::Vital, id, &member.peer);
        match link
            .call(&RequestV1::ReadIndex { held: self.local.read_index.held_vote() }, READ_INDEX_TIMEOUT)
            .await
        {
            Ok(ResponseV1::ReadIndex(Ok(index))) => Ok(index),
            refused => {
                tracing::debug!(leader = %member, ?refused, "no read index");
                Err(())
            }
        }
    }

    pub(super) async fn report(&self, id: u64, member: &Member) -> Result<MemberReport, String> {
        let link = self.peers.link(Lane::Vital, id, &member.peer);
        match link.call(&RequestV1::Status, REPORT_TIMEOUT).await {
            Ok(ResponseV1::Status(status)) => Ok((*status).into()),
            Ok(other) => Err(format!("unexpected answer: {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until who leads changes, or a moment.
    pub(super) async fn pause(&self) {
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        // A change, its end, or the pause: each is a reason to look again.
        drop(tokio::time::timeout(RETRY_PAUSE, leadership.changed()).await);
    }
}

/// Follows openraft's metrics with what routing needs.
pub(super) fn watch_leadership(
    raft: &Raft,
    gauges: &RaftGauges,
) -> (watch::Receiver<Leadership>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(Leadership::default());
    let mut metrics = raft.server_metrics();
    let own_id = *raft.node_id();
    let leader_changes = gauges.leader_changes.clone();
    let task = tokio::spawn(async move {
        loop {
            let now = metrics.borrow_watched().clone();
            let leader = now.current_leader.and_then(|id| {
                now.membership_config.get_node(&id).map(|member| (id, Arc::new(member.clone())))
            });
            let leadership = Leadership {
                term: now.vote.leader_id.term,
                here: now.state == ServerState::Leader && now.current_leader == Some(own_id),
                leader,
            };
            sender.send_if_modified(|before| {
                if *before == leadership {
                    return false;
                }
                if leadership.leader.is_some()
                    && (before.leader != leadership.leader || before.term != leadership.term)
                {
                    leader_changes.inc();
                    let leader = leadership.leader.as_ref().map(|(_, member)| member.name.as_str());
                    tracing::info!(leader, term = leadership.term, "a leader was elected");
                } else if before.leader.is_some() && leadership.leader.is_none() {
                    tracing::warn!(term = leadership.term, "the leader is lost");
                }
                *before = leadership;
                true
            });
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
    (receiver, task)
}
