//! The cluster's clock: what times to live and idempotency windows are measured by.
//!
//! A leader stamps every command with it, and the state keeps the latest stamp. It counts milliseconds
//! since the Unix epoch, but it is no node's wall clock: the members' wall clocks may differ, and a step
//! to another leader must neither end a time to live early nor hold it up. So every node notes when it
//! sees a new stamp. As the stamp is older than its sight, the stamp plus what has passed since on this
//! node's monotonic clock is never ahead of the clock of the leader that set it, and behind it only by
//! the time that the command was on its way. A new leader goes on from there.
//!
//! Only a node that has seen no stamp since it started, which leads at once after the whole cluster was
//! down, asks its wall clock how long that was.
//!
//! Known shortcoming: time for which a machine is suspended does not count.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// No stamp was seen since the start.
const UNKNOWN: i64 = i64::MIN;

/// The cluster's clock as one node knows it.
pub(crate) struct Clock {
    origin: Instant,
    /// The cluster's clock at `origin` as far as stamps prove it; only grows.
    at_origin_ms: AtomicI64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), at_origin_ms: AtomicI64::new(UNKNOWN) }
    }

    /// A command with the stamp `clock_ms` has just been seen, and was not from before the start.
    pub(crate) fn observe(&self, clock_ms: u64) {
        let clock_ms = i64::try_from(clock_ms).unwrap_or(i64::MAX);
        self.at_origin_ms.fetch_max(clock_ms.saturating_sub(self.elapsed_ms()), Ordering::Relaxed);
    }

    /// What a leader stamps commands with, in milliseconds since the Unix epoch. Does not know of the
    /// stamps in the state that are from before the start: the state takes the later of both.
    pub(crate) fn now_ms(&self) -> u64 {
        match self.at_origin_ms.load(Ordering::Relaxed) {
            UNKNOWN => wall_clock_ms(),
            at_origin_ms => u64::try_from(at_origin_ms.saturating_add(self.elapsed_ms())).unwrap_or(0),
        }
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

fn wall_clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_the_stamps_and_not_from_the_wall_clock() {
        let clock = Clock::new();
        assert!(clock.now_ms().abs_diff(wall_clock_ms()) < 60_000);
        // Far behind the wall clock, and far ahead of it: a leader with a wrong clock was there.
        let begun = Instant::now();
        for stamp in [1_000_000, wall_clock_ms() + 3_600_000] {
            clock.observe(stamp);
            let passed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap();
            let now_ms = clock.now_ms();
            assert!((stamp..=stamp + passed_ms + 2).contains(&now_ms), "{now_ms} after {stamp}");
        }
        // One that was late on its way does not hold it up.
        let before = clock.now_ms();
        clock.observe(before - 500);
        assert!(clock.now_ms() >= before);
    }
}
