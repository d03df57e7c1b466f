//! One token or a few in A16, for AVX-512: products start with what the zero level takes off, and where they fit, the
//! sums of both planes meet before the scale, so that a group costs a token little more than its products.

use super::avx512_bytes::in_order;
use super::avx512_panel::{LARGEST, Total, keep};
use super::avx512vnni::Avx512;
use crate::activations::{RUN, TokenCodes};
use crate::formats::GROUP;
use crate::kernels::Sums;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot::SECTION;
use crate::kernels::simd::lanes::Lanes;
use crate::kernels::simd::scales::{Part, Scales};
use crate::kernels::simd::staged::{STEPS, Stage};
use crate::kernels::simd::tile::{Tile, Tokens};
use core::arch::x86_64::*;

/// Tokens whose products keep pace: both planes of more would leave no registers for the codes.
const SIDE: usize = 4;
/// Sums of 16 columns in a section: as i16 they fill a register.
const SUMS: usize = SECTION * GROUP / RUN;
const _: () = assert!(SUMS == 32);

/// Whether a group's products add up in i32, scale and both planes included, whatever its codes and scales are.
const fn fits<P: Codes, S: Scales>() -> bool {
    P::ZERO as i32 * S::MOST * GROUP as i32 <= LARGEST
}

/// The dot slot for a tile and all tokens of `out`.
///
/// # Safety
/// As for [`Lanes::panel`], and the mode stores no offset.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn dot<P: Codes, S: Scales>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe {
        // More at a time where codes and scales take long to decode; their totals are more than there are registers.
        if out.len() == 1 {
            passes::<P, S, 1, 1>(tile, tokens, out);
        } else if out.len() > SIDE && (P::STAGED || S::HALVES) {
            passes::<P, S, { 2 * SIDE }, SIDE>(tile, tokens, out);
        } else {
            passes::<P, S, SIDE, SIDE>(tile, tokens, out);
        }
    }
}

/// # Safety
/// As for [`dot`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn passes<P: Codes, S: Scales, const T: usize, const SIDE: usize>(
    tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums,
) {
    let passes = out.len().div_ceil(T);
    for (pass, out) in out.chunks_mut(T).enumerate() {
        // Where there are fewer tokens, the last stands in for the others.
        let of_pass = core::array::from_fn(|j| tokens.get(pass * T + j.min(out.len() - 1)));
        let tile = &tile.in_passes(pass, passes);
        // SAFETY: the caller's promise.
        unsafe {
            if const { fits::<P, S>() } {
                for (out, [both]) in out.iter_mut().zip(sums::<P, S, T, SIDE, 1>(tile, tokens.padded(), &of_pass)) {
                    keep(both.sums(), out, true);
                }
            } else {
                for (out, [low, high]) in out.iter_mut().zip(sums::<P, S, T, SIDE, 2>(tile, tokens.padded(), &of_pass))
                {
                    keep(high.sums().map(|sum| _mm512_slli_epi64::<8>(sum)), out, true);
                    keep(low.sums(), out, false);
                }
            }
        }
    }
}

/// Sums over all groups: of both planes in one part, or of the low one and of the high one, of 256 each.
///
/// # Safety
/// As for [`dot`]; each token's codes cover the tile, and there are two parts where one does not fit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn sums<P: Codes, S: Scales, const T: usize, const SIDE: usize, const PARTS: usize>(
    tile: &Tile<'_>, padded: usize, tokens: &[TokenCodes<'_>; T],
) -> [[Total; PARTS]; T] {
    let part = Part { tile, row: 0 };
    // SAFETY: the caller has AVX-512.
    let table = unsafe { Avx512::table(&tile.table_bytes(Avx512::SIGNED)) };
    let codes: [*const i8; T] = core::array::from_fn(|j| tokens[j].planes.as_ptr());
    let mut totals = [[Total::zero(); PARTS]; T];
    let mut stage = Stage::new();
    let mut starts = [[[0; SUMS]; PARTS]; T];
    let mut asked = part.asked_from(0);
    for first in (0..tile.groups).step_by(SECTION) {
        let section = first..tile.groups.min(first + SECTION);
        let (from, len) = (first * GROUP / RUN, section.len() * GROUP / RUN);
        for (starts, token) in starts.iter_mut().zip(tokens) {
            let (high, low) = (&token.sums[from..][..len], &token.sums[padded / RUN + from..][..len]);
            negated_levels::<P, S, PARTS>(high, low, starts);
        }
        // SAFETY: the caller's promise.
        unsafe { stage.fill::<Avx512, P>(part, section.clone()) };
        let mut acc = [[_mm512_setzero_si512(); PARTS]; T];
        for group in section {
            // SAFETY: the caller's promise.
            let (steps, scale) = unsafe {
                if group == asked {
                    asked += tile.passes;
                    part.prefetch::<Avx512, P, S>(group);
                }
                (P::steps::<Avx512>(stage.words::<P>(part, group), table), S::group::<Avx512, P>(part, group))
            };
            let mut side = 0;
            while side < T {
                let q: [*const i8; SIDE] = core::array::from_fn(|j| codes[side + j].wrapping_add(group * GROUP));
                let starts = |j: usize, plane: usize, run: usize| {
                    let run = if S::HALVES { 2 * (group - first) + run } else { group - first };
                    starts[side + j][plane][run]
                };
                // SAFETY: a group is readable of both planes of each token.
                let terms = unsafe { group_terms::<S, SIDE, PARTS>(&steps, scale.s, starts, q, padded) };
                for j in 0..SIDE {
                    for i in 0..PARTS {
                        if PARTS == 1 {
                            totals[side + j][i].add(terms[j][i]);
                        } else {
                            acc[side + j][i] = _mm512_add_epi32(acc[side + j][i], terms[j][i]);
                        }
                    }
                }
                side += SIDE;
            }
        }
        if PARTS == 2 {
            for (total, acc) in totals.as_flattened_mut().iter_mut().zip(acc.as_flattened()) {
                total.add(*acc);
            }
        }
    }
    totals
}

