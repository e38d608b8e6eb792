//! Why there is no exit status, and why there is no program to run.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use super::config::{ConfigError, LocalProgramConfig};

/// Why there is no exit status.
#[derive(Debug, thiserror::Error)]
pub enum LocalProgramError {
    /// As many programs run and as many callers wait as are allowed.
    #[error("too many programs are running and waiting; try again in {retry_after:?}")]
    Overloaded {
        /// When a place should be free, judging by how long programs took lately; at least 1 s.
        retry_after: Duration,
    },
    /// The executable, or the interpreter that its first line names, does not exist.
    #[error("{path} does not exist, or its interpreter does not: {source}", path = path.display())]
    Missing {
        /// The configured executable.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The executable may not be executed, or is not one.
    #[error("{path} cannot be executed: {source}", path = path.display())]
    NotExecutable {
        /// The configured executable.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The working directory does not exist or cannot be entered.
    #[error("the working directory {path} cannot be entered: {source}", path = path.display())]
    WorkingDir {
        /// The configured directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The operating system could not start a process or watch it: out of processes, memory or descriptors.
    #[error("the program could not be started: {0}")]
    Spawn(#[source] io::Error),
    /// The program was ended by a signal that we did not send.
    #[error("the program was ended by signal {signal}")]
    Signal {
        /// The number of the signal, as in signal(7).
        signal: i32,
    },
    /// The program took too long and was killed.
    #[error("the program was killed after {after:?}")]
    Timeout {
        /// The configured limit.
        after: Duration,
    },
    /// The program wrote without end and was killed.
    #[error("the program was killed because it wrote more than {bytes} bytes")]
    Flood {
        /// The limit: 1024 times the configured `output_bytes_max`.
        bytes: u64,
    },
    /// The program's fate is unknown: this process is stopping, or something else collected the exit status.
    #[error("the program's exit status was lost: {0}")]
    Lost(#[source] io::Error),
}

/// Why a [`super::LocalProgram`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LocalProgramSetupError {
    /// A configuration key has a value that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metrics are registered already.
    #[error("metrics of the local program: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The operating system started no threads.
    #[error("cannot start the threads that start programs: {0}")]
    Threads(#[from] io::Error),
}

impl LocalProgramError {
    /// Sorts an error of starting the program by what an operator has to look at.
    pub(super) fn starting(config: &LocalProgramConfig, source: io::Error) -> Self {
        // One error stands for all the steps of starting. Looking at `dir/.` needs what entering `dir` needs.
        if let Err(source) = std::fs::metadata(config.working_dir.join(".")) {
            return Self::WorkingDir { path: config.working_dir.clone(), source };
        }
        let path = config.program.clone();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Self::Missing { path, source },
            Some(Errno::ACCESS | Errno::PERM | Errno::NOEXEC | Errno::ISDIR | Errno::INVAL) => {
                Self::NotExecutable { path, source }
            }
            _ => Self::Spawn(source),
        }
    }

    /// The program's fate is unknown, for this reason.
    pub(super) fn lost(reason: &'static str) -> Self {
        Self::Lost(io::Error::other(reason))
    }
}
