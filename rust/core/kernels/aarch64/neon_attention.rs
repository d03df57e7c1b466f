//! The attention slot, for NEON.

use super::neon_math::{LANES, exp2, first, load, load_u8, load_wide, requant, requant_each, rshr, store};
use crate::fixed::{self, LOG2_E_Q30};
use crate::ops::attention::{Division, Keys, Query, Run, Scoring, Scratch, each_query, seen};
use crate::ops::softcap::softcap;
use core::arch::aarch64::*;

/// Columns of values that one pass over the positions covers.
const COLUMNS: usize = 32;
/// Positions whose half-sums fit i32: 127 · 2048 · 8192 < 2^31.
const CHUNK: usize = 8192;
/// Codes to a step of [`products`].
const STEP: usize = 8;

/// [`crate::ops::attention::scores`].
///
/// # Panics
/// When a run has fewer keys than positions.
#[target_feature(enable = "neon")]
pub(super) fn scores(
    queries: &[Query<'_>], runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch,
) {
    let weights = &mut scratch.weights;
    weights.clear();
    scratch.seen.clear();
    each_query(queries, runs, |_, query, runs| {
        let start = weights.len();
        for run in runs {
            let first = weights.len();
            weights.resize(first + run.key_d.len(), 0);
            products(query.codes, run.keys, &mut weights[first..]);
            logits(query, run, scoring, fraction_bits, &mut weights[first..]);
        }
        scratch.seen.push(seen(&weights[start..], runs));
    });
}

/// [`crate::ops::attention::sums`].
#[target_feature(enable = "neon")]
pub(super) fn sums(queries: &[Query<'_>], runs: &[Run<'_>], scratch: &mut Scratch) {
    let Scratch { seen, sums, weights, .. } = scratch;
    let width = queries.first().map_or(0, |query| query.codes.len());
    let padded = width.next_multiple_of(COLUMNS);
    sums.clear();
    sums.resize(queries.len() * padded, 0);
    let mut start = 0;
    each_query(queries, runs, |i, _, runs| {
        let (seen, first) = (&mut seen[i], start);
        seen.total = 0;
        for run in runs {
            let weights = &mut weights[start..][..run.key_d.len()];
            seen.total += exponentials(run, seen.largest, seen.value_t, weights);
            start += weights.len();
        }
        for (j, sums) in sums[i * padded..][..padded].as_chunks_mut().0.iter_mut().enumerate() {
            let mut start = first;
            for run in runs {
                let weights = &weights[start..][..run.key_d.len()];
                for (weights, values) in weights.chunks(CHUNK).zip(run.values.chunks(CHUNK * width)) {
                    mix(weights, values, width, j * COLUMNS, sums);
                }
                start += weights.len();
            }
        }
    });
}

/// [`crate::ops::attention::outputs`].
///
/// # Panics
/// When a query has seen no position.
#[target_feature(enable = "neon")]
pub(super) fn outputs(scoring: &Scoring, scratch: &Scratch, out: &mut [i32]) {
    let width = out.len() / scratch.seen.len();
    let sums = scratch.sums.chunks_exact(width.next_multiple_of(COLUMNS));
    for ((seen, sums), out) in scratch.seen.iter().zip(sums).zip(out.chunks_exact_mut(width)) {
        let Division { r, b, shift } = Division::new(seen, scoring);
        for (out, sums) in out.chunks_mut(LANES).zip(sums.as_chunks().0) {
            let (low, high) = rshr(load_wide(sums), b);
            let a = vmovn_high_s64(vmovn_s64(low), high);
            store(requant(a, vdupq_n_s32(r), shift), out);
        }
    }
}

/// S of every position: the product of the query with its key.
#[inline]
#[target_feature(enable = "neon")]
fn products(query: &[i16], keys: Keys<'_>, out: &mut [i32]) {
    let width = query.len();
    for (position, out) in out.iter_mut().enumerate() {
        let mut sum = [vdupq_n_s32(0); 2];
        match keys {
            Keys::I8(keys) => {
                let key = &keys[position * width..][..width];
                for (query, key) in query.chunks(STEP).zip(key.chunks(STEP)) {
                    // SAFETY: 8 elements are readable.
                    let key = unsafe { vmovl_s8(vld1_s8(first::<_, STEP>(key).as_ptr())) };
                    sum = multiply(sum, query, key);
                }
            }
            Keys::I16(keys) => {
                let key = &keys[position * width..][..width];
                for (query, key) in query.chunks(STEP).zip(key.chunks(STEP)) {
                    // SAFETY: 8 elements are readable.
                    let key = unsafe { vld1q_s16(first::<_, STEP>(key).as_ptr()) };
                    sum = multiply(sum, query, key);
                }
            }
        }
        *out = vaddvq_s32(vaddq_s32(sum[0], sum[1]));
    }
}

/// `sum` plus the products of up to 8 codes.
#[inline]
#[target_feature(enable = "neon")]
fn multiply(sum: [int32x4_t; 2], query: &[i16], key: int16x8_t) -> [int32x4_t; 2] {
    // SAFETY: 8 elements are readable.
    let query = unsafe { vld1q_s16(first::<_, STEP>(query).as_ptr()) };
    [vmlal_s16(sum[0], vget_low_s16(query), vget_low_s16(key)), vmlal_high_s16(sum[1], query, key)]
}

/// Makes l of S, for the positions of a run.
#[inline]
#[target_feature(enable = "neon")]
fn logits(query: &Query<'_>, run: &Run<'_>, scoring: &Scoring, fraction_bits: u32, l: &mut [i32]) {
    let factor = query.d * scoring.scale;
    let shift = vdupq_n_s32(scoring.scale_shift + 2 * fraction_bits as i32 - 2 - query.t);
    for ((l, d), t) in l.chunks_mut(LANES).zip(run.key_d.chunks(LANES)).zip(run.key_t.chunks(LANES)) {
        let m = vmulq_n_s32(load_u8(d), factor);
        store(requant_each(load(l), m, vsubq_s32(shift, load_u8(t))), l);
        if let Some(cap) = &scoring.softcap {
            for l in l {
                *l = fixed::requant(softcap(*l, cap, 16), LOG2_E_Q30, 30);
            }
        }
    }
}

/// Makes w of l, for the positions of a run; returns the sum of p.
#[inline]
#[target_feature(enable = "neon")]
fn exponentials(run: &Run<'_>, largest: i32, tm: u8, l: &mut [i32]) -> u64 {
    let mut total = vdupq_n_s64(0);
    for ((l, d), t) in l.chunks_mut(LANES).zip(run.value_d.chunks(LANES)).zip(run.value_t.chunks(LANES)) {
        let p = exp2(vqsubq_s32(load(l), vdupq_n_s32(largest)), 22);
        // SAFETY: 4 elements are readable.
        let visible = unsafe { vcltq_u32(vld1q_u32([0, 1, 2, 3].as_ptr()), vdupq_n_u32(l.len() as u32)) };
        total = vpadalq_s32(total, vandq_s32(p, vreinterpretq_s32_u32(visible)));
        // p · d < 2^30, so a rounding shift by 31 or more gives 0; a shift counts as i8.
        let shift = vsubq_s32(vdupq_n_s32(8 + i32::from(tm)), load_u8(t));
        let right = vnegq_s32(vminq_s32(shift, vdupq_n_s32(31)));
        store(vrshlq_s32(vmulq_s32(p, load_u8(d)), right), l);
    }
    vaddvq_s64(total) as u64
}

/// Adds `sum of w · v` over positions, at most [`CHUNK`], to `sums`, for the columns from `first_column` on.
///
/// The weights, at most 2^22, are cut into halves of 11 bits, so that products of i16 do.
#[inline]
#[target_feature(enable = "neon")]
fn mix(weights: &[i32], values: &[i8], width: usize, first_column: usize, sums: &mut [i64; COLUMNS]) {
    let columns = COLUMNS.min(width - first_column);
    let mut halves = [[vdupq_n_s32(0); COLUMNS / LANES]; 2];
    for (&w, values) in weights.iter().zip(values.chunks_exact(width)) {
        let values = first::<_, COLUMNS>(&values[first_column..][..columns]);
        for (acc, w) in halves.iter_mut().zip([w >> 11, w & 2047]) {
            for (acc, values) in acc.as_chunks_mut::<2>().0.iter_mut().zip(values.as_chunks::<8>().0) {
                // SAFETY: 8 elements are readable.
                let v = unsafe { vmovl_s8(vld1_s8(values.as_ptr())) };
                acc[0] = vmlal_n_s16(acc[0], vget_low_s16(v), w as i16);
                acc[1] = vmlal_high_n_s16(acc[1], v, w as i16);
            }
        }
    }
    for ((sums, &high), &low) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(&halves[0]).zip(&halves[1]) {
        let (mut h, mut l) = ([0; LANES], [0; LANES]);
        store(high, &mut h);
        store(low, &mut l);
        for ((sum, h), l) in sums.iter_mut().zip(h).zip(l) {
            *sum += (i64::from(h) << 11) + i64::from(l);
        }
    }
}
