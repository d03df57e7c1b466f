//! The attention slot, for AVX-512.
//!
//! Positions are taken sixteen at a time, as lanes. Keys are transposed once for all queries, so that a score needs no
//! sum across lanes; values are interleaved by four positions, so that a dword of weights' digits meets a dword of them.

use super::avx512_math::{LANES, exp2, join, load_u8, requant, requant_each, rshr, store, widen};
use crate::fixed::{self, LOG2_E_Q30};
use crate::ops::attention::{Division, Keys, Query, Run, Scoring, Scratch, Seen};
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
/// that many fit i32 easily: 127 · 255 · 512 < 2^24; and so do sums of p: 2^22 · 512 = 2^31.
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
    let mut blocks = Vec::with_capacity(runs.iter().map(|run| run.key_d.len().div_ceil(LANES)).sum());
    let mut first = 0;
    for run in runs {
        let count = run.key_d.len();
        let keys = match run.keys {
            Keys::I8(keys) => keys.len(),
            Keys::I16(keys) => keys.len(),
        };
        assert!(keys >= count * width && run.values.len() >= count * width, "codes of {count} positions are missing");
        assert!([run.key_t, run.value_d, run.value_t].iter().all(|scales| scales.len() >= count));
        let at = (0..count).step_by(LANES);
        blocks.extend(at.map(|at| Block { run, at, len: LANES.min(count - at), position: first + at }));
        first += count;
    }
    blocks
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

    /// Asks for part `part` of `parts` of the codes of its positions, for the second-level cache: more of its lines than
    /// of the first can be on their way at once, which is what the time goes into where a context is long.
    #[inline]
    fn prefetch<T>(&self, codes: &[T], width: usize, part: usize, parts: usize) {
        let bytes = LANES * width * size_of::<T>() / parts;
        let start = codes.as_ptr().wrapping_add(self.at * width).cast::<i8>().wrapping_add(part * bytes);
        for lines in (0..bytes).step_by(256) {
            for line in 0..4 {
                // SAFETY: a prefetch may name any address.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(lines + 64 * line)) };
            }
        }
    }

    #[inline]
    fn prefetch_keys(&self, width: usize, part: usize, parts: usize) {
        match self.run.keys {
            Keys::I8(keys) => self.prefetch(keys, width, part, parts),
            Keys::I16(keys) => self.prefetch(keys, width, part, parts),
        }
    }
}

/// Blocks from one that is read to the one that is asked for.
const AHEAD: usize = 8;

/// What a query asks of the positions, and the largest of what it has found.
struct Reader<'a> {
    query: &'a Query<'a>,
    /// dq times the constant of scores.
    factor: __m512i,
    /// The shift of scores before that of keys.
    shift: __m512i,
    /// The largest l of each lane.
    largest: __m512i,
    /// The largest tv of each lane.
    value_t: __m512i,
}

/// What a query makes weights with, and the sum of p.
struct Weigher<'a> {
    query: &'a Query<'a>,
    /// The largest l.
    largest: __m512i,
    /// 8 plus the largest tv.
    value_t: __m512i,
    /// The sum of p of the panels before.
    total: u64,
    /// The sums of p of a panel.
    part: __m512i,
}

