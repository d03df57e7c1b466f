//! The attention slot, for AVX-512.
//!
//! Positions are taken sixteen at a time, as lanes. Keys are transposed once for all queries, so that a score needs no
//! sum across lanes; values are interleaved by four positions, so that a dword of weights' digits meets a dword of them.

use super::avx512_math::{LANES, exp2, join, load_u8, requant, requant_each, rshr, store, widen};
use crate::fixed::{self, LOG2_E_Q30, bit_length};
use crate::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use crate::ops::softcap::softcap;
use alloc::vec::Vec;
use core::arch::x86_64::*;

/// Sixteen dwords.
type Line = [i32; LANES];

/// Columns of values that one pass over the positions covers.
const COLUMNS: usize = 64;
/// Lines of an interleaved value panel for sixteen positions.
const VALUE_LINES: usize = COLUMNS / 4;
/// Blocks of positions whose values are interleaved at a time: as many as the first-level cache holds. Digit sums of
/// that many fit i32 easily: 127 · 255 · 512 < 2^24.
const PANEL: usize = 32;
/// Base-256 digits of a weight, which is at most 2^22.
const DIGITS: usize = 3;

/// Up to sixteen positions of a run.
#[derive(Clone, Copy)]
struct Block<'a> {
    run: &'a Run<'a>,
    /// Index of the first in its run.
    at: usize,
    /// How many.
    len: usize,
    /// Index of the first among all positions.
    position: usize,
}

/// The blocks of `runs`, whose arrays are proved to hold what their positions ask for.
fn blocks<'a>(runs: &'a [Run<'a>], width: usize) -> Vec<Block<'a>> {
    let mut start = 0;
    let each = runs.iter().flat_map(|run| {
        let (first, count) = (start, run.key_d.len());
        let keys = match run.keys {
            Keys::I8(keys) => keys.len(),
            Keys::I16(keys) => keys.len(),
        };
        assert!(keys >= count * width && run.values.len() >= count * width, "codes of {count} positions are missing");
        assert!([run.key_t, run.value_d, run.value_t].iter().all(|scales| scales.len() >= count));
        start += count;
        (0..count).step_by(LANES).map(move |at| Block { run, at, len: LANES.min(count - at), position: first + at })
    });
    each.collect()
}

impl Block<'_> {
    /// A bit for each position that `query` sees.
    fn visible(&self, query: &Query<'_>) -> __mmask16 {
        let below = |end: usize| (1u32 << end.saturating_sub(self.position).min(self.len)) - 1;
        (below(query.visible.end) & !below(query.visible.start)) as __mmask16
    }

    /// The scales of its positions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn scales(&self, scales: &[u8]) -> __m512i {
        match scales[self.at..].first_chunk::<LANES>() {
            // SAFETY: 16 bytes are readable.
            Some(all) => unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(all.as_ptr().cast())) },
            None => load_u8(&scales[self.at..]),
        }
    }

    /// Asks for the codes of its positions, for the second-level cache: more of its lines than of the first can be on
    /// their way at once, which is what the time goes into where a context is long.
    #[inline]
    fn prefetch<T>(&self, codes: &[T], width: usize) {
        let bytes = self.len * width * size_of::<T>();
        let start = codes.as_ptr().wrapping_add(self.at * width).cast::<i8>();
        for line in (0..bytes).step_by(64) {
            // SAFETY: a prefetch may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line)) };
        }
    }
}

/// Blocks from one that is read to the one that is asked for.
const AHEAD: usize = 8;

/// What a query has gathered about the positions that it sees.
#[derive(Clone, Copy)]
struct Seen {
    /// The largest l.
    largest: i32,
    /// The largest tv.
    value_t: u8,
    /// The sum of p.
    total: u64,
}

