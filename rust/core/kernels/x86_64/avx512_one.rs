//! One token in mode r, for AVX-512: products of a whole section add up before anything else is done to them; and T16,
//! whose digits are multiplied as they are decoded.

use super::avx512vnni::Avx512;
use crate::activations::{RUN, TokenCodes};
use crate::formats::GROUP;
use crate::kernels::Sums;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot::{Input, SECTION, Totals};
use crate::kernels::simd::lanes::Lanes;
use crate::kernels::simd::scales::{PREFETCH, Part, R};
use crate::kernels::simd::staged::{DIGITS, STEPS, Spread};
use crate::kernels::simd::tile::{Tile, Tokens};
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// Sums of each plane, which take turns, so that no product waits for the one before.
const CHAINS: usize = 4;
/// Words of T16 whose products fit an i32 accumulator, as those of a section do.
const WORDS: usize = SECTION * STEPS / DIGITS;
/// The zero level of T16.
const ZERO: i16 = 1;

/// The dot slot for one token and a payload that has words of its own for each group.
///
/// # Safety
/// As for [`Lanes::panel`]; the mode is r, and columns have no scales.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn dot<P: Codes, I: Input>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) {
    let (part, token) = (Part { tile, row: 0 }, tokens.get(0));
    let mut sums = OneToken::<I>::new(&token, tokens.padded());
    for first in (0..tile.groups).step_by(SECTION) {
        let mut dots = [[_mm512_setzero_si512(); CHAINS]; 2];
        for group in first..tile.groups.min(first + SECTION) {
            // SAFETY: the caller's promise; the group is one of the tile, and the token has its steps.
            unsafe {
                part.prefetch::<Avx512, P, R>(group);
                let table = Avx512::table(&tile.table_bytes(Avx512::SIGNED));
                let steps = P::steps::<Avx512>(part.words(group, P::WORDS), table);
                for (j, step) in steps.into_iter().enumerate() {
                    sums.multiply(&mut dots, j, group * STEPS + j, step);
                }
            }
        }
        sums.add(dots);
    }
    sums.store(P::ZERO, tile.groups, out);
}

/// The dot slot for one token and T16.
///
/// # Safety
/// As for [`dot`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn ternary<I: Input>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) {
    let (part, token) = (Part { tile, row: 0 }, tokens.get(0));
    let mut sums = OneToken::<I>::new(&token, tokens.padded());
    let (steps, whole) = (tile.groups * STEPS, tile.groups * STEPS / DIGITS);
    // SAFETY: the caller's promise; words hold steps of the tile, which the token has.
    unsafe {
        for first in (0..whole).step_by(WORDS) {
            let mut dots = [[_mm512_setzero_si512(); CHAINS]; 2];
            for word in first..whole.min(first + WORDS) {
                super::prefetch(part.words(word, 1).wrapping_add(PREFETCH));
                for (j, step) in digits(part.words(word, 1).cast()).into_iter().enumerate() {
                    sums.multiply(&mut dots, j, word * DIGITS + j, step);
                }
            }
            sums.add(dots);
        }
        if !steps.is_multiple_of(DIGITS) {
            let mut dots = [[_mm512_setzero_si512(); CHAINS]; 2];
            for (j, step) in digits(part.words(whole, 1).cast()).into_iter().take(steps % DIGITS).enumerate() {
                sums.multiply(&mut dots, j, whole * DIGITS + j, step);
            }
            sums.add(dots);
        }
    }
    sums.store(ZERO, tile.groups, out);
}

/// [`Spread`] for T16.
///
/// # Safety
/// As for [`Spread`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn spread(spread: &Spread<'_>) {
    let (first, end) = (spread.groups.start * STEPS, spread.groups.end * STEPS);
    let words = first / DIGITS..end.div_ceil(DIGITS);
    // SAFETY: the caller's promise; the words hold steps of the groups, and steps around them fit the slack.
    unsafe {
        let bias = spread.bias::<Avx512>(ZERO as u8);
        spread.prefetch::<Avx512>(words.clone());
        for word in words {
            let out = spread.out.cast::<__m512i>().offset((word * DIGITS) as isize - first as isize);
            for (j, step) in digits(spread.line(word).cast()).into_iter().enumerate() {
                out.add(j).write_unaligned(_mm512_add_epi8(step, bias));
            }
        }
    }
}

