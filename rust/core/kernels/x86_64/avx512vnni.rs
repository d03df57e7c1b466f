//! AVX-512 with VNNI: 16 rows to a vector, four products of u8 and i8 to a lane.

use super::{avx512_attention, avx512_bytes, avx512_few, avx512_one, avx512_ops, avx512_panel, avx512_trellis};
use crate::activations::Activations;
use crate::formats::PayloadKind;
use crate::kernels::simd::codes::{Codes, U2, U3};
use crate::kernels::simd::dot::{self, Input};
use crate::kernels::simd::lanes::{Job, Lanes};
use crate::kernels::simd::scales::Scales;
use crate::kernels::simd::staged::Spread;
use crate::kernels::simd::tile::{Tile, Tokens};
use crate::kernels::{Attend, KernelSet, Kernels, Sums};
use crate::matrix::Matrix;
use core::arch::x86_64::*;
use core::ops::Range;
use std::arch::is_x86_feature_detected;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: Kernels {
        name: "avx512vnni",
        dot,
        finish: |sums, d, t, rows, out| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { avx512_ops::finish(sums, d, t, rows, out) }
        },
        quantize: |x, activation, out| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { avx512_ops::quantize(x, activation, out) }
        },
        rms_norm: |x, gain, norm, fraction_bits| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { avx512_ops::rms_norm(x, gain, norm, fraction_bits) }
        },
        gated_activation: |kind, gate, up, fraction_bits| {
            // SAFETY: a set is reached only where `available` holds.
            unsafe { avx512_ops::gated_activation(kind, gate, up, fraction_bits) }
        },
        attention: Attend {
            scores: |queries, runs, scoring, fraction_bits, scratch| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { avx512_attention::scores(queries, runs, scoring, fraction_bits, scratch) }
            },
            sums: |queries, runs, scratch| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { avx512_attention::sums(queries, runs, scratch) }
            },
            outputs: |scoring, scratch, out| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { avx512_attention::outputs(scoring, scratch, out) }
            },
        },
    },
    available,
    needs: "AVX-512 F, BW, DQ, VL and VNNI; VBMI and VBMI2 make it faster",
};

fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a set is reached only where `available` holds.
    unsafe { dot::dot::<Avx512>(matrix, tile, x, tokens, sums) }
}

/// Lines of 512 bits.
pub(super) struct Avx512;