/// [`crate::ops::attention::scores`].
///
/// # Panics
/// When an array of a run is shorter than its positions ask for.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn scores(
    queries: &[Query<'_>], runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch,
) {
    let width = queries[0].codes.len();
    let blocks = blocks(runs, width);
    let (steps, few_queries) = (width.div_ceil(2).next_multiple_of(LANES), queries.len() <= FEW);
    let parts = if few_queries { width.div_ceil(HALF) } else { steps / LANES };
    let lines = lines(scratch, (blocks.len() + parts) * queries.len() + steps);
    let (scores, rest) = lines.split_at_mut(blocks.len() * queries.len());
    let (codes, panel) = rest.split_at_mut(queries.len() * parts);
    let mut readers = Vec::with_capacity(queries.len());
    for (query, lines) in queries.iter().zip(codes.chunks_exact_mut(parts)) {
        for (i, line) in lines.iter_mut().enumerate() {
            let codes = if few_queries {
                _mm512_broadcast_i64x4(_mm512_castsi512_si256(load_i16(
                    &query.codes[i * HALF..width.min((i + 1) * HALF)],
                )))
            } else {
                load_i16(query.codes.get(i * STEP..).unwrap_or_default())
            };
            store(codes, line);
        }
        readers.push(Reader {
            query,
            factor: _mm512_set1_epi32(query.d * scoring.scale),
            shift: _mm512_set1_epi32(scoring.scale_shift + 2 * fraction_bits as i32 - 2 - query.t),
            largest: _mm512_set1_epi32(i32::MIN),
            value_t: _mm512_setzero_si512(),
        });
    }
    match queries.len() {
        1 => few::<1>(&blocks, width, codes, scoring, &mut readers, scores),
        2 => few::<2>(&blocks, width, codes, scoring, &mut readers, scores),
        3 => few::<3>(&blocks, width, codes, scoring, &mut readers, scores),
        4 => few::<4>(&blocks, width, codes, scoring, &mut readers, scores),
        _ => many(&blocks, width, codes.as_flattened(), scoring, &mut readers, panel, scores),
    }
    scratch.seen.clear();
    for reader in &readers {
        let value_t = _mm512_reduce_max_epi32(reader.value_t) as u8;
        scratch.seen.push(Seen { largest: _mm512_reduce_max_epi32(reader.largest), value_t, total: 0 });
    }
}

/// The first `count` lines of `scratch`, with what the step before has left there.
fn lines(scratch: &mut Scratch, count: usize) -> &mut [Line] {
    if scratch.lines.len() < count {
        scratch.lines.resize(count, [0; LANES]);
    }
    &mut scratch.lines[..count]
}

/// [`crate::ops::attention::sums`]; those of a query are its columns, by sixty-four, in the order of [`mix`].
///
/// # Panics
/// As [`scores`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sums(queries: &[Query<'_>], runs: &[Run<'_>], scratch: &mut Scratch) {
    let width = queries[0].codes.len();
    let blocks = blocks(runs, width);
    let count = blocks.len();
    let mut weighers = Vec::with_capacity(queries.len());
    for (query, seen) in queries.iter().zip(&scratch.seen) {
        weighers.push(Weigher {
            query,
            largest: _mm512_set1_epi32(seen.largest),
            value_t: _mm512_set1_epi32(8 + i32::from(seen.value_t)),
            total: 0,
            part: _mm512_setzero_si512(),
        });
    }
    let stride = width.next_multiple_of(COLUMNS);
    scratch.sums.clear();
    scratch.sums.resize(queries.len() * stride, 0);
    let mut sums = core::mem::take(&mut scratch.sums);
    let lines = lines(scratch, count * queries.len() + PANEL * VALUE_LINES);
    let (scores, panel) = lines.split_at_mut(count * queries.len());
    let parts = 1 + queries.len();
    for (start, some) in (0..count).step_by(PANEL).zip(blocks.chunks(PANEL)) {
        let ahead = blocks.get(start + PANEL..).unwrap_or_default();
        for (i, block) in some.iter().enumerate() {
            if let Some(block) = ahead.get(i) {
                block.prefetch(block.run.values, width, 0, parts);
            }
            weights(&mut weighers, block, &mut scores[start + i..], count);
        }
        for weigher in &mut weighers {
            weigher.total += u64::from(_mm512_reduce_add_epi32(weigher.part) as u32);
            weigher.part = _mm512_setzero_si512();
        }
        for column in (0..width).step_by(COLUMNS) {
            for (block, lines) in some.iter().zip(panel.chunks_exact_mut(VALUE_LINES)) {
                match block.len {
                    LANES => interleave::<true>(block, width, column, lines),
                    _ => interleave::<false>(block, width, column, lines),
                }
            }
            let values = &panel[..some.len() * VALUE_LINES];
            for (j, sums) in sums.chunks_exact_mut(stride).enumerate() {
                let ahead = if column == 0 { ahead } else { &[] };
                let weights = &scores[j * count + start..][..some.len()];
                mix(weights, values, &mut sums[column..column + COLUMNS], |i| {
                    if let Some(block) = ahead.get(i) {
                        block.prefetch(block.run.values, width, j + 1, parts);
                    }
                });
            }
        }
    }
    scratch.sums = sums;
    for (seen, weigher) in scratch.seen.iter_mut().zip(&weighers) {
        seen.total = weigher.total;
    }
}

