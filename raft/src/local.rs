//! What this node does itself, as the leader or about itself.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::command::Decoded;
use crate::disk::Disk;
use crate::metrics::StoreMetrics;
use crate::peer::message::{StatusV1, WriteRefusalV1};
use crate::proposal::{Outcome, Proposal};
use crate::read_index::ReadIndex;
use crate::rounds::Rounds;
use crate::state::Published;
use crate::store::stall::Stall;
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
    room: Arc<Semaphore>,
    rounds: Rounds,
    pub(crate) clock: Arc<Clock>,
    metrics: Arc<StoreMetrics>,
    pub(crate) read_index: ReadIndex,
    pub(crate) disk: Arc<Disk>,
    pub(crate) stall: Stall,
    http_advertise: String,
}

impl Local {
    #[allow(clippy::too_many_arguments, reason = "called once, with the parts that a node has one of each")]
    pub(crate) fn new(
        raft: Raft,
        published: Published,
        limits: Limits,
        metrics: StoreMetrics,
        read_index: ReadIndex,
        disk: Arc<Disk>,
        stall: Stall,
        http_advertise: String,
    ) -> Arc<Self> {
        let clock = Arc::new(Clock::new());
        let rounds = Rounds::new(raft.clone(), Arc::clone(&clock));
        let room = Arc::new(Semaphore::new(limits.proposals_max));
        let metrics = Arc::new(metrics);
        Arc::new(Self {
            raft,
            published,
            limits,
            room,
            rounds,
            clock,
            metrics,
            read_index,
            disk,
            stall,
            http_advertise,
        })
    }

    /// Proposes `command` and waits until it is applied here, which is after a majority has it on
    /// disk.
    ///
    /// # Errors
    /// Every refusal but `OutcomeUnknown` means that nothing was proposed.
    pub(crate) async fn propose(&self, command: Command) -> Outcome {
        let (sender, outcome) = tokio::sync::oneshot::channel();
        // Whoever waited may have given up.
        self.propose_with(command, move |outcome| drop(sender.send(outcome)));
        let timeout = self.limits.request_timeout;
        match tokio::time::timeout(timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // A proposal answers before it is dropped.
            Ok(Err(_)) => Err(WriteRefusalV1::OutcomeUnknown("the node stopped".to_owned())),
            Err(_) => Err(WriteRefusalV1::OutcomeUnknown(format!("not applied within {timeout:?}"))),
        }
    }

    /// Proposes `command`; `answer` is called once, with what became of it.
    pub(crate) fn propose_with<A>(&self, command: Command, answer: A)
    where
        A: FnOnce(Outcome) + Send + 'static,
    {
        let place = match self.check_room(&command) {
            Ok(()) => Arc::clone(&self.room).try_acquire_owned().map_err(|_| WriteRefusalV1::Overloaded),
            Err(refusal) => Err(refusal),
        };
        let place = match place {
            Ok(place) => place,
            Err(refusal) => {
                let outcome = Err(refusal);
                self.metrics.count_proposal(&outcome);
                return answer(outcome);
            }
        };
        let proposal = Proposal::new(command, answer, Arc::clone(&self.metrics), place);
        self.rounds.propose(proposal);
    }

    /// Refuses what would grow the data past the limit, or while the disk is nearly full; deletes, and
    /// overwrites that do not grow it, pass. And everything while the disk stalls.
    fn check_room(&self, command: &Command) -> Result<(), WriteRefusalV1> {
        // It hands over; whoever asks tries again with the next leader.
        if self.stall.lasting().is_some() {
            return Err(WriteRefusalV1::NotLeader(None));
        }
        let data_bytes_max = self.limits.data_bytes_max;
        let disk_low = self.disk.is_low();
        if !disk_low && self.published.data_bytes() + command.bytes().len() as u64 <= data_bytes_max {
            return Ok(());
        }
        let view = self.published.view();
        let growth = match command.decode() {
            // It may have been applied already, and then only its answer is wanted again.
            Ok(Decoded { once: Some(once), .. }) if view.answers.knows(&once.key, view.clock_ms) => 0,
            Ok(Decoded { op, .. }) => view.growth_bytes(&op),
            // Refused where it is applied, in the same way on every node.
            Err(_) => 0,
        };
        if growth > 0 && disk_low {
            let (free_bytes, free_min) = (self.disk.free_bytes(), self.disk.free_min());
            return Err(WriteRefusalV1::DiskLow { free_bytes, free_min });
        }
        if growth > 0 && view.data_bytes.saturating_add_signed(growth) > data_bytes_max {
            return Err(WriteRefusalV1::StorageFull { data_bytes_max });
        }
        Ok(())
    }

    /// Counts a write that this node sent to the leader.
    pub(crate) fn note_forwarded(&self, result: &str) {
        self.metrics.count_forwarded(result);
    }

    /// How this node stands.
    pub(crate) fn status(&self) -> StatusV1 {
        let metrics = self.raft.metrics().borrow_watched().clone();
        self.published.look(|state| StatusV1 {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            http: self.http_advertise.clone(),
            state: format!("{:?}", metrics.state).to_lowercase(),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: state.revision(),
            keys: state.keys.len() as u64,
            data_bytes: state.data_bytes,
            disk_free_bytes: self.disk.free_bytes(),
            state_hash: state.hash,
        })
    }
}