impl Lanes for Avx512 {
    type Line = __m512i;
    const ROWS: usize = 16;
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_set1_epi32(v) }
    }

    #[inline(always)]
    unsafe fn splat16(v: i16) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_set1_epi16(v) }
    }

    #[inline(always)]
    unsafe fn splat8(v: u8) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_set1_epi8(v as i8) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        // SAFETY: 64 bytes are readable.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m512i {
        // SAFETY: 16 bytes are readable.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn store(v: __m512i, p: *mut i32) {
        // SAFETY: 16 lanes are writable.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch may name any address.
        unsafe { super::prefetch(p) }
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_slli_epi16::<N>(a) }
    }

    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_srli_epi16::<N>(a) }
    }

    #[inline(always)]
    unsafe fn shl32(a: __m512i, n: u32) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }

    #[inline(always)]
    unsafe fn shr32(a: __m512i, n: u32) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }

    #[inline(always)]
    unsafe fn lookup(table: __m512i, index: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_shuffle_epi8(table, index) }
    }

    #[inline(always)]
    unsafe fn table(entries: &[u8; 16]) -> __m512i {
        // SAFETY: 16 bytes are readable.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(entries.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sar<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }

    #[inline(always)]
    unsafe fn add16(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_add_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn mul16(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mullo_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_rounded16(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mulhrs_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn negate(v: __m512i, rows: u32) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mask_sub_epi32(v, rows as __mmask16, _mm512_setzero_si512(), v) }
    }

    #[inline(always)]
    unsafe fn low_twice(v: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mask_blend_epi16(0xAAAA_AAAA, v, _mm512_slli_epi32::<16>(v)) }
    }

    #[inline(always)]
    unsafe fn high_twice(v: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mask_blend_epi16(0xAAAA_AAAA, _mm512_srli_epi32::<16>(v), v) }
    }

    #[inline(always)]
    unsafe fn join(low: __m512i, high: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mask_blend_epi16(0xAAAA_AAAA, low, _mm512_slli_epi32::<16>(high)) }
    }

    #[inline(always)]
    unsafe fn merge(low: __m512i, high: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512.
        unsafe { _mm512_mask_blend_epi16(0xAAAA_AAAA, low, high) }
    }

    #[inline(always)]
    unsafe fn pairs(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512 VNNI.
        unsafe { _mm512_dpwssd_epi32(acc, a, b) }
    }

    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[__m512i; 8], from: usize, x: *const i8) -> __m512i {
        // SAFETY: the caller has AVX-512.
        let mut acc = unsafe { _mm512_setzero_si512() };
        let mut i = 0;
        while i < N {
            // SAFETY: the caller has AVX-512 VNNI; 4 · N bytes are readable at `x`.
            acc = unsafe {
                let x = _mm512_set1_epi32(x.cast::<i32>().add(i).read_unaligned());
                _mm512_dpbusd_epi32(acc, codes[from + i], x)
            };
            i += 1;
        }
        acc
    }

    #[inline(always)]
    unsafe fn panel<P: Codes, S: Scales, I: Input>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) -> bool {
        // SAFETY: the caller has AVX-512 VNNI; two planes are those of A16.
        unsafe {
            if I::PLANES == 2 && out.len() >= avx512_panel::PAYS && avx512_panel::dot::<P, S>(tile, tokens, out) {
                return true;
            }
            if out.len() == 1 && one_token::<P, S, I>(tile, tokens, out) {
                return true;
            }
            if I::PLANES == 2 && !S::OFFSET {
                avx512_few::dot::<P, S>(tile, tokens, out);
                return true;
            }
            let pays = match (P::STAGED, I::PLANES) {
                (true, _) => out.len() > 4,
                (false, planes) => planes == 1 && out.len() >= avx512_bytes::PAYS,
            };
            if pays {
                avx512_bytes::dot::<P, S, I>(tile, tokens, out);
            }
            pays
        }
    }

    #[inline(always)]
    unsafe fn spread(spread: &Spread<'_>) -> bool {
        // SAFETY: the caller has AVX-512 VNNI, and a trellis the instructions that it asks for.
        unsafe {
            match spread.part.tile.kind {
                PayloadKind::T16 => avx512_one::spread(spread),
                PayloadKind::Trellis(bits) if avx512_trellis::available() => avx512_trellis::spread(spread, bits),
                _ => return false,
            }
        }
        true
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller has AVX-512 VNNI.
        unsafe { run(job) }
    }
}

/// The dot slot for one token where it has a way of its own; `false`, and nothing of use in `out`, where not. Decode is
/// bound by instructions, and a stage in between costs more of them than it saves.
///
/// # Safety
/// As for [`Lanes::panel`].
#[inline(always)]
unsafe fn one_token<P: Codes, S: Scales, I: Input>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.kind {
            PayloadKind::Trellis(bits) if avx512_trellis::available() => {
                avx512_trellis::one::<S, I>(bits, tile, *tokens, out);
            }
            PayloadKind::T16 if !I::SCALED => avx512_one::ternary::<I>(tile, tokens, out),
            PayloadKind::U2 => by_group::<U2, S, I>(tile, tokens, out),
            PayloadKind::U3 => by_group::<U3, S, I>(tile, tokens, out),
            _ if !P::STAGED => by_group::<P, S, I>(tile, tokens, out),
            _ => return false,
        }
    }
    true
}

/// [`one_token`] for a payload that has words of its own for each group.
///
/// # Safety
/// As for [`Lanes::panel`], and the tile's payload is `P`.
#[inline(always)]
unsafe fn by_group<P: Codes, S: Scales, I: Input>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe {
        if !S::SCALED && !I::SCALED {
            avx512_one::dot::<P, I>(tile, tokens, out);
        } else if !S::OFFSET && I::PLANES == 2 {
            avx512_few::dot::<P, S>(tile, tokens, out);
        } else {
            dot::unstaged::<Avx512, P, S, I>(tile, *tokens, out);
        }
    }
}

/// # Safety
/// As for [`Job::run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn run<J: Job>(job: J) {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Avx512>() }
}
