//! `/cpu`: the sum of 100,000 random integers, really drawn for each answer.
//!
//! While the node has nothing better to do, a sum is computed where it was asked for: it takes 6 µs, half of
//! what its request takes, and handing it to another thread and back would cost almost as much. When the store is
//! being written to ([`Haste::InSpareTime`]), on a processor without vectors, or for many sums at once, threads of
//! their own compute, which are nicer than the asynchronous ones. Then it is the order of the two that counts: while
//! callers wait for sums, the asynchronous threads have little to do, and consensus finds them free. For that, results
//! out of the pool come that way too.

pub mod draws;
pub mod kernel;
#[cfg(target_arch = "x86_64")]
mod vector;

use std::io;
use std::num::NonZero;
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use self::draws::Draws;
use super::metrics::ComputeMetrics;
use super::pool::{Answer, Pool, PoolConfig, Source};
use super::workers::{Refused, Workers, be_nice};
use super::{NICENESS, PRODUCER_NICENESS, PRODUCER_TICK};

/// Sums that a producer computes at once, in half a millisecond.
const BATCH: usize = 64;

/// Sums for callers that a thread takes on at once, for as much work as a batch of a producer at most.
const JOBS_AT_ONCE: usize = 16;

/// Sums that take longer are not computed on the asynchronous threads.
const AT_ONCE_MAX: Duration = Duration::from_micros(20);

/// How long a thread rests after each batch of sums in spare time. What comes of a sum, its answer and the next
/// request of who got it, is work of the asynchronous threads, before which nothing makes way: without a pause they
/// take it up one after the other, until the scheduler's tick ends that after 4 ms. And while a nice thread has
/// work, Linux does not look whether threads wait for another processor; when the thread rests, it does.
const SPARE_TIME_REST: Duration = Duration::from_millis(2);

/// What a refused caller is asked to wait: the queue is worked off in much less, and HTTP's `Retry-After`
/// counts whole seconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Limits of `/cpu`.
#[derive(Debug, Clone)]
pub struct CpuConfig {
    /// `compute.cpu.threads`: how many threads compute, at least 1. More than there are cores gain nothing.
    pub threads: usize,
    /// `compute.cpu.waiting_max`: how many sums may wait; further callers are refused. A core computes about
    /// 100,000 a second.
    pub waiting_max: usize,
    /// `compute.cpu.pool` and its bounds.
    pub pool: PoolConfig,
}

/// Whether there is something more important than a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// No: the sum is computed on the thread that asks, if that is quick.
    AtOnce,
    /// Yes: the sum is computed when nothing else wants the processor, and not one after the other.
    InSpareTime,
}

impl Haste {
    fn rest(self) -> Duration {
        match self {
            Self::AtOnce => Duration::ZERO,
            Self::InSpareTime => SPARE_TIME_REST,
        }
    }
}

/// Why there is no sum.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// As many callers wait as may.
    #[error("too many callers wait for a sum; try again in {retry_after:?}")]
    Overloaded {
        /// When the queue will have been worked off.
        retry_after: Duration,
    },
    /// The computing thread ended.
    #[error("the computing thread ended")]
    Lost,
}

