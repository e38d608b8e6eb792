//! Whether and when a request is sent again. Decisions only: nothing here sends or waits.
//!
//! A write is sent again only when the first one cannot have been applied (it never left, or the server
//! said `not_applied` and `retryable`), or when it carries an idempotency key, so that the server applies
//! it once however often it arrives.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Outcome, Problem};

/// The pause before an endpoint is asked for the second time; it doubles each time.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause that is not asked for by the server.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What an endpoint gets of the time that is left, when others may be asked after it, in percent. More than
/// half: of the usual 10 s a node gets longer than the 5 s after which it gives up itself, and says why.
const SHARE_PERCENT: u32 = 55;
/// What it gets at most, however much time is left.
const SHARE_MAX: Duration = Duration::from_secs(6);
/// What it gets at least.
const SHARE_MIN: Duration = Duration::from_millis(100);

/// What may be done when a node fails to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// May be asked again. A node gets its share of the time, so that one which hangs is given up for
    /// another.
    Read,
    /// May be asked again, but takes its time: a node gets all that is left.
    Compute,
    /// A write without an idempotency key: sent again only when it was certainly not applied.
    Write,
    /// A write with an idempotency key: may be sent again, as it is applied once. A node gets its share of
    /// the time.
    WriteOnce,
}

/// How an attempt ended without success.
#[derive(Debug)]
pub(crate) enum Ended<'a> {
    /// Not a byte of the request left.
    NotSent,
    /// At least a part of it may have arrived, and no answer tells what became of it.
    Lost,
    /// The server refused.
    Refused(&'a Problem),
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask the next endpoint, and this one again later, not before the server's `Retry-After`.
    Again(Option<Duration>),
    /// Ask the next endpoint, and this one no more: it did not say that it expects to recover.
    Elsewhere,
    /// Give up: asking again would not help, or might do harm.
    Stop,
}

impl Kind {
    /// What to do after an attempt that ended like this.
    pub(crate) fn next(self, ended: &Ended<'_>) -> Next {
        match ended {
            Ended::NotSent => Next::Again(None),
            Ended::Lost if self == Self::Write => Next::Stop,
            Ended::Lost => Next::Again(None),
            Ended::Refused(problem) if !self.may_ask_again(problem) => Next::Stop,
            Ended::Refused(problem) if problem.outcome == Outcome::Unknown => {
                Next::Again(problem.retry_after)
            }
            Ended::Refused(Problem { retry_after: Some(after), .. }) => Next::Again(Some(*after)),
            Ended::Refused(_) => Next::Elsewhere,
        }
    }

    /// Whether it may change something.
    pub(crate) fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::WriteOnce)
    }

    fn may_ask_again(self, problem: &Problem) -> bool {
        match self {
            Self::Read | Self::Compute => problem.retryable,
            Self::Write => problem.retryable && problem.outcome == Outcome::NotApplied,
            Self::WriteOnce => problem.retryable || problem.outcome == Outcome::Unknown,
        }
    }

    /// Until when one of `endpoints` may take, of a call that ends at `deadline`.
    pub(crate) fn share(self, now: Instant, deadline: Instant, endpoints: usize) -> Instant {
        match self {
            Self::Read | Self::WriteOnce if endpoints > 1 => {
                let share = deadline.saturating_duration_since(now) * SHARE_PERCENT / 100;
                deadline.min(now + share.clamp(SHARE_MIN, SHARE_MAX))
            }
            _ => deadline,
        }
    }
}

/// When each endpoint may be asked.
///
/// Every endpoint is asked once at once, in their order and beginning with the preferred one; after that,
/// whichever has waited out its pause.
#[derive(Debug)]
pub(crate) struct Turns {
    turns: Vec<Turn>,
    /// The index that comes first among equals.
    first: usize,
}

#[derive(Debug, Clone)]
struct Turn {
    /// Not before that; `None`: no more.
    at: Option<Instant>,
    /// How often it was asked in vain.
    failures: u32,
}

impl Turns {
    /// For `count` endpoints, all of which may be asked from `now` on, the one at `first` before others.
    pub(crate) fn new(count: usize, first: usize, now: Instant) -> Self {
        Self { turns: vec![Turn { at: Some(now), failures: 0 }; count], first }
    }

    /// The same endpoints from the beginning, the one at `first` before others.
    pub(crate) fn anew(&self, first: usize, now: Instant) -> Self {
        Self::new(self.turns.len(), first, now)
    }

    /// How many endpoints there are.
    pub(crate) fn count(&self) -> usize {
        self.turns.len()
    }

    /// Which endpoint is next, by index, and from when on; `None` when there is no more to ask.
    pub(crate) fn next(&self) -> Option<(usize, Instant)> {
        let count = self.turns.len();
        let ring = (0..count).map(|step| (self.first + step) % count);
        let open = ring.filter_map(|index| Some((index, self.turns.get(index)?.at?)));
        // The first of the earliest.
        open.min_by_key(|(_, at)| *at)
    }

    /// The endpoint failed: it may be asked again after a pause, and not before `retry_after`. `random` is
    /// in 0..1.
    pub(crate) fn again(&mut self, index: usize, now: Instant, retry_after: Option<Duration>, random: f64) {
        let Some(turn) = self.turns.get_mut(index) else { return };
        turn.failures += 1;
        turn.at = now.checked_add(pause(turn.failures, random).max(retry_after.unwrap_or_default()));
    }

    /// The endpoint is not asked any more.
    pub(crate) fn never(&mut self, index: usize) {
        if let Some(turn) = self.turns.get_mut(index) {
            turn.failures += 1;
            turn.at = None;
        }
    }

    /// Whether each was asked.
    pub(crate) fn all_asked(&self) -> bool {
        self.turns.iter().all(|turn| turn.failures > 0)
    }
}

/// How long to wait after so many failures: half of it certain, half of it random, so that clients which
/// failed together do not come back together.
pub(crate) fn pause(failures: u32, random: f64) -> Duration {
    let doubled = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(PAUSE_MAX).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
