//! The attention slot, for AVX-512.

use super::avx512_math::{LANES, exp2, join, load, load_u8, requant, requant_each, rshr, store, widen};
use crate::fixed::{self, LOG2_E_Q30, bit_length};
use crate::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use crate::ops::softcap::softcap;
use core::arch::x86_64::*;

/// Columns of values that one pass over the positions covers.
const COLUMNS: usize = 64;
/// Positions whose digit sums fit i32: 127 · 255 · 65536 < 2^31.
const CHUNK: usize = 65536;
/// Positions to a step of [`mix`].
const QUAD: usize = 4;

/// One query head over the positions of `runs`.
///
/// # Panics
/// When there is no position, or an array of a run is shorter than its positions ask for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn attention(
    query: Query<'_>, runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch, out: &mut [i32],
) {
    let width = out.len();
    let weights = &mut scratch.weights;
    weights.clear();
    weights.resize(runs.iter().map(|run| run.key_d.len()).sum(), 0);
    assert!(!weights.is_empty(), "attention without a visible position");
    let mut rest = weights.as_mut_slice();
    for run in runs {
        let (now, later) = rest.split_at_mut(run.key_d.len());
        products(query.codes, run.keys, now);
        scores(query, run, scoring, fraction_bits, now);
        rest = later;
    }
    let largest = weights.iter().copied().fold(i32::MIN, i32::max);
    let tm = runs.iter().flat_map(|run| run.value_t).copied().max().unwrap_or(0);
    let mut total = 0;
    let mut rest = weights.as_mut_slice();
    for run in runs {
        let (now, later) = rest.split_at_mut(run.value_d.len());
        total += exponentials(run, largest, tm, now);
        rest = later;
    }
    let e = bit_length(total) as i32;
    let r = _mm512_set1_epi32((0x8000_0000u32 / (total >> (e - 16)) as u32) as i32);
    let b = (e + bit_length(u64::from(scoring.value_max)) as i32 - 31).max(0);
    for (i, out) in out.chunks_mut(COLUMNS).enumerate() {
        let mut sums = [0; COLUMNS];
        let mut rest = weights.as_slice();
        for run in runs {
            let (now, later) = rest.split_at(run.value_d.len());
            for (weights, values) in now.chunks(CHUNK).zip(run.values.chunks(CHUNK * width)) {
                mix(weights, values, width, i * COLUMNS, &mut sums);
            }
            rest = later;
        }
        for (out, sums) in out.chunks_mut(LANES).zip(sums.chunks_exact(LANES)) {
            // SAFETY: `sums` holds two vectors of i64.
            let (low, high) =
                unsafe { (_mm512_loadu_si512(sums.as_ptr().cast()), _mm512_loadu_si512(sums.as_ptr().add(8).cast())) };
            let (low, high) = (rshr(low, b as u32), rshr(high, b as u32));
            let a = join(_mm512_cvtepi64_epi32(low), _mm512_cvtepi64_epi32(high));
            store(requant(a, r, e + 14 - i32::from(tm) - b), out);
        }
    }
}

/// Codes of a vector to one register.
const STEP: usize = 32;

/// A bit for each of the first 32 elements of a slice of `len`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn mask(len: usize) -> __mmask32 {
    if len >= STEP { !0 } else { (1 << len) - 1 }
}

/// The first 32 elements, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load_i16(x: &[i16]) -> __m512i {
    // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
    unsafe { _mm512_maskz_loadu_epi16(mask(x.len()), x.as_ptr()) }
}

/// The first 32 elements as i16, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load_i8(x: &[i8]) -> __m512i {
    // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
    unsafe { _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask(x.len()), x.as_ptr())) }
}

/// S of every position: the product of the query with its key.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn products(query: &[i16], keys: Keys<'_>, out: &mut [i32]) {
    let width = query.len();
    for (position, out) in out.iter_mut().enumerate() {
        let mut sum = _mm512_setzero_si512();
        match keys {
            Keys::I8(keys) => {
                let key = &keys[position * width..][..width];
                for (query, key) in query.chunks(STEP).zip(key.chunks(STEP)) {
                    sum = _mm512_dpwssd_epi32(sum, load_i16(query), load_i8(key));
                }
            }
            Keys::I16(keys) => {
                let key = &keys[position * width..][..width];
                for (query, key) in query.chunks(STEP).zip(key.chunks(STEP)) {
                    sum = _mm512_dpwssd_epi32(sum, load_i16(query), load_i16(key));
                }
            }
        }
        *out = _mm512_reduce_add_epi32(sum);
    }
}

/// Makes l of S, for the positions of a run.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scores(query: Query<'_>, run: &Run<'_>, scoring: &Scoring, fraction_bits: u32, l: &mut [i32]) {
    let factor = _mm512_set1_epi32(query.d * scoring.scale);
    let shift = _mm512_set1_epi32(scoring.scale_shift + 2 * fraction_bits as i32 - 2 - query.t);
    for ((l, d), t) in l.chunks_mut(LANES).zip(run.key_d.chunks(LANES)).zip(run.key_t.chunks(LANES)) {
        let m = _mm512_mullo_epi32(load_u8(d), factor);
        store(requant_each(load(l), m, _mm512_sub_epi32(shift, load_u8(t))), l);
        if let Some(cap) = &scoring.softcap {
            for l in l {
                *l = fixed::requant(softcap(*l, cap, 16), LOG2_E_Q30, 30);
            }
        }
    }
}

