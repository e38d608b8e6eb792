//! A command between being proposed and being answered.

use std::sync::Arc;
use std::time::Instant;

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::OwnedSemaphorePermit;

use crate::metrics::StoreMetrics;
use crate::peer::message::{WriteRefusalV1, WrittenV1};
use crate::types::{Applied, Command, TypeConfig};

/// What became of a command. Every refusal but `OutcomeUnknown` means that nothing was proposed.
pub(crate) type Outcome = Result<WrittenV1, WriteRefusalV1>;

/// openraft's responder: a closure, so that an answer goes where it is wanted without a task that
/// waits for it. It runs on the apply task and must not block.
pub struct Responder<T>(Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> openraft::raft::responder::Responder<TypeConfig, T> for Responder<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// A command that waits to be proposed. It holds one of the places for proposals until it is answered,
/// which happens exactly once: also when it is dropped unanswered because the node stops.
pub(crate) struct Proposal {
    command: Option<Command>,
    answer: Option<Box<dyn FnOnce(Outcome) + Send>>,
    begun: Instant,
    metrics: Arc<StoreMetrics>,
    /// Whether openraft has it, so that what becomes of it is out of this node's hands.
    proposed: bool,
    _place: OwnedSemaphorePermit,
}

impl Proposal {
    pub(crate) fn new(
        command: Command,
        answer: impl FnOnce(Outcome) + Send + 'static,
        metrics: Arc<StoreMetrics>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            command: Some(command),
            answer: Some(Box::new(answer)),
            begun: Instant::now(),
            metrics,
            proposed: false,
            _place: place,
        }
    }

    /// The command, and what openraft calls when it was applied, or will not be as far as it knows.
    /// `round` is kept until then. `None` when it was taken before.
    pub(crate) fn propose<R: Send + 'static>(
        mut self,
        round: R,
    ) -> Option<(Command, Responder<ClientWriteResult<TypeConfig>>)> {
        let command = self.command.take()?;
        self.proposed = true;
        let responder = Responder(Box::new(move |result| {
            self.complete(result);
            drop(round);
        }));
        Some((command, responder))
    }

    fn complete(mut self, result: ClientWriteResult<TypeConfig>) {
        let outcome = match result {
            Ok(written) => {
                self.metrics.propose_duration_seconds.observe(self.begun.elapsed().as_secs_f64());
                let Applied { reply, replay_of } = written.data;
                let revision = replay_of.unwrap_or(written.log_id.index);
                Ok(WrittenV1 { revision, reply, replayed: replay_of.is_some() })
            }
            // In openraft 0.10 alpha 37 this means that nothing was appended: an entry that was, and
            // is cut off, is answered with `LogEntryDiscarded`.
            Err(ClientWriteError::ForwardToLeader(forward)) => {
                Err(WriteRefusalV1::NotLeader(forward.leader_id))
            }
            Err(other) => Err(WriteRefusalV1::OutcomeUnknown(other.to_string())),
        };
        self.settle(outcome);
    }

    /// Answers, once.
    fn settle(&mut self, outcome: Outcome) {
        if let Some(answer) = self.answer.take() {
            self.metrics.count_proposal(&outcome);
            answer(outcome);
        }
    }
}

impl Drop for Proposal {
    fn drop(&mut self) {
        self.settle(Err(match self.proposed {
            true => WriteRefusalV1::OutcomeUnknown("the node stopped".to_owned()),
            false => WriteRefusalV1::NotLeader(None),
        }));
    }
}
