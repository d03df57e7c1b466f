//! A16 for a few tokens and staged payloads, for AVX-512: a line of weights becomes i16 in a register, scale and zero
//! level included, and meets eight tokens there.

use super::avx512_bytes::in_order;
use super::avx512_panel::{LARGEST, TOKENS, Total, add_pairs, keep};
use super::avx512vnni::Avx512;
use crate::formats::GROUP;
use crate::kernels::Sums;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot::SECTION;
use crate::kernels::simd::lanes::Lanes;
use crate::kernels::simd::scales::{Part, Scales};
use crate::kernels::simd::staged::Stage;
use crate::kernels::simd::tile::{Tile, Tokens};
use core::arch::x86_64::*;

/// Tokens from which on it is faster than four at a time.
pub(super) const PAYS: usize = 5;

/// Whether a group's products add up in i32 whatever its codes and scales are.
pub(super) const fn fits<P: Codes, S: Scales>() -> bool {
    !S::OFFSET && P::ZERO as i32 * S::MOST * GROUP as i32 <= LARGEST
}

/// The dot slot for a tile and all tokens of `out`.
///
/// # Safety
/// As for [`Lanes::panel`], and the products fit.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn dot<P: Codes, S: Scales>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) {
    let passes = out.len().div_ceil(TOKENS);
    for (pass, out) in out.chunks_mut(TOKENS).enumerate() {
        // Where there are fewer tokens, the last stands in for the others.
        let code = |j: usize| {
            tokens.wide_section(pass * TOKENS + j.min(out.len() - 1), &(0..tile.groups)).as_ptr().cast::<i32>()
        };
        // SAFETY: the caller's promise; the codes are those of the whole tile.
        let totals = unsafe { eight::<P, S>(&tile.in_passes(pass, passes), core::array::from_fn(code)) };
        for (out, total) in out.iter_mut().zip(totals) {
            keep(total.sums(), out, true);
        }
    }
}

/// Sums of eight tokens over all groups.
///
/// # Safety
/// As for [`dot`], and each token's codes cover the tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn eight<P: Codes, S: Scales>(tile: &Tile<'_>, mut codes: [*const i32; TOKENS]) -> [Total; TOKENS] {
    let part = Part { tile, row: 0 };
    let bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
    let later = _mm512_add_epi8(bytes, _mm512_set1_epi32(0x0002_0002));
    let mut totals = [Total::zero(); TOKENS];
    let mut stage = Stage::new();
    let mut asked = part.asked_from(0);
    for group in 0..tile.groups {
        // SAFETY: the caller's promise.
        let (steps, scale) = unsafe {
            if group % SECTION == 0 {
                stage.fill::<Avx512, P>(part, group..tile.groups.min(group + SECTION));
            }
            if group == asked {
                asked += tile.passes;
                part.prefetch::<Avx512, P, S, false>(group);
            }
            let table = Avx512::table(&tile.table_bytes(Avx512::SIGNED));
            (P::steps::<Avx512>(stage.words::<P>(part, group), table), S::group::<Avx512, P>(part, group))
        };
        let mut acc = [_mm512_setzero_si512(); TOKENS];
        for (j, &step) in steps.iter().enumerate() {
            // SAFETY: the caller has AVX-512.
            let (s, z) = unsafe {
                match (S::HALVES, j < steps.len() / 2) {
                    (true, false) => (Avx512::low_twice(scale.s[1]), Avx512::high_twice(scale.z)),
                    (true, true) => (Avx512::low_twice(scale.s[0]), Avx512::low_twice(scale.z)),
                    _ => (Avx512::low_twice(scale.s[0]), scale.z),
                }
            };
            for (half, at) in [bytes, later].into_iter().enumerate() {
                let code = _mm512_shuffle_epi8(step, at);
                let weights = _mm512_add_epi16(if S::SCALED { _mm512_mullo_epi16(code, s) } else { code }, z);
                for (acc, codes) in acc.iter_mut().zip(codes) {
                    // SAFETY: a line is two columns, one dword of codes, of the group.
                    *acc = unsafe { add_pairs(*acc, weights, codes.add(2 * j + half)) };
                }
                in_order(&mut acc);
            }
        }
        for ((total, acc), codes) in totals.iter_mut().zip(acc).zip(&mut codes) {
            total.add(acc);
            // SAFETY: at most the end of the codes.
            *codes = unsafe { codes.add(GROUP / 2) };
        }
    }
    totals
}
