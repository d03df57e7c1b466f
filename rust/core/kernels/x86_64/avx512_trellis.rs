//! The trellis with AVX-512 VBMI and VBMI2: funnel shifts, bit fields from anywhere in a lane, and tables that need no
//! masks.

use super::avx512vnni::Avx512;
use crate::kernels::Sums;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot::{Call, Input, narrow_from};
use crate::kernels::simd::lanes::Lanes;
use crate::kernels::simd::scales::{Part, Scales};
use crate::kernels::simd::staged::{HALVES, STEPS, Source, Spread, Staged};
use crate::kernels::simd::tile::{Tile, Tokens};
use core::arch::x86_64::*;
use core::ops::Range;
use std::arch::is_x86_feature_detected;

/// Whether this machine has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vbmi2")
}

/// [`Spread`] for a trellis of `bits` bits per step.
///
/// # Safety
/// As for [`Spread`], where [`available`] holds.
pub(super) unsafe fn spread(spread: &Spread<'_>, bits: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        match bits {
            2 => groups::<2>(spread),
            3 => groups::<3>(spread),
            4 => groups::<4>(spread),
            5 => groups::<5>(spread),
            6 => groups::<6>(spread),
            7 => groups::<7>(spread),
            8 => groups::<8>(spread),
            _ => panic!("a trellis of {bits} bits"),
        }
    }
}

/// # Safety
/// As for [`spread`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
unsafe fn groups<const B: u32>(spread: &Spread<'_>) {
    for group in spread.groups.clone() {
        let bit = group * STEPS * 2 * B as usize;
        // SAFETY: the caller's promise; there is room for every group.
        unsafe {
            let out = spread.out.cast::<__m512i>().add((group - spread.groups.start) * STEPS);
            spread.prefetch::<Avx512>(bit / 32..(bit + STEPS * 2 * B as usize) / 32);
            for (j, step) in group_steps::<B>(spread.part, group).into_iter().enumerate() {
                out.add(j).write_unaligned(step);
            }
        }
    }
}

/// The dot slot for one token, whose codes meet it as they are decoded.
///
/// # Safety
/// As for [`crate::kernels::simd::lanes::Lanes::panel`], where [`available`] holds, and the tile's payload is a trellis
/// of `bits` bits per step.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2")]
pub(super) unsafe fn one<S: Scales, I: Input>(bits: u32, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut Sums) {
    let call = Call { tile, tokens, out };
    // SAFETY: the caller's promise.
    unsafe {
        match bits {
            2 => narrow_from::<Avx512, Staged, S, I, Decoded<2>, 1>(call),
            3 => narrow_from::<Avx512, Staged, S, I, Decoded<3>, 1>(call),
            4 => narrow_from::<Avx512, Staged, S, I, Decoded<4>, 1>(call),
            5 => narrow_from::<Avx512, Staged, S, I, Decoded<5>, 1>(call),
            6 => narrow_from::<Avx512, Staged, S, I, Decoded<6>, 1>(call),
            7 => narrow_from::<Avx512, Staged, S, I, Decoded<7>, 1>(call),
            8 => narrow_from::<Avx512, Staged, S, I, Decoded<8>, 1>(call),
            _ => panic!("a trellis of {bits} bits"),
        }
    }
}

/// Codes of a trellis of `B` bits per step that are decoded where they are used.
struct Decoded<const B: u32>;

impl<const B: u32> Source<__m512i> for Decoded<B> {
    #[inline(always)]
    fn new() -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn fill<L: Lanes<Line = __m512i>, P: Codes>(&mut self, _: Part<'_>, _: Range<usize>) {}

    #[inline(always)]
    unsafe fn steps<L: Lanes<Line = __m512i>, P: Codes>(
        &self, part: Part<'_>, group: usize, _: __m512i,
    ) -> [__m512i; STEPS] {
        // SAFETY: the caller's promise.
        unsafe { group_steps::<B>(part, group) }
    }
}

/// The steps of a group.
///
/// # Safety
/// As for [`spread`], and the group is one of the tile.
#[inline(always)]
unsafe fn group_steps<const B: u32>(part: Part<'_>, group: usize) -> [__m512i; STEPS] {
    let bit = group * STEPS * 2 * B as usize;
    // SAFETY: the caller's promise; a group's windows end within its own words.
    unsafe {
        // Tables of 64 bytes are indexed by six bits, of which this heeds the low four.
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(HALVES.as_ptr().cast()));
        let words = part.words(bit / 32, 1).cast::<__m512i>();
        if bit.is_multiple_of(32) {
            let before = if group == 0 { _mm512_setzero_si512() } else { words.sub(1).read_unaligned() };
            steps::<B, 0>(before, words, table)
        } else {
            steps::<B, 16>(_mm512_setzero_si512(), words, table)
        }
    }
}

