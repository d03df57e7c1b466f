//! The slots other than dot products, for AVX-512. Each is the reference on sixteen lanes.

use super::avx512_math::{
    LANES, add_sat, join, load, load_i16, load_words, requant, requant_wide, rshr, sat, sigmoid, store, widen,
};
use crate::activations::{RUN, TokenCodesMut};
use crate::fixed::{self, amax, bit_length, dynquant_factor, dynscale, rsqrt};
use crate::formats::{GROUP, TILE};
use crate::kernels::{RowConstants, Sums};
use crate::matrix::Activation;
use crate::ops::gated::{GELU_CUBIC, GELU_LINEAR, Gate};
use crate::ops::rms_norm::RmsNorm;
use core::arch::x86_64::*;

/// The finish slot.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn finish(sums: &Sums, d: &[i32], t: &[i32], rows: RowConstants<'_>, out: &mut [[i32; TILE]]) {
    let bias = rows.bias.map_or(_mm512_setzero_si512(), |bias| load_words(bias));
    let words = load_words(&rows.rows[..4 * TILE]);
    let a = u32::from(rows.preshift);
    let m = _mm512_and_si512(words, _mm512_set1_epi32(0x7F_FFFF));
    let shift = _mm512_and_si512(_mm512_srli_epi32::<23>(words), _mm512_set1_epi32(127));
    let ((m_low, m_high), (shift_low, shift_high)) = (widen(m), widen(shift));
    for (((out, sums), &d), &t) in out.iter_mut().zip(sums).zip(d).zip(t) {
        // SAFETY: `sums` holds two vectors of i64.
        let (low, high) =
            unsafe { (_mm512_loadu_si512(sums.as_ptr().cast()), _mm512_loadu_si512(sums.as_ptr().add(8).cast())) };
        let (d, t) = (_mm512_set1_epi64(d.into()), _mm512_set1_epi64((7 - t - a as i32).into()));
        let one = |sums, m, shift| requant_wide(sat(rshr(sums, a)), _mm512_mul_epi32(m, d), _mm512_add_epi64(shift, t));
        store(add_sat(join(one(low, m_low, shift_low), one(high, m_high, shift_high)), bias), out);
    }
}

/// The quantize slot.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn quantize(x: &[i32], activation: Activation, out: TokenCodesMut<'_>) {
    let (d, t) = dynscale(amax(x), activation.xmax());
    let (factor, shift) = (_mm512_set1_epi32(dynquant_factor(d)), 24 + t as i32);
    *out.d = d as i32;
    *out.t = t as i32;
    let padded = out.scales.len() * GROUP;
    assert!(x.len() <= padded && padded.is_multiple_of(2 * RUN));
    let tail = |start: usize| x.get(start..).unwrap_or_default();
    match activation {
        Activation::A8 => {
            assert!(out.planes.len() == padded && out.sums.len() == padded / RUN);
            for (i, (codes, sum)) in out.planes.chunks_exact_mut(RUN).zip(out.sums).enumerate() {
                *sum = narrow(requant(load(tail(i * RUN)), factor, shift), codes);
            }
        }
        Activation::A8b { .. } => {
            assert!(out.planes.len() == padded && out.sums.len() == padded / RUN);
            let groups = out.planes.chunks_exact_mut(GROUP).zip(out.sums.chunks_exact_mut(2)).zip(out.scales);
            for (i, ((codes, sums), scale)) in groups.enumerate() {
                let (codes_0, codes_1) = codes.split_at_mut(RUN);
                let q0 = requant(load(tail(i * GROUP)), factor, shift);
                let q1 = requant(load(tail(i * GROUP + RUN)), factor, shift);
                let largest = _mm512_max_epi32(_mm512_abs_epi32(q0), _mm512_abs_epi32(q1));
                let s = (_mm512_reduce_max_epi32(largest) as u32).div_ceil(127).max(1);
                let factor = _mm512_set1_epi32(((1u32 << 30) / s) as i32);
                *scale = s as i32;
                sums[0] = narrow(requant(q0, factor, 30), codes_0);
                sums[1] = narrow(requant(q1, factor, 30), codes_1);
            }
        }
        Activation::A16 => {
            assert!(out.planes.len() == 2 * padded && out.sums.len() == 2 * padded / RUN && out.wide.len() == padded);
            let (high, low) = out.planes.split_at_mut(padded);
            let (high_sums, low_sums) = out.sums.split_at_mut(padded / RUN);
            let high = high.chunks_exact_mut(RUN).zip(high_sums);
            let low = low.chunks_exact_mut(RUN).zip(low_sums);
            let wide = out.wide.as_chunks_mut::<RUN>().0.iter_mut();
            for (i, (((high, high_sum), (low, low_sum)), wide)) in high.zip(low).zip(wide).enumerate() {
                let q = requant(load(tail(i * RUN)), factor, shift);
                // SAFETY: 16 codes are writable.
                unsafe { _mm256_storeu_si256(wide.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(q)) };
                let h = _mm512_srai_epi32::<8>(_mm512_add_epi32(q, _mm512_set1_epi32(128)));
                *high_sum = narrow(h, high);
                *low_sum = narrow(_mm512_sub_epi32(q, _mm512_slli_epi32::<8>(h)), low);
            }
        }
    }
}