/// Why [`Cpu`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CpuSetupError {
    /// A configuration key has a value that cannot be used.
    #[error("{0} is zero")]
    Zero(&'static str),
    /// The operating system gave no randomness to seed the generators.
    #[error("no randomness: {0}")]
    Randomness(#[source] rand::rngs::SysError),
    /// The operating system started no threads.
    #[error("cannot start the computing threads: {0}")]
    Threads(#[source] io::Error),
}

/// Computes sums for callers.
pub struct Cpu {
    /// Each thread has its own generators, so that none waits for another.
    workers: Arc<Workers<Draws>>,
    pool: Arc<Pool<u32>>,
    /// For the asynchronous threads: one for each, so that one is free whenever one of them looks. None when sums
    /// are slow on this processor. Std mutexes: held for one sum, never across an await, and never waited for.
    at_once: Vec<Mutex<Draws>>,
}

impl Cpu {
    /// Starts the threads, each with generators seeded by the operating system, and the producer.
    ///
    /// # Errors
    /// See [`CpuSetupError`].
    pub fn new(config: &CpuConfig, metrics: &ComputeMetrics) -> Result<Self, CpuSetupError> {
        if config.threads == 0 {
            return Err(CpuSetupError::Zero("compute.cpu.threads"));
        }
        if config.waiting_max == 0 {
            return Err(CpuSetupError::Zero("compute.cpu.waiting_max"));
        }
        let draws: Result<Vec<_>, _> = (0..config.threads).map(|_| Draws::from_system()).collect();
        let draws = draws.map_err(CpuSetupError::Randomness)?;
        let workers = Workers::start("cpu", NICENESS, config.waiting_max, JOBS_AT_ONCE, draws)
            .map_err(CpuSetupError::Threads)?;
        let (workers, pool) = (Arc::new(workers), Arc::new(Pool::new(config.pool, metrics.endpoint("cpu"))));
        if config.pool.size > 0 {
            let draws = Draws::from_system().map_err(CpuSetupError::Randomness)?;
            let (workers, pool) = (workers.clone(), pool.clone());
            let producer = thread::Builder::new().name("cpu-ahead".to_owned());
            producer.spawn(move || produce(&pool, &workers, draws)).map_err(CpuSetupError::Threads)?;
        }
        Ok(Self { workers, pool, at_once: at_once()? })
    }

    /// A sum drawn for this call, or ahead for nobody else. Refused at once when the queue is full; dropping
    /// the future leaves it.
    ///
    /// # Errors
    /// See [`CpuError`].
    pub async fn answer(&self, haste: Haste) -> Result<Answer<u32>, CpuError> {
        if haste == Haste::AtOnce
            && let Some(answer) = self.answer_at_once()
        {
            return Ok(answer);
        }
        let pool = Arc::clone(&self.pool);
        let answer = move |draws: &mut Draws| match pool.take() {
            Some(value) => Answer { value, source: Source::Pool },
            None => Answer { value: draws.sum(), source: Source::Live },
        };
        let answer = self.workers.run(1, haste.rest(), answer).await.map_err(error)?;
        if answer.source == Source::Live {
            self.pool.count_live();
        }
        Ok(answer)
    }

    /// Without another thread. Never waits.
    fn answer_at_once(&self) -> Option<Answer<u32>> {
        if let Some(value) = self.pool.take() {
            return Some(Answer { value, source: Source::Pool });
        }
        for draws in &self.at_once {
            let mut draws = match draws.try_lock() {
                Ok(draws) => draws,
                Err(TryLockError::WouldBlock) => continue,
                // Whatever state a sum is left in, the next one begins with it.
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            };
            self.pool.count_live();
            return Some(Answer { value: draws.sum(), source: Source::Live });
        }
        None
    }

    /// So many sums drawn for this call. The pool is not asked: it is for those who want one, at once.
    ///
    /// # Errors
    /// See [`CpuError`].
    pub async fn answers(&self, count: usize, haste: Haste) -> Result<Answer<Vec<u32>>, CpuError> {
        let sums = move |draws: &mut Draws| (0..count).map(|_| draws.sum()).collect();
        let value = self.workers.run(count, haste.rest(), sums).await.map_err(error)?;
        self.pool.count_live();
        Ok(Answer { value, source: Source::Live })
    }
}

/// What computes at once, if that is quick here.
fn at_once() -> Result<Vec<Mutex<Draws>>, CpuSetupError> {
    let mut draws = Draws::from_system().map_err(CpuSetupError::Randomness)?;
    let sum = || {
        let begun = Instant::now();
        std::hint::black_box(draws.sum());
        begun.elapsed()
    };
    // The quickest of some: the others were disturbed.
    let took = std::iter::repeat_with(sum).take(10).min().unwrap_or_default();
    if took > AT_ONCE_MAX {
        return Ok(Vec::new());
    }
    // As many as Tokio has threads.
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let draws = (0..threads).map(|_| Draws::from_system().map(Mutex::new));
    draws.collect::<Result<_, _>>().map_err(CpuSetupError::Randomness)
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.pool.close();
    }
}

fn error(refused: Refused) -> CpuError {
    match refused {
        Refused::Full => CpuError::Overloaded { retry_after: RETRY_AFTER },
        Refused::Lost => CpuError::Lost,
    }
}

/// Keeps the pool full, in small portions, while nobody waits for a sum, until it is closed.
fn produce(pool: &Pool<u32>, workers: &Workers<Draws>, mut draws: Draws) {
    be_nice(PRODUCER_NICENESS);
    loop {
        let missing = pool.missing();
        let pause = if missing > 0 && workers.is_idle() {
            let begun = thread_time();
            pool.fill((0..missing.min(BATCH)).map(|_| draws.sum()).collect::<Vec<_>>());
            pool.config().rest_after(thread_time().saturating_sub(begun))
        } else {
            PRODUCER_TICK
        };
        if !pool.rest(pause) {
            return;
        }
    }
}

/// How much of a processor this thread has used.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn cpu(pool: PoolConfig) -> Cpu {
        let metrics = ComputeMetrics::register(&Registry::new()).unwrap();
        Cpu::new(&CpuConfig { threads: 2, waiting_max: 10, pool }, &metrics).unwrap()
    }

    /// Within ten standard deviations, of 9,220.
    fn plausible(sum: u32) -> bool {
        sum.abs_diff(5_000_000) < 92_200
    }

    #[tokio::test]
    async fn answers_differ_and_are_plausible() {
        let cpu = cpu(PoolConfig::OFF);
        let (one, two) = tokio::join!(cpu.answer(Haste::AtOnce), cpu.answer(Haste::InSpareTime));
        let (one, two) = (one.unwrap(), two.unwrap());
        // Equal sums have a probability of 1 in 30,000.
        assert!(plausible(one.value) && plausible(two.value), "{one:?} {two:?}");
        let three = cpu.answer(Haste::AtOnce).await.unwrap();
        assert!(one != two || two != three);
        assert_eq!(three.source, Source::Live);
    }

    #[tokio::test]
    async fn a_sum_in_spare_time_leaves_the_asynchronous_thread() {
        let mut cpu = cpu(PoolConfig::OFF);
        let mut no_waker = std::task::Context::from_waker(std::task::Waker::noop());
        let ready = |cpu: &Cpu, haste, context: &mut _| {
            let mut answer = Box::pin(cpu.answer(haste));
            answer.as_mut().poll(context).is_ready()
        };
        // As on a processor without vectors: nothing is quick enough.
        cpu.at_once.clear();
        assert!(!ready(&cpu, Haste::AtOnce, &mut no_waker));
        cpu.at_once.push(Mutex::new(Draws::from_system().unwrap()));
        assert!(ready(&cpu, Haste::AtOnce, &mut no_waker));
        assert!(!ready(&cpu, Haste::InSpareTime, &mut no_waker));
        // Never waits for another one: that is what the threads are for.
        let held = cpu.at_once[0].lock().unwrap();
        assert!(!ready(&cpu, Haste::AtOnce, &mut no_waker));
        drop(held);
    }

    #[tokio::test]
    async fn many_answers_at_once() {
        let answer = cpu(PoolConfig::OFF).answers(1000, Haste::AtOnce).await.unwrap();
        assert_eq!((answer.value.len(), answer.source), (1000, Source::Live));
        assert!(answer.value.iter().all(|sum| plausible(*sum)), "{:?}", answer.value);
        let mut distinct = answer.value.clone();
        distinct.sort_unstable();
        distinct.dedup();
        // 1,000 draws from about 40,000 likely values have some 15 equal pairs.
        assert!(distinct.len() > 900, "{}", distinct.len());
    }

    #[tokio::test]
    async fn the_pool_is_filled_drained_and_filled_again() {
        let size = 100;
        let cpu = cpu(PoolConfig { size, age_max: Duration::from_secs(3600), cpu_percent: 100 });
        for _ in 0..3 {
            while cpu.pool.missing() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for haste in [Haste::AtOnce, Haste::InSpareTime] {
                // The producer may hold the lock just now; then the answer is live.
                while cpu.answer(haste).await.unwrap().source == Source::Live {}
            }
            while cpu.pool.take().is_some() {}
        }
    }
}
