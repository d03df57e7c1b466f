//! 3.3, attention: query heads over the cached keys and values that they see.

use crate::fixed::{LOG2_E_Q30, bit_length, exp2, requant, rshr, sat};
use crate::ops::softcap::{Softcap, softcap};
use alloc::vec::Vec;
use core::ops::Range;

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
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// Codes.
    pub codes: &'a [i16],
    /// dq.
    pub d: i32,
    /// tq.
    pub t: i32,
    /// The positions that it sees, counted from the first of the runs; at least one.
    pub visible: Range<usize>,
}

/// Working memory, reused from call to call.
#[derive(Default)]
pub struct Scratch {
    /// l, then w, per position.
    pub weights: Vec<i32>,
    /// Vectors of a kernel set's own.
    pub lines: Vec<[i32; 16]>,
    /// Partial sums of a chunk: high and low halves of w, per column.
    partial: Vec<[i32; 2]>,
    /// a, per column.
    sums: Vec<i64>,
}

/// Positions whose half-sums fit i32: 127 · 2048 · 8192 < 2^31.
const CHUNK: usize = 8192;

/// Calls `attend` for each query with the parts of `runs` that it sees and its `codes.len()` values of `out`.
///
/// # Panics
/// When the queries differ in width, or `out` does not hold all their values.
#[inline(always)]
pub(crate) fn each_query<'a>(
    queries: &[Query<'_>], runs: &[Run<'a>], out: &mut [i32],
    mut attend: impl FnMut(&Query<'_>, &[Run<'a>], &mut [i32]),
) {
    let mut visible = Vec::with_capacity(runs.len());
    let mut rest = out;
    for query in queries {
        let (now, later) = rest.split_at_mut(query.codes.len());
        visible.clear();
        let mut start = 0;
        for run in runs {
            let end = start + run.key_d.len();
            let (from, to) = (query.visible.start.max(start), query.visible.end.min(end));
            if from < to {
                visible.push(run.part(from - start..to - start, query.codes.len()));
            }
            start = end;
        }
        attend(query, &visible, now);
        rest = later;
    }
    assert!(rest.is_empty(), "outputs of more queries than there are");
}

impl<'a> Run<'a> {
    /// Entries `entries`, of `width` codes each.
    fn part(&self, entries: Range<usize>, width: usize) -> Self {
        let codes = entries.start * width..entries.end * width;
        Self {
            keys: match self.keys {
                Keys::I8(keys) => Keys::I8(&keys[codes.clone()]),
                Keys::I16(keys) => Keys::I16(&keys[codes.clone()]),
            },
            key_d: &self.key_d[entries.clone()],
            key_t: &self.key_t[entries.clone()],
            values: &self.values[codes],
            value_d: &self.value_d[entries.clone()],
            value_t: &self.value_t[entries],
        }
    }
}

/// Attends with each query over the positions of `runs` (in order) that it sees and writes `out` in QF, query after
/// query.
#[inline(always)]
pub fn attention(
    queries: &[Query<'_>], runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch,
    out: &mut [i32],
) {
    each_query(queries, runs, out, |query, runs, out| attend(query, runs, scoring, fraction_bits, scratch, out));
}

/// The same for one query that sees all of `runs`.
#[inline(always)]
fn attend(
    query: &Query<'_>, runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch, out: &mut [i32],
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
    query: &Query<'_>, keys: &[K], run: &Run<'_>, scoring: &Scoring, fraction_bits: u32, out: &mut Vec<i32>,
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
