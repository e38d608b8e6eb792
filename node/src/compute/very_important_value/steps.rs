//! What the program does, apart from how it asks the system: for both of its forms.
//!
//! One of them has no library behind it (`src/bin/very_important_value/start.rs`), so there is nothing here but
//! arithmetic and calls of what is handed in, and nothing that could panic.

/// The lock file when neither an argument nor `VERY_IMPORTANT_LOCK` names one.
pub const LOCK_DEFAULT: &std::ffi::CStr = c"/tmp/very_important_value.lock";

/// Names the lock file when there is no argument.
pub const LOCK_VARIABLE: &str = "VERY_IMPORTANT_LOCK";

/// The exit status when the operating system has no randomness to give: above every honest answer.
pub const STATUS_NO_RANDOMNESS: u8 = 125;

/// How long each wait for the lock file takes, in seconds.
pub const WAIT_SECONDS: u64 = 1;

/// How often the program waits for a missing lock file before it goes on without.
const WAITS_MAX: u32 = 3;

/// How many values there are: the status is uniform on `0..VALUES`.
const VALUES: u32 = 100;

/// Calls `pause` until the lock file exists, three times at most.
pub fn wait(mut exists: impl FnMut() -> bool, mut pause: impl FnMut()) {
    let mut waits = 0;
    while waits < WAITS_MAX && !exists() {
        pause();
        waits += 1;
    }
}

/// A value uniform on `0..VALUES` from uniform 32-bit words; none when there are no words.
///
/// Words beyond the largest multiple of `VALUES` are drawn again: the remainder alone would prefer small
/// values.
pub fn draw(mut word: impl FnMut() -> Option<u32>) -> Option<u8> {
    const ACCEPTED: u32 = u32::MAX - u32::MAX % VALUES;
    const { assert!(ACCEPTED.is_multiple_of(VALUES) && VALUES <= STATUS_NO_RANDOMNESS as u32) };
    loop {
        let word = word()?;
        if word < ACCEPTED {
            #[allow(clippy::cast_possible_truncation, reason = "a remainder below 100 fits")]
            return Some((word % VALUES) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{Rng, SeedableRng};

    /// How often the program waits when the lock file appears during wait number `appears`.
    fn waits(appears: u32) -> u32 {
        let waits = std::cell::Cell::new(0);
        wait(|| waits.get() >= appears, || waits.set(waits.get() + 1));
        waits.get()
    }

    #[test]
    fn a_missing_lock_file_is_waited_for_three_times() {
        assert_eq!([waits(0), waits(1), waits(2), waits(3), waits(4)], [0, 1, 2, 3, 3]);
    }

    #[test]
    fn words_beyond_the_last_whole_hundred_are_drawn_again() {
        let mut words = [u32::MAX, 4_294_967_200, 4_294_967_199].into_iter();
        assert_eq!(draw(|| words.next()), Some(99));
        assert_eq!(draw(|| Some(0)), Some(0));
        assert_eq!(draw(|| words.next()), None);
    }

    #[test]
    fn values_are_uniform() {
        const DRAWS: u32 = 1_000_000;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut counts = [0u32; 100];
        for _ in 0..DRAWS {
            counts[usize::from(draw(|| Some(rng.next_u32())).unwrap())] += 1;
        }
        let expected = f64::from(DRAWS / VALUES);
        let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        // The 0.1 % and 99.9 % quantiles at 99 degrees of freedom.
        assert!((60.9..148.3).contains(&chi_square), "{chi_square}");
    }
}
