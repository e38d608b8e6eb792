//! The sum of 100,000 draws: which generator, which bits, and when to stop.
//!
//! **Generator.** Eight xoshiro256++ side by side (D. Blackman and S. Vigna, "Scrambled linear pseudorandom
//! number generators", ACM TOMS 47(4), 2021), each seeded with 256 bits by the operating system. Two of
//! them overlap within the first 2^64 steps with a probability below 2^-180 (S. Vigna, "On the probability of
//! overlap of random subsequences of pseudorandom number generators", IPL 158, 2020). It passes BigCrush
//! in all bits and has no multiplications, so that it runs in vectors of any width. ARS-5 on VAES, which was
//! tried too, is 20 % faster, but only on processors that have VAES.
//!
//! **Draws.** One step gives 64 bytes. The low seven bits of each are a value in 0..=127, and those above
//! [`DRAW_MAX`] are rejected: what is left is uniform on 0..=100, without the bias of a remainder. Seven of
//! eight bits are used, and 79 % of the values; sixteen bits for two values at once (0..61206 = 6 · 101²)
//! would reject fewer, but need multiplications to take them apart.
//!
//! **Stopping.** The answer is the sum of the first [`DRAWS`] accepted values in the order of the bytes. Whole
//! steps are summed while they cannot give too many; the last up to 63 values are taken one by one. How
//! many steps are made depends only on how many values were rejected, never on the values kept. What is
//! left of the last step is thrown away.

use rand::TryRng;
use rand::rngs::SysRng;

use super::kernel::Kernel;

/// How many integers are drawn for each answer.
pub const DRAWS: u32 = 100_000;

/// The largest integer: draws are uniform on `0..=DRAW_MAX`.
pub const DRAW_MAX: u8 = 100;

/// Generators side by side.
pub(super) const LANES: usize = 8;

/// Values, rejected ones included, that a step gives.
pub(super) const STEP_VALUES: u32 = 64;

/// Steps that a kernel makes at once: it counts rejected values in bytes.
pub(super) const STEPS_MAX: u32 = 255;

const _: () = {
    assert!(STEP_VALUES as usize == LANES * size_of::<u64>());
    assert!(STEPS_MAX <= u8::MAX as u32);
    // Seven bits hold every value, and two values that are kept fit into a byte together.
    assert!(DRAW_MAX <= 127 && DRAW_MAX as u32 * 2 <= u8::MAX as u32);
};

/// The state of the generators: word `w` of lane `l` is `0[w][l]`, so that a vector holds the same word of
/// several lanes.
///
/// Invariant: no lane is all zeros, from which xoshiro would never leave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(align(64))]
pub(super) struct Lanes(pub(super) [[u64; LANES]; 4]);

impl Lanes {
    /// Lanes from a source of random words.
    fn from_words<E>(mut word: impl FnMut() -> Result<u64, E>) -> Result<Self, E> {
        let mut lanes = [[0; LANES]; 4];
        for lane in 0..LANES {
            loop {
                for row in &mut lanes {
                    row[lane] = word()?;
                }
                if lanes.iter().any(|row| row[lane] != 0) {
                    break;
                }
            }
        }
        Ok(Self(lanes))
    }

    /// Steps every lane and gives the eight results.
    fn step(&mut self) -> [u64; LANES] {
        std::array::from_fn(|lane| {
            let mut words = self.0.map(|row| row[lane]);
            let result = next(&mut words);
            for (row, word) in self.0.iter_mut().zip(words) {
                row[lane] = word;
            }
            result
        })
    }
}

/// One step of xoshiro256++, from the authors' reference code (prng.di.unimi.it/xoshiro256plusplus.c).
#[inline(always)]
pub(super) fn next(s: &mut [u64; 4]) -> u64 {
    let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
    let t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3].rotate_left(45);
    result
}

/// Draws sums, endlessly.
#[derive(Debug, Clone)]
pub struct Draws {
    lanes: Lanes,
    kernel: Kernel,
}

impl Draws {
    /// Seeded by the operating system, on the fastest kernel that this processor has.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn from_system() -> Result<Self, rand::rngs::SysError> {
        let lanes = Lanes::from_words(|| SysRng.try_next_u64())?;
        Ok(Self { lanes, kernel: Kernel::fastest() })
    }

    /// Seeded by a number, always the same, on this kernel: for tests and measurements.
    pub fn from_seed(seed: u64, kernel: Kernel) -> Self {
        // SplitMix64, which the authors of xoshiro recommend for this.
        let mut state = seed;
        let word = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Ok::<u64, std::convert::Infallible>(z ^ (z >> 31))
        };
        let Ok(lanes) = Lanes::from_words(word);
        Self { lanes, kernel }
    }

    /// The sum of [`DRAWS`] independent draws, each uniform on `0..=DRAW_MAX`.
    pub fn sum(&mut self) -> u32 {
        let (mut missing, mut total) = (DRAWS, 0);
        while missing >= STEP_VALUES {
            let steps = (missing / STEP_VALUES).min(STEPS_MAX);
            let block = self.kernel.block(&mut self.lanes, steps);
            total += block.sum;
            missing -= steps * STEP_VALUES - block.rejected;
        }
        while missing > 0 {
            let accepted = values(self.lanes.step()).filter(|value| *value <= DRAW_MAX);
            for value in accepted.take(missing as usize) {
                total += u32::from(value);
                missing -= 1;
            }
        }
        total
    }
}

/// The values of a step, rejected ones included, in their order.
fn values(step: [u64; LANES]) -> impl Iterator<Item = u8> {
    step.into_iter().flat_map(|word| word.to_le_bytes()).map(|byte| byte & 0x7f)
}

#[cfg(test)]
#[path = "statistics.rs"]
mod tests;
