//! Payloads whose codes are spread to bytes a section at a time, before products: those of which a group's codes do
//! not lie at fixed places in words of its own, and those that would be one more copy of every kernel.

use super::codes::{Codes, LINE, U2, U3};
use super::dot::SECTION;
use super::lanes::{Job, Lanes};
use super::scales::{PREFETCH, Part};
use crate::formats::{GROUP, PayloadKind, TRELLIS_TABLE};
use core::mem::MaybeUninit;
use core::ops::Range;

/// Lines of a group: four columns of each row.
pub(in crate::kernels) const STEPS: usize = GROUP / 4;
/// Steps of a word of T16.
pub(in crate::kernels) const DIGITS: usize = 5;
/// Lines of T16's words that lie before or behind the section.
const SLACK: usize = 4;

/// Two of these make a level of the trellis, plus 62.
pub(in crate::kernels) const HALVES: [u8; 16] = {
    let (mut halves, mut i) = ([0; 16], 0);
    while i < 16 {
        halves[i] = (TRELLIS_TABLE[i] + 31) as u8;
        i += 1;
    }
    halves
};

/// [`Codes`] of the stage: level + 62, or unsigned codes in mode z8.
pub(in crate::kernels) struct Staged;

impl Codes for Staged {
    const WORDS: usize = STEPS;
    const ZERO: i16 = 62;
    const NIBBLES: bool = true;
    const STEPS_16: usize = 1;
    const STAGED: bool = true;

    #[inline(always)]
    unsafe fn steps<L: Lanes>(words: *const u8, _table: L::Line) -> [L::Line; 8] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut steps = [L::zero(); 8];
            let mut i = 0;
            while i < STEPS {
                steps[i] = L::load(words.add(i * 4 * L::ROWS));
                i += 1;
            }
            steps
        }
    }
}

/// Room for the codes of a section.
pub(in crate::kernels) struct Stage<V> {
    lines: MaybeUninit<[V; SECTION * STEPS + 2 * SLACK]>,
    first: usize,
}

impl<V: Copy> Stage<V> {
    /// Room that holds nothing yet.
    #[inline(always)]
    pub(in crate::kernels) fn new() -> Self {
        Self { lines: MaybeUninit::uninit(), first: 0 }
    }

    /// Spreads the codes of `groups`, a section at most, where `P` is staged.
    ///
    /// # Safety
    /// As for [`Lanes`]; the groups are below the tile's.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn fill<L: Lanes<Line = V>, P: Codes>(
        &mut self, part: Part<'_>, groups: Range<usize>,
    ) {
        if P::STAGED {
            assert!(groups.len() <= SECTION);
            self.first = groups.start;
            // SAFETY: the caller's promise; there is room for a section and the slack on both sides.
            unsafe { L::run(Spread { part, groups, out: self.lines.as_mut_ptr().cast::<V>().add(SLACK).cast() }) }
        }
    }

    /// The codes of a group, as [`Codes::steps`] of `P` takes them.
    ///
    /// # Safety
    /// `group` is below the tile's groups, and of those last filled where `P` is staged.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn words<P: Codes>(&self, part: Part<'_>, group: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe {
            if P::STAGED {
                self.lines.as_ptr().cast::<V>().add(SLACK + (group - self.first) * STEPS).cast()
            } else {
                part.words(group, P::WORDS)
            }
        }
    }
}

/// Writes the codes of groups to `out`, where a section and the slack around it are writable.
pub(in crate::kernels) struct Spread<'a> {
    pub(in crate::kernels) part: Part<'a>,
    pub(in crate::kernels) groups: Range<usize>,
    pub(in crate::kernels) out: *mut i32,
}

impl Job for Spread<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.part.tile.kind {
                _ if L::spread(&self) => {}
                PayloadKind::T16 => self.ternary::<L>(),
                PayloadKind::U2 => self.each::<L, U2>(),
                PayloadKind::U3 => self.each::<L, U3>(),
                PayloadKind::Trellis(2) => self.trellis::<L, 2>(),
                PayloadKind::Trellis(3) => self.trellis::<L, 3>(),
                PayloadKind::Trellis(4) => self.trellis::<L, 4>(),
                PayloadKind::Trellis(5) => self.trellis::<L, 5>(),
                PayloadKind::Trellis(6) => self.trellis::<L, 6>(),
                PayloadKind::Trellis(7) => self.trellis::<L, 7>(),
                PayloadKind::Trellis(8) => self.trellis::<L, 8>(),
                kind => panic!("{kind:?} is not staged"),
            }
        }
    }
}

