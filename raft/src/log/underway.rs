//! The fdatasyncs that are under way, for a look from outside: the thread that waits for the disk
//! cannot tell that it waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When each fdatasync that has not returned was asked for, oldest first. There are as many as groups
/// and votes in flight: a handful.
#[derive(Debug, Default)]
pub(crate) struct Underway(Mutex<VecDeque<Instant>>);

impl Underway {
    /// Notes the beginning of one; it ends when the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Begun {
        let begun = Instant::now();
        self.lock().push_back(begun);
        Begun { underway: Arc::clone(self), begun }
    }

    /// For how long the oldest one has been under way.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.lock().front().map(Instant::elapsed)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        // Nothing in this file panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An fdatasync that is under way, or waits for the one before it.
#[derive(Debug)]
pub(super) struct Begun {
    underway: Arc<Underway>,
    begun: Instant,
}

impl Begun {
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut all = self.underway.lock();
        if let Some(position) = all.iter().position(|begun| *begun == self.begun) {
            all.remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_counts_until_it_ends() {
        let underway = Arc::new(Underway::default());
        assert_eq!(underway.longest(), None);
        let first = underway.begin();
        std::thread::sleep(Duration::from_millis(5));
        let second = underway.begin();
        assert!(underway.longest().unwrap() >= Duration::from_millis(5));
        drop(first);
        assert!(underway.longest().unwrap() <= second.elapsed());
        drop(second);
        assert_eq!(underway.longest(), None);
    }
}
