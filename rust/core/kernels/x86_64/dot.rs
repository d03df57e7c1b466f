//! The dot kernel of payloads up to 8 bits, written once for every payload, scale mode, activation and number of
//! tokens (docs/FORMATS.md, section 5).
//!
//! Every mode has one form. With `dot = sum u·q` over a block, `X` the sum of `q` over 16 columns and `z` the offset
//! (minus the zero level times the scale, where none is stored), a group adds `s·dot + z·X + z'·X'`.

use super::codes::{self, Codes};
use super::lanes::Lanes;
use super::tile::{Tile, Tokens};
use crate::activations::{Activations, RUN, TokenCodes};
use crate::formats::{GROUP, PayloadKind, ScaleMode, TILE};
use crate::kernels::Sums;
use crate::matrix::{Activation, Matrix};
use core::ops::Range;

/// Groups whose block sums are packed at a time, and whose products fit an i32 accumulator in A8 and A16.
pub(super) const SECTION: usize = 512 / GROUP;

/// An activation mode.
pub(super) trait Input {
    /// i8 planes per token.
    const PLANES: usize;
    /// Whether each 32 columns have a scale.
    const SCALED: bool;
    /// Groups whose exact sum fits i32 (rule 2.3).
    const CHUNK: usize;
}

/// A8.
pub(super) struct A8;
/// A8b.
pub(super) struct A8b;
/// A16.
pub(super) struct A16;

impl Input for A8 {
    const PLANES: usize = 1;
    const SCALED: bool = false;
    const CHUNK: usize = SECTION;
}
impl Input for A8b {
    const PLANES: usize = 1;
    const SCALED: bool = true;
    const CHUNK: usize = 128 / GROUP;
}
impl Input for A16 {
    const PLANES: usize = 2;
    const SCALED: bool = false;
    const CHUNK: usize = SECTION;
}

/// Scales and offsets of the rows of a line in one group.
pub(super) struct GroupScale<V> {
    /// Scales of the group's halves of 16 columns.
    s: [V; 2],
    /// Their offsets, as i16 pairs.
    z: V,
}

/// Where the rows of a line begin in each plane of a tile.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    tile: &'a Tile<'a>,
    row: usize,
}

/// A scale mode.
pub(super) trait Scales {
    /// Whether there are block scales.
    const SCALED: bool;
    /// Whether the two halves of a group are blocks of their own.
    const HALVES: bool;
    /// Whether the offset is stored.
    const OFFSET: bool;

    /// The scales of group `group`.
    ///
    /// # Safety
    /// As for [`Lanes`]; `group` is below the tile's groups.
    unsafe fn group<L: Lanes, P: Codes>(part: Part<'_>, group: usize) -> GroupScale<L::Line>;
}

/// The level that [`Codes::steps`] delivers for weight 0.
const fn zero_level<L: Lanes, P: Codes>() -> i16 {
    if L::SIGNED && P::ZERO == 128 { 0 } else { P::ZERO }
}

/// Mode r.
pub(super) struct R;

impl Scales for R {
    const SCALED: bool = false;
    const HALVES: bool = false;
    const OFFSET: bool = false;

