//! The inner loop of [`Draws::sum`](super::draws::Draws::sum), once for each instruction set.
//!
//! Every kernel makes the same steps with the same lanes and gives the same numbers: which one runs is seen
//! only in the time that it takes. Before a vector kernel is used it has to prove that on this very
//! processor, so that a mistake in a kernel that few machines run cannot become wrong answers there.

use std::fmt;
use std::sync::OnceLock;

use super::draws::{DRAW_MAX, LANES, Lanes, STEP_VALUES, STEPS_MAX, next};
#[cfg(target_arch = "x86_64")]
use super::vector;

/// What a kernel found in some steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Of the values that are kept.
    pub(super) sum: u32,
    /// How many values are not.
    pub(super) rejected: u32,
}

/// Makes so many steps, at most [`STEPS_MAX`].
pub(super) type Run = fn(&mut Lanes, u32) -> Block;

/// An instruction set that this processor has.
#[derive(Clone, Copy)]
pub struct Kernel {
    name: &'static str,
    run: Run,
}

impl Kernel {
    /// Runs on any processor: eight bytes at once in ordinary registers.
    pub const PORTABLE: Self = Self { name: "portable", run: portable };

    /// All that this processor has, the fastest first, portable last.
    pub fn available() -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            kernels.extend(vector::avx512().map(|run| Self { name: "AVX-512", run }));
            kernels.extend(vector::avx2().map(|run| Self { name: "AVX2", run }));
        }
        kernels.push(Self::PORTABLE);
        kernels
    }

    /// The fastest one that agrees with the portable one.
    pub fn fastest() -> Self {
        static FASTEST: OnceLock<Kernel> = OnceLock::new();
        let choose = || {
            let mut kernels = Self::available().into_iter();
            kernels.find(|kernel| kernel.agrees()).unwrap_or(Self::PORTABLE)
        };
        *FASTEST.get_or_init(choose)
    }

    /// `AVX-512`, `AVX2` or `portable`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Makes up to [`STEPS_MAX`] steps.
    pub(super) fn block(self, lanes: &mut Lanes, steps: u32) -> Block {
        debug_assert!(steps <= STEPS_MAX);
        let block = (self.run)(lanes, steps);
        debug_assert!(block.rejected <= steps * STEP_VALUES);
        block
    }

    /// Whether it gives what the portable one gives, sums and states, for some numbers of steps.
    fn agrees(self) -> bool {
        // Any state will do that has ones and zeros everywhere.
        let mut seed = 0x243f_6a88_85a3_08d3_u64;
        let mut lanes = Lanes(std::array::from_fn(|_| {
            std::array::from_fn(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                seed ^ (seed >> 29)
            })
        }));
        let mut same = lanes.clone();
        let agrees = [1, 2, 63, STEPS_MAX].into_iter().all(|steps| {
            self.block(&mut lanes, steps) == Self::PORTABLE.block(&mut same, steps) && lanes == same
        });
        if !agrees {
            tracing::error!(kernel = self.name, "this kernel of /cpu is wrong on this processor; not used");
        }
        agrees
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Lane by lane, so that the state stays in registers; the eight bytes of a word are handled at once (L.
/// Lamport, "Multiple byte processing with full-word instructions", CACM 18(8), 1975).
fn portable(lanes: &mut Lanes, steps: u32) -> Block {
    let mut block = Block { sum: 0, rejected: 0 };
    for lane in 0..LANES {
        let mut words = lanes.0.map(|row| row[lane]);
        let mut left = steps;
        while left > 0 {
            let words_now = left.min(WORDS_MAX);
            left -= words_now;
            let (mut pairs, mut rejected) = (0, 0);
            for _ in 0..words_now {
                let (kept, above) = accept(next(&mut words));
                pairs += (kept & EVEN_BYTES) + (kept >> 8 & EVEN_BYTES);
                rejected += above;
            }
            block.sum += add_quarters(pairs);
            block.rejected += add_bytes(rejected);
        }
        for (row, word) in lanes.0.iter_mut().zip(words) {
            row[lane] = word;
        }
    }
    block
}

/// How many words are summed before the sums in parts of a word are added up.
const WORDS_MAX: u32 = 31;

/// How many values a word holds.
const WORD_BYTES: u32 = 8;

/// Every other byte of a word: the low bytes of its 16-bit quarters.
const EVEN_BYTES: u64 = 0x00ff_00ff_00ff_00ff;

/// One in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

const _: () = {
    // The sum of all quarters fits into a quarter, and the number of rejected values into a byte.
    assert!(WORDS_MAX * WORD_BYTES * DRAW_MAX as u32 <= u16::MAX as u32);
    assert!(WORDS_MAX * WORD_BYTES <= u8::MAX as u32);
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
