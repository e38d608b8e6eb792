//! What this node does itself, as the leader or about itself. Nothing here goes to another node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::impls::OneshotResponder;
use tokio::sync::Semaphore;

use crate::coalesce::Coalesced;
use crate::metrics::StoreMetrics;
use crate::peer::message::{ReadRefusalV1, StatusV1, WriteRefusalV1, WrittenV1};
use crate::state::Published;
use crate::types::{Command, Raft};

/// Bounds of what a leader takes on.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes of keys, values, names and ages beyond which the store may not grow.
    pub(crate) data_bytes_max: u64,
    /// Commands that may be proposed and not yet applied.
    pub(crate) proposals_max: usize,
    /// How long a proposal may take until its outcome counts as unknown.
    pub(crate) request_timeout: Duration,
}

/// The local Raft and what surrounds it.
pub(crate) struct Local {
    pub(crate) raft: Raft,
    pub(crate) published: Published,
    limits: Limits,
    room: Semaphore,
    metrics: StoreMetrics,
    read_index: Coalesced<Result<u64, ReadRefusalV1>>,
    data_dir: PathBuf,
    http_advertise: String,
}

impl Local {
    pub(crate) fn new(
        raft: Raft,
        published: Published,
        limits: Limits,
        metrics: StoreMetrics,
        data_dir: PathBuf,
        http_advertise: String,
    ) -> Arc<Self> {
        let asking = raft.clone();
        let read_index = Coalesced::new(move || {
            let raft = asking.clone();
            async move { confirm_leadership(&raft).await }
        });
        let room = Semaphore::new(limits.proposals_max);
        Arc::new(Self { raft, published, limits, room, metrics, read_index, data_dir, http_advertise })
    }

    /// Proposes `command` and waits until it is applied here, which is after a majority has it on
    /// disk.
    ///
    /// # Errors
    /// Every refusal but `OutcomeUnknown` means that nothing was proposed. In openraft 0.10 alpha 37
    /// `ForwardToLeader` says so too: an entry that was appended and then cut off is answered with
    /// `LogEntryDiscarded`.
    pub(crate) async fn propose(&self, command: Command) -> Result<WrittenV1, WriteRefusalV1> {
        let result = self.propose_bounded(command).await;
        let label = match &result {
            Ok(_) => "applied",
            Err(WriteRefusalV1::NotLeader(_)) => "not_leader",
            Err(WriteRefusalV1::StorageFull { .. }) => "storage_full",
            Err(WriteRefusalV1::Overloaded) => "overloaded",
            Err(WriteRefusalV1::OutcomeUnknown(_)) => "unknown",
        };
        self.metrics.proposals.with_label_values(&[label]).inc();
        result
    }

    async fn propose_bounded(&self, command: Command) -> Result<WrittenV1, WriteRefusalV1> {
        self.check_room(&command)?;
        let Ok(_permit) = self.room.try_acquire() else { return Err(WriteRefusalV1::Overloaded) };
        let timer = self.metrics.propose_duration_seconds.start_timer();
        let (responder, applied) = OneshotResponder::new_pair();
        if self.raft.client_write_ff(command.stamped(clock_ms()), Some(responder)).await.is_err() {
            // The Raft core is down and took nothing.
            timer.stop_and_discard();
            return Err(WriteRefusalV1::NotLeader(None));
        }
        let unknown = |reason: String| WriteRefusalV1::OutcomeUnknown(reason);
        let result = match tokio::time::timeout(self.limits.request_timeout, applied).await {
            Err(_) => Err(unknown(format!("not applied within {:?}", self.limits.request_timeout))),
            Ok(Err(_)) => Err(unknown("the node stopped".to_owned())),
            Ok(Ok(Ok(written))) => Ok(WrittenV1 { revision: written.log_id.index, reply: written.data }),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(WriteRefusalV1::NotLeader(forward.leader_id))
            }
            Ok(Ok(Err(other))) => Err(unknown(other.to_string())),
        };
        if result.is_ok() {
            timer.observe_duration();
        } else {
            timer.stop_and_discard();
        }
        result
    }

    /// Refuses what would grow the data past the limit. Deletes, and overwrites that do not grow
    /// it, always pass.
    fn check_room(&self, command: &Command) -> Result<(), WriteRefusalV1> {
        let data_bytes_max = self.limits.data_bytes_max;
        let view = self.published.view();
        if view.data_bytes + command.bytes().len() as u64 <= data_bytes_max {
            return Ok(());
        }
        let growth = match command.decode() {
            Ok((_, op)) => view.growth_bytes(&op),
            // Refused where it is applied, in the same way on every node.
            Err(_) => 0,
        };
        if growth > 0 && view.data_bytes.saturating_add_signed(growth) > data_bytes_max {
            return Err(WriteRefusalV1::StorageFull { data_bytes_max });
        }
        Ok(())
    }

    /// Counts a write that this node sent to the leader.
    pub(crate) fn note_forwarded(&self, result: &str) {
        self.metrics.forwarded.with_label_values(&[result]).inc();
    }

    /// The log index that a linearizable read must wait for. Callers share rounds.
    pub(crate) async fn read_index(&self) -> Result<u64, ReadRefusalV1> {
        self.read_index.ask().await.unwrap_or(Err(ReadRefusalV1::NotLeader(None)))
    }

    /// How this node stands.
    pub(crate) fn status(&self) -> StatusV1 {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let view = self.published.view();
        StatusV1 {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            http: self.http_advertise.clone(),
            state: format!("{:?}", metrics.state).to_lowercase(),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: view.revision(),
            keys: view.keys.len() as u64,
            data_bytes: view.data_bytes,
            disk_free_bytes: self.disk_free_bytes(),
        }
    }

    /// Bytes that an unprivileged process may still write to the disk of the data directory; 0 when
    /// the file system does not say.
    pub(crate) fn disk_free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.data_dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Asks a majority whether this node still leads, and answers what was committed before the asking.
/// Never a lease: openraft's does not survive a restart.
async fn confirm_leadership(raft: &Raft) -> Result<u64, ReadRefusalV1> {
    match raft.get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((read_log_id, _)) => Ok(read_log_id.log_id().index),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(ReadRefusalV1::NotLeader(forward.leader_id))
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadRefusalV1::NoQuorum),
        Err(RaftError::Fatal(_)) => Err(ReadRefusalV1::NotLeader(None)),
    }
}

/// The clock that a leader stamps commands with: milliseconds since the Unix epoch.
fn clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
