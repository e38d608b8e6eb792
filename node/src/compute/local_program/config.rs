//! What `/local_program` runs, and its limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::compute::pool::PoolConfig;

/// The program and its limits. Nothing here comes from a request.
#[derive(Debug, Clone)]
pub struct LocalProgramConfig {
    /// `compute.local_program.path`: the executable, an absolute path. No shell and no search path are
    /// involved.
    pub program: PathBuf,
    /// `compute.local_program.args`: its arguments, without its own name.
    pub args: Vec<String>,
    /// `compute.local_program.env`: its whole environment, names and values.
    pub env: Vec<(String, String)>,
    /// `compute.local_program.working_dir`: where it runs, an absolute path.
    pub working_dir: PathBuf,
    /// `compute.local_program.timeout`: how long it may run before its group is killed. Waiting for a place
    /// does not count.
    pub timeout: Duration,
    /// `compute.local_program.running_max`: how many run at once, at least 1.
    pub running_max: usize,
    /// `compute.local_program.waiting_max`: how many callers may wait for a place; further ones are refused.
    pub waiting_max: usize,
    /// `compute.local_program.output_bytes_max`: how much of its output is kept for the log, at least 1. The
    /// rest is read and discarded; a program that writes 1024 times as much is killed.
    pub output_bytes_max: usize,
    /// `compute.local_program.memory_bytes_max`: how much memory each of its processes may have to write in.
    pub memory_bytes_max: u64,
    /// `compute.local_program.files_max`: how many descriptors each of its processes may have open.
    pub files_max: u64,
    /// `compute.local_program.file_bytes_max`: how large a file it may write.
    pub file_bytes_max: u64,
    /// `compute.local_program.pool` and its bounds.
    pub pool: PoolConfig,
}

impl LocalProgramConfig {
    /// The default of `timeout`.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

    /// Places for running and waiting callers together that a semaphore can hold: far beyond any use.
    const PLACES_MAX: usize = tokio::sync::Semaphore::MAX_PERMITS;

    /// How many programs run at once to fill the pool: half of the places for callers stay free whatever
    /// happens, and half of the rest is enough.
    pub fn ahead_max(&self) -> usize {
        (self.running_max / 4).min(self.pool.size)
    }

    /// Checks everything that does not depend on the file system: the program may be installed later.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        absolute("compute.local_program.path", &self.program)?;
        absolute("compute.local_program.working_dir", &self.working_dir)?;
        for arg in &self.args {
            if arg.contains('\0') {
                return Err(ConfigError::new("compute.local_program.args", "an argument holds a zero byte"));
            }
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                let reason = format!("{name:?} is not a name, or its value holds a zero byte");
                return Err(ConfigError::new("compute.local_program.env", reason));
            }
        }
        if self.timeout.is_zero() {
            return Err(ConfigError::new("compute.local_program.timeout", "is zero"));
        }
        if self.running_max == 0 {
            return Err(ConfigError::new("compute.local_program.running_max", "is zero"));
        }
        if self.running_max.saturating_add(self.waiting_max) > Self::PLACES_MAX {
            return Err(ConfigError::new("compute.local_program.waiting_max", "is absurdly large"));
        }
        if self.pool.size > 0 && self.ahead_max() == 0 {
            let reason = format!("needs running_max to be at least 4, it is {}", self.running_max);
            return Err(ConfigError::new("compute.local_program.pool", reason));
        }
        if self.output_bytes_max == 0 {
            return Err(ConfigError::new("compute.local_program.output_bytes_max", "is zero"));
        }
        Ok(())
    }
}

fn absolute(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(());
    }
    Err(ConfigError::new(key, format!("{} is not an absolute path", path.display())))
}

/// A key whose value cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    /// The key to correct.
    pub key: &'static str,
    /// What is wrong with its value.
    pub reason: String,
}

impl ConfigError {
    fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self { key, reason: reason.into() }
    }
}
