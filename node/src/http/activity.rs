//! Whether writes are going on, for those who make way for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long after an applied entry the node counts as writing: a closed loop of one client on a slow disk still
/// does.
const LASTS: Duration = Duration::from_millis(20);

/// When the log was last seen to have grown. Looked at by whoever wants to know, so that it costs nothing while
/// nobody does.
///
/// Two who look at once may overwrite each other's times, by less than the time between them.
pub(super) struct Activity {
    begun: Instant,
    /// The revision that was last seen.
    revision: AtomicU64,
    /// When it was first seen, in µs since `begun`; the beginning counts.
    seen_us: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), revision: AtomicU64::new(0), seen_us: AtomicU64::new(0) }
    }

    /// Whether writes are applied these days, now that the store has `revision`.
    pub(super) fn is_writing(&self, revision: u64) -> bool {
        self.is_writing_at(revision, self.begun.elapsed())
    }

    fn is_writing_at(&self, revision: u64, now: Duration) -> bool {
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        // Not written to when nothing has changed: all asynchronous threads look.
        if self.revision.load(Ordering::Relaxed) != revision {
            self.revision.store(revision, Ordering::Relaxed);
            self.seen_us.store(now_us, Ordering::Relaxed);
            return true;
        }
        let seen = Duration::from_micros(self.seen_us.load(Ordering::Relaxed));
        now.saturating_sub(seen) < LASTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_lasts_from_the_last_change_on() {
        let activity = Activity::new();
        let at = |revision, ms| activity.is_writing_at(revision, Duration::from_millis(ms));
        // (revision, at ms, writing)
        let looks = [
            (0, 30, false),
            (7, 1000, true),
            (7, 1019, true),
            (7, 1020, false),
            (7, 5000, false),
            (8, 5001, true),
            (9, 5020, true),
            (9, 5039, true),
            (9, 5040, false),
        ];
        for (revision, ms, writing) in looks {
            assert_eq!(at(revision, ms), writing, "revision {revision} at {ms} ms");
        }
    }
}
