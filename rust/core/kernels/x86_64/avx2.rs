//! AVX2: 8 rows to a vector, products of bytes by way of i16.

use crate::activations::Activations;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot;
use crate::kernels::simd::lanes::{Job, Lanes};
use crate::kernels::{KernelSet, Sums};
use crate::matrix::Matrix;
use core::arch::x86_64::*;
use core::marker::PhantomData;
use core::ops::Range;
use std::arch::is_x86_feature_detected;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: compiled_reference!("avx2", "avx2", dot),
    available: || is_x86_feature_detected!("avx2"),
    needs: "AVX2",
};

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a set is reached only where `available` holds.
    unsafe { dot::dot::<Ymm<Maddubs>>(matrix, tile, x, tokens, sums) }
}

/// What sets with vectors of 256 bits differ in: how they multiply bytes. The items are those of [`Lanes`].
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Products {
    /// [`Lanes::SIGNED`].
    const SIGNED: bool;
    /// [`Lanes::dot`].
    unsafe fn dot<P: Codes, const N: usize>(codes: &[__m256i; 8], from: usize, x: *const i8) -> __m256i;
    /// [`Lanes::run`].
    unsafe fn run<J: Job>(job: J);
}

/// Lines of 256 bits, half of the rows of a tile.
pub(super) struct Ymm<M>(PhantomData<M>);

impl<M: Products> Lanes for Ymm<M> {
    type Line = __m256i;
    const ROWS: usize = 8;
    const SIGNED: bool = M::SIGNED;

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
        unsafe { super::prefetch(p) }
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
    unsafe fn shl32(a: __m256i, n: u32) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }

    #[inline(always)]
    unsafe fn shr32(a: __m256i, n: u32) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
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
    unsafe fn mul_rounded16(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_mulhrs_epi16(a, b) }
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
    unsafe fn merge(low: __m256i, high: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_blend_epi16::<0xAA>(low, high) }
    }

    #[inline(always)]
    unsafe fn pairs(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[__m256i; 8], from: usize, x: *const i8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { M::dot::<P, N>(codes, from, x) }
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller's promise.
        unsafe { M::run(job) }
    }
}

/// Products of bytes by way of i16.
struct Maddubs;

impl Products for Maddubs {
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[__m256i; 8], from: usize, x: *const i8) -> __m256i {
        // SAFETY: the caller has AVX2.
        let mut acc = unsafe { _mm256_setzero_si256() };
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
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller has AVX2.
        unsafe { run(job) }
    }
}

/// # Safety
/// As for [`Job::run`].
#[target_feature(enable = "avx2")]
unsafe fn run<J: Job>(job: J) {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Ymm<Maddubs>>() }
}
