//! One running program: started in a process group of its own, killed as a group, always reaped.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group,
    pidfd_open, prlimit, waitid, waitpgid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::LocalProgramConfig;
use super::output::Output;

/// How long a dropped [`Group`] blocks for the death of what it killed. SIGKILL takes effect in
/// microseconds, except on a process that hangs in the kernel, and that must not hang us.
const DROP_WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The process group of a program of ours.
///
/// Invariants:
/// - Until `reaped`, the program is our child, at worst a zombie: its process id, which is also the id of its
///   group, cannot belong to anybody else. So a kill hits the right group.
/// - Whatever happens to this value, the group is killed and the program reaped.
struct Group {
    /// Of the program and of its group.
    id: Pid,
    /// Becomes readable when the program has exited, whoever else still holds its output open. Absent when the
    /// kernel gave none.
    pidfd: Option<Arc<OwnedFd>>,
    /// Whether the exit status was collected.
    reaped: bool,
}

/// A program that has just been started, and that the runtime does not watch yet.
pub(super) struct Started {
    group: Group,
    /// Standard output and standard error in one stream.
    output: OwnedFd,
}

impl Started {
    /// Starts the program.
    ///
    /// Blocks until the new process has executed the program, about 0.1 ms of work: the standard library uses
    /// `posix_spawn` as long as nothing is asked for that it cannot do (a closure to run in the child, another
    /// user, another root), and glibc's `posix_spawn` shares the memory until then as `vfork` does, so that
    /// its cost does not grow with the memory of this process as that of `fork` does. The group, the directory,
    /// the environment and the descriptors are among what it can do. All descriptors of this process are
    /// close-on-exec, the ones made here included.
    ///
    /// Resource limits are not: they are set from here, when the program has been executed but has barely
    /// begun. What it forks within those microseconds would keep the node's limits; a launcher between us
    /// and the program would close that gap, and cost as much as the program itself.
    ///
    /// Nothing here takes a lock of the runtime: the thread that does this is nice, and may lose its processor
    /// while it holds one.
    pub(super) fn start(config: &LocalProgramConfig) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        let mut command = Command::new(&config.program);
        command
            .args(&config.args)
            .env_clear()
            .envs(config.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&config.working_dir)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let child = command.spawn()?;
        let mut group = Group { id: Pid::from_child(&child), pidfd: None, reaped: false };
        // Closes our copies of the writing end.
        drop(command);
        limit(group.id, config)?;
        group.pidfd = Some(Arc::new(pidfd_open(group.id, PidfdFlags::empty())?));
        Ok(Self { group, output: output.into() })
    }

    /// Has the runtime watch the program, and what it writes, of which `kept_bytes_max` are kept.
    ///
    /// Must be called within a Tokio runtime.
    pub(super) fn watch(self, kept_bytes_max: usize) -> io::Result<(Process, Output)> {
        let Self { group, output } = self;
        let pidfd = group.pidfd.clone().ok_or_else(|| io::Error::other("there is no pidfd"))?;
        let output = Output::new(pipe::Receiver::from_owned_fd(output)?, kept_bytes_max);
        Ok((Process { exited: watch(pidfd)?, group }, output))
    }
}

/// A running program; see [`Group`] for what holds.
pub(super) struct Process {
    /// Readable when the program has exited.
    exited: AsyncFd<Arc<OwnedFd>>,
    group: Group,
}

impl Process {
    /// The id of the program and of its group.
    pub(super) fn id(&self) -> Pid {
        self.group.id
    }

    /// Waits until the program has exited; it stays a zombie until [`Process::reap`]. Cancel safe.
    pub(super) async fn exited(&self) -> io::Result<()> {
        // Readiness is never cleared: a process that has exited stays so.
        self.exited.readable().await.map(|_| ())
    }

    /// Kills every process of the group.
    pub(super) fn kill(&self) {
        self.group.kill();
    }

    /// Waits until the program has exited, kills what it left behind in its group, and collects its status.
    pub(super) async fn reap(mut self) -> io::Result<Ended> {
        self.exited().await?;
        self.kill();
        self.group.collect()
    }
}