/// Writes 16 lanes as bytes; returns their sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn narrow(v: __m512i, codes: &mut [i8]) -> i16 {
    let codes = &mut codes[..LANES];
    // SAFETY: 16 bytes are writable.
    unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)) };
    _mm512_reduce_add_epi32(v) as i16
}

/// The rms_norm slot.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn rms_norm(x: &mut [i32], gain: &[i16], norm: &RmsNorm, fraction_bits: u32) {
    let t = bit_length(u64::from(amax(x))).saturating_sub(15);
    let mut squares = _mm512_setzero_si512();
    for x in x.chunks(LANES) {
        let (low, high) = widen(load(x));
        let (low, high) = (rshr(low, t), rshr(high, t));
        squares = _mm512_add_epi64(squares, _mm512_add_epi64(_mm512_mul_epi32(low, low), _mm512_mul_epi32(high, high)));
    }
    let squares = _mm512_reduce_add_epi64(squares) as u64;
    let (r, u) = rsqrt((squares + (norm.epsilon >> (2 * t))).max(1));
    let factor = _mm512_set1_epi32(r as i32 * norm.root);
    let shift = 31 + u + t as i32 + norm.root_shift - fraction_bits as i32;
    for (x, gain) in x.chunks_mut(LANES).zip(gain.chunks(LANES)) {
        let x = &mut x[..gain.len()];
        store(requant(requant(load(x), factor, shift), load_i16(gain), norm.gain_shift), x);
    }
}

/// The gated_activation slot.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gated_activation(kind: Gate, gate: &mut [i32], up: &[i32], fraction_bits: u32) {
    let f = fraction_bits as i32;
    for (gate, up) in gate.chunks_mut(LANES).zip(up.chunks(LANES)) {
        let gate = &mut gate[..up.len()];
        let g = load(gate);
        let activated = match kind {
            Gate::Swiglu => requant(g, sigmoid(g, fraction_bits), 15),
            Gate::Geglu => gelu(g, fraction_bits),
            Gate::Relu2 => {
                let r = _mm512_max_epi32(g, _mm512_setzero_si512());
                requant(r, r, f)
            }
        };
        store(requant(activated, load(up), f), gate);
    }
}

/// GELU in its tanh form.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gelu(x: __m512i, fraction_bits: u32) -> __m512i {
    let f = fraction_bits as i32;
    let limit = 16 << f;
    let y = _mm512_max_epi32(_mm512_min_epi32(x, _mm512_set1_epi32(limit)), _mm512_set1_epi32(-limit));
    let cubic = requant(requant(y, y, f), _mm512_set1_epi32(GELU_CUBIC), 30);
    let p = _mm512_add_epi32(cubic, _mm512_set1_epi32(fixed::requant(GELU_LINEAR, 1, 30 - f)));
    requant(x, sigmoid(requant(y, p, f), fraction_bits), 15)
}
