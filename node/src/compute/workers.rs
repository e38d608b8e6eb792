//! Threads for work that must not run on the asynchronous ones, behind one bounded queue.
//!
//! The threads are nicer than the asynchronous ones ([`be_nice`]), so that one of them may lose its processor for long and
//! at any moment, also while it holds a lock. So that no asynchronous thread ever waits for it then, neither
//! side takes a lock that the other may hold:
//! - who brings a job tries the queue's lock, and comes back later when it is taken;
//! - who has done one leaves a notice for a task of the runtime, which wakes who waits. Waking from outside the
//!   runtime would take locks of it, behind which all of its threads would wait.
//!
//! Not `tokio::task::spawn_blocking`: its queue has no bound, its threads have no state and no niceness, and
//! measured on two cores it cost twice as much for a job of 25 µs.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::notices::{Notice, Notices};

/// A job in the queue.
struct Waits<S> {
    units: usize,
    rest_after: Duration,
    job: Job<S>,
}

/// A piece of work with its reply channel inside. Gives the notice that it is done.
type Job<S> = Box<dyn FnOnce(&mut S) -> Notice + Send>;

/// How often who brings a job tries for the lock before it comes back later. It is held for less.
const TRIES: u32 = 64;
/// When that is.
const LATER: Duration = Duration::from_millis(1);

/// Threads with a state `S` each, which take jobs from one queue in the order of arrival.
///
/// Invariants:
/// - Jobs of at most `waiting_max` units wait, whatever a unit is, except that one job may always wait; a
///   further one is refused, not delayed.
/// - A thread takes several jobs at once when there are several for each thread, and says once that they are
///   done.
/// - A job whose caller has gone away is skipped.
/// - A job that panics ends neither its thread nor the process; its caller gets [`Refused::Lost`].
pub(super) struct Workers<S> {
    queue: Arc<Queue<S>>,
    notices: Notices,
}

struct Queue<S> {
    /// A std mutex: held for a push or a pop, never across an await or a job.
    waiting: Mutex<Waiting<S>>,
    /// Signalled for each job, and when the queue closes.
    changed: Condvar,
    waiting_max: usize,
    /// How many jobs a thread takes at once.
    batch_max: usize,
    threads: usize,
    /// Jobs that wait or run: for those who must not wait for the lock.
    unfinished: AtomicUsize,
}

struct Waiting<S> {
    jobs: VecDeque<Waits<S>>,
    /// Of all jobs together.
    units: usize,
    /// Set when the [`Workers`] are dropped: the threads end.
    closed: bool,
}

/// Why a job has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many jobs wait as may.
    Full,
    /// The job panicked, or its thread ended before its turn.
    Lost,
}

