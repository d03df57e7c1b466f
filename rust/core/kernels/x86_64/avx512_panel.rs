//! A16 for many tokens, for AVX-512: the weights of a tile become i16 once, so that a product of two columns, scale and
//! offset included, is one instruction per token.

use super::avx512vnni::Avx512;
use crate::fixed::A16_MAX;
use crate::formats::{GROUP, TILE};
use crate::kernels::Sums;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::lanes::Lanes;
use crate::kernels::simd::scales::{Part, Scales};
use crate::kernels::simd::staged::Stage;
use crate::kernels::simd::tile::{Tile, Tokens};
use core::arch::asm;
use core::arch::x86_64::*;

/// Tokens from which on the panel pays for its making.
pub(super) const PAYS: usize = 32;
/// Tokens that share the loads of weights: with their sums, as many as there are registers for.
pub(super) const TOKENS: usize = 8;
/// Lines of i16 pairs to a group.
const LINES: usize = GROUP / 2;
/// Groups that are decoded at a time: their lines fill half of the first-level cache.
const GROUPS: usize = 16;
/// The largest sum of |W| over columns whose products with any codes add up in i32.
pub(super) const LARGEST: i32 = (i32::MAX as u32 / A16_MAX) as i32;

/// i16 weights of one section of a tile.
struct Panel {
    lines: [__m512i; GROUPS * LINES],
    /// Groups in it.
    groups: usize,
    /// Groups whose products add up in i32: 1 or 2.
    chunk: usize,
}

/// The dot slot for a tile and all tokens of `out`; `false`, and nothing of use in `out`, where a group's weights are
/// too large for sums in i32.
///
/// # Safety
/// As for [`Lanes::panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn dot<P: Codes, S: Scales>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) -> bool {
    let mut panel = Panel { lines: [_mm512_setzero_si512(); GROUPS * LINES], groups: 0, chunk: 0 };
    for first in (0..tile.groups).step_by(GROUPS) {
        // SAFETY: the caller's promise; the groups are below the tile's.
        if !unsafe { decode::<P, S>(tile, first, &mut panel) } {
            return false;
        }
        for (i, out) in out.chunks_mut(TOKENS).enumerate() {
            let groups = first..first + panel.groups;
            let code = |j: usize| tokens.wide_section(i * TOKENS + j.min(out.len() - 1), &groups);
            let codes: [&[i16]; TOKENS] = core::array::from_fn(code);
            // SAFETY: the codes are those of the section.
            let totals =
                unsafe { if panel.chunk == 2 { multiply::<2>(&panel, codes) } else { multiply::<1>(&panel, codes) } };
            for (out, total) in out.iter_mut().zip(totals) {
                keep(total.sums(), out, first == 0);
            }
        }
    }
    true
}

/// Decodes the section of `tile` that begins with group `first`; `false` where a group's weights are too large.
///
/// # Safety
/// As for [`Lanes::panel`], and `first` is a group of the tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn decode<P: Codes, S: Scales>(tile: &Tile<'_>, first: usize, panel: &mut Panel) -> bool {
    let part = Part { tile, row: 0 };
    let bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
    let later = _mm512_add_epi8(bytes, _mm512_set1_epi32(0x0002_0002));
    panel.groups = GROUPS.min(tile.groups - first);
    panel.chunk = 2;
    let mut stage = Stage::new();
    // SAFETY: the caller's promise.
    unsafe { stage.fill::<Avx512, P>(part, first..first + panel.groups) };
    let mut before = _mm512_setzero_si512();
    for (i, lines) in panel.lines.as_chunks_mut::<LINES>().0[..panel.groups].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let (codes, scale) = unsafe {
            let table = Avx512::table(&tile.table_bytes(Avx512::SIGNED));
            (P::steps::<Avx512>(stage.words::<P>(part, first + i), table), S::group::<Avx512, P>(part, first + i))
        };
        let mut size = _mm512_setzero_si512();
        for (j, &codes) in codes.iter().enumerate() {
            // SAFETY: the caller has AVX-512.
            let (s, z) = unsafe {
                match (S::HALVES, j < LINES / 4) {
                    (true, false) => (Avx512::low_twice(scale.s[1]), Avx512::high_twice(scale.z)),
                    (true, true) => (Avx512::low_twice(scale.s[0]), Avx512::low_twice(scale.z)),
                    _ => (Avx512::low_twice(scale.s[0]), scale.z),
                }
            };
            for (line, at) in lines[2 * j..].iter_mut().zip([bytes, later]) {
                let code = _mm512_shuffle_epi8(codes, at);
                let weight = if S::SCALED { _mm512_mullo_epi16(code, s) } else { code };
                *line = _mm512_add_epi16(weight, z);
                // Columns of padding may hold -2^15, whose magnitude is no i16.
                let magnitude = _mm512_min_epu16(_mm512_abs_epi16(*line), _mm512_set1_epi16(i16::MAX));
                size = _mm512_dpwssd_epi32(size, magnitude, _mm512_set1_epi16(1));
            }
        }
        if _mm512_cmpgt_epi32_mask(size, _mm512_set1_epi32(LARGEST)) != 0 {
            return false;
        }
        let both = _mm512_add_epi32(before, size);
        if i % 2 == 1 && _mm512_cmpgt_epi32_mask(both, _mm512_set1_epi32(LARGEST)) != 0 {
            panel.chunk = 1;
        }
        before = size;
    }
    true
}

