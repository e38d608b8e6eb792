//! One `hearthd` process: started so that it cannot outlive us, signalled, measured, reaped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, Signal};

use crate::{binary, wait};

/// How long a stopped process may take to stand still.
const STOP_BOUND: Duration = Duration::from_secs(10);
/// How much of a log's end goes into a failure message, in bytes.
const LOG_TAIL_BYTES: u64 = 3000;
/// Unit of processor time in `/proc`: Linux shows it to programs as 1/100 s on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// A running process of ours. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    /// Starts `hearthd` with `arguments`; stdout and stderr are appended to the file `log`.
    ///
    /// # Errors
    /// When the server cannot be built, the log not opened, or the process not started.
    pub fn start(arguments: &[String], log: &Path) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log);
        let out = out.with_context(|| format!("open {}", log.display()))?;
        let mut command = hearthd_command(arguments)?;
        command.stdout(out.try_clone().context("share the log file")?).stderr(out);
        let child = spawn(command).context("start hearthd")?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(self.pid, signal).with_context(|| format!("signal {:?}", self.pid))
    }

    /// Stops it with SIGSTOP, and waits until each of its threads stands still: only one of them gets the
    /// signal, and until that one runs the others go on.
    ///
    /// # Errors
    /// When the process is gone, or does not stop in time.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let deadline = std::time::Instant::now() + STOP_BOUND;
        while !self.stands_still()? {
            ensure!(std::time::Instant::now() < deadline, "{:?} does not stop", self.pid);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether each thread is stopped.
    fn stands_still(&self) -> Result<bool> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid.as_raw_nonzero()))? {
            // The state follows the name, which may contain anything but is in parentheses.
            // A thread that has ended meanwhile stands still too.
            let Ok(stat) = std::fs::read_to_string(thread?.path().join("stat")) else { continue };
            if stat.rsplit_once(") ").is_none_or(|(_, fields)| !fields.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("ask for the exit status")
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it still runs after `bound`.
    pub async fn wait_exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        wait::until(bound, "the process ends", async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Kills it with SIGKILL and reaps it; no matter whether it still runs.
    ///
    /// # Errors
    /// When it cannot be reaped.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill")?;
        self.child.wait().context("reap").map(|_| ())
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory since its start, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_peak_bytes(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Forgets the peak, so that [`Process::resident_peak_bytes`] is that of the time from now on.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn reset_resident_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid.as_raw_nonzero());
        // The kernel's code for "reset the peak resident set size", see proc(5).
        std::fs::write(&path, "5").with_context(|| format!("write {path}"))
    }

    fn status_bytes(&self, field: &str) -> Result<u64> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        Ok(proc_number(line.with_context(|| format!("status without {field}"))?, 0)? * 1024)
    }

    /// Processor time used since its start, user and system together.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(&self.pid.as_raw_nonzero().to_string())
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.pid.as_raw_nonzero());
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("process {:?} may be left: {error:#}", self.pid);
        }
    }
}

/// Processor time that `process`, a process id or `self`, has used since its start: user and system together,
/// all threads.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(process: &str) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = ticks(&stat).with_context(|| format!("no processor time in {path}"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// User and system time in a line of `/proc/PID/stat`.
fn ticks(stat: &str) -> Result<u64> {
    // The second field is the program's name in parentheses, which may hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    Ok(proc_number(fields, 11)? + proc_number(fields, 12)?)
}

fn proc_number(text: &str, index: usize) -> Result<u64> {
    let field = text.split_whitespace().nth(index);
    field
        .and_then(|field| field.parse().ok())
        .with_context(|| format!("no number in field {index} of {text:?}"))
}

/// Runs `hearthd` with `arguments` to its end and gives what it printed.
///
/// # Errors
/// When it cannot be started or still runs after `bound`: it is killed, and what it printed until
/// then is in the message.
pub async fn run_to_exit(arguments: &[String], bound: Duration) -> Result<Output> {
    let mut command = hearthd_command(arguments)?;
    let mut stdout = tempfile::tempfile().context("a file for stdout")?;
    let mut stderr = tempfile::tempfile().context("a file for stderr")?;
    command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let child = spawn(command).context("start hearthd")?;
    let pid = Pid::from_child(&child);
    let ended = Process { child, pid }.wait_exit(bound).await;
    let (stdout, stderr) = (read_from_start(&mut stdout)?, read_from_start(&mut stderr)?);
    let printed = || format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let status = ended.with_context(|| format!("hearthd {arguments:?} printed: {}", printed()))?;
    Ok(Output { status, stdout, stderr })
}

fn read_from_start(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).context("rewind")?;
    file.read_to_end(&mut bytes).context("read what was printed")?;
    Ok(bytes)
}

/// The last lines of a log file, for a failure message; never fails itself.
#[must_use]
pub fn log_tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("({}: {error})", log.display()))
}

/// The server with `arguments` and none of the settings that this process's environment may hold.
fn hearthd_command(arguments: &[String]) -> Result<Command> {
    let mut command = Command::new(binary::hearthd()?);
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"HEARTH_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

type SpawnRequest = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Spawns from a thread that lives as long as this process. The kernel sends the parent-death
/// signal when the spawning *thread* ends, and a test's or a runtime's thread ends early.
fn spawn(mut command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, received) = mpsc::channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, reply) in received {
                // A requester that is gone drops the child, which nobody would reap: it is a bug there.
                if reply.send(command.spawn()).is_err() {
                    eprintln!("a process was started for nobody");
                }
            }
        });
        requests
    });
    die_with_parent(&mut command);
    let (reply, answer) = mpsc::sync_channel(1);
    spawner.send((command, reply)).map_err(|_| anyhow!("the spawning thread is gone"))?;
    Ok(answer.recv().context("the spawning thread is gone")??)
}

/// Has the kernel kill the child when we die, by whatever cause.
#[allow(unsafe_code, reason = "the parent-death signal can only be set between fork and exec")]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let set_signal = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died before the signal was set.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls and allocates nothing, which is what may be done
    // between fork and exec in a program with threads.
    unsafe {
        command.pre_exec(set_signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_behind_the_name() {
        let line = "4711 (a (b) c) S 1 4711 4711 0 -1 4194560 9 0 0 0 230 41 5 6 20 0 7 0 88 99";
        assert_eq!(ticks(line).unwrap(), 271);
        assert!(ticks("4711 (a) S 1 2 3").is_err());
        assert!(ticks("").is_err());
    }

    #[test]
    fn this_process_has_used_some() {
        assert!(cpu_time("self").is_ok());
        assert!(cpu_time("0").is_err());
    }
}
