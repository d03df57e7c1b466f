//! NEON: 4 rows to a vector, products of bytes by way of i16.

use super::{neon_attention, neon_ops};
use crate::activations::Activations;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot::{self, Input};
use crate::kernels::simd::lanes::{Job, Lanes};
use crate::kernels::simd::scales::Scales;
use crate::kernels::simd::tile::{Tile, Tokens};
use crate::kernels::{Attend, KernelSet, Kernels, Sums};
use crate::matrix::Matrix;
use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;
use core::ops::Range;
use std::arch::is_aarch64_feature_detected;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: Kernels {
        name: "neon",
        dot,
        finish: |sums, d, t, rows, out| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { neon_ops::finish(sums, d, t, rows, out) }
        },
        quantize: |x, activation, out| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { neon_ops::quantize(x, activation, out) }
        },
        rms_norm: |x, gain, norm, fraction_bits| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { neon_ops::rms_norm(x, gain, norm, fraction_bits) }
        },
        gated_activation: |kind, gate, up, fraction_bits| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { neon_ops::gated_activation(kind, gate, up, fraction_bits) }
        },
        attention: Attend {
            scores: |queries, runs, scoring, fraction_bits, scratch| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { neon_attention::scores(queries, runs, scoring, fraction_bits, scratch) }
            },
            sums: |queries, runs, scratch| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { neon_attention::sums(queries, runs, scratch) }
            },
            outputs: |scoring, scratch, out| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { neon_attention::outputs(scoring, scratch, out) }
            },
        },
    },
    available: || cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon"),
    needs: "NEON, little-endian",
};

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a set is reached only where `available` holds.
    unsafe { dot::dot::<Neon<Widening>>(matrix, tile, x, tokens, sums) }
}

/// What NEON sets differ in: how they multiply bytes. The functions are those of [`Lanes`].
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Products {
    /// [`Lanes::dot`].
    unsafe fn dot<P: Codes, const N: usize>(codes: &[int32x4_t; 8], from: usize, x: *const i8) -> int32x4_t;
    /// [`Lanes::panel`].
    unsafe fn panel<P: Codes, S: Scales, I: Input>(_tile: &Tile<'_>, _tokens: &Tokens<'_>, _out: &mut Sums) -> bool {
        false
    }
    /// [`Lanes::run`].
    unsafe fn run<J: Job>(job: J);
}

/// Lines of 128 bits, a quarter of the rows of a tile.
pub(super) struct Neon<M>(PhantomData<M>);