/// Makes w of l, for the positions of a run; returns the sum of p.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn exponentials(run: &Run<'_>, largest: i32, tm: u8, l: &mut [i32]) -> u64 {
    let mut total = _mm512_setzero_si512();
    for ((l, d), t) in l.chunks_mut(LANES).zip(run.value_d.chunks(LANES)).zip(run.value_t.chunks(LANES)) {
        // No l is above the largest, so a positive difference has wrapped.
        let x = _mm512_sub_epi32(load(l), _mm512_set1_epi32(largest));
        let wrapped = _mm512_cmpgt_epi32_mask(x, _mm512_setzero_si512());
        let x = _mm512_mask_mov_epi32(x, wrapped, _mm512_set1_epi32(i32::MIN));
        let p = _mm512_maskz_mov_epi32(super::avx512_math::mask(l.len()), exp2(x, 22));
        let (low, high) = widen(p);
        total = _mm512_add_epi64(total, _mm512_add_epi64(low, high));
        // p · d < 2^30, so a rounding shift by 31 or more gives 0 by itself.
        let shift = _mm512_sub_epi32(_mm512_set1_epi32(8 + i32::from(tm)), load_u8(t));
        let half = _mm512_sllv_epi32(_mm512_set1_epi32(1), _mm512_sub_epi32(shift, _mm512_set1_epi32(1)));
        let w = _mm512_add_epi32(_mm512_mullo_epi32(p, load_u8(d)), half);
        store(_mm512_srlv_epi32(w, shift), l);
    }
    _mm512_reduce_add_epi64(total) as u64
}

/// Adds `sum of w · v` over positions, at most [`CHUNK`], to `sums`, for the columns from `first` on.
///
/// The weights, below 2^23, are cut into three base-256 digits, and positions taken four at a time: a dword of digits
/// times a dword of values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn mix(weights: &[i32], values: &[i8], width: usize, first: usize, sums: &mut [i64; COLUMNS]) {
    let columns = COLUMNS.min(width - first);
    let row = |position: usize| -> __m512i {
        let values = values.get(position * width + first..).unwrap_or_default();
        let columns = columns.min(values.len());
        let mask: __mmask64 = if columns == COLUMNS { !0 } else { (1 << columns) - 1 };
        // SAFETY: columns beyond the vector are masked, and masked lanes are not read.
        unsafe { _mm512_maskz_loadu_epi8(mask, values.as_ptr()) }
    };
    let digit = |i: i8| {
        let at = _mm_setr_epi8(
            i,
            4 + i,
            8 + i,
            12 + i,
            i,
            4 + i,
            8 + i,
            12 + i,
            i,
            4 + i,
            8 + i,
            12 + i,
            i,
            4 + i,
            8 + i,
            12 + i,
        );
        _mm512_broadcast_i32x4(at)
    };
    let digits = [digit(0), digit(1), digit(2)];
    let mut acc = [[_mm512_setzero_si512(); 3]; 4];
    for (i, weights) in weights.chunks(QUAD).enumerate() {
        let first_mask = (1u8 << weights.len()) - 1;
        // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
        let w = _mm512_broadcast_i32x4(unsafe { _mm_maskz_loadu_epi32(first_mask, weights.as_ptr()) });
        let w =
            [_mm512_shuffle_epi8(w, digits[0]), _mm512_shuffle_epi8(w, digits[1]), _mm512_shuffle_epi8(w, digits[2])];
        let [v0, v1, v2, v3] = [row(QUAD * i), row(QUAD * i + 1), row(QUAD * i + 2), row(QUAD * i + 3)];
        let (a, b) = (_mm512_unpacklo_epi8(v0, v1), _mm512_unpackhi_epi8(v0, v1));
        let (c, d) = (_mm512_unpacklo_epi8(v2, v3), _mm512_unpackhi_epi8(v2, v3));
        // Lane j of 128-bit lane n of vector k holds column 16n + 4k + j.
        let quads = [
            _mm512_unpacklo_epi16(a, c),
            _mm512_unpackhi_epi16(a, c),
            _mm512_unpacklo_epi16(b, d),
            _mm512_unpackhi_epi16(b, d),
        ];
        for (acc, &quad) in acc.iter_mut().zip(&quads) {
            for (acc, &w) in acc.iter_mut().zip(&w) {
                *acc = _mm512_dpbusd_epi32(*acc, w, quad);
            }
        }
    }
    for (k, acc) in acc.iter().enumerate() {
        let ((a, b), (c, d), (e, f)) = (widen(acc[0]), widen(acc[1]), widen(acc[2]));
        let weigh = |low, middle, high| {
            let sum = _mm512_add_epi64(low, _mm512_slli_epi64::<8>(middle));
            _mm512_add_epi64(sum, _mm512_slli_epi64::<16>(high))
        };
        let mut lanes = [0i64; LANES];
        // SAFETY: `lanes` holds two vectors of i64.
        unsafe {
            _mm512_storeu_si512(lanes.as_mut_ptr().cast(), weigh(a, c, e));
            _mm512_storeu_si512(lanes.as_mut_ptr().add(8).cast(), weigh(b, d, f));
        }
        for (n, lanes) in lanes.chunks_exact(4).enumerate() {
            for (sum, lane) in sums[16 * n + 4 * k..][..4].iter_mut().zip(lanes) {
                *sum += lane;
            }
        }
    }
}