    #[inline(always)]
    unsafe fn group<L: Lanes, P: Codes>(_part: Part<'_>, _group: usize) -> GroupScale<L::Line> {
        // SAFETY: the caller's promise.
        unsafe { GroupScale { s: [L::zero(); 2], z: L::splat16(-zero_level::<L, P>()) } }
    }
}

/// Magnitudes of the scales of block `block`.
///
/// # Safety
/// As for [`Scales::group`].
#[inline(always)]
unsafe fn magnitudes<L: Lanes>(part: Part<'_>, block: usize) -> L::Line {
    debug_assert!((block + 1) * TILE <= part.tile.scale.len());
    // SAFETY: `scale` holds 16 bytes of every block of the tile's groups.
    unsafe { L::load_bytes(part.tile.scale.as_ptr().add(block * TILE + part.row)) }
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
                let z = if block % 2 == 0 { L::low_twice(pair) } else { L::high_twice(pair) };
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

    /// The codes of a group, as [`Codes::steps`] takes them.
    ///
    /// # Safety
    /// `group` is below the tile's groups.
    #[inline(always)]
    unsafe fn words(self, group: usize, words: usize) -> *const u8 {
        debug_assert!((group + 1) * words * 4 * TILE <= self.tile.payload.len());
        // SAFETY: `payload` holds `words` lines of every group.
        unsafe { self.tile.payload.as_ptr().add(group * words * 4 * TILE + 4 * self.row) }
    }

    /// Asks for what a single token will want soon. Weights come from memory once per token; prefetching 8 KiB ahead
    /// in every plane makes up for hardware that stops at pages.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn prefetch<L: Lanes, P: Codes, S: Scales>(self, group: usize) {
        const AHEAD: usize = 8192;
        let tile = self.tile;
        let ahead = AHEAD / (P::WORDS * 64);
        // SAFETY: a prefetch may name any address.
        unsafe {
            let words = tile.payload.as_ptr().wrapping_add((group + ahead) * P::WORDS * 64);
            let mut i = 0;
            while i < P::WORDS {
                L::prefetch(words.wrapping_add(64 * i));
                i += 1;
            }
            if S::SCALED {
                let block = ((group + ahead) << u32::from(S::HALVES)) >> tile.block_shift;
                L::prefetch(tile.scale.as_ptr().wrapping_add(block * 16));
                if S::OFFSET {
                    L::prefetch(tile.offset.as_ptr().wrapping_add(block / 2 * 64));
                } else {
                    L::prefetch(tile.sign.as_ptr().wrapping_add(block * 2));
                }
            }
        }
    }
}

/// Sums of 16 columns as i16, for the groups of one section: per plane.
pub(super) type SectionSums = [[i16; 2 * SECTION]; 2];

/// Sums of 16 columns of groups `section..end` of a token. They fit i16: 16 · 128 = 2^11.
#[inline(always)]
fn pack_sums<I: Input>(token: &TokenCodes<'_>, section: usize, end: usize, packed: &mut SectionSums) {
    // Padding rounds the groups up to an even number.
    let len = (end - section).next_multiple_of(2) * (GROUP / RUN);
    for (plane, packed) in packed[..I::PLANES].iter_mut().enumerate() {
        let start = plane * token.sums.len() / I::PLANES + section * (GROUP / RUN);
        for (packed, sums) in packed.chunks_exact_mut(4).zip(token.sums[start..][..len].chunks_exact(4)) {
            for (packed, &sum) in packed.iter_mut().zip(sums) {
                *packed = sum as i16;
            }
        }
    }
}

/// A sum of i32 terms that may leave i32, in two parts: `low` wraps, `high` counts 2^16.
#[derive(Clone, Copy)]
pub(super) struct Wide<V> {
    low: V,
    high: V,
}

impl<V: Copy> Wide<V> {
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn zero<L: Lanes<Line = V>>() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self { low: L::zero(), high: L::zero() } }
    }

    /// Adds `v`, fewer than 2^15 times.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn add<L: Lanes<Line = V>>(&mut self, v: V) {
        // SAFETY: the caller's promise.
        unsafe {
            self.low = L::add(self.low, v);
            self.high = L::add(self.high, L::sar::<16>(v));
        }
    }

    /// The sums, a row each.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn sums<L: Lanes<Line = V>>(self) -> [i64; TILE] {
        let (mut low, mut high, mut sums) = ([0; TILE], [0; TILE], [0; TILE]);
        // SAFETY: the caller's promise; a line has at most 16 lanes.
        unsafe {
            L::store(self.low, low.as_mut_ptr());
            L::store(self.high, high.as_mut_ptr());
        }
        for (i, sum) in sums[..L::ROWS].iter_mut().enumerate() {
            // What the terms have below 2^16 adds up to less than 2^31, so its low 32 bits are all of it.
            let rest = (low[i] as u32).wrapping_sub((high[i] as u32) << 16);
            *sum = (i64::from(high[i]) << 16) + i64::from(rest);
        }
        sums
    }
}

