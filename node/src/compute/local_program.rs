//! `/local_program`: runs one fixed executable and answers its exit status.
//!
//! A caller takes a place (or is refused), waits for its turn, and then a task of its own watches the
//! program for its whole life: until it exits, its time is up, it floods its output, or the caller has gone
//! away. The task, not the caller, owns the program, so that a dropped future leaves nothing behind.
//!
//! Invariants:
//! - No shell, no search path, nothing from a request: the same program, arguments and environment always.
//! - At most `running_max` programs exist, those that are being killed and zombies included; at most
//!   `waiting_max` callers wait.
//! - The program's process group is killed and the program reaped before its place is given away.
//! - An answer does not wait for what the program left behind, even when that holds its output open.
//! - Programs that run ahead of callers are nicer, and at least half of the turns are left to callers.
//!
//! Known shortcomings: a program that moves to another process group or session escapes the kill; and when
//! this process is killed by SIGKILL, running programs go on until they end by themselves. Linux only, 5.3
//! or later (`pidfd_open`).

mod ahead;
mod config;
mod error;
mod metrics;
mod output;
mod process;

use std::io;
use std::num::NonZero;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Registry;
use rustix::process::Pid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

pub use config::{ConfigError, LocalProgramConfig};
pub use error::{LocalProgramError, LocalProgramSetupError};
use metrics::{Metrics, Outcome};
use output::Output;
use process::{Ended, Process, Started};

use super::metrics::ComputeMetrics;
use super::pool::{Answer, Pool, Source};
use super::workers::Workers;
use super::{NICENESS, PRODUCER_NICENESS};

/// The least that a refused caller is asked to wait: HTTP's `Retry-After` counts whole seconds.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// How many threads start programs: for half of its time a start waits for the new process.
const STARTERS_PER_CORE: usize = 2;

/// Runs the configured program for callers; clones share the limits.
#[derive(Clone)]
pub struct LocalProgram {
    shared: Arc<Shared>,
    /// Held by the clones only: when it is gone, nothing runs ahead any more.
    _owner: Arc<()>,
}

/// What callers and watching tasks share.
struct Shared {
    config: LocalProgramConfig,
    metrics: Metrics,
    /// Places for running programs and waiting callers together: who gets none is refused.
    places: Arc<Semaphore>,
    /// Turns: who has one may start a program. First come, first served.
    turns: Arc<Semaphore>,
    /// How long programs took lately, in milliseconds: a moving average.
    recent_ms: AtomicU64,
    /// Whether what programs leave behind becomes our child.
    adopts_orphans: bool,
    /// Starts programs for callers.
    starters: Workers<()>,
    /// Starts programs ahead of callers; absent without a pool.
    starter_ahead: Option<Workers<()>>,
    /// Statuses of programs that ran ahead.
    pool: Pool<u8>,
}

/// A caller's place, if it is for a caller, and a turn; given back when the program is reaped.
struct Slot {
    _place: Option<OwnedSemaphorePermit>,
    _turn: OwnedSemaphorePermit,
}

/// Whom a program runs for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A caller waits.
    Call,
    /// The pool is filled.
    Ahead,
}

/// An exit status, and the processor time that it took.
struct Exit {
    status: u8,
    used: Duration,
}

/// Where the answer goes.
type Reply = oneshot::Sender<Result<Exit, LocalProgramError>>;

/// How watching a program ended.
enum End {
    /// It exited, or was ended by a signal that we did not send.
    Exited,
    /// It took longer than the limit.
    TimedOut,
    /// It wrote more than this many bytes.
    Flooded(u64),
    /// Nobody waits for the answer any more.
    Abandoned,
}