/// Sums over the section, of each token.
///
/// # Safety
/// Each token's codes cover the section.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<const CHUNK: usize>(panel: &Panel, codes: [&[i16]; TOKENS]) -> [Total; TOKENS] {
    let codes = codes.map(|codes| codes.as_ptr().cast::<i32>());
    let (mut totals, mut line) = ([Total::zero(); TOKENS], 0);
    while line < panel.groups * LINES {
        let mut acc = [_mm512_setzero_si512(); TOKENS];
        let end = (line + CHUNK * LINES).min(panel.groups * LINES);
        while line < end {
            let weights = panel.lines[line];
            for (acc, codes) in acc.iter_mut().zip(codes) {
                // SAFETY: a line is two columns, one dword of codes, of the section.
                *acc = unsafe { add_pairs(*acc, weights, codes.add(line)) };
            }
            line += 1;
        }
        for (total, acc) in totals.iter_mut().zip(acc) {
            total.add(acc);
        }
    }
    totals
}

/// `acc` plus the products of two columns: i16 `weights`, and the two codes at `codes`. One instruction, which the
/// compiler would take apart into three where it expects a shorter wait.
///
/// # Safety
/// Two codes are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn add_pairs(mut acc: __m512i, weights: __m512i, codes: *const i32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "vpdpwssd {acc}, {weights}, dword ptr [{codes}]{{1to16}}",
            acc = inout(zmm_reg) acc,
            weights = in(zmm_reg) weights,
            codes = in(reg) codes,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    acc
}

/// The sum of up to 2^15 i32 terms in each lane, in two parts: one wraps, the other counts 2^16.
#[derive(Clone, Copy)]
pub(super) struct Total {
    wrapped: __m512i,
    counted: __m512i,
}

impl Total {
    /// No term yet.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn zero() -> Self {
        Self { wrapped: _mm512_setzero_si512(), counted: _mm512_setzero_si512() }
    }

    /// Adds one term.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn add(&mut self, term: __m512i) {
        self.wrapped = _mm512_add_epi32(self.wrapped, term);
        self.counted = _mm512_add_epi32(self.counted, _mm512_srai_epi32::<16>(term));
    }

    /// The i64 of rows 0 to 7 and 8 to 15.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn sums(self) -> [__m512i; 2] {
        // What the terms have below 2^16 adds up to less than 2^31, so its low 32 bits are all of it.
        let rest = _mm512_sub_epi32(self.wrapped, _mm512_slli_epi32::<16>(self.counted));
        let half = |counted, rest| {
            _mm512_add_epi64(_mm512_slli_epi64::<16>(_mm512_cvtepi32_epi64(counted)), _mm512_cvtepu32_epi64(rest))
        };
        let low = half(_mm512_castsi512_si256(self.counted), _mm512_castsi512_si256(rest));
        [low, half(_mm512_extracti64x4_epi64::<1>(self.counted), _mm512_extracti64x4_epi64::<1>(rest))]
    }
}

/// Writes sums of the first section to `out`; adds those of others to it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn keep(sums: [__m512i; 2], out: &mut [i64; TILE], first: bool) {
    let lines: *mut __m512i = out.as_mut_ptr().cast();
    for (i, sum) in sums.into_iter().enumerate() {
        // SAFETY: 16 sums are two lines.
        unsafe {
            let line = lines.add(i);
            _mm512_storeu_si512(line, if first { sum } else { _mm512_add_epi64(_mm512_loadu_si512(line), sum) });
        }
    }
}
