//! Results computed ahead, each handed out once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::metrics::EndpointMetrics;

/// Where an answer came from: the header `Hearth-Source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Computed ahead, and handed out to nobody else.
    Pool,
    /// Computed for this request.
    Live,
}

impl Source {
    /// `pool` or `live`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Live => "live",
        }
    }
}

/// An answer, and where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<T> {
    /// The result.
    pub value: T,
    /// Pool or live.
    pub source: Source,
}

/// Bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// How many results are kept ready; none turns the pool off.
    pub size: usize,
    /// How old a result may be when it is handed out.
    pub age_max: Duration,
    /// How much of one core producing may take, in percent, 1 to 100.
    pub cpu_percent: u32,
}

impl PoolConfig {
    /// No pool.
    pub const OFF: Self = Self { size: 0, age_max: Duration::from_secs(1), cpu_percent: 1 };

    /// How long a producer rests after work that took `used` of a processor.
    pub(super) fn rest_after(&self, used: Duration) -> Duration {
        let percent = self.cpu_percent.clamp(1, 100);
        used * (100 - percent) / percent
    }
}

/// How often taking a result tries the lock. Others that take one hold it for some 20 ns; only a producer that
/// has lost its processor holds it for longer.
const TRIES: u32 = 64;

/// Results that are ready.
///
/// Invariants: at most `size` of them; none older than `age_max` is handed out; none twice. Taking one never
/// waits: a producer has a low priority and may lose its processor while it holds the lock.
pub(super) struct Pool<T> {
    config: PoolConfig,
    ready: Mutex<Ready<T>>,
    /// Signalled when the pool closes.
    closing: Condvar,
    metrics: EndpointMetrics,
}

struct Ready<T> {
    /// The oldest first, each with the time when it was made.
    results: VecDeque<(Instant, T)>,
    closed: bool,
}

impl<T> Pool<T> {
    pub(super) fn new(config: PoolConfig, metrics: EndpointMetrics) -> Self {
        let ready = Ready { results: VecDeque::with_capacity(config.size), closed: false };
        Self { config, ready: Mutex::new(ready), closing: Condvar::new(), metrics }
    }

    pub(super) fn config(&self) -> &PoolConfig {
        &self.config
    }

    fn lock(&self) -> MutexGuard<'_, Ready<T>> {
        // Nothing panics while it holds the lock.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Ready<T>>> {
        for _ in 0..TRIES {
            match self.ready.try_lock() {
                Ok(ready) => return Some(ready),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
    }

    /// A result that nobody else gets, counted; none when there is none, or when it is not to be had at once.
    pub(super) fn take(&self) -> Option<T> {
        let taken = self.take_unexpired(Instant::now())?;
        self.metrics.count(Source::Pool);
        Some(taken)
    }

    fn take_unexpired(&self, now: Instant) -> Option<T> {
        if self.config.size == 0 {
            return None;
        }
        let mut ready = self.try_lock()?;
        let mut taken = None;
        while let Some((made, result)) = ready.results.pop_front() {
            if now.saturating_duration_since(made) <= self.config.age_max {
                taken = Some(result);
                break;
            }
        }
        self.metrics.set_ready(ready.results.len());
        taken
    }

    /// Counts an answer that was computed for its request.
    pub(super) fn count_live(&self) {
        self.metrics.count(Source::Live);
    }

    /// Adds results made now, as far as there is room.
    pub(super) fn fill(&self, results: impl IntoIterator<Item = T>) {
        let now = Instant::now();
        let mut ready = self.lock();
        let room = self.config.size.saturating_sub(ready.results.len());
        ready.results.extend(results.into_iter().take(room).map(|result| (now, result)));
        self.metrics.set_ready(ready.results.len());
    }

    /// How many results are missing, after the expired ones were thrown away.
    pub(super) fn missing(&self) -> usize {
        let now = Instant::now();
        let mut ready = self.lock();
        let expired = ready
            .results
            .partition_point(|(made, _)| now.saturating_duration_since(*made) > self.config.age_max);
        ready.results.drain(..expired);
        self.metrics.set_ready(ready.results.len());
        self.config.size.saturating_sub(ready.results.len())
    }

    /// Rests on a thread of one's own. Returns false when the pool was closed.
    pub(super) fn rest(&self, pause: Duration) -> bool {
        let ready = self.lock();
        let wait = self.closing.wait_timeout_while(ready, pause, |ready| !ready.closed);
        let (ready, _) = wait.unwrap_or_else(PoisonError::into_inner);
        !ready.closed
    }

    /// Ends the producers.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.closing.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::metrics::ComputeMetrics;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pool(size: usize, age_max: Duration) -> Pool<u32> {
        let metrics = ComputeMetrics::register(&prometheus::Registry::new()).unwrap();
        Pool::new(PoolConfig { size, age_max, cpu_percent: 10 }, metrics.endpoint("cpu"))
    }

    #[test]
    fn each_result_is_handed_out_once_and_the_oldest_first() {
        let pool = pool(3, MINUTE);
        assert_eq!((pool.take(), pool.missing()), (None, 3));
        pool.fill([1, 2]);
        assert_eq!(pool.missing(), 1);
        pool.fill([3, 4]);
        assert_eq!(pool.missing(), 0);
        assert_eq!([pool.take(), pool.take(), pool.take(), pool.take()], [Some(1), Some(2), Some(3), None]);
        assert_eq!(pool.missing(), 3);
    }

    #[test]
    fn what_is_too_old_is_not_handed_out() {
        let pool = pool(3, MINUTE);
        pool.fill([1]);
        let made = Instant::now();
        pool.fill([2]);
        assert_eq!(pool.take_unexpired(made + MINUTE / 2), Some(1));
        assert_eq!(pool.take_unexpired(made + MINUTE * 2), None);
        assert_eq!(pool.missing(), 3);
    }

    #[test]
    fn taking_never_waits_for_a_producer() {
        let pool = pool(3, MINUTE);
        pool.fill([1]);
        let held = pool.lock();
        assert_eq!(pool.take(), None);
        drop(held);
        assert_eq!(pool.take(), Some(1));
    }

    #[test]
    fn a_pool_of_none_is_off() {
        let pool = pool(0, MINUTE);
        pool.fill([1]);
        assert_eq!((pool.take(), pool.missing()), (None, 0));
    }

    #[test]
    fn producers_rest_in_proportion() {
        let rest = |cpu_percent| {
            PoolConfig { cpu_percent, ..PoolConfig::OFF }.rest_after(Duration::from_millis(10)).as_millis()
        };
        assert_eq!([rest(100), rest(50), rest(10), rest(1)], [0, 10, 90, 990]);
    }

    #[test]
    fn a_closed_pool_ends_the_rest() {
        let pool = pool(1, MINUTE);
        assert!(pool.rest(Duration::ZERO));
        pool.close();
        assert!(!pool.rest(MINUTE));
    }
}