impl LocalProgram {
    /// Checks the configuration and registers the metrics `hearth_local_program_running` and
    /// `hearth_local_program_exits_total{outcome}`. Whether the program exists is seen at each run.
    ///
    /// With a pool it has to be called within a Tokio runtime, where the producer runs until the last clone
    /// is dropped.
    ///
    /// # Errors
    /// See [`LocalProgramSetupError`].
    pub fn new(
        config: LocalProgramConfig,
        registry: &Registry,
        metrics: &ComputeMetrics,
    ) -> Result<Self, LocalProgramSetupError> {
        config.check()?;
        if let Err(error) = process::mark_close_on_exec() {
            // Linux before 5.11. What this process opens itself is marked anyway.
            warn!(%error, "cannot keep inherited descriptors from local programs");
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let starters = config.running_max.min(STARTERS_PER_CORE * cores);
        let start_ahead =
            |ahead_max| Workers::start("program-ahead", PRODUCER_NICENESS, ahead_max, 1, vec![()]);
        let ahead_max = config.ahead_max();
        let shared = Shared {
            metrics: Metrics::new(registry)?,
            places: Arc::new(Semaphore::new(config.running_max + config.waiting_max)),
            turns: Arc::new(Semaphore::new(config.running_max)),
            recent_ms: AtomicU64::new(0),
            adopts_orphans: process::adopts_orphans(),
            starters: Workers::start("local-program", NICENESS, config.running_max, 1, vec![(); starters])?,
            starter_ahead: (ahead_max > 0).then(|| start_ahead(ahead_max)).transpose()?,
            pool: Pool::new(config.pool, metrics.endpoint("local_program")),
            config,
        };
        let (shared, owner) = (Arc::new(shared), Arc::new(()));
        if ahead_max > 0 {
            tokio::spawn(ahead::produce(shared.clone(), Arc::downgrade(&owner)));
        }
        Ok(Self { shared, _owner: owner })
    }

    /// The exit status of a run that nobody else gets: from the pool, or of a run now.
    ///
    /// Refused at once when all places are taken, else waits for a turn. Dropping the future gives the place
    /// back, and kills the program if it runs. Needs a Tokio runtime with I/O and time.
    ///
    /// # Errors
    /// See [`LocalProgramError`].
    pub async fn run(&self) -> Result<Answer<u8>, LocalProgramError> {
        let shared = &self.shared;
        if let Some(value) = shared.pool.take() {
            return Ok(Answer { value, source: Source::Pool });
        }
        let value = self.run_now().await?.status;
        shared.pool.count_live();
        Ok(Answer { value, source: Source::Live })
    }

    async fn run_now(&self) -> Result<Exit, LocalProgramError> {
        let shared = &self.shared;
        let Ok(place) = shared.places.clone().try_acquire_owned() else {
            shared.metrics.count(Outcome::Overloaded);
            return Err(LocalProgramError::Overloaded { retry_after: shared.retry_after() });
        };
        let waiting = shared.metrics.waiting();
        let turn = shared.turns.clone().acquire_owned().await;
        waiting.served();
        let Ok(turn) = turn else { return Err(LocalProgramError::lost("the queue is closed")) };
        let (answer, answered) = oneshot::channel();
        let slot = Slot { _place: Some(place), _turn: turn };
        tokio::spawn(shared.clone().watch(slot, Purpose::Call, answer));
        answered.await.unwrap_or_else(|_| Err(LocalProgramError::lost("the node is stopping")))
    }
}

impl Shared {
    /// Starts the program and stays with it until it is reaped.
    async fn watch(self: Arc<Self>, slot: Slot, purpose: Purpose, mut answer: Reply) {
        let running = self.metrics.running();
        let start = Instant::now();
        let (process, mut output) = match self.start(purpose).await {
            Ok(started) => started,
            Err(error) => {
                self.metrics.count(Outcome::SpawnError);
                drop((running, slot));
                let _ = answer.send(Err(error));
                return;
            }
        };
        let id = process.id();
        let end = end_of(&process, &mut output, start + self.config.timeout, &mut answer).await;
        self.note_duration(start.elapsed());
        let error = match end {
            End::Exited => {
                let result = self.judge(process.reap().await, id, output);
                self.reap_orphans(id).await;
                // First the place, then the answer: who asks again at once is not refused.
                drop((running, slot));
                let _ = answer.send(result);
                return;
            }
            End::TimedOut => {
                self.metrics.count(Outcome::Timeout);
                LocalProgramError::Timeout { after: self.config.timeout }
            }
            End::Flooded(bytes) => {
                self.metrics.count(Outcome::Flood);
                LocalProgramError::Flood { bytes }
            }
            End::Abandoned => {
                self.metrics.count(Outcome::Cancelled);
                LocalProgramError::lost("nobody waits for it")
            }
        };
        process.kill();
        debug!(%error, process = id.as_raw_pid(), output = output.text(), "killed the local program");
        // First the answer, then the place: dying can take its time, and the limit holds meanwhile.
        let _ = answer.send(Err(error));
        if let Err(error) = process.reap().await {
            warn!(%error, process = id.as_raw_pid(), "cannot reap the local program");
        }
        self.reap_orphans(id).await;
        drop((running, slot));
    }

