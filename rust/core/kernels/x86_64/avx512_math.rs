//! Primitives of the contract on sixteen lanes, for AVX-512.

use crate::fixed::LOG2_E_Q30;
use core::arch::x86_64::*;

/// Lanes of a vector of i32.
pub(super) const LANES: usize = 16;

/// A bit for each of the first 16 elements of a slice of `len`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn mask(len: usize) -> __mmask16 {
    if len >= LANES { !0 } else { (1 << len) - 1 }
}

/// The first 16 elements, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load(x: &[i32]) -> __m512i {
    // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
    unsafe { _mm512_maskz_loadu_epi32(mask(x.len()), x.as_ptr()) }
}

/// The first 16 elements as i32, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_i16(x: &[i16]) -> __m512i {
    // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
    unsafe { _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask(x.len()), x.as_ptr())) }
}

/// The first 16 elements as i32, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_u8(x: &[u8]) -> __m512i {
    // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
    unsafe { _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask(x.len()), x.as_ptr().cast())) }
}

/// The first 16 dwords of some bytes, zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_words(x: &[u8]) -> __m512i {
    // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
    unsafe { _mm512_maskz_loadu_epi32(mask(x.len() / 4), x.as_ptr().cast()) }
}

/// Writes the first lanes, as many as there are elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store(v: __m512i, out: &mut [i32]) {
    // SAFETY: lanes beyond the slice are masked, and masked lanes are not written.
    unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr(), mask(out.len()), v) }
}

/// `sat` on i64 lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sat(v: __m512i) -> __m512i {
    let most = _mm512_set1_epi64(i32::MAX.into());
    _mm512_max_epi64(_mm512_min_epi64(v, most), _mm512_set1_epi64(i32::MIN.into()))
}

/// `rshr` on i64 lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn rshr(v: __m512i, s: u32) -> __m512i {
    let half = if s == 0 { 0 } else { 1i64 << (s - 1) };
    _mm512_sra_epi64(_mm512_add_epi64(v, _mm512_set1_epi64(half)), _mm_cvtsi32_si128(s as i32))
}

/// What P1 does with products, on i64 lanes and with one shift for all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scale(p: __m512i, s: i32) -> __m512i {
    if s >= 63 {
        _mm512_setzero_si512()
    } else if s >= 0 {
        sat(rshr(p, s as u32))
    } else {
        sat(_mm512_sll_epi64(sat(p), _mm_cvtsi32_si128(if s < -31 { 31 } else { -s })))
    }
}

/// The first and the last eight i32 lanes, as i64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn widen(v: __m512i) -> (__m512i, __m512i) {
    (_mm512_cvtepi32_epi64(_mm512_castsi512_si256(v)), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(v)))
}

/// Sixteen lanes of twice eight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn join(first: __m256i, last: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), last)
}

/// Odd i32 lanes, as the even ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn odd(v: __m512i) -> __m512i {
    _mm512_srli_epi64::<32>(v)
}

/// Even lanes from the i64 lanes of `even`, odd ones from those of `odd`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn interleave(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64::<32>(odd))
}

/// P1 on i32 lanes, with one shift for all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn requant(x: __m512i, m: __m512i, s: i32) -> __m512i {
    interleave(scale(_mm512_mul_epi32(x, m), s), scale(_mm512_mul_epi32(odd(x), odd(m)), s))
}

/// P1 on i64 lanes that hold i32, with a shift each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn requant_wide(x: __m512i, m: __m512i, s: __m512i) -> __m256i {
    let (zero, one) = (_mm512_setzero_si512(), _mm512_set1_epi64(1));
    let p = _mm512_mul_epi32(x, m);
    let half = _mm512_sllv_epi64(one, _mm512_sub_epi64(s, one));
    let small = _mm512_cmplt_epi64_mask(s, _mm512_set1_epi64(63));
    let mut shifted = _mm512_maskz_srav_epi64(small, _mm512_add_epi64(p, half), s);
    let negative = _mm512_movepi64_mask(s);
    if negative != 0 {
        let left = _mm512_min_epi64(_mm512_sub_epi64(zero, s), _mm512_set1_epi64(31));
        shifted = _mm512_mask_sllv_epi64(shifted, negative, sat(p), left);
    }
    _mm512_cvtsepi64_epi32(shifted)
}

/// P1 on i32 lanes, with a shift each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn requant_each(x: __m512i, m: __m512i, s: __m512i) -> __m512i {
    if _mm512_movepi32_mask(s) != 0 {
        let ((x_low, x_high), (m_low, m_high), (s_low, s_high)) = (widen(x), widen(m), widen(s));
        return join(requant_wide(x_low, m_low, s_low), requant_wide(x_high, m_high, s_high));
    }
    // Products are within 2^62, which a shift by 63 rounds to 0 as any larger one does.
    let s = _mm512_min_epi32(s, _mm512_set1_epi32(63));
    let one = _mm512_set1_epi64(1);
    let shifted = |p: __m512i, s: __m512i| {
        let half = _mm512_sllv_epi64(one, _mm512_sub_epi64(s, one));
        sat(_mm512_srav_epi64(_mm512_add_epi64(p, half), s))
    };
    let even = _mm512_and_si512(s, _mm512_set1_epi64(63));
    interleave(shifted(_mm512_mul_epi32(x, m), even), shifted(_mm512_mul_epi32(odd(x), odd(m)), odd(s)))
}

