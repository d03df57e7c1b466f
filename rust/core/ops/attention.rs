//! 3.3, attention: one query head over the cached keys and values that it sees.

use crate::fixed::{LOG2_E_Q30, bit_length, exp2, requant, rshr, sat};
use crate::ops::softcap::{Softcap, softcap};
use alloc::vec::Vec;

/// Constants of an attention op that every head shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// ca with ca · 2^-cash = log2(e) · score_scale (without log2(e) under a softcap).
    pub scale: i32,
    /// cash.
    pub scale_shift: i32,
    /// xv, the code range of values.
    pub value_max: u32,
    /// The softcap on scores, where the model has one.
    pub softcap: Option<Softcap>,
}

/// Keys of consecutive positions, `head_width` codes each.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// Codes within ±127.
    I8(&'a [i8]),
    /// Wider codes.
    I16(&'a [i16]),
}

/// Cached keys and values of one KV head at consecutive positions.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Key codes.
    pub keys: Keys<'a>,
    /// dk per position.
    pub key_d: &'a [u8],
    /// tk per position.
    pub key_t: &'a [u8],
    /// Value codes.
    pub values: &'a [i8],
    /// dv per position.
    pub value_d: &'a [u8],
    /// tv per position.
    pub value_t: &'a [u8],
}

/// A quantized query head.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Codes.
    pub codes: &'a [i16],
    /// dq.
    pub d: i32,
    /// tq.
    pub t: i32,
}

/// Working memory of one head, reused from call to call.
#[derive(Default)]
pub struct Scratch {
    /// l, then w, per position.
    pub weights: Vec<i32>,
    /// Partial sums of a chunk: high and low halves of w, per column.
    partial: Vec<[i32; 2]>,
    /// a, per column.
    sums: Vec<i64>,
}

/// Positions whose half-sums fit i32: 127 · 2048 · 8192 < 2^31.
const CHUNK: usize = 8192;

/// Attends with one query over `runs` (all the positions it sees, in order) and writes `out` in QF.
#[inline(always)]
pub fn attention(
    query: Query<'_>, runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch, out: &mut [i32],
) {
    let width = out.len();
    scratch.weights.clear();
    for run in runs {
        match run.keys {
            Keys::I8(keys) => scores(query, keys, run, scoring, fraction_bits, &mut scratch.weights),
            Keys::I16(keys) => scores(query, keys, run, scoring, fraction_bits, &mut scratch.weights),
        }
    }
    let largest = scratch.weights.iter().copied().max().unwrap_or(0);
    let tm = runs.iter().flat_map(|run| run.value_t).copied().max().unwrap_or(0);
    let mut total = 0u64;
    let scales = runs.iter().flat_map(|run| run.value_d.iter().zip(run.value_t));
    for (l, (&d, &t)) in scratch.weights.iter_mut().zip(scales) {
        let p = exp2(sat(i64::from(*l) - i64::from(largest)), 22);
        total += u64::from(p);
        let shift = 8 + u32::from(tm - t);
        *l = if shift >= 31 { 0 } else { rshr(i64::from(p) * i64::from(d), shift) as i32 };
    }
    scratch.sums.clear();
    scratch.sums.resize(width, 0);
    let mut weights = scratch.weights.as_slice();
    for run in runs {
        let (now, later) = weights.split_at(run.value_d.len());
        for (weights, values) in now.chunks(CHUNK).zip(run.values.chunks(CHUNK * width)) {
            mix(weights, values, &mut scratch.partial, &mut scratch.sums);
        }
        weights = later;
    }
    let e = bit_length(total) as i32;
    // The largest p is 2^22, so e >= 23 whenever a position is visible.
    let r = (0x8000_0000u32 / (total >> (e - 16)) as u32) as i32;
    let b = (e + bit_length(u64::from(scoring.value_max)) as i32 - 31).max(0);
    for (out, &a) in out.iter_mut().zip(&scratch.sums) {
        *out = requant(rshr(a, b as u32) as i32, r, e + 14 - i32::from(tm) - b);
    }
}

/// Appends l for every position of a run.
#[inline(always)]
fn scores<K: Copy + Into<i16>>(
    query: Query<'_>, keys: &[K], run: &Run<'_>, scoring: &Scoring, fraction_bits: u32, out: &mut Vec<i32>,
) {
    let base = scoring.scale_shift + 2 * fraction_bits as i32 - 2 - query.t;
    let positions = run.key_d.iter().zip(run.key_t);
    for (key, (&d, &t)) in keys.chunks_exact(query.codes.len()).zip(positions) {
        // |sum| <= head_width · xq · xk < 2^31 by the loader's check.
        let s: i32 = query.codes.iter().zip(key).map(|(&q, &k)| i32::from(q) * i32::from(k.into())).sum();
        let l = requant(s, query.d * i32::from(d) * scoring.scale, base - i32::from(t));
        out.push(match &scoring.softcap {
            None => l,
            Some(cap) => requant(softcap(l, cap, 16), LOG2_E_Q30, 30),
        });
    }
}

/// Adds `sum of w · v` over the positions of one chunk to `sums`.
#[inline(always)]
fn mix(weights: &[i32], values: &[i8], partial: &mut Vec<[i32; 2]>, sums: &mut [i64]) {
    partial.clear();
    partial.resize(sums.len(), [0; 2]);
    for (&w, values) in weights.iter().zip(values.chunks_exact(sums.len())) {
        let (high, low) = (w >> 11, w & 2047);
        for (partial, &v) in partial.iter_mut().zip(values) {
            partial[0] += high * i32::from(v);
            partial[1] += low * i32::from(v);
        }
    }
    for (sum, partial) in sums.iter_mut().zip(partial.iter()) {
        *sum += (i64::from(partial[0]) << 11) + i64::from(partial[1]);
    }
}
