//! The step in 512 and in 256 bits.
use super::lanes::{Lanes, advance};
use super::{Cost, Set};
use std::arch::x86_64::*;

/// Those that this machine has, the best first.
pub(super) fn sets() -> impl Iterator<Item = Set> {
    let wide = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni");
    let wide = wide.then_some(Set { name: "avx512vnni", rows: 4, many: avx512::<4>, one: avx512::<1> });
    let narrow =
        is_x86_feature_detected!("avx2").then_some(Set { name: "avx2", rows: 2, many: avx2::<2>, one: avx2::<1> });
    wide.into_iter().chain(narrow)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn avx512<const R: usize>(bits: u32, levels: &[[i8; 2]], costs: &[Cost], from: &[i32], to: &mut [i32]) {
    // SAFETY: this function has the instruction set; the rest is the caller's.
    unsafe { advance::<Wide, R>(bits, levels, costs, from, to) }
}

#[target_feature(enable = "avx2")]
unsafe fn avx2<const R: usize>(bits: u32, levels: &[[i8; 2]], costs: &[Cost], from: &[i32], to: &mut [i32]) {
    // SAFETY: this function has the instruction set; the rest is the caller's.
    unsafe { advance::<Narrow, R>(bits, levels, costs, from, to) }
}

#[derive(Clone, Copy)]
struct Wide(__m512i);

// SAFETY of all blocks below: as the trait says.
#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's contract covers them all")]
impl Lanes for Wide {
    const N: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        Self(unsafe { _mm512_set1_epi32(value) })
    }

    #[inline(always)]
    unsafe fn levels(at: *const [i8; 2]) -> Self {
        Self(unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(at.cast())) })
    }

    #[inline(always)]
    unsafe fn squares(self) -> Self {
        Self(unsafe { _mm512_mullo_epi16(self.0, self.0) })
    }

    #[inline(always)]
    unsafe fn sixteenfold(self) -> Self {
        Self(unsafe { _mm512_slli_epi16::<4>(self.0) })
    }

    #[inline(always)]
    unsafe fn spread(at: *const i32, bits: u32) -> Self {
        unsafe {
            match bits {
                2 => {
                    let four = _mm512_broadcast_i32x4(_mm_loadu_si128(at.cast()));
                    let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                    Self(_mm512_permutexvar_epi32(lanes, four))
                }
                3 => {
                    let (low, high) = (_mm512_set1_epi32(*at), _mm512_set1_epi32(*at.add(1)));
                    Self(_mm512_mask_mov_epi32(low, 0xFF00, high))
                }
                _ => Self(_mm512_set1_epi32(*at)),
            }
        }
    }

    #[inline(always)]
    unsafe fn add_dot(self, pairs: Self, factors: Self) -> Self {
        Self(unsafe { _mm512_dpwssd_epi32(self.0, pairs.0, factors.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut i32) {
        unsafe { _mm512_storeu_si512(at.cast(), self.0) }
    }
}

#[derive(Clone, Copy)]
struct Narrow(__m256i);

#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait's contract covers them all")]
impl Lanes for Narrow {
    const N: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        Self(unsafe { _mm256_set1_epi32(value) })
    }

    #[inline(always)]
    unsafe fn levels(at: *const [i8; 2]) -> Self {
        Self(unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast())) })
    }

    #[inline(always)]
    unsafe fn squares(self) -> Self {
        Self(unsafe { _mm256_mullo_epi16(self.0, self.0) })
    }

    #[inline(always)]
    unsafe fn sixteenfold(self) -> Self {
        Self(unsafe { _mm256_slli_epi16::<4>(self.0) })
    }

    #[inline(always)]
    unsafe fn spread(at: *const i32, bits: u32) -> Self {
        unsafe {
            if bits == 2 {
                let (low, high) = (_mm256_set1_epi32(*at), _mm256_set1_epi32(*at.add(1)));
                Self(_mm256_blend_epi32::<0xF0>(low, high))
            } else {
                Self(_mm256_set1_epi32(*at))
            }
        }
    }

    #[inline(always)]
    unsafe fn add_dot(self, pairs: Self, factors: Self) -> Self {
        Self(unsafe { _mm256_add_epi32(self.0, _mm256_madd_epi16(pairs.0, factors.0)) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { _mm256_min_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut i32) {
        unsafe { _mm256_storeu_si256(at.cast(), self.0) }
    }
}
