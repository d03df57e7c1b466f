//! The slots other than dot products and attention, for NEON. Each is the reference on four lanes.

use super::neon_math::{
    LANES, first, load, load_i16, load_wide, load_words, requant, requant_each, rshr, sat, sigmoid, store,
};
use crate::activations::{RUN, TokenCodesMut};
use crate::fixed::{self, amax, bit_length, dynquant_factor, dynscale, rsqrt};
use crate::formats::{GROUP, TILE};
use crate::kernels::{RowConstants, Sums};
use crate::matrix::Activation;
use crate::ops::gated::{GELU_CUBIC, GELU_LINEAR, Gate};
use crate::ops::rms_norm::RmsNorm;
use core::arch::aarch64::*;

/// The finish slot.
#[target_feature(enable = "neon")]
pub(super) fn finish(sums: &Sums, d: &[i32], t: &[i32], rows: RowConstants<'_>, out: &mut [[i32; TILE]]) {
    let a = u32::from(rows.preshift);
    for i in 0..TILE / LANES {
        let words = load_words(&rows.rows[4 * LANES * i..4 * LANES * (i + 1)]);
        let bias = rows.bias.and_then(|bias| bias.get(4 * LANES * i..)).unwrap_or_default();
        let bias = load_words(&bias[..bias.len().min(4 * LANES)]);
        let m = vandq_s32(words, vdupq_n_s32(0x7F_FFFF));
        let row_shift = vandq_s32(vshrq_n_s32::<23>(words), vdupq_n_s32(127));
        for (((out, sums), &d), &t) in out.iter_mut().zip(sums).zip(d).zip(t) {
            let sums = &sums.as_chunks().0[i];
            let shift = vaddq_s32(row_shift, vdupq_n_s32(7 - t - a as i32));
            let y = requant_each(sat(rshr(load_wide(sums), a)), vmulq_n_s32(m, d), shift);
            store(vqaddq_s32(y, bias), &mut out[LANES * i..LANES * (i + 1)]);
        }
    }
}

/// A run of codes.
type Codes = [int32x4_t; RUN / LANES];

/// The quantize slot.
#[target_feature(enable = "neon")]
pub(super) fn quantize(x: &[i32], activation: Activation, out: TokenCodesMut<'_>) {
    let (d, t) = dynscale(amax(x), activation.xmax());
    *out.d = d as i32;
    *out.t = t as i32;
    let padded = out.scales.len() * GROUP;
    assert!(x.len() <= padded && padded.is_multiple_of(2 * RUN));
    let dynquant = |start: usize| -> Codes {
        let x = first::<_, RUN>(x.get(start..).unwrap_or_default());
        scaled([load(&x), load(&x[4..]), load(&x[8..]), load(&x[12..])], dynquant_factor(d), 24 + t as i32)
    };
    match activation {
        Activation::A8 => {
            assert!(out.planes.len() == padded && out.sums.len() == padded / RUN);
            for (i, (codes, sum)) in out.planes.as_chunks_mut().0.iter_mut().zip(out.sums).enumerate() {
                *sum = narrow(dynquant(i * RUN), codes);
            }
        }
        Activation::A8b { .. } => {
            assert!(out.planes.len() == padded && out.sums.len() == padded / RUN);
            let (runs, sums) = (out.planes.as_chunks_mut().0, out.sums);
            for (i, scale) in out.scales.iter_mut().enumerate() {
                let (q0, q1) = (dynquant(i * GROUP), dynquant(i * GROUP + RUN));
                let largest = q0.into_iter().chain(q1).fold(vdupq_n_s32(0), |a, q| vmaxq_s32(a, vabsq_s32(q)));
                let s = (vmaxvq_s32(largest) as u32).div_ceil(127).max(1);
                let factor = ((1u32 << 30) / s) as i32;
                *scale = s as i32;
                sums[2 * i] = narrow(scaled(q0, factor, 30), &mut runs[2 * i]);
                sums[2 * i + 1] = narrow(scaled(q1, factor, 30), &mut runs[2 * i + 1]);
            }
        }
        Activation::A16 => {
            assert!(out.planes.len() == 2 * padded && out.sums.len() == 2 * padded / RUN && out.wide.len() == padded);
            let (high, low) = out.planes.split_at_mut(padded);
            let (high_sums, low_sums) = out.sums.split_at_mut(padded / RUN);
            let high = high.as_chunks_mut().0.iter_mut().zip(high_sums);
            let low = low.as_chunks_mut().0.iter_mut().zip(low_sums);
            let wide = out.wide.as_chunks_mut::<RUN>().0.iter_mut();
            for (i, (((high, high_sum), (low, low_sum)), wide)) in high.zip(low).zip(wide).enumerate() {
                let q = dynquant(i * RUN);
                // SAFETY: 16 codes are writable.
                unsafe {
                    vst1q_s16(wide.as_mut_ptr(), vmovn_high_s32(vmovn_s32(q[0]), q[1]));
                    vst1q_s16(wide.as_mut_ptr().add(8), vmovn_high_s32(vmovn_s32(q[2]), q[3]));
                }
                let h = q.map(|q| vrshrq_n_s32::<8>(q));
                *high_sum = narrow(h, high);
                *low_sum = narrow([0, 1, 2, 3].map(|i| vsubq_s32(q[i], vshlq_n_s32::<8>(h[i]))), low);
            }
        }
    }
}

