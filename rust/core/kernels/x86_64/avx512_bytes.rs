//! Several tokens in i8, for AVX-512: the codes of a tile become bytes once, and every token then costs little more than
//! its products.

use super::avx512_panel::{TOKENS, Total, keep};
use super::avx512vnni::Avx512;
use crate::formats::GROUP;
use crate::kernels::Sums;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot::{Input, SECTION};
use crate::kernels::simd::lanes::Lanes;
use crate::kernels::simd::scales::{GroupScale, Part, Scales};
use crate::kernels::simd::staged::{STEPS, Stage};
use crate::kernels::simd::tile::{Tile, Tokens};
use core::arch::asm;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::null;

/// Tokens from which on they pay for their making.
pub(super) const PAYS: usize = 32;
/// Groups that are decoded at a time, lines of lanes for each: their codes fill half of the first-level cache.
const GROUPS: usize = 64;
const LANES: usize = 16;

/// Added to an i16 below another, so that it takes nothing from that one.
const SIGN: i32 = 1 << 15;

/// What a group's products of codes become: nothing else of payload and mode decides how they are multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The sum.
    Plain,
    /// Times the scale.
    Scaled,
    /// Each half times its scale.
    Halves,
    /// Times the scale, plus the offset for the sum of the token's codes.
    Offset,
    /// The same with a scale and an offset for each half.
    OffsetHalves,
    /// As `Offset`, where a group's product fits an i16, so that scale and offset are one multiplication: codes and their
    /// sum share a lane until then, the product in the low half with its zero level taken off, the sum in the high one.
    Packed,
}

const FORMS: [Form; 6] = [Form::Plain, Form::Scaled, Form::Halves, Form::Offset, Form::OffsetHalves, Form::Packed];

const fn form<P: Codes, S: Scales>() -> Form {
    match (S::OFFSET, S::HALVES) {
        (true, true) => Form::OffsetHalves,
        (true, false) if P::STEPS_16 >= STEPS => Form::Packed,
        (true, false) => Form::Offset,
        (false, true) => Form::Halves,
        (false, false) if S::SCALED => Form::Scaled,
        (false, false) => Form::Plain,
    }
}

/// Bytes and scales of one group of a tile.
struct Group {
    steps: [__m512i; STEPS],
    scale: GroupScale<__m512i>,
}

/// What a section of [`TOKENS`] tokens has beside its codes: a lane for each group.
struct Block {
    /// Scales, in A8b.
    scales: [[i32; GROUPS]; TOKENS],
    /// What each half's product of codes begins with, to be free of its zero level; of both halves where they have one
    /// scale. Sums of 16 codes where the offset is stored.
    starts: [[[i32; GROUPS]; 2]; TOKENS],
}

/// The dot slot for a tile and all tokens of `out`.
///
/// # Safety
/// As for [`Lanes::panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn dot<P: Codes, S: Scales, I: Input>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) {
    // Not set to zeros first: with few tokens that would cost as much as their products.
    let mut panel = [const { MaybeUninit::uninit() }; GROUPS];
    let mut block = Block { scales: [[0; GROUPS]; TOKENS], starts: [[[0; GROUPS]; 2]; TOKENS] };
    let multiply = match form::<P, S>() {
        Form::Plain => multiply::<I, { Form::Plain as usize }>,
        Form::Scaled => multiply::<I, { Form::Scaled as usize }>,
        Form::Halves => multiply::<I, { Form::Halves as usize }>,
        Form::Offset => multiply::<I, { Form::Offset as usize }>,
        Form::OffsetHalves => multiply::<I, { Form::OffsetHalves as usize }>,
        Form::Packed => multiply::<I, { Form::Packed as usize }>,
    };
    // Sections of one size, because a short one costs as much around its products.
    let size = tile.groups.div_ceil(tile.groups.div_ceil(GROUPS));
    for first in (0..tile.groups).step_by(size) {
        let end = tile.groups.min(first + size);
        // SAFETY: the caller's promise; the groups are the tile's.
        let panel = unsafe { decode::<P, S>(tile, first..end, &mut panel) };
        for (i, out) in out.chunks_mut(TOKENS).enumerate() {
            for plane in 0..I::PLANES {
                let mut codes = [null(); TOKENS];
                for (j, codes) in codes.iter_mut().enumerate() {
                    // Where there are fewer tokens, the last stands in for the others.
                    let section = tokens.section(i * TOKENS + j.min(out.len() - 1), plane, &(first..end));
                    *codes = section.codes.as_ptr().cast();
                    prepare::<P, S>(&mut block, j, section.sums, section.scales);
                }
                // SAFETY: the codes cover the section, as just sliced.
                let totals = unsafe { multiply(panel, &block, codes) };
                for (out, total) in out.iter_mut().zip(totals) {
                    let mut sums = total.sums();
                    if I::PLANES == 2 && plane == 0 {
                        // The high halves, of 256 each.
                        sums = sums.map(|sum| _mm512_slli_epi64::<8>(sum));
                    }
                    keep(sums, out, first == 0 && plane == 0);
                }
            }
        }
    }
}

