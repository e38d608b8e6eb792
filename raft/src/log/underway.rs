//! The fdatasync that is under way, for a look from outside: the thread that waits for the disk
//! cannot tell that it waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When the fdatasync that has not returned was begun, with the write before it. There is one at most.
#[derive(Debug, Default)]
pub(crate) struct Underway(Mutex<Option<Instant>>);

impl Underway {
    /// Notes the beginning; it ends when the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Begun {
        let begun = Instant::now();
        *self.lock() = Some(begun);
        Begun { underway: Arc::clone(self), begun }
    }

    /// For how long it has been under way.
    pub(crate) fn lasting(&self) -> Option<Duration> {
        self.lock().map(|begun| begun.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing in this file panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An fdatasync that is under way.
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
        *self.underway.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_until_it_ends() {
        let underway = Arc::new(Underway::default());
        assert_eq!(underway.lasting(), None);
        let begun = underway.begin();
        std::thread::sleep(Duration::from_millis(5));
        assert!(underway.lasting().unwrap() >= Duration::from_millis(5));
        assert!(underway.lasting().unwrap() <= begun.elapsed());
        drop(begun);
        assert_eq!(underway.lasting(), None);
    }
}