impl<M: Products> Lanes for Neon<M> {
    type Line = int32x4_t;
    const ROWS: usize = 4;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vdupq_n_s32(v) }
    }

    #[inline(always)]
    unsafe fn splat16(v: i16) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_s16(vdupq_n_s16(v)) }
    }

    #[inline(always)]
    unsafe fn splat8(v: u8) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_u8(vdupq_n_u8(v)) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> int32x4_t {
        // SAFETY: 16 bytes are readable.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(p)) }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> int32x4_t {
        // SAFETY: 4 bytes are readable.
        unsafe {
            let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
        }
    }

    #[inline(always)]
    unsafe fn store(v: int32x4_t, p: *mut i32) {
        // SAFETY: 4 lanes are writable.
        unsafe { vst1q_s32(p, v) }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch may name any address.
        unsafe { asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, readonly, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vandq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vorrq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { veorq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), vdupq_n_s16(N as i16))) }
    }

    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), vdupq_n_s16(-(N as i16)))) }
    }

    #[inline(always)]
    unsafe fn shl32(a: int32x4_t, n: u32) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vshlq_s32(a, vdupq_n_s32(n as i32)) }
    }

    #[inline(always)]
    unsafe fn shr32(a: int32x4_t, n: u32) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(n as i32)))) }
    }

    #[inline(always)]
    unsafe fn lookup(table: int32x4_t, index: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(index))) }
    }

    #[inline(always)]
    unsafe fn table(entries: &[u8; 16]) -> int32x4_t {
        // SAFETY: 16 bytes are readable.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(entries.as_ptr())) }
    }

    #[inline(always)]
    unsafe fn add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vaddq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vmulq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn sar<const N: u32>(a: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vshlq_s32(a, vdupq_n_s32(-(N as i32))) }
    }

    #[inline(always)]
    unsafe fn add16(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_s16(vaddq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b))) }
    }

    #[inline(always)]
    unsafe fn mul16(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_s16(vmulq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b))) }
    }

    #[inline(always)]
    unsafe fn mul_rounded16(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_s16(vqrdmulhq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b))) }
    }

    #[inline(always)]
    unsafe fn negate(v: int32x4_t, rows: u32) -> int32x4_t {
        // SAFETY: the caller has NEON; 4 lanes are readable.
        unsafe {
            let negative = vtstq_u32(vdupq_n_u32(rows), vld1q_u32([1, 2, 4, 8].as_ptr()));
            vbslq_s32(negative, vnegq_s32(v), v)
        }
    }

    #[inline(always)]
    unsafe fn low_twice(v: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_s16(vtrn1q_s16(vreinterpretq_s16_s32(v), vreinterpretq_s16_s32(v))) }
    }

    #[inline(always)]
    unsafe fn high_twice(v: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_s16(vtrn2q_s16(vreinterpretq_s16_s32(v), vreinterpretq_s16_s32(v))) }
    }

    #[inline(always)]
    unsafe fn join(low: int32x4_t, high: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_s32_s16(vtrn1q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high))) }
    }

    #[inline(always)]
    unsafe fn merge(low: int32x4_t, high: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vbslq_s32(vdupq_n_u32(0xFFFF), low, high) }
    }

    #[inline(always)]
    unsafe fn pairs(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe {
            let b = vget_low_s16(vreinterpretq_s16_s32(b));
            vmlal_lane_s16::<1>(vmlal_lane_s16::<0>(acc, vmovn_s32(a), b), vshrn_n_s32::<16>(a), b)
        }
    }

    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[int32x4_t; 8], from: usize, x: *const i8) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { M::dot::<P, N>(codes, from, x) }
    }

    #[inline(always)]
    unsafe fn panel<P: Codes, S: Scales, I: Input>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) -> bool {
        // SAFETY: the caller's promise.
        unsafe { M::panel::<P, S, I>(tile, tokens, out) }
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller's promise.
        unsafe { M::run(job) }
    }
}

/// Products of bytes as i16.
struct Widening;

impl Products for Widening {
    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[int32x4_t; 8], from: usize, x: *const i8) -> int32x4_t {
        // SAFETY: the caller has NEON; 4 · N bytes are readable at `x`.
        unsafe {
            // Rows 0 and 1, rows 2 and 3.
            let mut halves = [vdupq_n_s32(0); 2];
            let mut i = 0;
            while i < N {
                // A column has an i16 to itself here, so that twice as many steps fit as in pairs of columns.
                let stop = if i + 2 * P::STEPS_16 < N { i + 2 * P::STEPS_16 } else { N };
                let mut short = [vdupq_n_s16(0); 2];
                while i < stop {
                    let x = vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().add(i).read_unaligned()));
                    let code = vreinterpretq_s8_s32(codes[from + i]);
                    short[0] = vmlal_s8(short[0], vget_low_s8(code), vget_low_s8(x));
                    short[1] = vmlal_high_s8(short[1], code, x);
                    i += 1;
                }
                halves = [vpadalq_s16(halves[0], short[0]), vpadalq_s16(halves[1], short[1])];
            }
            vpaddq_s32(halves[0], halves[1])
        }
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller has NEON.
        unsafe { run(job) }
    }
}

/// # Safety
/// As for [`Job::run`].
#[target_feature(enable = "neon")]
unsafe fn run<J: Job>(job: J) {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Neon<Widening>>() }
}
