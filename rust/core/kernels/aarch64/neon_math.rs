//! Primitives of the contract on four lanes, for NEON.

use crate::fixed::LOG2_E_Q30;
use core::arch::aarch64::*;

/// Lanes of a vector of i32.
pub(super) const LANES: usize = 4;

/// The first elements, zeros where there are fewer.
#[inline(always)]
pub(super) fn first<T: Copy + Default, const N: usize>(x: &[T]) -> [T; N] {
    match x.first_chunk() {
        Some(elements) => *elements,
        None => {
            let mut elements = [T::default(); N];
            elements[..x.len()].copy_from_slice(x);
            elements
        }
    }
}

/// The first 4 elements, zeros where there are fewer.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(x: &[i32]) -> int32x4_t {
    // SAFETY: 4 elements are readable.
    unsafe { vld1q_s32(first::<_, LANES>(x).as_ptr()) }
}

/// The first 4 elements as i32, zeros where there are fewer.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_i16(x: &[i16]) -> int32x4_t {
    // SAFETY: 4 elements are readable.
    unsafe { vmovl_s16(vld1_s16(first::<_, LANES>(x).as_ptr())) }
}

/// The first 4 elements as i32, zeros where there are fewer.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_u8(x: &[u8]) -> int32x4_t {
    let bytes = vcreate_u8(u64::from(u32::from_le_bytes(first(x))));
    vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
}

/// The first 4 dwords of some bytes, zeros where there are fewer.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_words(x: &[u8]) -> int32x4_t {
    // SAFETY: 16 bytes are readable.
    unsafe { vreinterpretq_s32_u8(vld1q_u8(first::<_, { 4 * LANES }>(x).as_ptr())) }
}

/// Writes the first lanes, as many as there are elements.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store(v: int32x4_t, out: &mut [i32]) {
    match out.first_chunk_mut::<LANES>() {
        // SAFETY: 4 elements are writable.
        Some(out) => unsafe { vst1q_s32(out.as_mut_ptr(), v) },
        None => {
            let mut lanes = [0; LANES];
            // SAFETY: 4 elements are writable.
            unsafe { vst1q_s32(lanes.as_mut_ptr(), v) };
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}

/// `rshr` on the i64 lanes of `low` and `high`, for `s <= 62`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn rshr((low, high): (int64x2_t, int64x2_t), s: u32) -> (int64x2_t, int64x2_t) {
    let right = vdupq_n_s64(-i64::from(s));
    (vrshlq_s64(low, right), vrshlq_s64(high, right))
}

/// `sat` on the i64 lanes of `low` and `high`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sat((low, high): (int64x2_t, int64x2_t)) -> int32x4_t {
    vqmovn_high_s64(vqmovn_s64(low), high)
}

/// The first and the last two of four i64.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_wide(x: &[i64; LANES]) -> (int64x2_t, int64x2_t) {
    // SAFETY: 4 elements are readable.
    unsafe { (vld1q_s64(x.as_ptr()), vld1q_s64(x.as_ptr().add(2))) }
}

/// P1 on i32 lanes, with one shift for all.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn requant(x: int32x4_t, m: int32x4_t, s: i32) -> int32x4_t {
    // A rounding shift by 64 makes 0 of every product, one by 63 does not.
    let s = if s >= 63 { 64 } else { s.max(-31) };
    let products = (vmull_s32(vget_low_s32(x), vget_low_s32(m)), vmull_high_s32(x, m));
    vqshlq_s32(sat(rshr(products, s.max(0) as u32)), vdupq_n_s32(-s.min(0)))
}

/// P1 on i32 lanes, with a shift each.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn requant_each(x: int32x4_t, m: int32x4_t, s: int32x4_t) -> int32x4_t {
    let (zero, most) = (vdupq_n_s32(0), vdupq_n_s32(63));
    let s = vmaxq_s32(vminq_s32(s, most), vdupq_n_s32(-31));
    // A rounding shift by 64 makes 0 of every product, one by 63 does not.
    let s = vsubq_s32(s, vreinterpretq_s32_u32(vceqq_s32(s, most)));
    let (right, left) = (vminq_s32(vnegq_s32(s), zero), vmaxq_s32(vnegq_s32(s), zero));
    let low = vrshlq_s64(vmull_s32(vget_low_s32(x), vget_low_s32(m)), vmovl_s32(vget_low_s32(right)));
    let high = vrshlq_s64(vmull_high_s32(x, m), vmovl_high_s32(right));
    vqshlq_s32(sat((low, high)), left)
}

/// P5 on i32 lanes, none of them above 0.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn exp2(x: int32x4_t, b: u32) -> int32x4_t {
    let f = vandq_u32(vreinterpretq_u32_s32(x), vdupq_n_u32(0xFFFF));
    let step = |t: uint32x4_t, c: u32| vsraq_n_u32::<16>(vdupq_n_u32(c), vmulq_u32(t, f));
    let t = step(step(step(vdupq_n_u32(882), 3420), 15815), 45420);
    let m = vrsraq_n_u32::<16>(vdupq_n_u32(65536), vmulq_u32(t, f));
    let h = vsubq_s32(vdupq_n_s32(16 - b as i32), vshrq_n_s32::<16>(x));
    // For h >= 18 this is 0 by itself, since m < 2^17; a shift counts as i8.
    vreinterpretq_s32_u32(vrshlq_u32(m, vnegq_s32(vminq_s32(h, vdupq_n_s32(31)))))
}

/// `2^31 div d` and the remainder on u32 lanes, for 2^16 <= d <= 2^17.
#[inline]
#[target_feature(enable = "neon")]
fn reciprocal(d: int32x4_t) -> (int32x4_t, int32x4_t) {
    // 48/17 - 32/17 · d/2^17 is within 1/17 of 2^17/d, and each step of Newton's method squares that. Two leave q at the
    // quotient or one below, for each of the divisors.
    let product = vreinterpretq_u32_s32(vmulq_s32(d, vdupq_n_s32(15420)));
    let mut q = vsubq_s32(vdupq_n_s32(46261), vreinterpretq_s32_u32(vshrq_n_u32::<16>(product)));
    let numerator = vdupq_n_s32(i32::MIN);
    for _ in 0..2 {
        let error = vmlsq_s32(numerator, q, d);
        q = vsraq_n_s32::<16>(q, vmulq_s32(q, vshrq_n_s32::<15>(error)));
    }
    let rest = vmlsq_s32(numerator, q, d);
    let below = vreinterpretq_s32_u32(vcgeq_s32(rest, d));
    (vsubq_s32(q, below), vsubq_s32(rest, vandq_s32(d, below)))
}

/// P6 on i32 lanes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sigmoid(x: int32x4_t, fraction_bits: u32) -> int32x4_t {
    let z = requant(vqabsq_s32(x), vdupq_n_s32(LOG2_E_Q30), fraction_bits as i32 + 14);
    let e = exp2(vnegq_s32(z), 16);
    let (q, rest) = reciprocal(vaddq_s32(e, vdupq_n_s32(65536)));
    // For x < 0: (e · 2^15) div (2^16 + e) = 2^15 - ceil(2^31 / (2^16 + e)).
    let ceil = vsubq_s32(q, vreinterpretq_s32_u32(vtstq_s32(rest, rest)));
    vbslq_s32(vcltzq_s32(x), vsubq_s32(vdupq_n_s32(32768), ceil), q)
}
