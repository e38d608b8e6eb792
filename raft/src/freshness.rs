//! How old the view of this node may be.
//!
//! A view is *fresh as of* a moment when it includes every write acknowledged before that moment. The
//! only proof is a read index that was asked for at that moment and has been applied since. Heartbeats
//! would be cheaper but prove nothing: one that was held up on its way looks like a new one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The latest moment that this node's view is known to be fresh as of.
pub(crate) struct Freshness {
    origin: Instant,
    /// Nanoseconds after the origin, plus one; 0 before there was any proof.
    fresh_ns: AtomicU64,
}

impl Freshness {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), fresh_ns: AtomicU64::new(0) }
    }

    /// A read index asked for at `asked` has been applied.
    pub(crate) fn prove(&self, asked: Instant) {
        let ns = asked.saturating_duration_since(self.origin).as_nanos();
        let ns = u64::try_from(ns).unwrap_or(u64::MAX - 1) + 1;
        // Published after the view: whoever sees this sees the view, or a newer one.
        self.fresh_ns.fetch_max(ns, Ordering::AcqRel);
    }

    /// The most that the view taken after this call may be behind; `None` while nothing is known.
    pub(crate) fn age_max(&self) -> Option<Duration> {
        let ns = self.fresh_ns.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_nanos(ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_proof_makes_it_younger() {
        let freshness = Freshness::new();
        assert_eq!(freshness.age_max(), None);
        let (early, late) = (freshness.origin, freshness.origin + Duration::from_millis(5));
        freshness.prove(late);
        while late.elapsed().is_zero() {
            std::hint::spin_loop();
        }
        freshness.prove(early);
        let age = freshness.age_max().unwrap();
        assert!(
            age <= late.elapsed()
                && age + Duration::from_millis(5) <= early.elapsed() + Duration::from_millis(1)
        );
    }
}