/// The steps of the word of T16 at `word`, plus 1.
///
/// # Safety
/// A line is readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn digits(word: *const __m512i) -> [__m512i; DIGITS] {
    // SAFETY: the caller's promise.
    let bytes = unsafe { word.read_unaligned() };
    let (even, odd) = (_mm512_slli_epi16::<8>(bytes), _mm512_srli_epi16::<8>(bytes));
    let (low_byte, mask) = (_mm512_set1_epi16(255), _mm512_set1_epi8(3));
    let (mut steps, mut before, mut power) = ([_mm512_setzero_si512(); DIGITS], _mm512_setzero_si512(), 1);
    for step in &mut steps {
        power *= 3;
        // Of each byte b, b · power / 256, rounded down: its first digits as one number.
        let high = _mm512_mulhi_epu16(even, _mm512_set1_epi16(power));
        let whole = _mm512_mullo_epi16(odd, _mm512_set1_epi16(power));
        // Bits of `high` where the low byte is, else of `whole`.
        let number = _mm512_ternarylogic_epi32::<0xCA>(low_byte, high, whole);
        // The last digit is the number minus three times that of the digits before, or modulo 4, their sum.
        *step = _mm512_and_si512(_mm512_add_epi8(number, before), mask);
        before = number;
    }
    steps
}

/// The sum of all chains.
#[inline]
#[target_feature(enable = "avx512f")]
fn together([a, b, c, d]: [__m512i; CHAINS]) -> __m512i {
    _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d))
}

/// Sums of products with the codes of one token.
struct OneToken<'a, I> {
    planes: *const i8,
    sums: &'a [i16],
    padded: usize,
    totals: Totals<__m512i, 1>,
    input: PhantomData<I>,
}

impl<'a, I: Input> OneToken<'a, I> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn new(token: &'a TokenCodes<'a>, padded: usize) -> Self {
        // SAFETY: the caller has AVX-512.
        let totals = unsafe { Totals::zero::<Avx512>() };
        Self { planes: token.planes.as_ptr(), sums: token.sums, padded, totals, input: PhantomData }
    }

    /// Adds the products of `step` and the token's step `at` to sum `j`, modulo [`CHAINS`], of each plane.
    ///
    /// # Safety
    /// The token has that step.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn multiply(&self, sums: &mut [[__m512i; CHAINS]; 2], j: usize, at: usize, step: __m512i) {
        for (plane, sums) in sums[..I::PLANES].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let q = unsafe { self.planes.add(plane * self.padded + 4 * at).cast::<i32>().read_unaligned() };
            sums[j % CHAINS] = _mm512_dpbusd_epi32(sums[j % CHAINS], step, _mm512_set1_epi32(q));
        }
    }

    /// Adds to the totals what a section, or less, gave each plane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn add(&mut self, [first, last]: [[__m512i; CHAINS]; 2]) {
        // SAFETY: the caller has AVX-512.
        unsafe { self.totals.add::<Avx512, I>(&[[together(first), together(last)]]) };
    }

    /// Writes the sums of levels, which are codes minus `zero`, of all groups.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn store(self, zero: i16, groups: usize, out: &mut Sums) {
        // SAFETY: the caller has AVX-512.
        unsafe { self.totals.store::<Avx512, I>(0, out) };
        // At most 2^11 each, of 2^17 columns at most.
        let sum = |plane: usize| {
            let sums = &self.sums[plane * self.padded / RUN..][..groups * GROUP / RUN];
            i64::from(sums.iter().map(|&sum| i32::from(sum)).sum::<i32>())
        };
        let all = if I::PLANES == 2 { (sum(0) << 8) + sum(1) } else { sum(0) };
        for out in &mut out[0] {
            *out -= i64::from(zero) * all;
        }
    }
}
