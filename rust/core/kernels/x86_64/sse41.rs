//! SSE4.1: 4 rows to a vector, products of bytes by way of i16.

use crate::activations::Activations;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot;
use crate::kernels::simd::lanes::{Job, Lanes};
use crate::kernels::{KernelSet, Sums};
use crate::matrix::Matrix;
use core::arch::x86_64::*;
use core::ops::Range;
use std::arch::is_x86_feature_detected;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: compiled_reference!("sse4.1", "sse4.1", dot),
    available: || is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1"),
    needs: "SSSE3 and SSE4.1",
};

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a set is reached only where `available` holds.
    unsafe { dot::dot::<Sse41>(matrix, tile, x, tokens, sums) }
}

/// Lines of 128 bits, a quarter of the rows of a tile.
struct Sse41;

impl Lanes for Sse41 {
    type Line = __m128i;
    const ROWS: usize = 4;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn zero() -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_setzero_si128() }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_set1_epi32(v) }
    }

    #[inline(always)]
    unsafe fn splat16(v: i16) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_set1_epi16(v) }
    }

    #[inline(always)]
    unsafe fn splat8(v: u8) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_set1_epi8(v as i8) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m128i {
        // SAFETY: 16 bytes are readable.
        unsafe { _mm_loadu_si128(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m128i {
        // SAFETY: 4 bytes are readable.
        unsafe { _mm_cvtepu8_epi32(_mm_loadu_si32(p)) }
    }

    #[inline(always)]
    unsafe fn store(v: __m128i, p: *mut i32) {
        // SAFETY: 4 lanes are writable.
        unsafe { _mm_storeu_si128(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch may name any address.
        unsafe { super::prefetch(p) }
    }

    #[inline(always)]
    unsafe fn and(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_and_si128(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_or_si128(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_xor_si128(a, b) }
    }

    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_sll_epi16(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_srl_epi16(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn shl32(a: __m128i, n: u32) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }

    #[inline(always)]
    unsafe fn shr32(a: __m128i, n: u32) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }

    #[inline(always)]
    unsafe fn lookup(table: __m128i, index: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_shuffle_epi8(table, index) }
    }

    #[inline(always)]
    unsafe fn table(entries: &[u8; 16]) -> __m128i {
        // SAFETY: 16 bytes are readable.
        unsafe { _mm_loadu_si128(entries.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn add(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sar<const N: u32>(a: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_sra_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }

    #[inline(always)]
    unsafe fn add16(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_add_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn mul16(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_mullo_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_rounded16(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_mulhrs_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn negate(v: __m128i, rows: u32) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe {
            let bit = _mm_setr_epi32(1, 2, 4, 8);
            let negative = _mm_cmpeq_epi32(_mm_and_si128(_mm_set1_epi32(rows as i32), bit), bit);
            _mm_sub_epi32(_mm_xor_si128(v, negative), negative)
        }
    }

    #[inline(always)]
    unsafe fn low_twice(v: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_blend_epi16::<0xAA>(v, _mm_slli_epi32::<16>(v)) }
    }

    #[inline(always)]
    unsafe fn high_twice(v: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_blend_epi16::<0xAA>(_mm_srli_epi32::<16>(v), v) }
    }

    #[inline(always)]
    unsafe fn join(low: __m128i, high: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_blend_epi16::<0xAA>(low, _mm_slli_epi32::<16>(high)) }
    }

    #[inline(always)]
    unsafe fn merge(low: __m128i, high: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_blend_epi16::<0xAA>(low, high) }
    }

    #[inline(always)]
    unsafe fn pairs(acc: __m128i, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        unsafe { _mm_add_epi32(acc, _mm_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[__m128i; 8], from: usize, x: *const i8) -> __m128i {
        // SAFETY: the caller has SSE4.1.
        let mut acc = unsafe { _mm_setzero_si128() };
        let mut i = 0;
        while i < N {
            // SAFETY: the caller has SSE4.1; 4 · N bytes are readable at `x`.
            unsafe {
                // Sums of STEPS_16 steps fit i16, and none of the products saturates (docs/FORMATS.md, section 5).
                let mut short = _mm_setzero_si128();
                let stop = if i + P::STEPS_16 < N { i + P::STEPS_16 } else { N };
                while i < stop {
                    let x = _mm_set1_epi32(x.cast::<i32>().add(i).read_unaligned());
                    let code = codes[from + i];
                    short = _mm_add_epi16(
                        short,
                        if P::ZERO == 128 {
                            _mm_maddubs_epi16(_mm_abs_epi8(x), _mm_sign_epi8(code, x))
                        } else {
                            _mm_maddubs_epi16(code, x)
                        },
                    );
                    i += 1;
                }
                acc = _mm_add_epi32(acc, _mm_madd_epi16(short, _mm_set1_epi16(1)));
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller has SSE4.1.
        unsafe { run(job) }
    }
}

/// # Safety
/// As for [`Job::run`].
#[target_feature(enable = "ssse3,sse4.1")]
unsafe fn run<J: Job>(job: J) {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Sse41>() }
}
