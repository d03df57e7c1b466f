//! How the payloads' words become one byte per code, four columns of a row to a lane: step j holds columns 4j…4j + 3.

use super::lanes::Lanes;

/// A payload of at most 8 bits.
pub(in crate::kernels) trait Codes {
    /// Words per group.
    const WORDS: usize;
    /// The zero level of unsigned codes.
    const ZERO: i16;
    /// Whether mode z8 takes the payload.
    const OFFSET: bool = true;
    /// Whether mode b4 takes the payload.
    const NIBBLES: bool = false;
    /// Whether its words are those of a [`Stage`](super::staged::Stage).
    const STAGED: bool = false;
    /// Steps whose products with i8 add up in i16 without overflow: `2 · steps · max code · 128 < 2^15`. Codes above
    /// 127 have 1, as signed bytes.
    const STEPS_16: usize;

    /// The eight steps of the group whose lines are 64 bytes apart from `words` on. Codes above 127 are signed where
    /// the set says so.
    ///
    /// # Safety
    /// As for [`Lanes`]; all words of the group are readable.
    unsafe fn steps<L: Lanes>(words: *const u8, table: L::Line) -> [L::Line; 8];
}

/// Bytes from one word of a group to the next.
pub(super) const LINE: usize = 64;

/// Low nibbles, then high nibbles.
///
/// # Safety
/// As for [`Codes::steps`].
#[inline(always)]
unsafe fn nibbles<L: Lanes>(words: *const u8) -> [L::Line; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = L::splat8(15);
        let mut steps = [L::zero(); 8];
        let mut i = 0;
        while i < 4 {
            let word = L::load(words.add(i * LINE));
            steps[i] = L::and(word, mask);
            steps[4 + i] = L::and(L::shr16::<4>(word), mask);
            i += 1;
        }
        steps
    }
}

/// Four codes of two bits to a byte of both words.
///
/// # Safety
/// As for [`Codes::steps`].
#[inline(always)]
unsafe fn quarters<L: Lanes>(words: *const u8) -> [L::Line; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        let (mask, even, odd) = (L::splat8(3), L::load(words), L::load(words.add(LINE)));
        [
            L::and(even, mask),
            L::and(odd, mask),
            L::and(L::shr16::<2>(even), mask),
            L::and(L::shr16::<2>(odd), mask),
            L::and(L::shr16::<4>(even), mask),
            L::and(L::shr16::<4>(odd), mask),
            L::and(L::shr16::<6>(even), mask),
            L::and(L::shr16::<6>(odd), mask),
        ]
    }
}

/// [`Codes`] of T20.
pub(super) struct T20;

impl Codes for T20 {
    const WORDS: usize = 2;
    const ZERO: i16 = 1;
    const OFFSET: bool = false;
    const NIBBLES: bool = true;
    const STEPS_16: usize = 63;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, _table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe { quarters::<L>(words) }
    }
}

/// [`Codes`] of U2.
pub(in crate::kernels) struct U2;

impl Codes for U2 {
    const WORDS: usize = 2;
    const ZERO: i16 = 2;
    const STEPS_16: usize = 42;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, _table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe { quarters::<L>(words) }
    }
}

/// [`Codes`] of U3.
pub(in crate::kernels) struct U3;

impl Codes for U3 {
    const WORDS: usize = 3;
    const ZERO: i16 = 4;
    const STEPS_16: usize = 18;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, _table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high, mask) = (quarters::<L>(words), L::load(words.add(2 * LINE)), L::splat8(4));
            [
                L::or(low[0], L::and(L::shl16::<2>(high), mask)),
                L::or(low[1], L::and(L::shl16::<1>(high), mask)),
                L::or(low[2], L::and(high, mask)),
                L::or(low[3], L::and(L::shr16::<1>(high), mask)),
                L::or(low[4], L::and(L::shr16::<2>(high), mask)),
                L::or(low[5], L::and(L::shr16::<3>(high), mask)),
                L::or(low[6], L::and(L::shr16::<4>(high), mask)),
                L::or(low[7], L::and(L::shr16::<5>(high), mask)),
            ]
        }
    }
}

/// [`Codes`] of U4.
pub(super) struct U4;

impl Codes for U4 {
    const WORDS: usize = 4;
    const ZERO: i16 = 8;
    const STEPS_16: usize = 8;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, _table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe { nibbles::<L>(words) }
    }
}

/// [`Codes`] of U5.
pub(super) struct U5;

impl Codes for U5 {
    const WORDS: usize = 5;
    const ZERO: i16 = 16;
    const STEPS_16: usize = 4;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, _table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let low = nibbles::<L>(words);
            let high = L::load(words.add(4 * LINE));
            let mask = L::splat8(16);
            [
                L::or(low[0], L::and(L::shl16::<4>(high), mask)),
                L::or(low[1], L::and(L::shl16::<3>(high), mask)),
                L::or(low[2], L::and(L::shl16::<2>(high), mask)),
                L::or(low[3], L::and(L::shl16::<1>(high), mask)),
                L::or(low[4], L::and(high, mask)),
                L::or(low[5], L::and(L::shr16::<1>(high), mask)),
                L::or(low[6], L::and(L::shr16::<2>(high), mask)),
                L::or(low[7], L::and(L::shr16::<3>(high), mask)),
            ]
        }
    }
}

/// [`Codes`] of U6.
pub(super) struct U6;

impl Codes for U6 {
    const WORDS: usize = 6;
    const ZERO: i16 = 32;
    const STEPS_16: usize = 2;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, _table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let low = nibbles::<L>(words);
            let even = L::load(words.add(4 * LINE));
            let odd = L::load(words.add(5 * LINE));
            let mask = L::splat8(48);
            [
                L::or(low[0], L::and(L::shl16::<4>(even), mask)),
                L::or(low[1], L::and(L::shl16::<4>(odd), mask)),
                L::or(low[2], L::and(L::shl16::<2>(even), mask)),
                L::or(low[3], L::and(L::shl16::<2>(odd), mask)),
                L::or(low[4], L::and(even, mask)),
                L::or(low[5], L::and(odd, mask)),
                L::or(low[6], L::and(L::shr16::<2>(even), mask)),
                L::or(low[7], L::and(L::shr16::<2>(odd), mask)),
            ]
        }
    }
}

/// [`Codes`] of U8.
pub(super) struct U8;

impl Codes for U8 {
    const WORDS: usize = 8;
    const ZERO: i16 = 128;
    const STEPS_16: usize = 1;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, _table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut steps = [L::zero(); 8];
            let mut i = 0;
            while i < 8 {
                let word = L::load(words.add(i * LINE));
                steps[i] = if L::SIGNED { L::xor(word, L::splat8(128)) } else { word };
                i += 1;
            }
            steps
        }
    }
}

/// [`Codes`] of N4: the levels of the table, plus 128 where codes are unsigned.
pub(super) struct N4;

impl Codes for N4 {
    const WORDS: usize = 4;
    const ZERO: i16 = 128;
    const OFFSET: bool = false;
    const STEPS_16: usize = 1;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut steps = nibbles::<L>(words);
            let mut i = 0;
            while i < 8 {
                steps[i] = L::lookup(table, steps[i]);
                i += 1;
            }
            steps
        }
    }
}