/// The bit fields that make the windows of two steps the halves of each lane: eight bits from each of these places of
/// a lane of 64 bits, of which this handles two of 32.
const fn fields(bits: u32, at: u32) -> i64 {
    let mut fields = 0;
    let mut byte = 0;
    while byte < 8 {
        let (lane, half, part) = (byte / 4, byte / 2 % 2, byte % 2);
        let place = 32 * lane + at + half * bits + 8 * part;
        fields |= (place as i64) << (8 * byte);
        byte += 1;
    }
    fields
}

/// The steps of the group that begins at bit `PHASE` of the word at `words`, after `before`.
///
/// # Safety
/// As for [`spread`].
#[inline(always)]
unsafe fn steps<const B: u32, const PHASE: i32>(
    before: __m512i, words: *const __m512i, table: __m512i,
) -> [__m512i; STEPS] {
    // SAFETY: the caller's promise; the windows of the last steps end with the group.
    unsafe {
        let word = |i: i32| if i < 0 { before } else { words.add(i as usize).read_unaligned() };
        let mut steps = [_mm512_setzero_si512(); STEPS];
        let mut j = 0;
        while j < STEPS {
            let at = PHASE + (2 * j as i32 + 1) * B as i32 - 16;
            let (i, shift) = (at.div_euclid(32), at.rem_euclid(32) as u32);
            let window = if shift + 16 + B <= 32 {
                _mm512_multishift_epi64_epi8(_mm512_set1_epi64(fields(B, shift)), word(i))
            } else {
                let both = _mm512_shrdv_epi32(word(i), word(i + 1), _mm512_set1_epi32(shift as i32));
                _mm512_multishift_epi64_epi8(_mm512_set1_epi64(fields(B, 0)), both)
            };
            let rounded = _mm512_mulhrs_epi16(window, _mm512_set1_epi16(13793));
            let hash = _mm512_add_epi16(_mm512_mullo_epi16(window, _mm512_set1_epi16(2767)), rounded);
            let low = _mm512_permutexvar_epi8(hash, table);
            let high = _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(hash), table);
            steps[j] = _mm512_add_epi8(low, high);
            j += 1;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::lanes::{Job, Lanes};
    use crate::kernels::simd::scales::Part;
    use crate::kernels::simd::tile::Tile;

    const GROUPS: usize = 15;

    /// The way of sets without the instructions.
    struct Plain<'a>(Spread<'a>, u32);

    impl Job for Plain<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            // SAFETY: the caller's promise.
            unsafe {
                match self.1 {
                    2 => self.0.trellis::<L, 2>(),
                    3 => self.0.trellis::<L, 3>(),
                    4 => self.0.trellis::<L, 4>(),
                    5 => self.0.trellis::<L, 5>(),
                    6 => self.0.trellis::<L, 6>(),
                    7 => self.0.trellis::<L, 7>(),
                    _ => self.0.trellis::<L, 8>(),
                }
            }
        }
    }

    #[test]
    fn both_ways_spread_the_same_codes() {
        if !available() || !is_x86_feature_detected!("avx512vnni") {
            return;
        }
        let payload: Vec<u8> = (0..GROUPS * 8 * 64).map(|i| ((i * i * 31 + i * 7) >> 3) as u8).collect();
        let tile = Tile::of_payload(&payload, GROUPS);
        for bits in 2..=8 {
            for start in 0..3 {
                let mut found = [vec![0; GROUPS * STEPS * 16], vec![0; GROUPS * STEPS * 16]];
                let [a, b] = found.each_mut().map(|out| Spread {
                    part: Part { tile: &tile, row: 0 },
                    groups: start..GROUPS,
                    out: out.as_mut_ptr(),
                });
                // SAFETY: the instructions are there, and so are the payload's words.
                unsafe {
                    spread(&a, bits);
                    Avx512::run(Plain(b, bits));
                }
                assert!(found[0] == found[1], "{bits} bits, from group {start}");
                assert!(found[0].iter().any(|&codes| codes != 0));
            }
        }
    }
}