/// Decodes groups into `panel`; returns them.
///
/// # Safety
/// As for [`Lanes::panel`], and the groups are the tile's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn decode<'a, P: Codes, S: Scales>(
    tile: &Tile<'_>, groups: Range<usize>, panel: &'a mut [MaybeUninit<Group>; GROUPS],
) -> &'a [Group] {
    let (part, mut stage) = (Part { tile, row: 0 }, Stage::new());
    let panel = &mut panel[..groups.len()];
    for (i, slot) in panel.iter_mut().enumerate() {
        let group = groups.start + i;
        // SAFETY: the caller's promise.
        unsafe {
            if i % SECTION == 0 {
                stage.fill::<Avx512, P>(part, group..groups.end.min(group + SECTION));
            }
            part.prefetch::<Avx512, P, S>(group);
            let table = Avx512::table(&tile.table_bytes(Avx512::SIGNED));
            let steps = P::steps::<Avx512>(stage.words::<P>(part, group), table);
            let mut scale = S::group::<Avx512, P>(part, group);
            if form::<P, S>() == Form::Packed {
                // The offset of codes without their zero level is the weight of that level.
                let level = _mm512_mullo_epi16(Avx512::low_twice(scale.s[0]), _mm512_set1_epi16(P::ZERO));
                scale.z = Avx512::merge(scale.s[0], _mm512_add_epi16(scale.z, level));
            }
            slot.write(Group { steps, scale });
        }
    }
    // SAFETY: all of these have just been written.
    unsafe { core::slice::from_raw_parts(panel.as_ptr().cast(), panel.len()) }
}

/// Writes token `j` of `block`, from its sums of 16 codes and its scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn prepare<P: Codes, S: Scales>(block: &mut Block, j: usize, sums: &[i16], scales: &[i32]) {
    assert!(scales.len() <= GROUPS && sums.len() == 2 * scales.len());
    let level = -i32::from(P::ZERO);
    for (i, (scales, sums)) in scales.chunks(LANES).zip(sums.chunks(2 * LANES)).enumerate() {
        let lanes = ((1u32 << scales.len()) - 1) as __mmask16;
        // SAFETY: as many lanes are read as there are scales, and pairs of sums.
        let (scales, sums) = unsafe {
            (_mm512_maskz_loadu_epi32(lanes, scales.as_ptr()), _mm512_maskz_loadu_epi32(lanes, sums.as_ptr().cast()))
        };
        let [first, second] = match form::<P, S>() {
            Form::Packed => {
                let sum = _mm512_madd_epi16(sums, _mm512_set1_epi16(1));
                let start = _mm512_mullo_epi32(sum, _mm512_set1_epi32((1 << 16) + level));
                [_mm512_add_epi32(start, _mm512_set1_epi32(SIGN)); 2]
            }
            Form::Offset | Form::OffsetHalves => [sums; 2],
            Form::Halves => {
                let (low, high) = (_mm512_set1_epi32(level & 0xFFFF), _mm512_set1_epi32(level << 16));
                [_mm512_madd_epi16(sums, low), _mm512_madd_epi16(sums, high)]
            }
            Form::Plain | Form::Scaled => [_mm512_madd_epi16(sums, _mm512_set1_epi16(level as i16)); 2],
        };
        // SAFETY: there is a lane for each group.
        unsafe {
            _mm512_storeu_si512(block.scales[j].as_mut_ptr().add(i * LANES).cast(), scales);
            _mm512_storeu_si512(block.starts[j][0].as_mut_ptr().add(i * LANES).cast(), first);
            if form::<P, S>() == Form::Halves {
                _mm512_storeu_si512(block.starts[j][1].as_mut_ptr().add(i * LANES).cast(), second);
            }
        }
    }
}