/// Queries of one head over the positions of `runs`.
///
/// # Panics
/// When a query sees no position, or an array of a run is shorter than its positions ask for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn attention(
    queries: &[Query<'_>], runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch,
    out: &mut [i32],
) {
    let width = out.len() / queries.len();
    let blocks = blocks(runs, width);
    let count = blocks.len();
    let steps = width.div_ceil(2).next_multiple_of(LANES);
    let panel = steps.max(PANEL * VALUE_LINES);
    let all = (count + steps / LANES + VALUE_LINES / 2) * queries.len() + panel;
    if scratch.lines.len() < all {
        scratch.lines.resize(all, [0; LANES]);
    }
    let (scores, rest) = scratch.lines[..all].split_at_mut(count * queries.len());
    let (codes, rest) = rest.split_at_mut(queries.len() * (steps / LANES));
    let (panel, sums) = rest.split_at_mut(panel);

    for (query, lines) in queries.iter().zip(codes.chunks_exact_mut(steps / LANES)) {
        for (line, codes) in lines.iter_mut().zip(query.codes.chunks(STEP)) {
            store(load_i16(codes), line);
        }
    }
    let codes = codes.as_flattened();
    for (i, block) in blocks.iter().enumerate() {
        if let Some(block) = blocks.get(i + AHEAD) {
            match block.run.keys {
                Keys::I8(keys) => block.prefetch(keys, width),
                Keys::I16(keys) => block.prefetch(keys, width),
            }
        }
        match block.len {
            LANES => transpose::<true>(block, width, &mut panel[..steps]),
            _ => transpose::<false>(block, width, &mut panel[..steps]),
        }
        let mut first = 0;
        while first < queries.len() {
            let rest = (&codes[first * steps..], steps, width.div_ceil(2));
            let out = &mut scores[first * count + i..];
            first += match queries.len() - first {
                1 => products::<1>(rest, panel, out, count),
                2 => products::<2>(rest, panel, out, count),
                3 => products::<3>(rest, panel, out, count),
                4..=7 => products::<4>(rest, panel, out, count),
                _ => products::<8>(rest, panel, out, count),
            };
        }
    }
    let mut seen = Vec::with_capacity(queries.len());
    for (query, scores) in queries.iter().zip(scores.chunks_exact_mut(count)) {
        let mut state = Seen { largest: i32::MIN, value_t: 0, total: 0 };
        logits(query, &blocks, scoring, fraction_bits, scores, &mut state);
        weights(query, &blocks, scores, &mut state);
        assert!(state.total > 0, "attention without a visible position");
        seen.push(state);
    }
    for column in (0..width).step_by(COLUMNS) {
        sums.fill([0; LANES]);
        for (start, some) in (0..count).step_by(PANEL).zip(blocks.chunks(PANEL)) {
            for (i, (block, lines)) in some.iter().zip(panel.chunks_exact_mut(VALUE_LINES)).enumerate() {
                if let Some(block) = blocks.get(start + i + AHEAD) {
                    block.prefetch(block.run.values, width);
                }
                match block.len {
                    LANES => interleave::<true>(block, width, column, lines),
                    _ => interleave::<false>(block, width, column, lines),
                }
            }
            let values = &panel[..some.len() * VALUE_LINES];
            let each = scores.chunks_exact(count).zip(sums.chunks_exact_mut(VALUE_LINES / 2));
            each.for_each(|(weights, sums)| mix(&weights[start..start + some.len()], values, sums));
        }
        let each = seen.iter().zip(sums.chunks_exact(VALUE_LINES / 2)).zip(out.chunks_exact_mut(width));
        for ((seen, sums), out) in each {
            let columns = COLUMNS.min(width - column);
            outputs(seen, scoring.value_max, sums, &mut out[column..column + columns]);
        }
    }
}

/// i16 to one register.
const STEP: usize = 32;

/// The first 32 elements, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load_i16(x: &[i16]) -> __m512i {
    let mask: __mmask32 = if x.len() >= STEP { !0 } else { (1 << x.len()) - 1 };
    // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
    unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load(line: &Line) -> __m512i {
    // SAFETY: a line has 64 bytes.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// Line k of `panel` is dword k, that is two codes, of the keys of sixteen positions; `FULL` where the block has all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn transpose<const FULL: bool>(block: &Block<'_>, width: usize, panel: &mut [Line]) {
    for (i, lines) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let columns = STEP.min(width - i * STEP);
        let mask: __mmask32 = if columns == STEP { !0 } else { (1 << columns) - 1 };
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (r, row) in rows.iter_mut().enumerate() {
            let mask = if FULL || r < block.len { mask } else { 0 };
            let first = (block.at + r) * width + i * STEP;
            // SAFETY: the run holds `width` codes of every position, as `blocks` has proved; masked lanes are not read.
            *row = unsafe {
                match block.run.keys {
                    Keys::I8(keys) => {
                        _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, keys.as_ptr().wrapping_add(first)))
                    }
                    Keys::I16(keys) => _mm512_maskz_loadu_epi16(mask, keys.as_ptr().wrapping_add(first)),
                }
            };
        }
        // Dwords, then pairs of dwords, change places within lanes of 128 bits; then those lanes do.
        let mut quads = [_mm512_setzero_si512(); LANES];
        for (i, out) in quads.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            out[0] = _mm512_unpacklo_epi64(ab, cd);
            out[1] = _mm512_unpackhi_epi64(ab, cd);
            let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            out[2] = _mm512_unpacklo_epi64(ab, cd);
            out[3] = _mm512_unpackhi_epi64(ab, cd);
        }
        for j in 0..4 {
            let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
            let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
            store(_mm512_shuffle_i32x4::<0x88>(ab, cd), &mut lines[j]);
            store(_mm512_shuffle_i32x4::<0xDD>(ab, cd), &mut lines[4 + j]);
            let (ab, cd) = (_mm512_shuffle_i32x4::<0xEE>(a, b), _mm512_shuffle_i32x4::<0xEE>(c, d));
            store(_mm512_shuffle_i32x4::<0x88>(ab, cd), &mut lines[8 + j]);
            store(_mm512_shuffle_i32x4::<0xDD>(ab, cd), &mut lines[12 + j]);
        }
    }
}