/// [`crate::ops::attention::outputs`].
///
/// # Panics
/// When a query has seen no position.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn outputs(scoring: &Scoring, scratch: &Scratch, out: &mut [i32]) {
    let width = out.len() / scratch.seen.len();
    let sums = scratch.sums.chunks_exact(width.next_multiple_of(COLUMNS));
    for ((seen, sums), out) in scratch.seen.iter().zip(sums).zip(out.chunks_exact_mut(width)) {
        let division = Division::new(seen, scoring);
        for (out, sums) in out.chunks_mut(COLUMNS).zip(sums.as_chunks().0) {
            divide(&division, sums, out);
        }
    }
}

/// l of a few queries: each key meets each query as it lies in memory, and sums are made across lanes, which costs less
/// than transposing keys for that few.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn few<const N: usize>(
    blocks: &[Block<'_>], width: usize, codes: &[Line], scoring: &Scoring, readers: &mut [Reader<'_>],
    scores: &mut [Line],
) {
    for (i, block) in blocks.iter().enumerate() {
        let ahead = blocks.get(i + AHEAD);
        if let Some(block) = (i + PANEL).checked_sub(blocks.len()).and_then(|first| blocks.get(first)) {
            block.prefetch(block.run.values, width, 0, 1);
        }
        let sums = match block.len {
            LANES => across::<N, true>(block, ahead, width, codes),
            _ => across::<N, false>(block, ahead, width, codes),
        };
        logits(&mut readers[..N], block, scoring, &sums, &mut scores[i..], blocks.len());
    }
}

/// l of many queries, over keys that are transposed once for all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn many(
    blocks: &[Block<'_>], width: usize, codes: &[i32], scoring: &Scoring, readers: &mut [Reader<'_>],
    panel: &mut [Line], scores: &mut [Line],
) {
    let (steps, dwords, count) = (panel.len(), width.div_ceil(2), blocks.len());
    for (i, block) in blocks.iter().enumerate() {
        if let Some(block) = blocks.get(i + AHEAD) {
            block.prefetch_keys(width, 0, 1);
        }
        match block.len {
            LANES => transpose::<true>(block, width, panel),
            _ => transpose::<false>(block, width, panel),
        }
        let keys = &panel[..dwords];
        let mut first = 0;
        while first < readers.len() {
            let (codes, scores) = (&codes[first * steps..], &mut scores[first * count + i..]);
            let readers = &mut readers[first..];
            first += match readers.len() {
                1 => logits(readers, block, scoring, &products::<1>(codes, steps, keys), scores, count),
                2 => logits(readers, block, scoring, &products::<2>(codes, steps, keys), scores, count),
                3 => logits(readers, block, scoring, &products::<3>(codes, steps, keys), scores, count),
                4..=7 => logits(readers, block, scoring, &products::<4>(codes, steps, keys), scores, count),
                _ => logits(readers, block, scoring, &products::<8>(codes, steps, keys), scores, count),
            };
        }
    }
}

/// i16 to one register.
const STEP: usize = 32;
/// And to half of one.
const HALF: usize = STEP / 2;
/// Queries at most for which keys are not transposed.
const FEW: usize = 4;

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

/// Codes `STEP · step..` of the key of position `r` of a block; `FULL` where the block has all of its positions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn key<const FULL: bool>(block: &Block<'_>, r: usize, width: usize, step: usize) -> __m512i {
    let columns = STEP.min(width - step * STEP);
    let mask: __mmask32 = if columns == STEP { !0 } else { (1 << columns) - 1 };
    let mask = if FULL || r < block.len { mask } else { 0 };
    let first = (block.at + r) * width + step * STEP;
    // SAFETY: the run holds `width` codes of every position, as `blocks` has proved; masked lanes are not read.
    unsafe {
        match block.run.keys {
            Keys::I8(keys) => _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, keys.as_ptr().wrapping_add(first))),
            Keys::I16(keys) => _mm512_maskz_loadu_epi16(mask, keys.as_ptr().wrapping_add(first)),
        }
    }
}

