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
//!
//! Known shortcomings: a program that moves to another process group or session escapes the kill; and when
//! this process is killed by SIGKILL, running programs go on until they end by themselves. Linux only, 5.3
//! or later (`pidfd_open`).

mod config;
mod error;
mod metrics;
mod output;
mod process;

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Registry;
use rustix::process::{Pid, WaitIdStatus};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

pub use config::{ConfigError, LocalProgramConfig};
pub use error::{LocalProgramError, LocalProgramSetupError};
use metrics::{Metrics, Outcome};
use output::Output;
use process::Process;

use super::workers::Workers;

/// The least that a refused caller is asked to wait: HTTP's `Retry-After` counts whole seconds.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// How many threads start programs: for half of its time a start waits for the new process.
const STARTERS_PER_CORE: usize = 2;

/// How much nicer than this process programs run, and the threads that start them: a program that computes
/// must not keep consensus from its processor. With 32 programs at once a timer of the runtime came 0.05 ms
/// late on average, without it 0.2 ms, and 7 ms when the asynchronous threads started programs themselves
/// (two cores), for 6 % fewer programs a second.
const NICENESS: i32 = 5;

/// Runs the configured program for callers; clones share the limits.
#[derive(Clone)]
pub struct LocalProgram {
    shared: Arc<Shared>,
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
    /// Starts programs.
    starters: Workers<()>,
}

/// A place and a turn; given back when the program is reaped.
struct Slot {
    _place: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

/// Where the answer goes.
type Answer = oneshot::Sender<Result<u8, LocalProgramError>>;

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
    pub fn new(config: LocalProgramConfig, registry: &Registry) -> Result<Self, LocalProgramSetupError> {
        config.check()?;
        if let Err(error) = process::mark_close_on_exec() {
            // Linux before 5.11. What this process opens itself is marked anyway.
            warn!(%error, "cannot keep inherited descriptors from local programs");
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let starters = config.running_max.min(STARTERS_PER_CORE * cores);
        let shared = Shared {
            metrics: Metrics::new(registry)?,
            places: Arc::new(Semaphore::new(config.running_max + config.waiting_max)),
            turns: Arc::new(Semaphore::new(config.running_max)),
            recent_ms: AtomicU64::new(0),
            adopts_orphans: process::adopts_orphans(),
            starters: Workers::start("local-program", NICENESS, config.running_max, vec![(); starters])?,
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs the program once and returns its exit status.
    ///
    /// Refused at once when all places are taken, else waits for a turn. Dropping the future gives the place
    /// back, and kills the program if it runs. Needs a Tokio runtime with I/O and time.
    pub async fn run(&self) -> Result<u8, LocalProgramError> {
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
        tokio::spawn(shared.clone().watch(Slot { _place: place, _turn: turn }, answer));
        answered.await.unwrap_or_else(|_| Err(LocalProgramError::lost("the node is stopping")))
    }
}

impl Shared {
    /// Starts the program and stays with it until it is reaped.
    async fn watch(self: Arc<Self>, slot: Slot, mut answer: Answer) {
        let running = self.metrics.running();
        let start = Instant::now();
        let (process, mut output) = match self.start().await {
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
    async fn start(self: &Arc<Self>) -> Result<(Process, Output), LocalProgramError> {
        let shared = self.clone();
        let runtime = Handle::current();
        let start = move |_: &mut ()| {
            // Descriptors are registered with the runtime that watches them.
            let _entered = runtime.enter();
            Process::start(&shared.config).map_err(|error| LocalProgramError::starting(&shared.config, error))
        };
        // Never full: the queue has room for as many as there are turns.
        self.starters.run(start).await.unwrap_or_else(|_| Err(LocalProgramError::lost("the starter ended")))
    }

    /// What an exited program's status means for the caller.
    fn judge(
        &self,
        status: io::Result<WaitIdStatus>,
        id: Pid,
        output: Output,
    ) -> Result<u8, LocalProgramError> {
        let status = status.map_err(|error| {
            self.metrics.count(Outcome::Lost);
            LocalProgramError::Lost(error)
        })?;
        // An exit status has eight bits; without one it was a signal.
        if let Some(code) = status.exit_status().and_then(|code| u8::try_from(code).ok()) {
            self.metrics.count(Outcome::Ok);
            return Ok(code);
        }
        self.metrics.count(Outcome::Signal);
        let signal = status.terminating_signal().unwrap_or_default();
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
async fn end_of(process: &Process, output: &mut Output, deadline: Instant, answer: &mut Answer) -> End {
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
