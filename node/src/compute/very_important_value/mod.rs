//! The program behind `/local_program` as shipped: waits for a lock file, then exits with a random status.
//!
//! It does what the program it replaces did, waits included. [`run`] is its form on the standard library: for
//! `hearthd`, which stands in for it where it was not built, and for platforms on which
//! `src/bin/very_important_value/start.rs` cannot run.

pub mod steps;

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use self::steps::{LOCK_DEFAULT, LOCK_VARIABLE, STATUS_NO_RANDOMNESS, WAIT_SECONDS};

/// Runs the program and returns its exit status: uniform on 0..=99, from the operating system's randomness.
///
/// `args` are the arguments without the program's own name. The first one names the lock file; without it
/// the variable [`LOCK_VARIABLE`] does, and without that it is [`LOCK_DEFAULT`]. If the file exists the
/// program returns at once, else after it appeared or after three seconds, looking once a second.
pub fn run(mut args: impl Iterator<Item = OsString>) -> u8 {
    let default = || OsString::from(LOCK_DEFAULT.to_string_lossy().as_ref());
    let lock = args.next().or_else(|| env::var_os(LOCK_VARIABLE)).unwrap_or_else(default);
    let lock = Path::new(&lock);
    steps::wait(|| lock.exists(), || thread::sleep(Duration::from_secs(WAIT_SECONDS)));
    steps::draw(|| SysRng.try_next_u32().ok()).unwrap_or(STATUS_NO_RANDOMNESS)
}
