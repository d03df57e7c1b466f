//! The trellis with AVX-512 VBMI and VBMI2: funnel shifts, bit fields from anywhere in a lane, and tables that need no
//! masks.

use super::avx512vnni::Avx512;
use crate::activations::{RUN, TokenCodes};
use crate::formats::GROUP;
use crate::kernels::Sums;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot::{Input, SECTION, Totals};
use crate::kernels::simd::scales::{GroupScale, Part, Scales};
use crate::kernels::simd::staged::{HALVES, STEPS, Spread, Staged};
use crate::kernels::simd::tile::{Tile, Tokens};
use core::arch::x86_64::*;
use core::ops::Range;
use std::arch::is_x86_feature_detected;

/// Steps that are decoded together.
const TOGETHER: usize = 4;
/// Sums of 16 columns in a chunk: as i16 they fill a register.
const SUMS: usize = SECTION * GROUP / RUN;
const _: () = assert!(SUMS == 32);

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
            each_step::<B>(spread.part, group, |j, step| out.add(j).write_unaligned(step));
        }
    }
}

/// The dot slot for one token, whose codes meet it as they are decoded.
///
/// # Safety
/// As for [`crate::kernels::simd::lanes::Lanes::panel`], where [`available`] holds, and the tile's payload is a trellis
/// of `bits` bits per step.
pub(super) unsafe fn one<S: Scales, I: Input>(bits: u32, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe {
        match bits {
            2 => one_token::<S, I, 2>(tile, tokens, out),
            3 => one_token::<S, I, 3>(tile, tokens, out),
            4 => one_token::<S, I, 4>(tile, tokens, out),
            5 => one_token::<S, I, 5>(tile, tokens, out),
            6 => one_token::<S, I, 6>(tile, tokens, out),
            7 => one_token::<S, I, 7>(tile, tokens, out),
            8 => one_token::<S, I, 8>(tile, tokens, out),
            _ => panic!("a trellis of {bits} bits"),
        }
    }
}

/// # Safety
/// As for [`one`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2")]
unsafe fn one_token<S: Scales, I: Input, const B: u32>(tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut Sums) {
    let (token, padded, part) = (tokens.get(0), tokens.padded(), Part { tile, row: 0 });
    // SAFETY: the caller's promise; groups are the tile's, and the token's planes, sums and scales cover them.
    unsafe {
        let mut totals = Totals::<__m512i, 1>::zero::<Avx512>();
        let mut group = 0;
        while group < tile.groups {
            let end = tile.groups.min(group + I::CHUNK);
            totals.add::<Avx512, I>(&[chunk::<S, I, B>(part, group..end, &token, padded)]);
            group = end;
        }
        totals.store::<Avx512, I>(0, out);
    }
}

/// The sums of a chunk, for each plane.
///
/// # Safety
/// As for [`one_token`].
#[inline(always)]
unsafe fn chunk<S: Scales, I: Input, const B: u32>(
    part: Part<'_>, groups: Range<usize>, token: &TokenCodes<'_>, padded: usize,
) -> [__m512i; 2] {
    let runs = if S::HALVES { GROUP / RUN } else { 1 };
    // SAFETY: the caller's promise.
    unsafe {
        let mut starts = [[0; SUMS]; 2];
        for (plane, starts) in starts[..I::PLANES].iter_mut().enumerate() {
            let first = (plane * padded + groups.start * GROUP) / RUN;
            negated_levels::<S>(&token.sums[first..first + groups.len() * GROUP / RUN], starts);
        }
        let mut acc = [_mm512_setzero_si512(); 2];
        for group in groups.clone() {
            part.prefetch::<Avx512, Staged, S>(group);
            let first = (group - groups.start) * runs;
            let mut dots = [[_mm512_setzero_si512(); 2]; 2];
            let mut q = [token.planes.as_ptr(); 2];
            for plane in 0..I::PLANES {
                for run in 0..runs {
                    dots[plane][run] = _mm512_set1_epi32(starts[plane][first + run]);
                }
                q[plane] = token.planes.as_ptr().add(plane * padded + group * GROUP);
            }
            each_step::<B>(part, group, |j, step| {
                let run = if S::HALVES { j / (STEPS / 2) } else { 0 };
                for plane in 0..I::PLANES {
                    let q = _mm512_set1_epi32(q[plane].cast::<i32>().add(j).read_unaligned());
                    dots[plane][run] = _mm512_dpbusd_epi32(dots[plane][run], step, q);
                }
            });
            let GroupScale { s, .. } = S::group::<Avx512, Staged>(part, group);
            for plane in 0..I::PLANES {
                let mut dot = dots[plane][0];
                if S::SCALED {
                    dot = _mm512_mullo_epi32(dot, s[0]);
                }
                if S::HALVES {
                    dot = _mm512_add_epi32(dot, _mm512_mullo_epi32(dots[plane][1], s[1]));
                }
                if I::SCALED {
                    dot = _mm512_mullo_epi32(dot, _mm512_set1_epi32(token.scales[group]));
                }
                acc[plane] = _mm512_add_epi32(acc[plane], dot);
            }
        }
        acc
    }
}