/// What a group adds to the parts of each token, whose codes of the high plane are at `q`, those of the low one
/// `padded` bytes further on; `starts` gives what the products of a token, a part and a half start with.
///
/// # Safety
/// A group is readable of both planes.
#[expect(clippy::needless_range_loop, reason = "an index walks several arrays at once")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn group_terms<S: Scales, const SIDE: usize, const PARTS: usize>(
    steps: &[__m512i; STEPS], scales: [__m512i; 2], starts: impl Fn(usize, usize, usize) -> i32, q: [*const i8; SIDE],
    padded: usize,
) -> [[__m512i; PARTS]; SIDE] {
    let runs = if S::HALVES { 2 } else { 1 };
    let mut terms = [[_mm512_setzero_si512(); PARTS]; SIDE];
    for run in 0..runs {
        // Of the low planes, then of the high ones.
        let mut dots = [[_mm512_setzero_si512(); SIDE]; 2];
        for j in 0..SIDE {
            for i in 0..PARTS {
                dots[i][j] = _mm512_set1_epi32(starts(j, i, run));
            }
        }
        for i in run * STEPS / runs..(run + 1) * STEPS / runs {
            for (j, q) in q.into_iter().enumerate() {
                // SAFETY: a step is a dword of codes of the group.
                let [low, high] =
                    [padded, 0].map(|plane| unsafe { q.add(plane).cast::<i32>().add(i).read_unaligned() });
                dots[0][j] = _mm512_dpbusd_epi32(dots[0][j], steps[i], _mm512_set1_epi32(low));
                dots[1][j] = _mm512_dpbusd_epi32(dots[1][j], steps[i], _mm512_set1_epi32(high));
            }
            if let Some(dots) = dots.as_flattened_mut().first_chunk_mut() {
                in_order(dots);
            }
        }
        for j in 0..SIDE {
            if PARTS == 1 {
                dots[0][j] = _mm512_add_epi32(dots[0][j], _mm512_slli_epi32::<8>(dots[1][j]));
            }
            for i in 0..PARTS {
                let dot = dots[i][j];
                let term = if S::SCALED { _mm512_mullo_epi32(dot, scales[run]) } else { dot };
                terms[j][i] = _mm512_add_epi32(terms[j][i], term);
            }
        }
    }
    terms
}

/// What products of codes start with, part by part, so that they are those of levels: minus the zero level times the sum
/// of what it is multiplied with, of every group, or of its halves where they have scales of their own.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn negated_levels<P: Codes, S: Scales, const PARTS: usize>(high: &[i16], low: &[i16], out: &mut [[i32; SUMS]; PARTS]) {
    assert!(high.len() == low.len() && !low.is_empty() && low.len() <= SUMS);
    let lanes = u32::MAX >> (SUMS - low.len());
    // SAFETY: lanes beyond the sums are masked, and masked lanes are not read.
    let (high, low) =
        unsafe { (_mm512_maskz_loadu_epi16(lanes, high.as_ptr()), _mm512_maskz_loadu_epi16(lanes, low.as_ptr())) };
    let (even, odd) = (_mm512_unpacklo_epi16(low, high), _mm512_unpackhi_epi16(low, high));
    // How often each part counts a low sum and a high one.
    let parts = if PARTS == 1 { [[1, 256]; 2] } else { [[1, 0], [0, 1]] };
    for (out, times) in out.iter_mut().zip(parts) {
        let [of_low, of_high] = times.map(|times: i16| -P::ZERO * times);
        let lines = if S::HALVES {
            let pair = _mm512_set1_epi32((i32::from(of_high) << 16) | (i32::from(of_low) & 0xFFFF));
            let (even, odd) = (_mm512_madd_epi16(even, pair), _mm512_madd_epi16(odd, pair));
            let from = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
            let later = _mm512_add_epi32(from, _mm512_set1_epi32(8));
            [_mm512_permutex2var_epi32(even, from, odd), _mm512_permutex2var_epi32(even, later, odd)]
        } else {
            let low = _mm512_madd_epi16(low, _mm512_set1_epi16(of_low));
            [_mm512_add_epi32(low, _mm512_madd_epi16(high, _mm512_set1_epi16(of_high))), _mm512_setzero_si512()]
        };
        let out = out.as_mut_ptr().cast::<__m512i>();
        // SAFETY: `out` has two lines.
        unsafe {
            out.write_unaligned(lines[0]);
            out.add(1).write_unaligned(lines[1]);
        }
    }
}
