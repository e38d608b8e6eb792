//! One node as a child process.
//!
//! Invariant: no child outlives the supervisor, also when that is killed with SIGKILL. The kernel sends each
//! child SIGTERM when its parent ends (`PR_SET_PDEATHSIG`). To the kernel the parent is the *thread* that
//! forked, not the process: tokio's worker threads come and go, so all children are started by one thread
//! that lives as long as the [`Spawner`].
//!
//! A child leads a process group of its own: Ctrl-C in the terminal reaches the supervisor alone, which then
//! stops the children in order.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, getppid, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::output::Source;

/// How long output may still come after a child ended: what it started may hold the pipes open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// How urgently everything is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// Not at all.
    No,
    /// In order, within a bound.
    Ordered,
    /// At once.
    Now,
}

impl Stop {
    /// Waits until `stop` is at least this urgent, or nobody is left to say so.
    pub(super) async fn wait(self, stop: &mut watch::Receiver<Self>) {
        let _ = stop.wait_for(|stop| *stop >= self).await;
    }
}

/// The thread that starts children. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub(super) struct Spawner {
    requests: mpsc::Sender<Request>,
}

struct Request {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// A child that was started, and the tasks that print its output.
pub(super) struct Running {
    child: Child,
    copying: JoinSet<()>,
}

impl Spawner {
    /// Starts the thread. Within a tokio runtime only: the children are waited for there.
    pub(super) fn start() -> Self {
        let runtime = Handle::current();
        let (requests, queue) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            let _context = runtime.enter();
            for mut request in queue {
                // Who asked may be gone; the child is killed on drop then.
                let _ = request.reply.send(request.command.spawn());
            }
        });
        Self { requests }
    }

    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the spawning thread ended");
        let (reply, child) = oneshot::channel();
        self.requests.send(Request { command, reply }).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

impl Running {
    /// Starts `command` with its output going to `source` and nothing to read.
    pub(super) async fn start(spawner: &Spawner, mut command: Command, source: &Source) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        end_with_parent(&mut command);
        let mut child = spawner.spawn(command).await?;
        let mut copying = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            copying.spawn(source.clone().copy(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            copying.spawn(source.clone().copy(stderr));
        }
        Ok(Self { child, copying })
    }

    /// The process id, until the child's end was waited for.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the child ended and its output is printed. May be dropped and called again.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        let drained = async { while self.copying.join_next().await.is_some() {} };
        let _ = timeout(DRAIN_TIMEOUT, drained).await;
        Ok(status)
    }

    /// Asks the child to end with SIGTERM; when it has not after `grace`, or `stop` says now, kills its whole
    /// process group. Whether it ended by itself.
    pub(super) async fn stop(mut self, grace: Duration, stop: &mut watch::Receiver<Stop>) -> bool {
        // Signalling fails when the child has just ended: the wait says so.
        if let Some(pid) = self.group() {
            let _ = kill_process(pid, Signal::TERM);
        }
        let in_time = tokio::select! {
            _ = self.wait() => true,
            () = tokio::time::sleep(grace) => false,
            () = Stop::Now.wait(stop) => false,
        };
        if !in_time {
            if let Some(pid) = self.group() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.wait().await;
        }
        in_time
    }

    /// The child's id, which is also its process group's. Safe to signal: the id cannot be in use again as
    /// long as the child was not waited for.
    fn group(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()?).ok()?)
    }
}

/// Has the kernel send SIGTERM to the child when the thread that starts it ends.
#[allow(unsafe_code, reason = "the parent-death signal can only be set between fork and exec")]
fn end_with_parent(command: &mut Command) {
    let supervisor = getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        // A supervisor that ended before the call above is not noticed by the kernel any more.
        if getppid() == Some(supervisor) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `prepare` makes two bare
    // system calls, and neither allocates, locks nor panics: an `io::Error` of an error number is inline.
    unsafe { command.pre_exec(prepare) };
}