/// What products with the codes of [`Staged`] start with, so that they are those of levels: minus the zero level times
/// the sum of what it is multiplied with, of every group, or of its halves where they have scales of their own.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2")]
fn negated_levels<S: Scales>(sums: &[i16], out: &mut [i32; SUMS]) {
    // SAFETY: lanes beyond the sums are masked, and masked lanes are not read; `out` has 32 lanes.
    unsafe {
        let sums = _mm512_maskz_loadu_epi16(u32::MAX >> (SUMS - sums.len()), sums.as_ptr());
        let out = out.as_mut_ptr().cast::<__m512i>();
        if S::HALVES {
            let level = _mm512_set1_epi32(-i32::from(Staged::ZERO));
            let (low, high) = (_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
            out.write_unaligned(_mm512_mullo_epi32(_mm512_cvtepi16_epi32(low), level));
            out.add(1).write_unaligned(_mm512_mullo_epi32(_mm512_cvtepi16_epi32(high), level));
        } else {
            out.write_unaligned(_mm512_madd_epi16(sums, _mm512_set1_epi16(-Staged::ZERO)));
        }
    }
}

/// Calls `take` with each step of a group and its number.
///
/// # Safety
/// As for [`spread`], and the group is one of the tile.
#[inline(always)]
unsafe fn each_step<const B: u32>(part: Part<'_>, group: usize, take: impl FnMut(usize, __m512i)) {
    let bit = group * STEPS * 2 * B as usize;
    // SAFETY: the caller's promise; a group's windows end within its own words.
    unsafe {
        // Tables of 64 bytes are indexed by six bits, of which this heeds the low four.
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(HALVES.as_ptr().cast()));
        let words = part.words(bit / 32, 1).cast::<__m512i>();
        if bit.is_multiple_of(32) {
            let before = if group == 0 { _mm512_setzero_si512() } else { words.sub(1).read_unaligned() };
            steps::<B, 0>(before, words, table, take);
        } else {
            steps::<B, 16>(_mm512_setzero_si512(), words, table, take);
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

/// Calls `take` with the steps of the group that begins at bit `PHASE` of the word at `words`, after `before`.
///
/// # Safety
/// As for [`spread`].
#[inline(always)]
unsafe fn steps<const B: u32, const PHASE: i32>(
    before: __m512i, words: *const __m512i, table: __m512i, mut take: impl FnMut(usize, __m512i),
) {
    // SAFETY: the caller's promise; the windows of the last steps end with the group.
    unsafe {
        let word = |i: i32| if i < 0 { before } else { words.add(i as usize).read_unaligned() };
        // Several steps keep pace, because each instruction waits for the one before.
        let (mut low, mut high) = ([_mm512_setzero_si512(); TOGETHER], [_mm512_setzero_si512(); TOGETHER]);
        let mut j = 0;
        while j < STEPS {
            let mut i = 0;
            while i < TOGETHER {
                let at = PHASE + (2 * (j + i) as i32 + 1) * B as i32 - 16;
                let (at, shift) = (at.div_euclid(32), at.rem_euclid(32) as u32);
                low[i] = if shift + 16 + B <= 32 {
                    _mm512_multishift_epi64_epi8(_mm512_set1_epi64(fields(B, shift)), word(at))
                } else {
                    let both = _mm512_shrdv_epi32(word(at), word(at + 1), _mm512_set1_epi32(shift as i32));
                    _mm512_multishift_epi64_epi8(_mm512_set1_epi64(fields(B, 0)), both)
                };
                i += 1;
            }
            i = 0;
            while i < TOGETHER {
                high[i] = _mm512_mulhrs_epi16(low[i], _mm512_set1_epi16(13793));
                low[i] = _mm512_mullo_epi16(low[i], _mm512_set1_epi16(2767));
                i += 1;
            }
            i = 0;
            while i < TOGETHER {
                let hash = _mm512_add_epi16(low[i], high[i]);
                low[i] = _mm512_permutexvar_epi8(hash, table);
                high[i] = _mm512_srli_epi16::<4>(hash);
                i += 1;
            }
            i = 0;
            while i < TOGETHER {
                high[i] = _mm512_permutexvar_epi8(high[i], table);
                i += 1;
            }
            i = 0;
            while i < TOGETHER {
                take(j + i, _mm512_add_epi8(low[i], high[i]));
                i += 1;
            }
            j += TOGETHER;
        }
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