/// Sums over the section, of each token, in form `FORM` of [`FORMS`].
///
/// # Safety
/// Each token's codes cover the section.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<I: Input, const FORM: usize>(
    panel: &[Group], block: &Block, mut codes: [*const i8; TOKENS],
) -> [Total; TOKENS] {
    let form = const { FORMS[FORM] };
    let halves = const { matches!(FORMS[FORM], Form::Halves | Form::OffsetHalves) };
    let zero = [_mm512_setzero_si512(); TOKENS];
    let mut totals = [Total::zero(); TOKENS];
    let mut group = 0;
    while group < panel.len() {
        let mut acc = zero;
        let end = (group + I::CHUNK).min(panel.len());
        while group < end {
            let Group { steps, scale } = &panel[group];
            let (mut first, mut second) = (zero, zero);
            if !matches!(form, Form::Offset | Form::OffsetHalves) {
                for j in 0..TOKENS {
                    first[j] = _mm512_set1_epi32(block.starts[j][0][group]);
                    if halves {
                        second[j] = _mm512_set1_epi32(block.starts[j][1][group]);
                    }
                }
            }
            // SAFETY: a group is readable of each token.
            unsafe {
                if halves {
                    dot_steps::<0, 4>(&mut first, steps, codes);
                    dot_steps::<4, 8>(&mut second, steps, codes);
                } else {
                    dot_steps::<0, 8>(&mut first, steps, codes);
                }
            }
            for j in 0..TOKENS {
                let mut v = match form {
                    Form::Plain => first[j],
                    Form::Packed => _mm512_madd_epi16(_mm512_xor_si512(first[j], _mm512_set1_epi32(SIGN)), scale.z),
                    _ => _mm512_mullo_epi32(first[j], scale.s[0]),
                };
                if halves {
                    v = _mm512_add_epi32(v, _mm512_mullo_epi32(second[j], scale.s[1]));
                }
                if matches!(form, Form::Offset | Form::OffsetHalves) {
                    v = _mm512_dpwssd_epi32(v, scale.z, _mm512_set1_epi32(block.starts[j][0][group]));
                }
                let x = _mm512_set1_epi32(block.scales[j][group]);
                if I::SCALED {
                    v = _mm512_mullo_epi32(v, x);
                }
                acc[j] = _mm512_add_epi32(acc[j], v);
                // SAFETY: at most the end of the section.
                codes[j] = unsafe { codes[j].add(GROUP) };
            }
            group += 1;
        }
        for j in 0..TOKENS {
            totals[j].add(acc[j]);
        }
    }
    totals
}

/// `sums` plus the products of steps `FROM..END` with the codes of a group at `q`, of each token.
///
/// # Safety
/// The group is readable at every `q`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn dot_steps<const FROM: usize, const END: usize>(
    sums: &mut [__m512i; TOKENS], steps: &[__m512i; STEPS], q: [*const i8; TOKENS],
) {
    let mut i = FROM;
    while i < END {
        // Token by token, so that no product waits for the one before.
        for j in 0..TOKENS {
            // SAFETY: a step is a dword of codes of the group.
            let x = unsafe { q[j].cast::<i32>().add(i).read_unaligned() };
            sums[j] = _mm512_dpbusd_epi32(sums[j], steps[i], _mm512_set1_epi32(x));
        }
        in_order(sums);
        i += 1;
    }
}

/// Keeps the compiler from moving later operations on `v` before earlier ones on any of it: it would put the products of
/// a token one behind the other.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn in_order(v: &mut [__m512i; TOKENS]) {
    let [a, b, c, d, e, f, g, h] = v;
    // SAFETY: there is no instruction.
    unsafe {
        asm!(
            "/* {0} {1} {2} {3} {4} {5} {6} {7} */",
            inout(zmm_reg) * a,
            inout(zmm_reg) * b,
            inout(zmm_reg) * c,
            inout(zmm_reg) * d,
            inout(zmm_reg) * e,
            inout(zmm_reg) * f,
            inout(zmm_reg) * g,
            inout(zmm_reg) * h,
            options(nomem, nostack, preserves_flags)
        );
    }
}