impl Spread<'_> {
    /// What turns codes with the zero level `zero` into those of [`Staged`].
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    pub(in crate::kernels) unsafe fn bias<L: Lanes>(&self, zero: u8) -> L::Line {
        // SAFETY: the caller's promise.
        unsafe { L::splat8(if self.part.tile.unsigned { 0 } else { Staged::ZERO as u8 - zero }) }
    }

    /// The line of word `word` of the part's rows.
    ///
    /// # Safety
    /// The row has that word.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn line(&self, word: usize) -> *const u8 {
        debug_assert!((word + 1) * LINE <= self.part.tile.payload.len());
        // SAFETY: the caller's promise.
        unsafe { self.part.tile.payload.as_ptr().add(word * LINE + 4 * self.part.row) }
    }

    /// Asks for what the next sections will want, words `words` further on.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    pub(in crate::kernels) unsafe fn prefetch<L: Lanes>(&self, words: Range<usize>) {
        if self.part.tile.pass == 0 && self.part.row == 0 {
            for word in words {
                // SAFETY: a prefetch may name any address.
                unsafe { L::prefetch(self.part.tile.payload.as_ptr().wrapping_add(word * LINE + PREFETCH)) }
            }
        }
    }

    /// Writes the codes of each group of `P`.
    ///
    /// # Safety
    /// As for [`Job::run`].
    #[inline(always)]
    unsafe fn each<L: Lanes, P: Codes>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            let bias = self.bias::<L>(P::ZERO as u8);
            for group in self.groups.clone() {
                self.prefetch::<L>(group * P::WORDS..(group + 1) * P::WORDS);
                let mut steps = P::steps::<L>(self.line(group * P::WORDS), L::zero());
                for step in &mut steps {
                    *step = L::add16(*step, bias);
                }
                self.write::<L>(group, steps);
            }
        }
    }

    /// Writes the steps of a group.
    ///
    /// # Safety
    /// As for [`Job::run`].
    #[inline(always)]
    unsafe fn write<L: Lanes>(&self, group: usize, steps: [L::Line; STEPS]) {
        // SAFETY: the caller's promise.
        let out = unsafe { self.out.add((group - self.groups.start) * STEPS * L::ROWS) };
        for (j, step) in steps.into_iter().enumerate() {
            // SAFETY: there is room for every group.
            unsafe { L::store(step, out.add(j * L::ROWS)) }
        }
    }

    /// T16: a word is five steps, whose first and last may belong to the groups around.
    ///
    /// # Safety
    /// As for [`Job::run`].
    #[inline(always)]
    unsafe fn ternary<L: Lanes>(&self) {
        let (first, end) = (self.groups.start * STEPS, self.groups.end * STEPS);
        // SAFETY: the caller's promise; the words hold steps of the groups, and steps around them fit the slack.
        unsafe {
            let (byte, bias) = (L::splat16(255), self.bias::<L>(1));
            self.prefetch::<L>(first / DIGITS..end.div_ceil(DIGITS));
            for word in first / DIGITS..end.div_ceil(DIGITS) {
                let bytes = L::load(self.line(word));
                let mut even = L::and(bytes, byte);
                let mut odd = L::shr16::<8>(bytes);
                for digit in 0..DIGITS {
                    even = L::add16(even, L::add16(even, even));
                    odd = L::add16(odd, L::add16(odd, odd));
                    let codes = L::or(L::shr16::<8>(even), L::xor(odd, L::and(odd, byte)));
                    let at = (word * DIGITS + digit) as isize - first as isize;
                    L::store(L::add16(codes, bias), self.out.offset(at * L::ROWS as isize));
                    even = L::and(even, byte);
                    odd = L::and(odd, byte);
                }
            }
        }
    }

    /// P of B bits per step: the windows of two steps lie side by side in the halves of a lane.
    ///
    /// # Safety
    /// As for [`Job::run`].
    #[inline(always)]
    pub(in crate::kernels) unsafe fn trellis<L: Lanes, const B: u32>(&self) {
        for group in self.groups.clone() {
            let bit = group * STEPS * 2 * B as usize;
            // SAFETY: the caller's promise; a group's windows end within its own words.
            unsafe {
                self.prefetch::<L>(bit / 32..(bit + STEPS * 2 * B as usize) / 32);
                let words = self.line(bit / 32);
                let steps = if bit.is_multiple_of(32) {
                    let before = if group == 0 { L::zero() } else { L::load(words.sub(LINE)) };
                    windows::<L, B, 0>(before, words)
                } else {
                    windows::<L, B, 16>(L::zero(), words)
                };
                self.write::<L>(group, steps);
            }
        }
    }
}

/// The steps of a group of a trellis of B bits that begins at bit `PHASE` of the word at `words`, after `before`.
///
/// # Safety
/// As for [`Lanes`]; the group's words are readable.
#[inline(always)]
unsafe fn windows<L: Lanes, const B: u32, const PHASE: i32>(before: L::Line, words: *const u8) -> [L::Line; STEPS] {
    // SAFETY: the caller's promise; the windows of the last steps end with the group.
    unsafe {
        let (table, nibble) = (L::table(&HALVES), L::splat8(15));
        let (factor, rounded) = (L::splat16(2767), L::splat16(13793));
        let word = |i: i32| if i < 0 { before } else { L::load(words.add(i as usize * LINE)) };
        let mut steps = [L::zero(); STEPS];
        let mut j = 0;
        while j < STEPS {
            // The window of step 2j, and B bits further that of the next.
            let at = PHASE + (2 * j as i32 + 1) * B as i32 - 16;
            let (i, shift) = (at.div_euclid(32), at.rem_euclid(32) as u32);
            let low = L::shr32(word(i), shift);
            let both = if shift + 16 + B <= 32 { low } else { L::or(low, L::shl32(word(i + 1), 32 - shift)) };
            let window = L::merge(both, L::shl32(both, 16 - B));
            let hash = L::add16(L::mul16(window, factor), L::mul_rounded16(window, rounded));
            let high = L::lookup(table, L::and(L::shr16::<4>(hash), nibble));
            steps[j] = L::add16(L::lookup(table, L::and(hash, nibble)), high);
            j += 1;
        }
        steps
    }
}