impl<S: Send + 'static> Workers<S> {
    /// Starts one thread for each of `states`, called `name`, each `niceness` nicer than this process. Jobs that
    /// take microseconds are cheaper in batches; each then waits for those that are taken with it.
    pub(super) fn start(
        name: &str,
        niceness: i32,
        waiting_max: usize,
        batch_max: usize,
        states: Vec<S>,
    ) -> io::Result<Self> {
        let waiting = Mutex::new(Waiting { jobs: VecDeque::new(), units: 0, closed: false });
        // Those that wait, of which each has one unit at least, those at work, and one that is larger than all.
        let places = waiting_max.saturating_add(states.len()).saturating_add(1);
        // From here on dropping it ends the threads, those started before one fails to start.
        let unfinished = AtomicUsize::new(0);
        let threads = states.len();
        let queue = Queue { waiting, changed: Condvar::new(), waiting_max, batch_max, threads, unfinished };
        let workers = Self { queue: Arc::new(queue), notices: Notices::new(places)? };
        for state in states {
            let queue = workers.queue.clone();
            thread::Builder::new().name(name.to_owned()).spawn(move || {
                be_nice(niceness);
                queue.work(state);
            })?;
        }
        Ok(workers)
    }

    /// Whether no job waits or runs. Never waits.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.unfinished.load(Ordering::Relaxed) == 0
    }

    /// Runs `work`, which counts as so many units while it waits, on one of the threads. Dropping the future
    /// before its turn cancels it. Within a Tokio runtime with I/O and time.
    ///
    /// The thread rests for `rest_after` when it has done the jobs that it took together.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        units: usize,
        rest_after: Duration,
        work: impl FnOnce(&mut S) -> R + Send + 'static,
    ) -> Result<R, Refused> {
        // Nobody is woken by this channel: it is looked into once the notice has come.
        let (reply, mut result) = oneshot::channel();
        let expected = self.notices.expect().map_err(|_| Refused::Lost)?;
        let (notice, noticed) = expected.ok_or(Refused::Full)?;
        let job = move |state: &mut S| {
            // A panic sends it.
            let notice: Notice = notice;
            if !reply.is_closed() {
                // When the caller has gone away meanwhile, the result is dropped here.
                let _ = reply.send(work(state));
            }
            notice
        };
        let mut waits = Waits { units, rest_after, job: Box::new(job) };
        while let Err(back) = self.queue.try_push(waits)? {
            waits = back;
            tokio::time::sleep(LATER).await;
        }
        // An error means that the runtime stops.
        let _ = noticed.await;
        result.try_recv().map_err(|_| Refused::Lost)
    }
}

impl<S> Drop for Workers<S> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.closed = true;
        waiting.jobs.clear();
        waiting.units = 0;
        self.queue.changed.notify_all();
    }
}

