//! Scale modes: what turns the dot product of a block's codes into its weights' share.

use super::codes::{Codes, LINE};
use super::lanes::Lanes;
use super::tile::Tile;
use crate::formats::TILE;

/// Scales and offsets of the rows of a line in one group.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct GroupScale<V> {
    /// Scales of the group's halves of 16 columns.
    pub(in crate::kernels) s: [V; 2],
    /// Their offsets, as i16 pairs.
    pub(in crate::kernels) z: V,
}

/// Bytes of payload to prefetch ahead where weights come from memory: hardware prefetchers stop at pages.
pub(in crate::kernels) const PREFETCH: usize = 8192;

/// Where the rows of a line begin in each plane of a tile.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Part<'a> {
    pub(in crate::kernels) tile: &'a Tile<'a>,
    pub(in crate::kernels) row: usize,
}

/// A scale mode.
pub(in crate::kernels) trait Scales {
    /// Whether there are block scales.
    const SCALED: bool;
    /// Whether the two halves of a group are blocks of their own.
    const HALVES: bool;
    /// Whether the offset is stored.
    const OFFSET: bool;
    /// Whether two scales share a byte.
    const NIBBLES: bool = false;
    /// The largest magnitude of a scale.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AVX-512 alone adds up scaled planes"))]
    const MOST: i32 = 255;

    /// The scales of group `group`.
    ///
    /// # Safety
    /// As for [`Lanes`]; `group` is below the tile's groups.
    unsafe fn group<L: Lanes, P: Codes>(part: Part<'_>, group: usize) -> GroupScale<L::Line>;
}

/// The level that [`Codes::steps`] delivers for weight 0.
pub(in crate::kernels) const fn zero_level<L: Lanes, P: Codes>() -> i16 {
    if L::SIGNED && P::ZERO == 128 { 0 } else { P::ZERO }
}

/// Mode r.
pub(in crate::kernels) struct R;

impl Scales for R {
    const MOST: i32 = 1;
    const SCALED: bool = false;
    const HALVES: bool = false;
    const OFFSET: bool = false;

    #[inline(always)]
    unsafe fn group<L: Lanes, P: Codes>(_part: Part<'_>, _group: usize) -> GroupScale<L::Line> {
        // SAFETY: the caller's promise.
        unsafe { GroupScale { s: [L::zero(); 2], z: L::splat16(-zero_level::<L, P>()) } }
    }
}

/// The bytes of the scale plane of block `block`, or of pair `block` of blocks in mode b4.
///
/// # Safety
/// As for [`Scales::group`].
#[inline(always)]
unsafe fn magnitudes<L: Lanes>(part: Part<'_>, block: usize) -> L::Line {
    debug_assert!((block + 1) * TILE <= part.tile.scale.len());
    // SAFETY: `scale` holds 16 bytes of every block, or pair of them, of the tile's groups.
    unsafe { L::load_bytes(part.tile.scale.as_ptr().add(block * TILE + part.row)) }
}

/// Mode b4, with blocks of 16 or longer ones.
pub(super) struct B4<const HALVES: bool>;

impl<const HALVES: bool> Scales for B4<HALVES> {
    const SCALED: bool = true;
    const HALVES: bool = HALVES;
    const OFFSET: bool = false;
    const NIBBLES: bool = true;
    const MOST: i32 = 15;

    #[inline(always)]
    unsafe fn group<L: Lanes, P: Codes>(part: Part<'_>, group: usize) -> GroupScale<L::Line> {
        // SAFETY: the caller's promise.
        unsafe {
            let (mask, minus) = (L::splat(15), L::splat16(-zero_level::<L, P>()));
            if HALVES {
                let pair = magnitudes::<L>(part, group);
                let s = [L::and(pair, mask), L::shr32(pair, 4)];
                GroupScale { s, z: L::mul16(L::join(s[0], s[1]), minus) }
            } else {
                let block = group >> part.tile.block_shift;
                let pair = magnitudes::<L>(part, block / 2);
                let s = L::and(L::shr32(pair, 4 * (block as u32 % 2)), mask);
                GroupScale { s: [s; 2], z: L::mul16(L::low_twice(s), minus) }
            }
        }
    }
}

/// Mode b8, with blocks of 16 or longer ones.
pub(super) struct B8<const HALVES: bool>;

impl<const HALVES: bool> B8<HALVES> {
    /// Signed scales of block `block`.
    ///
    /// # Safety
    /// As for [`Scales::group`].
    #[inline(always)]
    unsafe fn scales<L: Lanes>(part: Part<'_>, block: usize) -> L::Line {
        debug_assert!((block + 1) * TILE / 8 <= part.tile.sign.len());
        // SAFETY: `sign` holds 2 bytes of every block of the tile's groups.
        unsafe {
            let signs = part.tile.sign.as_ptr().cast::<u16>().add(block).read_unaligned();
            L::negate(magnitudes::<L>(part, block), u32::from(signs) >> part.row)
        }
    }
}

impl<const HALVES: bool> Scales for B8<HALVES> {
    const SCALED: bool = true;
    const HALVES: bool = HALVES;
    const OFFSET: bool = false;

