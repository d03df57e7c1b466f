//! The dot kernel of W16: i16 weights times activations extended to i16.

use super::dot::{Accumulators, Call, Input, SECTION, Totals};
use super::lanes::{Job, Lanes};
use super::scales::PREFETCH;
use super::tile::Tile;
use crate::activations::TokenCodes;
use crate::formats::{GROUP, TILE};
use core::marker::PhantomData;
use core::ops::Range;

/// Words of a group: two columns each.
const WORDS: usize = GROUP / 2;

/// Codes of one section as i16, per plane.
type Section = [[i16; SECTION * GROUP]; 2];

/// The kernel with activations `I`, for at most `T` tokens, `T` of which it computes.
pub(super) struct Wide<'a, I, const T: usize>(pub(super) Call<'a>, pub(super) PhantomData<I>);

impl<I: Input, const T: usize> Job for Wide<'_, I, T> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Call { tile, tokens, out } = self.0;
        let count = out.len();
        assert!(0 < count && count <= T);
        let mut x = [[[0; SECTION * GROUP]; 2]; T];
        // SAFETY: the caller's promise; groups are below `tile.groups`.
        unsafe {
            let mut row = 0;
            while row < TILE {
                let mut totals = Totals::<L::Line, T>::zero::<L>();
                let mut group = 0;
                while group < tile.groups {
                    let section = group;
                    let section_end = tile.groups.min(section + SECTION);
                    for (j, x) in x.iter_mut().enumerate() {
                        extend::<I>(&tokens.get(j.min(count - 1)), section * GROUP..section_end * GROUP, x);
                    }
                    while group < section_end {
                        let end = section_end.min(group + I::CHUNK);
                        let mut acc = [[L::zero(); 2]; T];
                        while group < end {
                            let sums = group_dot::<L, I, T>(tile, row, group, &x, group - section);
                            let mut j = 0;
                            while j < T {
                                let mut plane = 0;
                                while plane < I::PLANES {
                                    let mut sum = sums[j][plane];
                                    if I::SCALED {
                                        sum = L::mul(sum, L::splat(tokens.get(j.min(count - 1)).scales[group]));
                                    }
                                    acc[j][plane] = L::add(acc[j][plane], sum);
                                    plane += 1;
                                }
                                j += 1;
                            }
                            group += 1;
                        }
                        totals.add::<L, I>(&acc);
                    }
                }
                totals.store::<L, I>(row, out);
                row += L::ROWS;
            }
        }
    }
}

/// The sums of the products of group `group`, which is group `at` of the section in `x`.
///
/// # Safety
/// As for [`Job::run`].
#[inline(always)]
unsafe fn group_dot<L: Lanes, I: Input, const T: usize>(
    tile: &Tile<'_>, row: usize, group: usize, x: &[Section; T], at: usize,
) -> Accumulators<L::Line, T> {
    debug_assert!((group + 1) * WORDS * 4 * TILE <= tile.payload.len() && at < SECTION);
    // SAFETY: the caller's promise; `payload` holds 16 lines of every group.
    unsafe {
        let mut sums = [[L::zero(); 2]; T];
        let words = tile.payload.as_ptr().wrapping_add(group * WORDS * 4 * TILE + 4 * row);
        let mut i = 0;
        while i < WORDS {
            let word = words.wrapping_add(i * 4 * TILE);
            if tile.pass == 0 && row == 0 {
                L::prefetch(word.wrapping_add(PREFETCH));
            }
            let weights = L::load(word);
            let mut j = 0;
            while j < T {
                let mut plane = 0;
                while plane < I::PLANES {
                    let pair = x[j][plane].as_ptr().add(at * GROUP + 2 * i).cast::<i32>();
                    sums[j][plane] = L::pairs(sums[j][plane], weights, L::splat(pair.read_unaligned()));
                    plane += 1;
                }
                j += 1;
            }
            i += 1;
        }
        sums
    }
}

/// The codes of columns `columns` as i16, per plane.
#[inline(always)]
fn extend<I: Input>(token: &TokenCodes<'_>, columns: Range<usize>, out: &mut Section) {
    for (codes, out) in token.planes.chunks_exact(token.planes.len() / I::PLANES).zip(out) {
        for (out, &code) in out.iter_mut().zip(&codes[columns.clone()]) {
            *out = i16::from(code);
        }
    }
}