impl<S> Queue<S> {
    fn lock(&self) -> MutexGuard<'_, Waiting<S>> {
        // Jobs run without the lock, so that a poisoned one guards nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Waiting<S>>> {
        for _ in 0..TRIES {
            match self.waiting.try_lock() {
                Ok(waiting) => return Some(waiting),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
    }

    /// Adds a job; gives it back when one of the threads holds the lock.
    fn try_push(&self, job: Waits<S>) -> Result<Result<(), Waits<S>>, Refused> {
        let Some(mut waiting) = self.try_lock() else { return Ok(Err(job)) };
        let together = waiting.units.saturating_add(job.units);
        if together > self.waiting_max && !waiting.jobs.is_empty() {
            return Err(Refused::Full);
        }
        waiting.units = together;
        waiting.jobs.push_back(job);
        self.unfinished.fetch_add(1, Ordering::Relaxed);
        drop(waiting);
        self.changed.notify_one();
        Ok(Ok(()))
    }

    /// Moves this thread's share of the jobs to `batch`, at least one. False when the queue is closed.
    fn pop(&self, batch: &mut Vec<Waits<S>>) -> bool {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return false;
            }
            let share = waiting.jobs.len().div_ceil(self.threads).min(self.batch_max);
            for _ in 0..share {
                let Some(job) = waiting.jobs.pop_front() else { break };
                waiting.units -= job.units;
                batch.push(job);
            }
            if share > 0 {
                return true;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, mut state: S) {
        let (mut batch, mut done) = (Vec::new(), Vec::new());
        while self.pop(&mut batch) {
            let mut rest = Duration::ZERO;
            for Waits { rest_after, job, .. } in batch.drain(..) {
                rest = rest.max(rest_after);
                // The panic hook has told the panic. The state may be half changed: ours stay usable.
                done.extend(catch_unwind(AssertUnwindSafe(|| job(&mut state))));
                self.unfinished.fetch_sub(1, Ordering::Relaxed);
            }
            Notice::send_all(&mut done);
            if !rest.is_zero() {
                thread::sleep(rest);
            }
        }
    }
}

/// Makes this thread so much nicer than it is, and what it starts: on Linux niceness is an attribute of
/// threads, see nice(2).
///
/// And has it run under `SCHED_IDLE`, see sched(7). Niceness says who gets how much, but a thread that is woken
/// may still have to wait until a nicer one has had its few milliseconds. Before one of this kind it goes at
/// once, and the scheduler takes a processor that has only such threads for idle when it looks for one. Niceness
/// counts where the policy is not to be had.
pub(super) fn be_nice(niceness: i32) {
    if niceness > 0 {
        // Neither needs a privilege; if one fails, work is only less considerate.
        let _ = rustix::process::nice(niceness);
        let no_priority = libc::sched_param { sched_priority: 0 };
        #[allow(unsafe_code, reason = "there is no safe wrapper")]
        // SAFETY: 0 is this thread, and the kernel only reads the parameter.
        let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const no_priority) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn threads_keep_their_state() {
        let workers = Workers::start("test", 0, 10, 4, vec![0]).unwrap();
        for wanted in 1..=3 {
            let count = |state: &mut u32| {
                *state += 1;
                *state
            };
            assert_eq!(workers.run(1, Duration::ZERO, count).await, Ok(wanted));
        }
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_skips_callers_that_are_gone() {
        let workers = Arc::new(Workers::start("test", 0, 1, 4, vec![()]).unwrap());
        let (release, held) = mpsc::channel::<()>();
        let (begun, busy) = oneshot::channel();
        let first = tokio::spawn({
            let workers = workers.clone();
            async move {
                let hold = move |_: &mut ()| {
                    let _ = begun.send(());
                    let _ = held.recv();
                };
                workers.run(1, Duration::ZERO, hold).await
            }
        });
        busy.await.unwrap();
        // The thread is held: one job waits, the next is refused.
        let (gone, skipped) = mpsc::channel::<()>();
        let mut second = Box::pin(workers.run(1, Duration::ZERO, move |_| gone.send(()).unwrap()));
        let mut no_waker = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(second.as_mut().poll(&mut no_waker).is_pending());
        assert_eq!(workers.run(1, Duration::ZERO, |_| ()).await, Err(Refused::Full));
        assert!(!workers.is_idle());
        drop(second);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        // The job was dropped without running: its sender is gone and nothing was sent.
        assert!(skipped.recv().is_err());
        assert_eq!(workers.run(1, Duration::ZERO, |_| ()).await, Ok(()));
    }

    #[tokio::test]
    async fn one_job_larger_than_the_queue_may_wait() {
        let workers = Workers::start("test", 0, 2, 4, vec![()]).unwrap();
        assert_eq!(workers.run(3, Duration::ZERO, |_| 7).await, Ok(7));
        let (release, held) = mpsc::channel::<()>();
        let mut first = Box::pin(workers.run(1, Duration::ZERO, move |_| held.recv().unwrap_or_default()));
        let mut no_waker = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(first.as_mut().poll(&mut no_waker).is_pending());
        while !workers.queue.lock().jobs.is_empty() {
            tokio::task::yield_now().await;
        }
        let mut large = Box::pin(workers.run(3, Duration::ZERO, |_| 8));
        assert!(large.as_mut().poll(&mut no_waker).is_pending());
        assert_eq!(workers.run(1, Duration::ZERO, |_| ()).await, Err(Refused::Full));
        release.send(()).unwrap();
        assert_eq!((first.await, large.await), (Ok(()), Ok(8)));
    }

    #[tokio::test]
    async fn a_thread_rests_when_it_is_asked_to() {
        const REST: Duration = Duration::from_millis(50);
        let workers = Workers::start("test", 0, 10, 4, vec![()]).unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(workers.run(1, REST, |_| 1).await, Ok(1));
        // The answer does not wait for the rest; the next one does.
        assert_eq!(workers.run(1, Duration::ZERO, |_| 2).await, Ok(2));
        assert!(begun.elapsed() >= REST);
    }

    #[tokio::test]
    async fn a_panic_loses_one_job_only() {
        let workers = Workers::start("test", 0, 1, 4, vec![()]).unwrap();
        assert_eq!(
            workers.run(1, Duration::ZERO, |_| panic!("on purpose")).await,
            Err::<(), _>(Refused::Lost)
        );
        assert_eq!(workers.run(1, Duration::ZERO, |_| 7).await, Ok(7));
    }
}
