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

/// What a query has gathered about the positions that it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The largest l.
    pub largest: i32,
    /// tm, the largest tv.
    pub value_t: u8,
    /// The sum of p.
    pub total: u64,
}

impl Seen {
    /// Of no position.
    pub const NOTHING: Self = Self { largest: i32::MIN, value_t: 0, total: 0 };
}

/// Working memory, reused from call to call, and what one step of attention leaves for the next.
#[derive(Default)]
pub struct Scratch {
    /// Of each query: what l and tv are at most after `scores`, and the sum of p after `sums`.
    pub seen: Vec<Seen>,
    /// Sums of w · v after `sums`, query after query, in an order of the kernel set's own.
    pub sums: Vec<i64>,
    /// l, then w, per query and position that it sees.
    pub(crate) weights: Vec<i32>,
    /// Vectors of a kernel set's own.
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    pub(crate) lines: Vec<[i32; 16]>,
    /// Partial sums of a chunk: high and low halves of w, per column.
    partial: Vec<[i32; 2]>,
}

impl Scratch {
    /// Between `scores` and `sums`, where the positions lie in parts with a scratch each: gives every part the largest
    /// values of all.
    pub fn meet<'a>(parts: impl Iterator<Item = &'a mut Self>) {
        let mut parts: Vec<&mut Self> = parts.collect();
        let Some((first, others)) = parts.split_first_mut() else { return };
        for other in &*others {
            for (seen, other) in first.seen.iter_mut().zip(&other.seen) {
                seen.largest = seen.largest.max(other.largest);
                seen.value_t = seen.value_t.max(other.value_t);
            }
        }
        others.iter_mut().for_each(|other| other.seen.clone_from(&first.seen));
    }

    /// Between `sums` and `outputs`: adds those of another part of the positions.
    pub fn add(&mut self, other: &Self) {
        for (seen, other) in self.seen.iter_mut().zip(&other.seen) {
            seen.total += other.total;
        }
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            *sum += other;
        }
    }
}

/// Positions whose half-sums fit i32: 127 · 2048 · 8192 < 2^31.
const CHUNK: usize = 8192;

/// Calls `attend` for each query, with its number and the parts of `runs` that it sees.
#[inline(always)]
pub(crate) fn each_query<'a>(
    queries: &[Query<'_>], runs: &[Run<'a>], mut attend: impl FnMut(usize, &Query<'_>, &[Run<'a>]),
) {
    let mut visible = Vec::with_capacity(runs.len());
    for (i, query) in queries.iter().enumerate() {
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
        attend(i, query, &visible);
    }
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

/// l of each query with the positions of `runs` (in order) that it sees, and the largest of what it sees.
#[inline(always)]
pub fn scores(queries: &[Query<'_>], runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch) {
    scratch.weights.clear();
    scratch.seen.clear();
    each_query(queries, runs, |_, query, runs| {
        let start = scratch.weights.len();
        for run in runs {
            match run.keys {
                Keys::I8(keys) => logits(query, keys, run, scoring, fraction_bits, &mut scratch.weights),
                Keys::I16(keys) => logits(query, keys, run, scoring, fraction_bits, &mut scratch.weights),
            }
        }
        scratch.seen.push(seen(&scratch.weights[start..], runs));
    });
}

/// The largest of `l` and of the tv of `runs`.
#[inline(always)]
pub(crate) fn seen(l: &[i32], runs: &[Run<'_>]) -> Seen {
    let largest = l.iter().copied().fold(i32::MIN, i32::max);
    let value_t = runs.iter().flat_map(|run| run.value_t).copied().fold(0, u8::max);
    Seen { largest, value_t, total: 0 }
}

/// The sums of p and of w · v of the same queries and positions, after [`scores`].
#[inline(always)]
pub fn sums(queries: &[Query<'_>], runs: &[Run<'_>], scratch: &mut Scratch) {
    let Scratch { seen, sums, weights, partial, .. } = scratch;
    let width = queries.first().map_or(0, |query| query.codes.len());
    sums.clear();
    sums.resize(queries.len() * width, 0);
    let mut weights = weights.as_mut_slice();
    each_query(queries, runs, |i, _, runs| {
        let (seen, sums) = (&mut seen[i], &mut sums[i * width..][..width]);
        seen.total = 0;
        for run in runs {
            let (now, later) = core::mem::take(&mut weights).split_at_mut(run.key_d.len());
            for ((l, &d), &t) in now.iter_mut().zip(run.value_d).zip(run.value_t) {
                let p = exp2(sat(i64::from(*l) - i64::from(seen.largest)), 22);
                seen.total += u64::from(p);
                let shift = 8 + u32::from(seen.value_t - t);
                *l = if shift >= 31 { 0 } else { rshr(i64::from(p) * i64::from(d), shift) as i32 };
            }
            for (weights, values) in now.chunks(CHUNK).zip(run.values.chunks(CHUNK * width)) {
                mix(weights, values, partial, sums);
            }
            weights = later;
        }
    });
}

/// Outputs in QF, query after query, from the sums over all positions.
///
/// # Panics
/// When a query has seen no position.
#[inline(always)]
pub fn outputs(scoring: &Scoring, scratch: &Scratch, out: &mut [i32]) {
    let width = out.len() / scratch.seen.len();
    let sums = scratch.sums.chunks_exact(width);
    for ((seen, sums), out) in scratch.seen.iter().zip(sums).zip(out.chunks_exact_mut(width)) {
        let Division { r, b, shift } = Division::new(seen, scoring);
        for (out, &a) in out.iter_mut().zip(sums) {
            *out = requant(rshr(a, b) as i32, r, shift);
        }
    }
}

/// How sums of w · v become outputs: `requant(rshr(a, b), r, shift)`.
pub(crate) struct Division {
    pub(crate) r: i32,
    pub(crate) b: u32,
    pub(crate) shift: i32,
}

impl Division {
    #[inline(always)]
    pub(crate) fn new(seen: &Seen, scoring: &Scoring) -> Self {
        assert!(seen.total > 0, "attention without a visible position");
        // The largest p is 2^22, so e >= 23.
        let e = bit_length(seen.total) as i32;
        let r = (0x8000_0000u32 / (seen.total >> (e - 16)) as u32) as i32;
        let b = (e + bit_length(u64::from(scoring.value_max)) as i32 - 31).max(0);
        Self { r, b: b as u32, shift: e + 14 - i32::from(seen.value_t) - b }
    }
}

/// Appends l for every position of a run.
#[inline(always)]
fn logits<K: Copy + Into<i16>>(
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