/// Sums of `tile` with at most `T` tokens, one array of `out` each.
///
/// # Safety
/// As for [`Lanes`]; the tokens' codes, sums and scales cover the tile's groups.
#[inline(always)]
pub(super) unsafe fn tile_dot<L: Lanes, P: Codes, S: Scales, I: Input, const T: usize>(
    tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums,
) {
    let count = if T == 1 { 1 } else { out.len() };
    assert!(count <= T && count == out.len());
    let mut codes_of = [core::ptr::null::<i8>(); T];
    let mut scales_of = [core::ptr::null::<i32>(); T];
    let mut j = 0;
    while j < count {
        let token = tokens.get(j);
        codes_of[j] = token.planes.as_ptr();
        scales_of[j] = token.scales.as_ptr();
        j += 1;
    }
    let padded = tokens.padded();
    debug_assert!(tile.groups * GROUP <= padded);
    // SAFETY: the caller's promise; groups are below `tile.groups`, columns below `padded`.
    unsafe {
        let mut entries = [0; 16];
        let mut i = 0;
        while i < 16 {
            entries[i] = tile.table[i] as u8 ^ if L::SIGNED { 0 } else { 128 };
            i += 1;
        }
        let table = L::table(&entries);
        let mut sums = [[[0; 2 * SECTION]; 2]; T];
        let mut row = 0;
        while row < TILE {
            let part = Part { tile, row };
            let mut wide = [[Wide::zero::<L>(); 2]; T];
            let mut section = 0;
            while section < tile.groups {
                let section_end = tile.groups.min(section + SECTION);
                let mut j = 0;
                while j < count {
                    pack_sums::<I>(&tokens.get(j), section, section_end, &mut sums[j]);
                    j += 1;
                }
                let mut group = section;
                while group < section_end {
                    let chunk_end = section_end.min(group + I::CHUNK);
                    let mut acc = [[L::zero(); 2]; T];
                    while group < chunk_end {
                        if T == 1 && row == 0 {
                            part.prefetch::<L, P, S>(group);
                        }
                        let codes = P::steps::<L>(part.words(group, P::WORDS), table);
                        let scale = S::group::<L, P>(part, group);
                        let mut j = 0;
                        while j < count {
                            let mut plane = 0;
                            while plane < I::PLANES {
                                let x = codes_of[j].add(plane * padded + group * GROUP);
                                let sum = sums[j][plane].as_ptr().cast::<i32>().add(group - section);
                                let sum = L::splat(sum.read_unaligned());
                                let a = acc[j][plane];
                                acc[j][plane] = if I::SCALED {
                                    let v = add_group::<L, P, S>(L::zero(), &codes, &scale, sum, x);
                                    L::add(a, L::mul(v, L::splat(*scales_of[j].add(group))))
                                } else {
                                    add_group::<L, P, S>(a, &codes, &scale, sum, x)
                                };
                                plane += 1;
                            }
                            j += 1;
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

/// Writes the sums of a token.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn store<L: Lanes, I: Input>(wide: &[Wide<L::Line>; 2], out: &mut [i64]) {
    // SAFETY: the caller's promise.
    let (first, second) = unsafe { (wide[0].sums::<L>(), wide[I::PLANES - 1].sums::<L>()) };
    for (i, out) in out.iter_mut().enumerate() {
        // Of two planes the first holds the high halves, of 256 each.
        *out = if I::PLANES == 2 { (first[i] << 8) + second[i] } else { first[i] };
    }
}

/// `acc` plus what one group contributes for the codes at `x`, whose sums of 16 columns are the halves of `sum`.
///
/// # Safety
/// As for [`Lanes`]; 32 codes are readable at `x`.
#[inline(always)]
unsafe fn add_group<L: Lanes, P: Codes, S: Scales>(
    acc: L::Line, codes: &[L::Line; 8], scale: &GroupScale<L::Line>, sum: L::Line, x: *const i8,
) -> L::Line {
    // SAFETY: the caller's promise.
    unsafe {
        let acc = if S::OFFSET || zero_level::<L, P>() != 0 { L::pairs(acc, scale.z, sum) } else { acc };
        if S::HALVES {
            let first = L::dot::<P, 4>(L::zero(), codes, 0, x);
            let second = L::dot::<P, 4>(L::zero(), codes, 4, x.add(RUN));
            L::add(L::add(acc, L::mul(scale.s[0], first)), L::mul(scale.s[1], second))
        } else if S::SCALED {
            L::add(acc, L::mul(scale.s[0], L::dot::<P, 8>(L::zero(), codes, 0, x)))
        } else {
            L::dot::<P, 8>(acc, codes, 0, x)
        }
    }
}

/// The dot slot.
///
/// # Safety
/// As for [`Lanes`].
pub(super) unsafe fn dot<L: Lanes>(
    matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums,
) {
    let mode = (matrix.format.mode, matrix.format.block < GROUP);
    let sums = &mut sums[..tokens.len()];
    let call = (&Tile::new(matrix, tile), Tokens::new(matrix, x, tokens), sums);
    // SAFETY: the caller's promise; the tile and its input have just been checked.
    unsafe {
        match matrix.format.payload.kind() {
            PayloadKind::U4 => by_mode::<L, codes::U4>(call, mode),
            PayloadKind::U5 => by_mode::<L, codes::U5>(call, mode),
            PayloadKind::U6 => by_mode::<L, codes::U6>(call, mode),
            PayloadKind::U8 => by_mode::<L, codes::U8>(call, mode),
            PayloadKind::N4 => by_mode::<L, codes::N4>(call, mode),
            PayloadKind::W16 => match call.1.activation() {
                Activation::A8 => run(call, [L::tile_dot_wide::<A8, 1>, L::tile_dot_wide::<A8, BLOCK>]),
                Activation::A8b { .. } => run(call, [L::tile_dot_wide::<A8b, 1>, L::tile_dot_wide::<A8b, BLOCK>]),
                Activation::A16 => run(call, [L::tile_dot_wide::<A16, 1>, L::tile_dot_wide::<A16, BLOCK>]),
            },
        }
    }
}

/// What the dot slot is called with.
type Call<'a> = (&'a Tile<'a>, Tokens<'a>, &'a mut Sums);

/// # Safety
/// As for [`dot`].
unsafe fn by_mode<L: Lanes, P: Codes>(call: Call<'_>, mode: (ScaleMode, bool)) {
    // SAFETY: the caller's promise.
    unsafe {
        match mode {
            (ScaleMode::R, _) => by_activation::<L, P, R>(call),
            (ScaleMode::B8, false) => by_activation::<L, P, B8<false>>(call),
            (ScaleMode::B8, true) => by_activation::<L, P, B8<true>>(call),
            (ScaleMode::Z8, false) => by_activation::<L, P, Z8<false>>(call),
            (ScaleMode::Z8, true) => by_activation::<L, P, Z8<true>>(call),
        }
    }
}

/// # Safety
/// As for [`dot`].
unsafe fn by_activation<L: Lanes, P: Codes, S: Scales>(call: Call<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match call.1.activation() {
            Activation::A8 => run(call, [L::tile_dot::<P, S, A8, 1>, L::tile_dot::<P, S, A8, BLOCK>]),
            Activation::A8b { .. } => run(call, [L::tile_dot::<P, S, A8b, 1>, L::tile_dot::<P, S, A8b, BLOCK>]),
            Activation::A16 => run(call, [L::tile_dot::<P, S, A16, 1>, L::tile_dot::<P, S, A16, BLOCK>]),
        }
    }
}

/// Tokens that share the decoding of a group at most.
const BLOCK: usize = 8;

/// Runs `one` on a single token, `block` on more, [`BLOCK`] at a time.
///
/// # Safety
/// As for [`dot`].
unsafe fn run((tile, tokens, sums): Call<'_>, [one, block]: [unsafe fn(&Tile<'_>, &Tokens<'_>, &mut Sums); 2]) {
    for (i, sums) in sums.chunks_mut(BLOCK).enumerate() {
        let tokens = tokens.skip(i * BLOCK);
        // SAFETY: the caller's promise.
        unsafe { if sums.len() == 1 { one(tile, &tokens, sums) } else { block(tile, &tokens, sums) } }
    }
}
