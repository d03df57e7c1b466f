//! NEON with the dot product extension: four products of i8 to a lane.

use super::neon::{self, Neon, Products};
use crate::activations::Activations;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot;
use crate::kernels::simd::lanes::Job;
use crate::kernels::{KernelSet, Kernels, Sums};
use crate::matrix::Matrix;
use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;
use std::arch::is_aarch64_feature_detected;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: Kernels { name: "neon-dotprod", dot, ..neon::SET.kernels },
    available: || (neon::SET.available)() && is_aarch64_feature_detected!("dotprod"),
    needs: "NEON with the dot product extension, little-endian",
};

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a set is reached only where `available` holds.
    unsafe { dot::dot::<Neon<Sdot>>(matrix, tile, x, tokens, sums) }
}

/// Sums of four products by `sdot`.
pub(super) struct Sdot;

impl Products for Sdot {
    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[int32x4_t; 8], from: usize, x: *const i8) -> int32x4_t {
        // SAFETY: the caller has NEON.
        let mut acc = unsafe { vdupq_n_s32(0) };
        let mut i = 0;
        while i < N {
            // SAFETY: the caller has the extension; N is 4 or 8, and 4 · N bytes are readable at `x`.
            unsafe {
                let x = vld1q_s8(x.add(4 * i));
                acc = sdot::<0>(acc, codes[from + i], x);
                acc = sdot::<1>(acc, codes[from + i + 1], x);
                acc = sdot::<2>(acc, codes[from + i + 2], x);
                acc = sdot::<3>(acc, codes[from + i + 3], x);
            }
            i += 4;
        }
        acc
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller has the extension.
        unsafe { run(job) }
    }
}

/// # Safety
/// As for [`Job::run`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn run<J: Job>(job: J) {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Neon<Sdot>>() }
}

/// `acc` plus, in each lane, the products of its four codes with the four bytes of lane `I` of `x`.
///
/// In assembly because `core::arch` has no stable intrinsic for it.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const I: usize>(mut acc: int32x4_t, codes: int32x4_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: it touches nothing but its registers, and the function has the extension.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {codes:v}.16b, {x:v}.4b[{i}]",
            acc = inout(vreg) acc,
            codes = in(vreg) codes,
            x = in(vreg) x,
            i = const I,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
