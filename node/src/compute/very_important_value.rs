//! The program behind `/local_program` as shipped: waits for a lock file, then exits with a random status.
//!
//! It does what the program it replaces did, waits included. It is spawned thousands of times a second, so
//! it is blocking code on the standard library: no runtime, no argument parser, no allocation to speak of.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

/// Names the lock file when there is no argument.
pub const LOCK_VARIABLE: &str = "VERY_IMPORTANT_LOCK";

/// The lock file when neither an argument nor [`LOCK_VARIABLE`] names one.
pub const LOCK_DEFAULT: &str = "/tmp/very_important_value.lock";

/// The exit status when the operating system has no randomness to give: above every honest answer.
pub const STATUS_NO_RANDOMNESS: u8 = 125;

/// How often the program waits for a missing lock file before it goes on without.
const WAITS_MAX: u32 = 3;

/// How long each wait takes.
const WAIT: Duration = Duration::from_secs(1);

/// How many values there are: the status is uniform on `0..VALUES`.
const VALUES: u32 = 100;

/// Runs the program and returns its exit status: uniform on 0..=99, from the operating system's randomness.
///
/// `args` are the arguments without the program's own name. The first one names the lock file; without it
/// the variable [`LOCK_VARIABLE`] does, and without that it is [`LOCK_DEFAULT`]. If the file exists the
/// program returns at once, else after it appeared or after three seconds, looking once a second.
pub fn run(mut args: impl Iterator<Item = OsString>) -> u8 {
    let lock = args.next().or_else(|| env::var_os(LOCK_VARIABLE)).map_or(LOCK_DEFAULT.into(), PathBuf::from);
    wait_for(&lock, || thread::sleep(WAIT));
    draw(|| SysRng.try_next_u32()).unwrap_or(STATUS_NO_RANDOMNESS)
}

/// Calls `pause` until the lock file exists, [`WAITS_MAX`] times at most.
fn wait_for(lock: &Path, mut pause: impl FnMut()) {
    for _ in 0..WAITS_MAX {
        if lock.exists() {
            return;
        }
        pause();
    }
}

/// A value uniform on `0..VALUES` from uniform 32-bit words.
///
/// Words beyond the largest multiple of `VALUES` are drawn again: the remainder alone would prefer small
/// values.
fn draw<E>(mut word: impl FnMut() -> Result<u32, E>) -> Result<u8, E> {
    const ACCEPTED: u32 = u32::MAX - u32::MAX % VALUES;
    const { assert!(ACCEPTED.is_multiple_of(VALUES) && VALUES <= STATUS_NO_RANDOMNESS as u32) };
    loop {
        let word = word()?;
        if word < ACCEPTED {
            #[allow(clippy::cast_possible_truncation, reason = "a remainder below 100 fits")]
            return Ok((word % VALUES) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{Rng, SeedableRng};
    use std::convert::Infallible;

    /// [`draw`] from a source that cannot fail.
    fn draw_infallibly(mut word: impl FnMut() -> u32) -> u8 {
        let Ok(value) = draw(|| Ok::<u32, Infallible>(word()));
        value
    }

    #[test]
    fn a_present_lock_file_is_not_waited_for() {
        let lock = tempfile::NamedTempFile::new().unwrap();
        wait_for(lock.path(), || panic!("waited"));
        let status = run([lock.path().as_os_str().to_owned()].into_iter());
        assert!(status < 100);
    }

    #[test]
    fn a_missing_lock_file_is_waited_for_three_times() {
        let dir = tempfile::tempdir().unwrap();
        let mut waits = 0;
        wait_for(&dir.path().join("lock"), || waits += 1);
        assert_eq!(waits, 3);
    }

    #[test]
    fn a_lock_file_that_appears_ends_the_wait() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock");
        let mut waits = 0;
        wait_for(&lock, || {
            waits += 1;
            if waits == 2 {
                std::fs::write(&lock, "").unwrap();
            }
        });
        assert_eq!(waits, 2);
    }

    #[test]
    fn words_beyond_the_last_whole_hundred_are_drawn_again() {
        let mut words = [u32::MAX, 4_294_967_200, 4_294_967_199].into_iter();
        assert_eq!(draw_infallibly(|| words.next().unwrap()), 99);
        assert_eq!(draw_infallibly(|| 0), 0);
    }

    #[test]
    fn values_are_uniform() {
        const DRAWS: u32 = 1_000_000;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut counts = [0u32; 100];
        for _ in 0..DRAWS {
            counts[usize::from(draw_infallibly(|| rng.next_u32()))] += 1;
        }
        let expected = f64::from(DRAWS / VALUES);
        let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        // The 0.1 % and 99.9 % quantiles at 99 degrees of freedom.
        assert!((60.9..148.3).contains(&chi_square), "{chi_square}");
    }
}