/// `sat(a + b)` on i32 lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn add_sat(a: __m512i, b: __m512i) -> __m512i {
    let sum = _mm512_add_epi32(a, b);
    // It overflows where both operands differ in sign from the sum.
    let overflow = _mm512_movepi32_mask(_mm512_and_si512(_mm512_xor_si512(a, sum), _mm512_xor_si512(b, sum)));
    let limit = _mm512_xor_si512(_mm512_srai_epi32::<31>(a), _mm512_set1_epi32(i32::MAX));
    _mm512_mask_mov_epi32(sum, overflow, limit)
}

/// P5 on i32 lanes, none of them above 0, for 16 <= b <= 30.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn exp2(x: __m512i, b: u32) -> __m512i {
    debug_assert!((16..=30).contains(&b));
    let f = _mm512_and_si512(x, _mm512_set1_epi32(0xFFFF));
    // f and each t are below 2^16, so the high half of a lane adds nothing.
    let step = |t: __m512i, c: i32| _mm512_add_epi32(_mm512_set1_epi32(c), _mm512_mulhi_epu16(t, f));
    let t = step(step(step(_mm512_set1_epi32(882), 3420), 15815), 45420);
    let m = _mm512_add_epi32(_mm512_mullo_epi32(t, f), _mm512_set1_epi32(32768));
    let m = _mm512_add_epi32(_mm512_srli_epi32::<16>(m), _mm512_set1_epi32(65536));
    // A shift left by b - 16 and then right by all: m · 2^(b-16) < 2^31, so nothing is lost where the contract shifts
    // left by the difference, and rounding is the same where it shifts right. A shift by 32 or more gives 0.
    let m = _mm512_sll_epi32(m, _mm_cvtsi32_si128(b as i32 - 16));
    let right = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_srai_epi32::<16>(x));
    let half = _mm512_sllv_epi32(_mm512_set1_epi32(1), _mm512_sub_epi32(right, _mm512_set1_epi32(1)));
    _mm512_srlv_epi32(_mm512_add_epi32(m, half), right)
}

/// `2^31 div d` and the remainder on u32 lanes, for 2^16 <= d <= 2^17.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn reciprocal(d: __m512i) -> (__m512i, __m512i) {
    // 48/17 - 32/17 · d/2^17 is within 1/17 of 2^17/d, and each step of Newton's method squares that. Two leave q at the
    // quotient or one below, for each of the divisors.
    let first = _mm512_srli_epi32::<16>(_mm512_mullo_epi32(d, _mm512_set1_epi32(15420)));
    let mut q = _mm512_sub_epi32(_mm512_set1_epi32(46261), first);
    let numerator = _mm512_set1_epi32(i32::MIN);
    for _ in 0..2 {
        let error = _mm512_sub_epi32(numerator, _mm512_mullo_epi32(q, d));
        let step = _mm512_mullo_epi32(q, _mm512_srai_epi32::<15>(error));
        q = _mm512_add_epi32(q, _mm512_srai_epi32::<16>(step));
    }
    let rest = _mm512_sub_epi32(numerator, _mm512_mullo_epi32(q, d));
    let below = _mm512_cmpge_epi32_mask(rest, d);
    q = _mm512_mask_add_epi32(q, below, q, _mm512_set1_epi32(1));
    (q, _mm512_mask_sub_epi32(rest, below, rest, d))
}

/// P6 on i32 lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sigmoid(x: __m512i, fraction_bits: u32) -> __m512i {
    let a = _mm512_min_epu32(_mm512_abs_epi32(x), _mm512_set1_epi32(i32::MAX));
    let z = requant(a, _mm512_set1_epi32(LOG2_E_Q30), fraction_bits as i32 + 14);
    let e = exp2(_mm512_sub_epi32(_mm512_setzero_si512(), z), 16);
    let (q, rest) = reciprocal(_mm512_add_epi32(e, _mm512_set1_epi32(65536)));
    // For x < 0: (e · 2^15) div (2^16 + e) = 2^15 - ceil(2^31 / (2^16 + e)).
    let inexact = _mm512_test_epi32_mask(rest, rest);
    let ceil = _mm512_mask_add_epi32(q, inexact, q, _mm512_set1_epi32(1));
    _mm512_mask_sub_epi32(q, _mm512_movepi32_mask(x), _mm512_set1_epi32(32768), ceil)
}