impl Group {
    fn kill(&self) {
        assert!(!self.reaped, "the id may be somebody else's");
        // The only possible failure is that nobody is left.
        let _ = kill_process_group(self.id, Signal::KILL);
    }

    /// Collects the status of the program, which has exited.
    fn collect(&mut self) -> io::Result<Ended> {
        // An error means that somebody else collected it: the id is no longer ours in either case.
        self.reaped = true;
        wait(self.id)?.ok_or_else(|| io::Error::other("a program that has exited has no status"))
    }
}

/// What is known of a program that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// The processor time that it used, and that of those children which it has waited for.
    pub(super) used: Duration,
}

/// Reaps a child if it has exited. Neither the standard library nor rustix tells what a child has used.
fn wait(id: Pid) -> io::Result<Option<Ended>> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    #[allow(unsafe_code, reason = "there is no safe wrapper")]
    // SAFETY: both pointers are to values of ours that live until the call returns.
    let reaped = unsafe { libc::wait4(id.as_raw_pid(), &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    match reaped {
        0 => return Ok(None),
        -1 => return Err(io::Error::last_os_error()),
        _ => {}
    }
    #[allow(unsafe_code, reason = "the kernel has written it")]
    // SAFETY: it was zeroed, which is a valid value, and the kernel has filled it in since.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default());
        seconds + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or_default())
    };
    let used = time(usage.ru_utime) + time(usage.ru_stime);
    Ok(Some(Ended { status: ExitStatus::from_raw(status), used }))
}

/// Sets the limits of a process that has just been started. Its children inherit them.
fn limit(id: Pid, config: &LocalProgramConfig) -> io::Result<()> {
    let limits = [
        (Resource::Data, config.memory_bytes_max),
        (Resource::Nofile, config.files_max),
        (Resource::Fsize, config.file_bytes_max),
        (Resource::Core, 0),
    ];
    for (resource, limit) in limits {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        match prlimit(Some(id), resource, limit) {
            // Raising a limit above the node's own hard limit is not allowed: that one holds then.
            Ok(_) | Err(rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Drop for Group {
    /// Reached with a running program only when it could not be watched, when the runtime stops, or when its
    /// driver has failed.
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.kill();
        let _ = match &self.pidfd {
            Some(pidfd) => poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&DROP_WAIT)).map(drop),
            None => waitid(WaitId::Pid(self.id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map(drop),
        };
        let _ = self.collect();
    }
}

fn watch(pidfd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    #[allow(unsafe_code, reason = "the safe constructors are deprecated")]
    // SAFETY: an OwnedFd is open and stays the same descriptor for as long as the AsyncFd shares it; nothing
    // here reaches into the AsyncFd to replace it.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// Marks every open descriptor close-on-exec, so that no program inherits it.
///
/// Those of the standard library are so marked from the start. This is for those that this process has
/// inherited itself, from a supervisor for example, and for those of careless libraries.
pub(super) fn mark_close_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = libc::STDERR_FILENO as libc::c_uint + 1;
    #[allow(clippy::cast_possible_wrap, reason = "the flag is 4")]
    const FLAGS: libc::c_int = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
    #[allow(unsafe_code, reason = "there is no safe wrapper")]
    // SAFETY: with this flag no descriptor is closed or otherwise changed for this process.
    let result = unsafe { libc::close_range(FIRST, libc::c_uint::MAX, FLAGS) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether orphans become our children: we are a container's first process, or a subreaper. Then what a
/// program leaves behind in its group is ours to reap.
pub(super) fn adopts_orphans() -> bool {
    std::process::id() == 1 || rustix::process::child_subreaper().is_ok_and(|setting| setting.is_some())
}

/// Reaps the killed orphans of a group whose leader was reaped.
///
/// Only orphans in the group: those that moved to another group or session escape.
pub(super) async fn reap_orphans(group: Pid) {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..TRIES {
        loop {
            match waitpgid(group, WaitOptions::NOHANG) {
                // One reaped; perhaps there are more.
                Ok(Some(_)) => {}
                // Some are dying: there is nothing to wait on but time.
                Ok(None) => break,
                // None is left.
                Err(_) => return,
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
