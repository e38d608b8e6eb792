//! The kernels for AVX2 and AVX-512, and the one place that may call them.
//!
//! `unsafe` is here because a function for an instruction set may only run on a processor that has it. It is
//! confined to the two functions that look first, and hands nothing out that could be called otherwise.
#![allow(unsafe_code, reason = "instruction sets are checked at run time")]

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::*;

use super::draws::{DRAW_MAX, LANES, Lanes};
use super::kernel::{Block, Run};

/// The kernel for AVX-512, if this processor has the two parts of it that the kernel needs.
pub(super) fn avx512() -> Option<Run> {
    let run: Run = |lanes, steps| {
        // SAFETY: this closure is handed out only where the features that the function needs were found.
        unsafe { avx512_block(lanes, steps) }
    };
    (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")).then_some(run)
}

/// The kernel for AVX2, if this processor has it.
pub(super) fn avx2() -> Option<Run> {
    let run: Run = |lanes, steps| {
        // SAFETY: this closure is handed out only where the feature that the function needs was found.
        unsafe { avx2_block(lanes, steps) }
    };
    is_x86_feature_detected!("avx2").then_some(run)
}

/// 128 - 1: the seven bits of a value.
const VALUE_BITS: i8 = 0x7f;
#[allow(clippy::cast_possible_wrap, reason = "values have seven bits")]
const MAX: i8 = DRAW_MAX as i8;

/// All eight lanes in one vector.
#[target_feature(enable = "avx512f,avx512bw")]
fn avx512_block(lanes: &mut Lanes, steps: u32) -> Block {
    let load = |row: &[u64; LANES]| {
        let [a, b, c, d, e, f, g, h] = row.map(u64::cast_signed);
        _mm512_set_epi64(h, g, f, e, d, c, b, a)
    };
    let [mut s0, mut s1, mut s2, mut s3] = lanes.0.each_ref().map(load);
    let zero = _mm512_setzero_si512();
    let (bits, max) = (_mm512_set1_epi8(VALUE_BITS), _mm512_set1_epi8(MAX));
    let (mut sums, mut kept) = (zero, 0);
    for _ in 0..steps {
        let result = _mm512_add_epi64(_mm512_rol_epi64::<23>(_mm512_add_epi64(s0, s3)), s0);
        let t = _mm512_slli_epi64::<17>(s1);
        s2 = _mm512_xor_si512(s2, s0);
        s3 = _mm512_xor_si512(s3, s1);
        s1 = _mm512_xor_si512(s1, s2);
        s0 = _mm512_xor_si512(s0, s3);
        s2 = _mm512_xor_si512(s2, t);
        s3 = _mm512_rol_epi64::<45>(s3);

        let values = _mm512_and_si512(result, bits);
        let keep = _mm512_cmple_epi8_mask(values, max);
        kept += keep.count_ones();
        sums = _mm512_add_epi64(sums, _mm512_sad_epu8(_mm512_maskz_mov_epi8(keep, values), zero));
    }
    for (row, vector) in lanes.0.iter_mut().zip([s0, s1, s2, s3]) {
        // SAFETY: the row is 64 bytes, as the vector, and the store does not ask for alignment.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), vector) };
    }
    Block { sum: add_up(&[_mm512_reduce_add_epi64(sums)]), rejected: steps * 64 - kept }
}

/// Four lanes in each of two vectors: what one waits for, the other works in.
#[target_feature(enable = "avx2")]
fn avx2_block(lanes: &mut Lanes, steps: u32) -> Block {
    let mut state: [[__m256i; 4]; 2] = std::array::from_fn(|half| {
        lanes.0.each_ref().map(|row| {
            // SAFETY: the row is 64 bytes, of which each half takes 32, and the load does not ask for
            // alignment.
            unsafe { _mm256_loadu_si256(row.as_ptr().add(half * 4).cast()) }
        })
    });
    let zero = _mm256_setzero_si256();
    let (bits, max) = (_mm256_set1_epi8(VALUE_BITS), _mm256_set1_epi8(MAX));
    let mut sums = zero;
    // Each byte counts the rejected values of its place: at most STEPS_MAX.
    let mut rejected = [zero; 2];
    for _ in 0..steps {
        let mut kept = [zero; 2];
        for ((kept, rejected), state) in kept.iter_mut().zip(&mut rejected).zip(&mut state) {
            let [s0, s1, s2, s3] = *state;
            let sum = _mm256_add_epi64(s0, s3);
            let rotated = _mm256_or_si256(_mm256_slli_epi64::<23>(sum), _mm256_srli_epi64::<41>(sum));
            let result = _mm256_add_epi64(rotated, s0);
            let t = _mm256_slli_epi64::<17>(s1);
            let s2 = _mm256_xor_si256(s2, s0);
            let s3 = _mm256_xor_si256(s3, s1);
            let s1 = _mm256_xor_si256(s1, s2);
            let s0 = _mm256_xor_si256(s0, s3);
            let s2 = _mm256_xor_si256(s2, t);
            let s3 = _mm256_or_si256(_mm256_slli_epi64::<45>(s3), _mm256_srli_epi64::<19>(s3));
            *state = [s0, s1, s2, s3];

            let values = _mm256_and_si256(result, bits);
            // All ones, which is -1, where a value is rejected.
            let above = _mm256_cmpgt_epi8(values, max);
            *rejected = _mm256_sub_epi8(*rejected, above);
            *kept = _mm256_andnot_si256(above, values);
        }
        // Two kept values fit into a byte together.
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_add_epi8(kept[0], kept[1]), zero));
    }
    for (half, state) in state.into_iter().enumerate() {
        for (row, vector) in lanes.0.iter_mut().zip(state) {
            // SAFETY: as for the load.
            unsafe { _mm256_storeu_si256(row.as_mut_ptr().add(half * 4).cast(), vector) };
        }
    }
    let rejected = rejected.map(|counts| _mm256_sad_epu8(counts, zero));
    Block { sum: quarters(sums), rejected: quarters(_mm256_add_epi64(rejected[0], rejected[1])) }
}

#[target_feature(enable = "avx2")]
fn quarters(sums: __m256i) -> u32 {
    add_up(&[
        _mm256_extract_epi64::<0>(sums),
        _mm256_extract_epi64::<1>(sums),
        _mm256_extract_epi64::<2>(sums),
        _mm256_extract_epi64::<3>(sums),
    ])
}

/// The sum of a block's partial sums: at most 255 steps of 64 values of at most 127.
#[allow(clippy::cast_possible_truncation, reason = "it is below 2^21")]
fn add_up(parts: &[i64]) -> u32 {
    parts.iter().sum::<i64>().cast_unsigned() as u32
}