/// P1 on a run.
#[inline]
#[target_feature(enable = "neon")]
fn scaled(run: Codes, m: i32, s: i32) -> Codes {
    run.map(|x| requant(x, vdupq_n_s32(m), s))
}

/// Writes a run as bytes; returns its sum.
#[inline]
#[target_feature(enable = "neon")]
fn narrow(run: Codes, codes: &mut [i8; RUN]) -> i16 {
    let low = vmovn_high_s32(vmovn_s32(run[0]), run[1]);
    let high = vmovn_high_s32(vmovn_s32(run[2]), run[3]);
    let bytes = vmovn_high_s16(vmovn_s16(low), high);
    // SAFETY: 16 bytes are writable.
    unsafe { vst1q_s8(codes.as_mut_ptr(), bytes) };
    vaddlvq_s8(bytes)
}

/// The rms_norm slot.
#[target_feature(enable = "neon")]
pub(super) fn rms_norm(x: &mut [i32], gain: &[i16], norm: &RmsNorm, fraction_bits: u32) {
    let t = bit_length(u64::from(amax(x))).saturating_sub(15);
    let right = vdupq_n_s32(-(t as i32));
    let mut squares = vdupq_n_s64(0);
    for x in x.chunks(LANES) {
        let v = vrshlq_s32(load(x), right);
        squares = vmlal_s32(squares, vget_low_s32(v), vget_low_s32(v));
        squares = vmlal_high_s32(squares, v, v);
    }
    let (r, u) = rsqrt((vaddvq_s64(squares) as u64 + (norm.epsilon >> (2 * t))).max(1));
    let factor = vdupq_n_s32(r as i32 * norm.root);
    let shift = 31 + u + t as i32 + norm.root_shift - fraction_bits as i32;
    for (x, gain) in x.chunks_mut(LANES).zip(gain.chunks(LANES)) {
        let x = &mut x[..gain.len()];
        store(requant(requant(load(x), factor, shift), load_i16(gain), norm.gain_shift), x);
    }
}

/// The gated_activation slot.
#[target_feature(enable = "neon")]
pub(super) fn gated_activation(kind: Gate, gate: &mut [i32], up: &[i32], fraction_bits: u32) {
    let f = fraction_bits as i32;
    for (gate, up) in gate.chunks_mut(LANES).zip(up.chunks(LANES)) {
        let gate = &mut gate[..up.len()];
        let g = load(gate);
        let activated = match kind {
            Gate::Swiglu => requant(g, sigmoid(g, fraction_bits), 15),
            Gate::Geglu => gelu(g, fraction_bits),
            Gate::Relu2 => {
                let r = vmaxq_s32(g, vdupq_n_s32(0));
                requant(r, r, f)
            }
        };
        store(requant(activated, load(up), f), gate);
    }
}

/// GELU in its tanh form.
#[inline]
#[target_feature(enable = "neon")]
fn gelu(x: int32x4_t, fraction_bits: u32) -> int32x4_t {
    let f = fraction_bits as i32;
    let limit = 16 << f;
    let y = vmaxq_s32(vminq_s32(x, vdupq_n_s32(limit)), vdupq_n_s32(-limit));
    let cubic = requant(requant(y, y, f), vdupq_n_s32(GELU_CUBIC), 30);
    let p = vaddq_s32(cubic, vdupq_n_s32(fixed::requant(GELU_LINEAR, 1, 30 - f)));
    requant(x, sigmoid(requant(y, p, f), fraction_bits), 15)
}