/// Codes `HALF · step..` of the keys of positions `r` and r + 4, side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn two_keys<const FULL: bool>(block: &Block<'_>, r: usize, width: usize, step: usize) -> __m512i {
    let columns = HALF.min(width - step * HALF);
    let mask: __mmask16 = if columns == HALF { !0 } else { (1 << columns) - 1 };
    let masks = [r, r + 4].map(|r| if FULL || r < block.len { mask } else { 0 });
    let [a, b] = [r, r + 4].map(|r| (block.at + r) * width + step * HALF);
    // SAFETY: as in `key`.
    unsafe {
        match block.run.keys {
            Keys::I8(keys) => {
                let load = |mask, first| _mm_maskz_loadu_epi8(mask, keys.as_ptr().wrapping_add(first));
                let a = _mm256_castsi128_si256(load(masks[0], a));
                _mm512_cvtepi8_epi16(_mm256_inserti128_si256::<1>(a, load(masks[1], b)))
            }
            Keys::I16(keys) => {
                let load = |mask, first| _mm256_maskz_loadu_epi16(mask, keys.as_ptr().wrapping_add(first));
                let a = _mm512_castsi256_si512(load(masks[0], a));
                _mm512_inserti64x4::<1>(a, load(masks[1], b))
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load_wide(eight: &[i64; 8]) -> __m512i {
    // SAFETY: eight i64 have 64 bytes.
    unsafe { _mm512_loadu_si512(eight.as_ptr().cast()) }
}

/// Line k of `panel` is dword k, that is two codes, of the keys of sixteen positions; `FULL` where the block has all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn transpose<const FULL: bool>(block: &Block<'_>, width: usize, panel: &mut [Line]) {
    for (i, lines) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = key::<FULL>(block, r, width, i);
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

/// S of `N` queries with sixteen positions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn products<const N: usize>(codes: &[i32], stride: usize, keys: &[Line]) -> [__m512i; N] {
    assert!(codes.len() >= (N - 1) * stride + keys.len());
    let mut acc = [_mm512_setzero_si512(); N];
    for (k, line) in keys.iter().enumerate() {
        let keys = load(line);
        for (j, acc) in acc.iter_mut().enumerate() {
            // SAFETY: j · stride + k is inside `codes`, by the assertion.
            let code = unsafe { *codes.get_unchecked(j * stride + k) };
            *acc = _mm512_dpwssd_epi32(*acc, keys, _mm512_set1_epi32(code));
        }
    }
    acc
}

/// The same of keys as they lie in memory, two positions to a register; asks for those of `ahead` by the way.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn across<const N: usize, const FULL: bool>(
    block: &Block<'_>, ahead: Option<&Block<'_>>, width: usize, codes: &[Line],
) -> [__m512i; N] {
    let steps = codes.len() / N;
    let mut eights = [[_mm512_setzero_si512(); 2]; N];
    for i in 0..2 {
        // Positions 8i + r and 8i + r + 4.
        let mut acc = [[_mm512_setzero_si512(); 4]; N];
        if let Some(block) = ahead {
            block.prefetch_keys(width, i, 2);
        }
        for step in 0..steps {
            let queries: [__m512i; N] = core::array::from_fn(|n| load(&codes[n * steps + step]));
            for r in 0..4 {
                let keys = two_keys::<FULL>(block, 8 * i + r, width, step);
                for (acc, &query) in acc.iter_mut().zip(&queries) {
                    acc[r] = _mm512_dpwssd_epi32(acc[r], keys, query);
                }
            }
        }
        for (eights, [a, b, c, d]) in eights.iter_mut().zip(acc) {
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            eights[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        }
    }
    eights.map(|[a, b]| _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b)))
}

/// Makes l of S, in every `stride`-th line of `out`; finds the largest l and tv. Returns how many queries there were.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn logits<const N: usize>(
    readers: &mut [Reader<'_>], block: &Block<'_>, scoring: &Scoring, sums: &[__m512i; N], out: &mut [Line],
    stride: usize,
) -> usize {
    let (key_d, key_t) = (block.scales(block.run.key_d), block.scales(block.run.key_t));
    let value_t = block.scales(block.run.value_t);
    for ((reader, &sum), line) in readers.iter_mut().zip(sums).zip(out.iter_mut().step_by(stride)) {
        let visible = block.visible(reader.query);
        if visible == 0 {
            continue;
        }
        let l = requant_each(sum, _mm512_mullo_epi32(key_d, reader.factor), _mm512_sub_epi32(reader.shift, key_t));
        store(l, line);
        if let Some(cap) = &scoring.softcap {
            for l in line.iter_mut() {
                *l = fixed::requant(softcap(*l, cap, 16), LOG2_E_Q30, 30);
            }
        }
        reader.largest = _mm512_mask_max_epi32(reader.largest, visible, reader.largest, load(line));
        reader.value_t = _mm512_mask_max_epi32(reader.value_t, visible, reader.value_t, value_t);
    }
    N
}

