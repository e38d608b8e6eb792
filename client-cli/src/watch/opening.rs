//! The attempts to get a stream: at which endpoint, when, and for how long.

use std::time::Duration;

use tokio::time::Instant;

use super::stream::Stream;
use crate::attempts::Attempts;
use crate::client::{Client, Unanswered};
use crate::endpoint::Endpoint;
use crate::error::{Error, Problem};
use crate::retry::{Kind, Next, Turns};

/// The attempts so far since there was a stream, or since the beginning.
pub(super) struct Opening {
    turns: Turns,
    attempts: Attempts,
    /// When the first one was about to be made.
    begun: Option<Instant>,
    /// How long after that to give up.
    timeout: Duration,
    /// The same, if not one endpoint can be connected to.
    unreachable_timeout: Duration,
    /// A node that no longer has the events to resume after, and the oldest revision that any such node has.
    compacted: Option<(Box<Problem>, Option<u64>)>,
}

impl Opening {
    /// For the first stream: as patient as any call.
    pub(super) fn first(client: &Client) -> Self {
        let options = client.options();
        Self {
            turns: Turns::new(client.endpoints().len(), client.preferred(), Instant::now()),
            attempts: Attempts::default(),
            begun: None,
            timeout: options.request_timeout,
            unreachable_timeout: options.unreachable_timeout,
            compacted: None,
        }
    }

    /// After the end of `stream`: all endpoints may be asked at once, that one last. But when it was no good,
    /// as one that ends as soon as it is open, its endpoint has to wait, longer each time.
    pub(super) fn resume(&mut self, stream: &Stream, timeout: Duration) {
        let now = Instant::now();
        if stream.was_good() {
            self.turns = self.turns.anew((stream.index + 1) % self.turns.count().max(1), now);
        } else {
            self.turns.again(stream.index, now, None, rand::random());
        }
        self.begin(timeout);
    }

    /// Which endpoint to ask next, by index, and when; `None` when it is time to give up.
    pub(super) fn next(&mut self) -> Option<(usize, Instant)> {
        // Another node's history may be longer: each is asked once.
        if self.compacted.is_some() && self.turns.all_asked() {
            return None;
        }
        let (index, at) = self.turns.next()?;
        let hopeless = self.turns.all_asked() && !self.attempts.worth_waiting();
        // The time runs from the first attempt, not from when the watch was made.
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let waits = at.saturating_duration_since(begun);
        let patience = if hopeless { self.unreachable_timeout.min(self.timeout) } else { self.timeout };
        (waits.is_zero() || waits < patience).then_some((index, at))
    }

    /// An attempt failed. An error when asking on would be wrong.
    pub(super) fn failed(
        &mut self,
        index: usize,
        endpoint: &Endpoint,
        failed: Unanswered,
    ) -> Result<(), Error> {
        let next = failed.next(Kind::Read);
        match next {
            Next::Again(after) => self.turns.again(index, Instant::now(), after, rand::random()),
            Next::Elsewhere | Next::Stop => self.turns.never(index),
        }
        match failed {
            Unanswered::NotANode(error) => return Err(error),
            Unanswered::Refused(problem) if problem.code == "compacted" => {
                let before = self.compacted.take().and_then(|(_, oldest)| oldest);
                let oldest = [before, problem.oldest_revision].into_iter().flatten().min();
                self.compacted = Some((problem, oldest));
            }
            Unanswered::Refused(problem) if next == Next::Stop => return Err(Error::Api(problem)),
            Unanswered::Refused(problem) => self.attempts.refused(endpoint, problem),
            Unanswered::NotSent(reason) => self.attempts.not_sent(endpoint, reason),
            Unanswered::Lost(reason) => self.attempts.lost(endpoint, reason, false),
        }
        Ok(())
    }

    /// The error when there is no endpoint to ask any more. Begins anew, for a caller who does not give up.
    pub(super) fn give_up(&mut self, client: &Client, timeout: Duration) -> Error {
        let (attempts, compacted) = (std::mem::take(&mut self.attempts), self.compacted.take());
        self.turns = self.turns.anew(client.preferred(), Instant::now());
        self.begin(timeout);
        match compacted {
            Some((problem, oldest)) => Error::Compacted { oldest, problem },
            None => attempts.given_up(None),
        }
    }

    fn begin(&mut self, timeout: Duration) {
        self.attempts = Attempts::default();
        self.compacted = None;
        self.begun = None;
        self.timeout = timeout;
        self.unreachable_timeout = timeout;
    }
}
