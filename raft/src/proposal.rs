//! A command between being proposed and being answered.

use std::sync::Arc;
use std::time::Instant;

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::OwnedSemaphorePermit;

use crate::metrics::StoreMetrics;
use crate::peer::message::{WriteRefusalV1, WrittenV1};
use crate::types::TypeConfig;

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

/// Holds one of the places for proposals until the command is answered, which happens exactly once:
/// also when openraft drops it unanswered because the node stops.
pub(crate) struct Proposal<A: FnOnce(Outcome) + Send + 'static> {
    answer: Option<A>,
    begun: Instant,
    metrics: Arc<StoreMetrics>,
    _place: OwnedSemaphorePermit,
}

impl<A: FnOnce(Outcome) + Send + 'static> Proposal<A> {
    pub(crate) fn new(answer: A, metrics: Arc<StoreMetrics>, place: OwnedSemaphorePermit) -> Self {
        Self { answer: Some(answer), begun: Instant::now(), metrics, _place: place }
    }

    /// For openraft to call when the command was applied, or will not be as far as it knows.
    pub(crate) fn into_responder(self) -> Responder<ClientWriteResult<TypeConfig>> {
        Responder(Box::new(move |result| self.complete(result)))
    }

    fn complete(mut self, result: ClientWriteResult<TypeConfig>) {
        let outcome = match result {
            Ok(written) => {
                self.metrics.propose_duration_seconds.observe(self.begun.elapsed().as_secs_f64());
                Ok(WrittenV1 { revision: written.log_id.index, reply: written.data })
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
    pub(crate) fn settle(&mut self, outcome: Outcome) {
        if let Some(answer) = self.answer.take() {
            self.metrics.count_proposal(&outcome);
            answer(outcome);
        }
    }
}

impl<A: FnOnce(Outcome) + Send + 'static> Drop for Proposal<A> {
    fn drop(&mut self) {
        self.settle(Err(WriteRefusalV1::OutcomeUnknown("the node stopped".to_owned())));
    }
}