/// Makes w of l in every `stride`-th line, as its digits: dword 4n + k of a line holds digit k of positions
/// 4n…4n + 3. Adds to the sums of p.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn weights(weighers: &mut [Weigher<'_>], block: &Block<'_>, scores: &mut [Line], stride: usize) {
    let digits = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    let (value_d, value_t) = (block.scales(block.run.value_d), block.scales(block.run.value_t));
    for (weigher, line) in weighers.iter_mut().zip(scores.iter_mut().step_by(stride)) {
        // No l is above the largest, so a positive difference has wrapped.
        let x = _mm512_sub_epi32(load(line), weigher.largest);
        let x =
            _mm512_mask_mov_epi32(x, _mm512_cmpgt_epi32_mask(x, _mm512_setzero_si512()), _mm512_set1_epi32(i32::MIN));
        let p = _mm512_maskz_mov_epi32(block.visible(weigher.query), exp2(x, 22));
        weigher.part = _mm512_add_epi32(weigher.part, p);
        // p · d < 2^30, so a rounding shift by 31 or more gives 0 by itself.
        let shift = _mm512_sub_epi32(weigher.value_t, value_t);
        let half = _mm512_sllv_epi32(_mm512_set1_epi32(1), _mm512_sub_epi32(shift, _mm512_set1_epi32(1)));
        let w = _mm512_mullo_epi32(p, value_d);
        let w = _mm512_srlv_epi32(_mm512_add_epi32(w, half), shift);
        store(_mm512_shuffle_epi8(w, digits), line);
    }
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

/// Adds `sum of w · v` over the positions of a panel to `sums`: eights 2k and 2k + 1 are the columns of line k of a panel.
/// Calls `each` with the index of every block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn mix(weights: &[Line], values: &[Line], sums: &mut [i64], mut each: impl FnMut(usize)) {
    let mut acc = [[_mm512_setzero_si512(); DIGITS]; 4];
    for (i, (weights, values)) in weights.iter().zip(values.as_chunks::<VALUE_LINES>().0).enumerate() {
        each(i);
        for (digits, values) in weights.as_chunks::<4>().0.iter().zip(values.as_chunks::<4>().0) {
            for (acc, values) in acc.iter_mut().zip(values) {
                let values = load(values);
                for (acc, &digits) in acc.iter_mut().zip(digits) {
                    *acc = _mm512_dpbusd_epi32(*acc, _mm512_set1_epi32(digits), values);
                }
            }
        }
    }
    for (acc, sums) in acc.iter().zip(sums.as_chunks_mut::<8>().0.as_chunks_mut::<2>().0) {
        let ((a, b), (c, d), (e, f)) = (widen(acc[0]), widen(acc[1]), widen(acc[2]));
        for (sum, [low, middle, high]) in sums.iter_mut().zip([[a, c, e], [b, d, f]]) {
            let middle = _mm512_add_epi64(_mm512_slli_epi64::<8>(middle), _mm512_slli_epi64::<16>(high));
            let new = _mm512_add_epi64(load_wide(sum), _mm512_add_epi64(low, middle));
            // SAFETY: eight i64 have 64 bytes.
            unsafe { _mm512_storeu_si512(sum.as_mut_ptr().cast(), new) };
        }
    }
}

/// Outputs in QF of up to sixty-four columns from sums in the order of [`mix`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn divide(&Division { r, b, shift }: &Division, sums: &[i64; COLUMNS], out: &mut [i32]) {
    let mut lines = [_mm512_setzero_si512(); 4];
    for (line, [low, high]) in lines.iter_mut().zip(sums.as_chunks::<8>().0.as_chunks::<2>().0) {
        let (low, high) = (rshr(load_wide(low), b), rshr(load_wide(high), b));
        let a = join(_mm512_cvtepi64_epi32(low), _mm512_cvtepi64_epi32(high));
        *line = requant(a, _mm512_set1_epi32(r), shift);
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
