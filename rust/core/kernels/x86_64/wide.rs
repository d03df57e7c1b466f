//! The dot kernel of W16: i16 weights times activations extended to i16.

use super::dot::{Input, SECTION, Wide, store};
use super::lanes::Lanes;
use super::tile::{Tile, Tokens};
use crate::activations::TokenCodes;
use crate::formats::{GROUP, TILE};
use crate::kernels::Sums;
use core::ops::Range;

/// Words of a group: two columns each.
const WORDS: usize = GROUP / 2;

/// Sums of `tile` with `T` tokens.
///
/// # Safety
/// As for [`Lanes`]; the tokens' planes, sums and scales cover the tile's groups.
#[inline(always)]
pub(super) unsafe fn tile_dot<L: Lanes, I: Input, const T: usize>(
    tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums,
) {
    let count = if T == 1 { 1 } else { out.len() };
    assert!(count <= T && count == out.len());
    let mut x = [[[0; SECTION * GROUP]; 2]; T];
    // SAFETY: the caller's promise; `payload` holds 16 lines of every group.
    unsafe {
        let mut row = 0;
        while row < TILE {
            let mut wide = [[Wide::zero::<L>(); 2]; T];
            let mut section = 0;
            while section < tile.groups {
                let section_end = tile.groups.min(section + SECTION);
                let mut j = 0;
                while j < count {
                    extend::<I>(&tokens.get(j), section * GROUP..section_end * GROUP, &mut x[j]);
                    j += 1;
                }
                let mut group = section;
                while group < section_end {
                    let chunk_end = section_end.min(group + I::CHUNK);
                    let mut acc = [[L::zero(); 2]; T];
                    while group < chunk_end {
                        let mut sums = if I::SCALED { [[L::zero(); 2]; T] } else { acc };
                        let mut i = 0;
                        while i < WORDS {
                            let at = (group * WORDS + i) * 4 * TILE;
                            if T == 1 && row == 0 {
                                L::prefetch(tile.payload.as_ptr().wrapping_add(at + 8192));
                            }
                            let weights = L::load(tile.payload.as_ptr().add(at + 4 * row));
                            let mut j = 0;
                            while j < count {
                                let mut plane = 0;
                                while plane < I::PLANES {
                                    let pair = x[j][plane].as_ptr().add((group - section) * GROUP + 2 * i);
                                    let pair = L::splat(pair.cast::<i32>().read_unaligned());
                                    sums[j][plane] = L::pairs(sums[j][plane], weights, pair);
                                    plane += 1;
                                }
                                j += 1;
                            }
                            i += 1;
                        }
                        if I::SCALED {
                            let mut j = 0;
                            while j < count {
                                let factor = L::splat(tokens.get(j).scales[group]);
                                acc[j][0] = L::add(acc[j][0], L::mul(sums[j][0], factor));
                                j += 1;
                            }
                        } else {
                            acc = sums;
                        }
                        group += 1;
                    }
                    let mut j = 0;
                    while j < count {
                        let mut plane = 0;
                        while plane < I::PLANES {
                            wide[j][plane].add::<L>(acc[j][plane]);
                            plane += 1;
                        }
                        j += 1;
                    }
                }
                section = section_end;
            }
            let mut j = 0;
            while j < count {
                store::<L, I>(&wide[j], &mut out[j][row..row + L::ROWS]);
                j += 1;
            }
            row += L::ROWS;
        }
    }
}

/// The codes of columns `columns` as i16, per plane.
#[inline(always)]
fn extend<I: Input>(token: &TokenCodes<'_>, columns: Range<usize>, out: &mut [[i16; SECTION * GROUP]; 2]) {
    for (codes, out) in token.planes.chunks_exact(token.planes.len() / I::PLANES).zip(out) {
        for (out, &code) in out.iter_mut().zip(&codes[columns.clone()]) {
            *out = i16::from(code);
        }
    }
}
