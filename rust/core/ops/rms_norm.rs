//! P4, rms_norm: `y_i = g_i · x_i / sqrt(mean(x²) + eps)`.

use crate::fixed::{amax, bit_length, requant, rshr, rsqrt};

/// Constants of one norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmsNorm {
    /// gs: a gain g stands for g · 2^-gs.
    pub gain_shift: i32,
    /// E = round(n · eps · 2^2F), below 2^44.
    pub epsilon: u64,
    /// rn with rn · 2^-rk = sqrt(n), 2^14 ≤ rn < 2^15.
    pub root: i32,
    /// rk.
    pub root_shift: i32,
}

/// The multiplier and shift that bring every element of `x` to unit scale.
#[inline(always)]
fn unit_scale(x: &[i32], norm: &RmsNorm, fraction_bits: u32) -> (i32, i32) {
    let t = bit_length(u64::from(amax(x))).saturating_sub(15);
    let mut squares = 0u64;
    for &x in x {
        // |v| <= 2^15, so v² fits u32, and the sum of n <= 16384 of them 2^44.
        let v = rshr(i64::from(x), t) as i32;
        squares += u64::from((v * v) as u32);
    }
    let (r, u) = rsqrt((squares + (norm.epsilon >> (2 * t))).max(1));
    (r as i32 * norm.root, 31 + u + t as i32 + norm.root_shift - fraction_bits as i32)
}

/// Normalises `x` in place: n = `gain.len()` elements in QF, n ≤ 16384.
#[inline(always)]
pub fn rms_norm(x: &mut [i32], gain: &[i16], norm: &RmsNorm, fraction_bits: u32) {
    let (c, shift) = unit_scale(x, norm, fraction_bits);
    for (x, &g) in x.iter_mut().zip(gain) {
        *x = requant(requant(*x, c, shift), i32::from(g), norm.gain_shift);
    }
}