/// S of `N` queries with sixteen positions, each to every `stride`-th line of `out`; returns `N`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn products<const N: usize>(
    (codes, stride, count): (&[i32], usize, usize), panel: &[Line], out: &mut [Line], out_stride: usize,
) -> usize {
    assert!(codes.len() >= (N - 1) * stride + count && panel.len() >= count);
    let mut acc = [_mm512_setzero_si512(); N];
    for (k, line) in panel[..count].iter().enumerate() {
        let keys = load(line);
        for (j, acc) in acc.iter_mut().enumerate() {
            // SAFETY: j · stride + k is inside `codes`, by the assertion.
            let code = unsafe { *codes.get_unchecked(j * stride + k) };
            *acc = _mm512_dpwssd_epi32(*acc, keys, _mm512_set1_epi32(code));
        }
    }
    for (j, &acc) in acc.iter().enumerate() {
        store(acc, &mut out[j * out_stride]);
    }
    N
}

/// Makes l of S, the least possible where the query does not see the position; finds the largest l and tv.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn logits(
    query: &Query<'_>, blocks: &[Block<'_>], scoring: &Scoring, fraction_bits: u32, scores: &mut [Line],
    seen: &mut Seen,
) {
    let factor = _mm512_set1_epi32(query.d * scoring.scale);
    let shift = _mm512_set1_epi32(scoring.scale_shift + 2 * fraction_bits as i32 - 2 - query.t);
    let (mut largest, mut value_t) = (_mm512_set1_epi32(i32::MIN), _mm512_setzero_si512());
    for (block, line) in blocks.iter().zip(scores) {
        let visible = block.visible(query);
        if visible == 0 {
            continue;
        }
        let m = _mm512_mullo_epi32(block.scales(block.run.key_d), factor);
        let t = _mm512_sub_epi32(shift, block.scales(block.run.key_t));
        store(requant_each(load(line), m, t), line);
        if let Some(cap) = &scoring.softcap {
            for l in line.iter_mut() {
                *l = fixed::requant(softcap(*l, cap, 16), LOG2_E_Q30, 30);
            }
        }
        largest = _mm512_mask_max_epi32(largest, visible, largest, load(line));
        value_t = _mm512_mask_max_epi32(value_t, visible, value_t, block.scales(block.run.value_t));
    }
    seen.largest = _mm512_reduce_max_epi32(largest);
    seen.value_t = _mm512_reduce_max_epi32(value_t) as u8;
}

/// Makes w of l, as its digits: dword 4n + k of a line holds digit k of positions 4n…4n + 3. Finds the sum of p.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn weights(query: &Query<'_>, blocks: &[Block<'_>], scores: &mut [Line], seen: &mut Seen) {
    let digits = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    let (largest, tm) = (_mm512_set1_epi32(seen.largest), _mm512_set1_epi32(8 + i32::from(seen.value_t)));
    let mut total = _mm512_setzero_si512();
    for (block, line) in blocks.iter().zip(scores) {
        let visible = block.visible(query);
        // No l is above the largest, so a positive difference has wrapped.
        let x = _mm512_sub_epi32(load(line), largest);
        let x =
            _mm512_mask_mov_epi32(x, _mm512_cmpgt_epi32_mask(x, _mm512_setzero_si512()), _mm512_set1_epi32(i32::MIN));
        let p = _mm512_maskz_mov_epi32(visible, exp2(x, 22));
        let (low, high) = widen(p);
        total = _mm512_add_epi64(total, _mm512_add_epi64(low, high));
        // p · d < 2^30, so a rounding shift by 31 or more gives 0 by itself.
        let shift = _mm512_sub_epi32(tm, block.scales(block.run.value_t));
        let half = _mm512_sllv_epi32(_mm512_set1_epi32(1), _mm512_sub_epi32(shift, _mm512_set1_epi32(1)));
        let w = _mm512_mullo_epi32(p, block.scales(block.run.value_d));
        let w = _mm512_srlv_epi32(_mm512_add_epi32(w, half), shift);
        store(_mm512_shuffle_epi8(w, digits), line);
    }
    seen.total = _mm512_reduce_add_epi64(total) as u64;
}

