//! simd128: 4 rows to a vector, products of bytes by way of i16.
//!
//! What is not written here the compiler turns into the same instructions, since all of the program is compiled for
//! them. The relaxed instructions, which may differ between machines, are out of the question.

use crate::activations::Activations;
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot;
use crate::kernels::simd::lanes::{Job, Lanes};
use crate::kernels::{KernelSet, Kernels, Sums, reference};
use crate::matrix::Matrix;
use core::arch::wasm32::*;
use core::ops::Range;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: Kernels { name: "simd128", dot, ..reference::KERNELS },
    available: || true,
    needs: "WebAssembly compiled with simd128",
};

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a program compiled for simd128 runs nowhere else.
    unsafe { dot::dot::<Simd128>(matrix, tile, x, tokens, sums) }
}

/// Lines of 128 bits, a quarter of the rows of a tile.
struct Simd128;

impl Lanes for Simd128 {
    type Line = v128;
    const ROWS: usize = 4;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn zero() -> v128 {
        i32x4_splat(0)
    }

    #[inline(always)]
    unsafe fn splat(v: i32) -> v128 {
        i32x4_splat(v)
    }

    #[inline(always)]
    unsafe fn splat16(v: i16) -> v128 {
        i16x8_splat(v)
    }

    #[inline(always)]
    unsafe fn splat8(v: u8) -> v128 {
        u8x16_splat(v)
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> v128 {
        // SAFETY: 16 bytes are readable.
        unsafe { v128_load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> v128 {
        // SAFETY: 4 bytes are readable.
        let bytes = unsafe { v128_load32_zero(p.cast()) };
        u32x4_extend_low_u16x8(u16x8_extend_low_u8x16(bytes))
    }

    #[inline(always)]
    unsafe fn store(v: v128, p: *mut i32) {
        // SAFETY: 4 lanes are writable.
        unsafe { v128_store(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {
        // There is no such instruction.
    }

    #[inline(always)]
    unsafe fn and(a: v128, b: v128) -> v128 {
        v128_and(a, b)
    }

    #[inline(always)]
    unsafe fn or(a: v128, b: v128) -> v128 {
        v128_or(a, b)
    }

    #[inline(always)]
    unsafe fn xor(a: v128, b: v128) -> v128 {
        v128_xor(a, b)
    }

    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: v128) -> v128 {
        i16x8_shl(a, N)
    }

    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: v128) -> v128 {
        u16x8_shr(a, N)
    }

    #[inline(always)]
    unsafe fn shl32(a: v128, n: u32) -> v128 {
        i32x4_shl(a, n)
    }

    #[inline(always)]
    unsafe fn shr32(a: v128, n: u32) -> v128 {
        u32x4_shr(a, n)
    }

    #[inline(always)]
    unsafe fn lookup(table: v128, index: v128) -> v128 {
        u8x16_swizzle(table, index)
    }

    #[inline(always)]
    unsafe fn table(entries: &[u8; 16]) -> v128 {
        // SAFETY: 16 bytes are readable.
        unsafe { v128_load(entries.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn add(a: v128, b: v128) -> v128 {
        i32x4_add(a, b)
    }

    #[inline(always)]
    unsafe fn mul(a: v128, b: v128) -> v128 {
        i32x4_mul(a, b)
    }

    #[inline(always)]
    unsafe fn sar<const N: u32>(a: v128) -> v128 {
        i32x4_shr(a, N)
    }

    #[inline(always)]
    unsafe fn add16(a: v128, b: v128) -> v128 {
        i16x8_add(a, b)
    }

    #[inline(always)]
    unsafe fn mul16(a: v128, b: v128) -> v128 {
        i16x8_mul(a, b)
    }

    #[inline(always)]
    unsafe fn mul_rounded16(a: v128, b: v128) -> v128 {
        i16x8_q15mulr_sat(a, b)
    }

    #[inline(always)]
    unsafe fn negate(v: v128, rows: u32) -> v128 {
        let bit = i32x4(1, 2, 4, 8);
        let negative = i32x4_eq(v128_and(i32x4_splat(rows as i32), bit), bit);
        i32x4_sub(v128_xor(v, negative), negative)
    }

    #[inline(always)]
    unsafe fn low_twice(v: v128) -> v128 {
        i16x8_shuffle::<0, 0, 2, 2, 4, 4, 6, 6>(v, v)
    }

    #[inline(always)]
    unsafe fn high_twice(v: v128) -> v128 {
        i16x8_shuffle::<1, 1, 3, 3, 5, 5, 7, 7>(v, v)
    }

    #[inline(always)]
    unsafe fn join(low: v128, high: v128) -> v128 {
        i16x8_shuffle::<0, 8, 2, 10, 4, 12, 6, 14>(low, high)
    }

    #[inline(always)]
    unsafe fn merge(low: v128, high: v128) -> v128 {
        i16x8_shuffle::<0, 9, 2, 11, 4, 13, 6, 15>(low, high)
    }

    #[inline(always)]
    unsafe fn pairs(acc: v128, a: v128, b: v128) -> v128 {
        i32x4_add(acc, i32x4_dot_i16x8(a, b))
    }

    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[v128; 8], from: usize, x: *const i8) -> v128 {
        // Rows 0 and 1, rows 2 and 3: a column has an i16 to itself, so that twice as many steps fit as in pairs.
        let mut halves = [i32x4_splat(0); 2];
        let mut i = 0;
        while i < N {
            let stop = if i + 2 * P::STEPS_16 < N { i + 2 * P::STEPS_16 } else { N };
            let mut short = [i16x8_splat(0); 2];
            while i < stop {
                // SAFETY: 4 · N bytes are readable at `x`.
                let x = i16x8_extend_low_i8x16(unsafe { v128_load32_splat(x.add(4 * i).cast()) });
                let code = codes[from + i];
                short[0] = i16x8_add(short[0], i16x8_mul(i16x8_extend_low_i8x16(code), x));
                short[1] = i16x8_add(short[1], i16x8_mul(i16x8_extend_high_i8x16(code), x));
                i += 1;
            }
            halves = [
                i32x4_add(halves[0], i32x4_extadd_pairwise_i16x8(short[0])),
                i32x4_add(halves[1], i32x4_extadd_pairwise_i16x8(short[1])),
            ];
        }
        i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(halves[0], halves[1]), i32x4_shuffle::<1, 3, 5, 7>(halves[0], halves[1]))
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller's promise.
        unsafe { job.run::<Self>() }
    }
}
