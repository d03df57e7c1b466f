//! VNNI on vectors of 256 bits: 8 rows to a vector, four products of u8 and i8 to a lane.
//!
//! AVX-VNNI and AVX-512 VL have the same instruction, in the VEX and the EVEX encoding. The set takes either, so that
//! machines of each kind test everything in it but the encoding of the other.

use super::avx2::{self, Products, Ymm};
use crate::activations::Activations;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot;
use crate::kernels::simd::lanes::Job;
use crate::kernels::{KernelSet, Kernels, Sums};
use crate::matrix::Matrix;
use core::arch::x86_64::*;
use core::marker::PhantomData;
use core::ops::Range;
use std::arch::is_x86_feature_detected;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: Kernels { name: "avxvnni", dot, ..avx2::SET.kernels },
    available: || (avx2::SET.available)() && (has_vex() || has_evex()),
    needs: "AVX2 and AVX-VNNI, or AVX-512 F, VL and VNNI",
};

fn has_vex() -> bool {
    is_x86_feature_detected!("avxvnni")
}

fn has_evex() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a set is reached only where `available` holds, which is for one of the two.
    unsafe {
        if has_vex() {
            dot::dot::<Ymm<Vnni<Vex>>>(matrix, tile, x, tokens, sums)
        } else {
            dot::dot::<Ymm<Vnni<Evex>>>(matrix, tile, x, tokens, sums)
        }
    }
}

/// What the encodings differ in.
///
/// # Safety
/// Every function needs AVX2 and the instructions in its encoding.
trait Encoding {
    /// `acc` plus, in each lane, the products of four u8 and four i8, wrapping.
    unsafe fn dpbusd(acc: __m256i, a: __m256i, b: __m256i) -> __m256i;
    /// [`Products::run`].
    unsafe fn run<J: Job>(job: J);
}

/// Sums of products in one instruction.
struct Vnni<E>(PhantomData<E>);

impl<E: Encoding> Products for Vnni<E> {
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[__m256i; 8], from: usize, x: *const i8) -> __m256i {
        // SAFETY: the caller has the instructions; 4 · N bytes are readable at `x`.
        unsafe {
            let mut acc = _mm256_setzero_si256();
            let mut i = 0;
            while i < N {
                let x = _mm256_set1_epi32(x.cast::<i32>().add(i).read_unaligned());
                acc = E::dpbusd(acc, codes[from + i], x);
                i += 1;
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller's promise.
        unsafe { E::run(job) }
    }
}

/// AVX-VNNI.
struct Vex;

impl Encoding for Vex {
    #[inline(always)]
    unsafe fn dpbusd(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(acc, a, b) }
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller has AVX2 and AVX-VNNI.
        unsafe { run_vex(job) }
    }
}

/// # Safety
/// As for [`Job::run`].
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn run_vex<J: Job>(job: J) {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Ymm<Vnni<Vex>>>() }
}

/// AVX-512 VL with VNNI.
struct Evex;

impl Encoding for Evex {
    #[inline(always)]
    unsafe fn dpbusd(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX-512 VL and VNNI.
        unsafe { _mm256_dpbusd_epi32(acc, a, b) }
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller has AVX-512 VL and VNNI.
        unsafe { run_evex(job) }
    }
}

/// # Safety
/// As for [`Job::run`].
#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
unsafe fn run_evex<J: Job>(job: J) {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Ymm<Vnni<Evex>>>() }
}