/// Columns `column..` of the values of sixteen positions: lane j of 128-bit lane n of line 4i + k holds column
/// 16n + 4k + j of positions 4i…4i + 3.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn interleave<const FULL: bool>(block: &Block<'_>, width: usize, column: usize, lines: &mut [Line]) {
    let columns = COLUMNS.min(width - column);
    let mask: __mmask64 = if columns == COLUMNS { !0 } else { (1 << columns) - 1 };
    let row = |r: usize| -> __m512i {
        let mask = if FULL || r < block.len { mask } else { 0 };
        let first = block.run.values.as_ptr().wrapping_add((block.at + r) * width + column);
        // SAFETY: the run holds `width` values of every position, as `blocks` has proved; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_epi8(mask, first) }
    };
    for (i, lines) in lines.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let [v0, v1, v2, v3] = [row(4 * i), row(4 * i + 1), row(4 * i + 2), row(4 * i + 3)];
        let (a, b) = (_mm512_unpacklo_epi8(v0, v1), _mm512_unpackhi_epi8(v0, v1));
        let (c, d) = (_mm512_unpacklo_epi8(v2, v3), _mm512_unpackhi_epi8(v2, v3));
        store(_mm512_unpacklo_epi16(a, c), &mut lines[0]);
        store(_mm512_unpackhi_epi16(a, c), &mut lines[1]);
        store(_mm512_unpacklo_epi16(b, d), &mut lines[2]);
        store(_mm512_unpackhi_epi16(b, d), &mut lines[3]);
    }
}

/// Adds `sum of w · v` over the positions of a panel to `sums`: lines 2k and 2k + 1 hold the i64 of line k of a panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn mix(weights: &[Line], values: &[Line], sums: &mut [Line]) {
    let mut acc = [[_mm512_setzero_si512(); DIGITS]; 4];
    for (weights, values) in weights.iter().zip(values.as_chunks::<VALUE_LINES>().0) {
        for (digits, values) in weights.as_chunks::<4>().0.iter().zip(values.as_chunks::<4>().0) {
            for (acc, values) in acc.iter_mut().zip(values) {
                let values = load(values);
                for (acc, &digits) in acc.iter_mut().zip(digits) {
                    *acc = _mm512_dpbusd_epi32(*acc, _mm512_set1_epi32(digits), values);
                }
            }
        }
    }
    for (acc, sums) in acc.iter().zip(sums.as_chunks_mut::<2>().0) {
        let ((a, b), (c, d), (e, f)) = (widen(acc[0]), widen(acc[1]), widen(acc[2]));
        for (sum, [low, middle, high]) in sums.iter_mut().zip([[a, c, e], [b, d, f]]) {
            let middle = _mm512_add_epi64(_mm512_slli_epi64::<8>(middle), _mm512_slli_epi64::<16>(high));
            store(_mm512_add_epi64(load(sum), _mm512_add_epi64(low, middle)), sum);
        }
    }
}

/// Outputs in QF from sums in the order of [`mix`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn outputs(seen: &Seen, value_max: u32, sums: &[Line], out: &mut [i32]) {
    let e = bit_length(seen.total) as i32;
    let r = _mm512_set1_epi32((0x8000_0000u32 / (seen.total >> (e - 16)) as u32) as i32);
    let b = (e + bit_length(u64::from(value_max)) as i32 - 31).max(0);
    let mut lines = [_mm512_setzero_si512(); 4];
    for (line, [low, high]) in lines.iter_mut().zip(sums.as_chunks::<2>().0) {
        let (low, high) = (rshr(load(low), b as u32), rshr(load(high), b as u32));
        let a = join(_mm512_cvtepi64_epi32(low), _mm512_cvtepi64_epi32(high));
        *line = requant(a, r, e + 14 - i32::from(seen.value_t) - b);
    }
    // 128-bit lane n of line k goes to lane k of line n.
    let [a, b, c, d] = lines;
    let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
    let first = [_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd)];
    let (ab, cd) = (_mm512_shuffle_i32x4::<0xEE>(a, b), _mm512_shuffle_i32x4::<0xEE>(c, d));
    let last = [_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd)];
    for (out, line) in out.chunks_mut(LANES).zip(first.into_iter().chain(last)) {
        store(line, out);
    }
}
