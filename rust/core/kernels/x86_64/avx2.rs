//! AVX2: 8 rows to a vector, products of bytes by way of i16.

use crate::activations::{self, Activations, TokenCodesMut};
use crate::formats::TILE;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot;
use crate::kernels::simd::lanes::{Lanes, TileDot};
use crate::kernels::simd::tile::{Tile, Tokens};
use crate::kernels::{KernelSet, Kernels, RowConstants, Sums, reference};
use crate::matrix::{Activation, Matrix};
use crate::ops::attention::{self, Query, Run, Scoring, Scratch};
use crate::ops::gated::{self, Gate};
use crate::ops::rms_norm::{self, RmsNorm};
use core::arch::x86_64::*;
use core::ops::Range;
use std::arch::is_x86_feature_detected;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: Kernels {
        name: "avx2",
        dot,
        finish: |sums, d, t, rows, out| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { finish(sums, d, t, rows, out) }
        },
        quantize: |x, activation, out| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { quantize(x, activation, out) }
        },
        rms_norm: |x, gain, norm, fraction_bits| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { rms_norm(x, gain, norm, fraction_bits) }
        },
        gated_activation: |kind, gate, up, fraction_bits| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { gated_activation(kind, gate, up, fraction_bits) }
        },
        attention: |queries, runs, scoring, fraction_bits, scratch, out| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { attention(queries, runs, scoring, fraction_bits, scratch, out) }
        },
    },
    available: || is_x86_feature_detected!("avx2"),
    needs: "AVX2",
};

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a set is reached only where `available` holds.
    unsafe { dot::dot::<Avx2>(matrix, tile, x, tokens, sums) }
}

/// Lines of 256 bits, half of the rows of a tile.
struct Avx2;

impl Lanes for Avx2 {
    type Line = __m256i;
    const ROWS: usize = 8;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_set1_epi32(v) }
    }

    #[inline(always)]
    unsafe fn splat16(v: i16) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_set1_epi16(v) }
    }

    #[inline(always)]
    unsafe fn splat8(v: u8) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_set1_epi8(v as i8) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256i {
        // SAFETY: 32 bytes are readable.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m256i {
        // SAFETY: 8 bytes are readable.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
    }

    #[inline(always)]
    unsafe fn store(v: __m256i, p: *mut i32) {
        // SAFETY: 8 lanes are writable.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_sll_epi16(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_srl_epi16(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn lookup(table: __m256i, index: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_shuffle_epi8(table, index) }
    }

    #[inline(always)]
    unsafe fn table(entries: &[u8; 16]) -> __m256i {
        // SAFETY: 16 bytes are readable.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(entries.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sar<const N: u32>(a: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn add16(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn mul16(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_mullo_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn negate(v: __m256i, rows: u32) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let negative = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(rows as i32), bit), bit);
            _mm256_sub_epi32(_mm256_xor_si256(v, negative), negative)
        }
    }

    #[inline(always)]
    unsafe fn low_twice(v: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_blend_epi16::<0xAA>(v, _mm256_slli_epi32::<16>(v)) }
    }

    #[inline(always)]
    unsafe fn high_twice(v: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_blend_epi16::<0xAA>(_mm256_srli_epi32::<16>(v), v) }
    }

    #[inline(always)]
    unsafe fn join(low: __m256i, high: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_blend_epi16::<0xAA>(low, _mm256_slli_epi32::<16>(high)) }
    }

    #[inline(always)]
    unsafe fn pairs(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(acc: __m256i, codes: &[__m256i; 8], from: usize, x: *const i8) -> __m256i {
        let mut acc = acc;
        let mut i = 0;
        while i < N {
            // SAFETY: the caller has AVX2; 4 · N bytes are readable at `x`.
            unsafe {
                // Sums of STEPS_16 steps fit i16, and none of the products saturates (docs/FORMATS.md, section 5).
                let mut short = _mm256_setzero_si256();
                let stop = if i + P::STEPS_16 < N { i + P::STEPS_16 } else { N };
                while i < stop {
                    let x = _mm256_set1_epi32(x.cast::<i32>().add(i).read_unaligned());
                    let code = codes[from + i];
                    short = _mm256_add_epi16(
                        short,
                        if P::ZERO == 128 {
                            _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(code, x))
                        } else {
                            _mm256_maddubs_epi16(code, x)
                        },
                    );
                    i += 1;
                }
                acc = _mm256_add_epi32(acc, _mm256_madd_epi16(short, _mm256_set1_epi16(1)));
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn run<K: TileDot>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) {
        // SAFETY: the caller has AVX2.
        unsafe { run::<K>(tile, tokens, out) }
    }
}

/// # Safety
/// As for [`TileDot::run`].
#[target_feature(enable = "avx2")]
unsafe fn run<K: TileDot>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe { K::run::<Avx2>(tile, tokens, out) }
}

// The other slots are the reference, which the compiler turns into AVX2 here.

#[target_feature(enable = "avx2")]
fn finish(sums: &Sums, d: &[i32], t: &[i32], rows: RowConstants<'_>, out: &mut [[i32; TILE]]) {
    reference::finish(sums, d, t, rows, out);
}

#[target_feature(enable = "avx2")]
fn quantize(x: &[i32], activation: Activation, out: TokenCodesMut<'_>) {
    activations::quantize(x, activation, out);
}

#[target_feature(enable = "avx2")]
fn rms_norm(x: &mut [i32], gain: &[i16], norm: &RmsNorm, fraction_bits: u32) {
    rms_norm::rms_norm(x, gain, norm, fraction_bits);
}

#[target_feature(enable = "avx2")]
fn gated_activation(kind: Gate, gate: &mut [i32], up: &[i32], fraction_bits: u32) {
    gated::gated_activation(kind, gate, up, fraction_bits);
}

#[target_feature(enable = "avx2")]
fn attention(
    queries: &[Query<'_>], runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch,
    out: &mut [i32],
) {
    attention::attention(queries, runs, scoring, fraction_bits, scratch, out);
}
