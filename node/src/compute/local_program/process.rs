//! One running program: started in a process group of its own, killed as a group, always reaped.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, kill_process_group,
    pidfd_open, waitid, waitpgid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::LocalProgramConfig;
use super::output::Output;

/// How long a dropped [`Process`] blocks for the death of what it killed. SIGKILL takes effect in
/// microseconds, except on a process that hangs in the kernel, and that must not hang us.
const DROP_WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A started program.
///
/// Invariants:
/// - Until [`Process::reap`] has returned, the program is our child, at worst a zombie: its process id, which
///   is also the id of its group, cannot belong to anybody else. So `kill` hits the right group.
/// - Whatever happens to this value, the group is killed and the program reaped: by `reap`, or by `drop`.
pub(super) struct Process {
    /// Of the program and of its group.
    id: Pid,
    /// Becomes readable when the program has exited, whoever else still holds its output open.
    exited: AsyncFd<OwnedFd>,
    /// Whether the exit status was collected.
    reaped: bool,
}

impl Process {
    /// Starts the program; returns it and its output, standard output and standard error in one stream.
    ///
    /// Blocks until the new process has executed the program, about half a millisecond: the standard
    /// library uses `posix_spawn`, whose cost does not grow with the memory of this process as that of
    /// `fork` does. All descriptors of this process are close-on-exec, the ones made here included.
    ///
    /// Must be called within a Tokio runtime.
    pub(super) fn start(config: &LocalProgramConfig) -> io::Result<(Self, Output)> {
        let (reader, writer) = io::pipe()?;
        // Registered before the program starts: what fails here leaves nothing behind.
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
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
        let mut child = command.spawn()?;
        let id = Pid::from_child(&child);
        // Closes our copies of the writing end.
        drop(command);
        match pidfd_open(id, PidfdFlags::empty()).map_err(io::Error::from).and_then(watch) {
            Ok(exited) => {
                Ok((Self { id, exited, reaped: false }, Output::new(reader, config.output_bytes_max)))
            }
            Err(error) => {
                let _ = kill_process_group(id, Signal::KILL);
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The id of the program and of its group.
    pub(super) fn id(&self) -> Pid {
        self.id
    }

    /// Waits until the program has exited; it stays a zombie until [`Process::reap`]. Cancel safe.
    pub(super) async fn exited(&self) -> io::Result<()> {
        // Readiness is never cleared: a process that has exited stays so.
        self.exited.readable().await.map(|_| ())
    }

    /// Kills every process of the group.
    pub(super) fn kill(&self) {
        assert!(!self.reaped, "the id may be somebody else's");
        // The only possible failure is that nobody is left.
        let _ = kill_process_group(self.id, Signal::KILL);
    }

    /// Waits until the program has exited, kills what it left behind in its group, and collects its status.
    pub(super) async fn reap(mut self) -> io::Result<WaitIdStatus> {
        self.exited().await?;
        self.kill();
        self.collect()
    }

    /// Collects the status of the program, which has exited.
    fn collect(&mut self) -> io::Result<WaitIdStatus> {
        let status = waitid(WaitId::Pid(self.id), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        // An error means that somebody else collected it: the id is no longer ours in either case.
        self.reaped = true;
        status?.ok_or_else(|| io::Error::other("a program that has exited has no status"))
    }
}

impl Drop for Process {
    /// Reached with a running program only when the runtime stops, or when its driver has failed.
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.kill();
        let mut exited = [PollFd::new(&self.exited, PollFlags::IN)];
        let _ = poll(&mut exited, Some(&DROP_WAIT));
        let _ = self.collect();
    }
}

fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[allow(unsafe_code, reason = "the safe constructors are deprecated")]
    // SAFETY: an OwnedFd is open and stays the same descriptor for as long as the AsyncFd owns it; nothing
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