    #[inline(always)]
    unsafe fn group<L: Lanes, P: Codes>(part: Part<'_>, group: usize) -> GroupScale<L::Line> {
        // SAFETY: the caller's promise.
        unsafe {
            // |zero level · s| <= 128 · 255 fits i16.
            let minus = L::splat16(-zero_level::<L, P>());
            if HALVES {
                let s = [Self::scales::<L>(part, 2 * group), Self::scales::<L>(part, 2 * group + 1)];
                GroupScale { s, z: L::mul16(L::join(s[0], s[1]), minus) }
            } else {
                let s = Self::scales::<L>(part, group >> part.tile.block_shift);
                GroupScale { s: [s; 2], z: L::mul16(L::low_twice(s), minus) }
            }
        }
    }
}

/// Mode z8, with blocks of 16 or longer ones.
pub(super) struct Z8<const HALVES: bool>;

impl<const HALVES: bool> Scales for Z8<HALVES> {
    const SCALED: bool = true;
    const HALVES: bool = HALVES;
    const OFFSET: bool = true;

    #[inline(always)]
    unsafe fn group<L: Lanes, P: Codes>(part: Part<'_>, group: usize) -> GroupScale<L::Line> {
        // SAFETY: the caller's promise; `offset` holds a line of every pair of blocks of the tile's groups.
        unsafe {
            let (s, z) = if HALVES {
                let s = [magnitudes::<L>(part, 2 * group), magnitudes::<L>(part, 2 * group + 1)];
                (s, L::load(part.offsets(group)))
            } else {
                let block = group >> part.tile.block_shift;
                let pair = L::load(part.offsets(block / 2));
                let z = if block.is_multiple_of(2) { L::low_twice(pair) } else { L::high_twice(pair) };
                ([magnitudes::<L>(part, block); 2], z)
            };
            // Codes that lack their zero level lack it times the scale: the weight of that level, which fits i16.
            let z = match P::ZERO - zero_level::<L, P>() {
                0 => z,
                level => L::add16(z, L::mul16(L::join(s[0], s[1]), L::splat16(level))),
            };
            GroupScale { s, z }
        }
    }
}

impl Part<'_> {
    /// The offsets of a pair of blocks.
    ///
    /// # Safety
    /// `pair` is below half the tile's blocks, rounded up.
    #[inline(always)]
    unsafe fn offsets(self, pair: usize) -> *const u8 {
        debug_assert!((pair + 1) * 4 * TILE <= self.tile.offset.len());
        // SAFETY: `offset` holds 64 bytes of every pair.
        unsafe { self.tile.offset.as_ptr().add(pair * 4 * TILE + 4 * self.row) }
    }

    /// The words of a group, for a payload that has `words` for each.
    ///
    /// # Safety
    /// `group` is below the tile's groups.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn words(self, group: usize, words: usize) -> *const u8 {
        debug_assert!((group + 1) * words * 4 * TILE <= self.tile.payload.len());
        // SAFETY: `payload` holds `words` lines of every group.
        unsafe { self.tile.payload.as_ptr().add(group * words * 4 * TILE + 4 * self.row) }
    }

    /// The first group from `group` on in which this pass asks for what will be wanted soon; the others are as many
    /// further on as there are passes.
    #[inline(always)]
    pub(in crate::kernels) fn asked_from(self, group: usize) -> usize {
        let Tile { pass, passes, .. } = *self.tile;
        if self.row == 0 { group + (pass + passes - group % passes) % passes } else { usize::MAX }
    }

    /// Asks for what will be wanted soon.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    pub(in crate::kernels) unsafe fn prefetch<L: Lanes, P: Codes, S: Scales>(self, group: usize) {
        let tile = self.tile;
        // SAFETY: a prefetch may name any address.
        unsafe {
            if !P::STAGED {
                let words = tile.payload.as_ptr().wrapping_add((group + tile.ahead) * P::WORDS * LINE);
                let mut i = 0;
                while i < P::WORDS {
                    L::prefetch(words.wrapping_add(LINE * i));
                    i += 1;
                }
            }
            if S::SCALED {
                let block = ((group + tile.ahead) << u32::from(S::HALVES)) >> tile.block_shift;
                let scale = if S::NIBBLES { block / 2 } else { block };
                L::prefetch(tile.scale.as_ptr().wrapping_add(scale * TILE));
                if S::OFFSET {
                    L::prefetch(tile.offset.as_ptr().wrapping_add(block / 2 * LINE));
                } else if !S::NIBBLES {
                    L::prefetch(tile.sign.as_ptr().wrapping_add(block * 2));
                }
            }
        }
    }
}