    /// Starts the program, on a thread that may block.
    async fn start(self: &Arc<Self>, purpose: Purpose) -> Result<(Process, Output), LocalProgramError> {
        let shared = self.clone();
        let start = move |_: &mut ()| Started::start(&shared.config);
        let starters = match (purpose, &self.starter_ahead) {
            (Purpose::Ahead, Some(ahead)) => ahead,
            _ => &self.starters,
        };
        // Never full: the queue has room for as many as there are turns.
        let started = starters
            .run(1, Duration::ZERO, start)
            .await
            .map_err(|_| LocalProgramError::lost("the starter ended"))?;
        started
            .and_then(|started| started.watch(self.config.output_bytes_max))
            .map_err(|error| LocalProgramError::starting(&self.config, error))
    }

    /// What an exited program's status means for the caller.
    fn judge(&self, ended: io::Result<Ended>, id: Pid, output: Output) -> Result<Exit, LocalProgramError> {
        let Ended { status, used } = ended.map_err(|error| {
            self.metrics.count(Outcome::Lost);
            LocalProgramError::Lost(error)
        })?;
        // An exit status has eight bits; without one it was a signal.
        if let Some(status) = status.code().and_then(|code| u8::try_from(code).ok()) {
            self.metrics.count(Outcome::Ok);
            return Ok(Exit { status, used });
        }
        self.metrics.count(Outcome::Signal);
        let signal = status.signal().unwrap_or_default();
        debug!(signal, process = id.as_raw_pid(), output = output.text(), "a signal ended the local program");
        Err(LocalProgramError::Signal { signal })
    }

    async fn reap_orphans(&self, group: Pid) {
        if self.adopts_orphans {
            process::reap_orphans(group).await;
        }
    }

    /// Feeds the moving average: an eighth of the new, seven eighths of the old.
    fn note_duration(&self, took: Duration) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX / 8);
        let old_ms = self.recent_ms.load(Ordering::Relaxed);
        // Two at once may overwrite each other: it is an estimate.
        self.recent_ms.store(old_ms - old_ms / 8 + took_ms / 8, Ordering::Relaxed);
    }

    /// When the callers that wait now should have been served.
    fn retry_after(&self) -> Duration {
        let rounds = self.config.waiting_max / self.config.running_max + 1;
        let recent = Duration::from_millis(self.recent_ms.load(Ordering::Relaxed));
        let queue = recent.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        queue.min(self.config.timeout).max(RETRY_AFTER_MIN)
    }
}

/// Waits for whatever ends a program first. It is still there afterwards: alive, or a zombie.
async fn end_of(process: &Process, output: &mut Output, deadline: Instant, answer: &mut Reply) -> End {
    tokio::select! {
        // In this order: a program that exits just in time has an exit status.
        biased;
        // An error means that the runtime stops; reaping will say so.
        _ = process.exited() => End::Exited,
        () = answer.closed() => End::Abandoned,
        bytes = output.flood() => End::Flooded(bytes),
        () = sleep_until(deadline) => End::TimedOut,
    }
}

#[cfg(test)]
#[path = "local_program/tests.rs"]
mod tests;
