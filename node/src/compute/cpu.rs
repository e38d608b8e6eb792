//! `/cpu`: the sum of 100,000 random integers, really drawn for each answer.
//!
//! Answers are computed on threads of their own, not on the asynchronous ones. A sum takes 25 to 35 µs, which
//! sounds short enough, but with a thousand requests in flight a timer on the same runtime then came 23 ms
//! late on average and 85 ms at worst (two cores); with threads of their own 2 ms and 11 ms, for 7 % more
//! processor time a request. Consensus needs its timers.

use std::io;
use std::time::Duration;

use rand::rngs::{SysRng, Xoshiro256PlusPlus};
use rand::{Rng, SeedableRng};

use super::workers::{Refused, Workers};

/// How many integers are drawn for each answer.
pub const DRAWS: u32 = 100_000;

/// The largest integer: draws are uniform on `0..=DRAW_MAX`.
pub const DRAW_MAX: u32 = 100;

/// What a refused caller is asked to wait: the queue is worked off in much less, and HTTP's `Retry-After`
/// counts whole seconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Limits of `/cpu`.
#[derive(Debug, Clone)]
pub struct CpuConfig {
    /// `compute.cpu.threads`: how many threads compute, at least 1. More than there are cores gain nothing.
    pub threads: usize,
    /// `compute.cpu.waiting_max`: how many callers may wait; further ones are refused. A core serves 30,000 to
    /// 40,000 a second.
    pub waiting_max: usize,
}

/// Why there is no sum.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// As many callers wait as may.
    #[error("too many callers wait for a sum; try again in {retry_after:?}")]
    Overloaded {
        /// When the queue will have been worked off.
        retry_after: Duration,
    },
    /// The computing thread ended.
    #[error("the computing thread ended")]
    Lost,
}

/// Why [`Cpu`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CpuSetupError {
    /// A configuration key has a value that cannot be used.
    #[error("{0} is zero")]
    Zero(&'static str),
    /// The operating system gave no randomness to seed the generators.
    #[error("no randomness: {0}")]
    Randomness(#[source] rand::rngs::SysError),
    /// The operating system started no threads.
    #[error("cannot start the computing threads: {0}")]
    Threads(#[source] io::Error),
}

/// Computes sums for callers.
pub struct Cpu {
    /// Each thread has its own generator, so that none waits for another.
    workers: Workers<Xoshiro256PlusPlus>,
}

impl Cpu {
    /// Starts the threads, each with a generator seeded by the operating system.
    pub fn new(config: &CpuConfig) -> Result<Self, CpuSetupError> {
        if config.threads == 0 {
            return Err(CpuSetupError::Zero("compute.cpu.threads"));
        }
        if config.waiting_max == 0 {
            return Err(CpuSetupError::Zero("compute.cpu.waiting_max"));
        }
        let generators: Result<Vec<_>, _> =
            (0..config.threads).map(|_| Xoshiro256PlusPlus::try_from_rng(&mut SysRng)).collect();
        let generators = generators.map_err(CpuSetupError::Randomness)?;
        let workers =
            Workers::start("cpu", 0, config.waiting_max, generators).map_err(CpuSetupError::Threads)?;
        Ok(Self { workers })
    }

    /// A sum drawn for this call. Refused at once when the queue is full; dropping the future leaves it.
    pub async fn answer(&self) -> Result<u32, CpuError> {
        self.workers.run(sum).await.map_err(|refused| match refused {
            Refused::Full => CpuError::Overloaded { retry_after: RETRY_AFTER },
            Refused::Lost => CpuError::Lost,
        })
    }
}

/// The sum of [`DRAWS`] independent draws, each uniform on `0..=DRAW_MAX`.
///
/// Each byte of a random word gives seven random bits, a value in 0..=127; values above `DRAW_MAX` are
/// rejected, so that the others keep equal probabilities. The eight bytes of a word are handled at once in
/// ordinary registers (L. Lamport, "Multiple byte processing with full-word instructions", CACM 18(8), 1975).
/// When to stop depends only on how many values were rejected, never on the values kept.
///
/// `rng` should be fast and good in every bit but the highest of each byte: xoshiro256++ is (D. Blackman and
/// S. Vigna, "Scrambled linear pseudorandom number generators", ACM TOMS 47(4), 2021).
pub fn sum(rng: &mut impl Rng) -> u32 {
    let mut missing = DRAWS;
    let mut total = 0;
    // Whole blocks while they cannot draw too many.
    while missing >= BLOCK_WORDS * WORD_BYTES {
        let mut pairs = 0;
        let mut rejected = 0;
        for _ in 0..BLOCK_WORDS {
            let (kept, above) = accept(rng.next_u64());
            pairs += (kept & EVEN_BYTES) + (kept >> 8 & EVEN_BYTES);
            rejected += above;
        }
        total += add_quarters(pairs);
        missing -= BLOCK_WORDS * WORD_BYTES - add_bytes(rejected);
    }
    // The rest one by one.
    while missing > 0 {
        for byte in rng.next_u64().to_le_bytes() {
            let value = u32::from(byte & 0x7f);
            if value <= DRAW_MAX && missing > 0 {
                total += value;
                missing -= 1;
            }
        }
    }
    total
}

/// How many values a random word gives.
const WORD_BYTES: u32 = 8;

/// How many words are summed before the sums in parts of a word are added up.
const BLOCK_WORDS: u32 = 31;

/// Every other byte of a word: the low bytes of its 16-bit quarters.
const EVEN_BYTES: u64 = 0x00ff_00ff_00ff_00ff;

/// One in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

const _: () = {
    // The sum of all quarters fits into a quarter, and the number of rejected values into a byte.
    assert!(BLOCK_WORDS * WORD_BYTES * DRAW_MAX <= u16::MAX as u32);
    assert!(BLOCK_WORDS * WORD_BYTES <= u8::MAX as u32);
    // Seven bits hold every value, and the sum that accept looks at stays within its byte.
    assert!(DRAW_MAX <= 127);
};

/// Takes the low seven bits of each byte; returns the values, with 0 for those above [`DRAW_MAX`], and a 1 in
/// each byte whose value was above.
#[inline(always)]
fn accept(word: u64) -> (u64, u64) {
    let values = word & (0x7f * ONES);
    // Adding 27 carries values above 100 into the top bit of their byte, and no further.
    let top = (values + (127 - DRAW_MAX as u64) * ONES) & (0x80 * ONES);
    let above = top >> 7;
    // 0x80 - 0x01 = 0x7f: a mask for the seven bits of each rejected value.
    (values & !(top - above), above)
}

/// The sum of the four 16-bit quarters, which must fit into one: the product gathers it in the highest.
#[allow(clippy::cast_possible_truncation, reason = "the shift leaves 16 bits")]
fn add_quarters(word: u64) -> u32 {
    (word.wrapping_mul(0x0001_0001_0001_0001) >> 48) as u32
}

/// The sum of the eight bytes, which must fit into one.
#[allow(clippy::cast_possible_truncation, reason = "the shift leaves 8 bits")]
fn add_bytes(word: u64) -> u32 {
    (word.wrapping_mul(ONES) >> 56) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded(seed: u64) -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(seed)
    }

    /// The draws as the definition has them, one after the other, without end.
    fn draws(rng: &mut Xoshiro256PlusPlus) -> impl Iterator<Item = u32> {
        std::iter::repeat_with(|| rng.next_u64().to_le_bytes())
            .flatten()
            .map(|byte| u32::from(byte & 0x7f))
            .filter(|value| *value <= DRAW_MAX)
    }

    #[test]
    fn the_sum_is_that_of_the_draws() {
        for seed in 0..200 {
            let wanted: u32 = draws(&mut seeded(seed)).take(DRAWS as usize).sum();
            assert_eq!(sum(&mut seeded(seed)), wanted, "seed {seed}");
        }
    }

    #[test]
    fn draws_are_uniform() {
        const COUNT: u32 = 10_100_000;
        let mut counts = [0u32; DRAW_MAX as usize + 1];
        for draw in draws(&mut seeded(1)).take(COUNT as usize) {
            counts[draw as usize] += 1;
        }
        let count = f64::from(COUNT);
        let moment = |f: &dyn Fn(f64) -> f64| -> f64 {
            counts.iter().zip(0u32..).map(|(n, value)| f64::from(*n) * f(f64::from(value))).sum::<f64>()
                / count
        };
        let mean = moment(&|value| value);
        let variance = moment(&|value| (value - mean).powi(2));
        // Of the uniform distribution on 0..=100: mean 50, variance (101² - 1) / 12 = 850; four standard errors.
        assert!((mean - 50.0).abs() < 4.0 * (850.0 / count).sqrt(), "{mean}");
        // Its fourth central moment is 850² * 1.8 within 0.1 %, so the variance of the variance 850² * 0.8 / n.
        assert!((variance - 850.0).abs() < 4.0 * 850.0 * (0.8 / count).sqrt(), "{variance}");
        let expected = count / 101.0;
        let chi_square: f64 = counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        // The 0.1 % and 99.9 % quantiles at 100 degrees of freedom.
        assert!((61.9..149.4).contains(&chi_square), "{chi_square}");
    }

    #[test]
    fn neighbouring_draws_do_not_depend_on_each_other() {
        const COUNT: usize = 1_000_000;
        let values: Vec<f64> = draws(&mut seeded(2)).take(COUNT).map(f64::from).collect();
        for lag in [1, 2, 3, 7, 8, 9] {
            let pairs = values.iter().zip(&values[lag..]);
            let covariance = pairs.map(|(a, b)| (a - 50.0) * (b - 50.0)).sum::<f64>() / COUNT as f64;
            // Four standard errors of a correlation of zero.
            assert!((covariance / 850.0).abs() < 4.0 / (COUNT as f64).sqrt(), "lag {lag}: {covariance}");
        }
    }

    #[test]
    fn sums_have_the_mean_and_the_spread_of_a_hundred_thousand_draws() {
        const SUMS: u32 = 2000;
        let mut rng = seeded(3);
        let sums: Vec<f64> = (0..SUMS).map(|_| f64::from(sum(&mut rng))).collect();
        let mean = sums.iter().sum::<f64>() / f64::from(SUMS);
        let variance = sums.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>() / f64::from(SUMS - 1);
        let wanted = 850.0 * f64::from(DRAWS);
        assert!((mean - 5_000_000.0).abs() < 4.0 * (wanted / f64::from(SUMS)).sqrt(), "{mean}");
        assert!((variance / wanted - 1.0).abs() < 4.0 * (2.0 / f64::from(SUMS)).sqrt(), "{variance}");
    }

    #[tokio::test]
    async fn answers_differ_and_are_plausible() {
        let cpu = Cpu::new(&CpuConfig { threads: 2, waiting_max: 10 }).unwrap();
        let (one, two) = tokio::join!(cpu.answer(), cpu.answer());
        let (one, two) = (one.unwrap(), two.unwrap());
        // Ten standard deviations of 9,220. Equal sums have a probability of 1 in 30,000.
        assert!(one.abs_diff(5_000_000) < 92_200 && two.abs_diff(5_000_000) < 92_200, "{one} {two}");
        let three = cpu.answer().await.unwrap();
        assert!(one != two || two != three);
    }

    /// `cargo test --release -p hearth-node --lib cpu -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn time_of_a_sum() {
        let mut rng = seeded(4);
        let start = std::time::Instant::now();
        let total: u64 = (0..20_000).map(|_| u64::from(sum(&mut rng))).sum();
        println!("{:?} a sum ({total})", start.elapsed() / 20_000);
    }
}
