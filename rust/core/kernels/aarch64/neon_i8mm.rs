//! NEON with the matrix extension for i8: two rows times two vectors of codes, eight columns each, in an instruction.
//!
//! It pays where several tokens share the arranging of weights; fewer have the dot product extension.

use super::neon::{self, Neon, Products};
use super::neon_dotprod::Sdot;
use crate::activations::{Activations, RUN, TokenCodes};
use crate::formats::{GROUP, TILE};
use crate::kernels::simd::codes::Codes;
use crate::kernels::simd::dot::{self, Input};
use crate::kernels::simd::lanes::{Job, Lanes};
use crate::kernels::simd::scales::{Part, Scales, zero_level};
use crate::kernels::simd::staged::Stage;
use crate::kernels::simd::tile::{Tile, Tokens};
use crate::kernels::simd::unrolled;
use crate::kernels::{KernelSet, Kernels, Sums};
use crate::matrix::Matrix;
use core::arch::aarch64::*;
use core::arch::asm;
use core::array::from_fn;
use core::ops::Range;
use std::arch::is_aarch64_feature_detected;

/// The set.
pub(super) const SET: KernelSet = KernelSet {
    kernels: Kernels { name: "neon-i8mm", dot, ..neon::SET.kernels },
    available: || {
        (neon::SET.available)() && is_aarch64_feature_detected!("dotprod") && is_aarch64_feature_detected!("i8mm")
    },
    needs: "NEON with the dot product and i8 matrix extensions, little-endian",
};

fn dot(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums) {
    // SAFETY: a set is reached only where `available` holds.
    unsafe { dot::dot::<I8mm>(matrix, tile, x, tokens, sums) }
}

/// Lines of the set.
type I8mm = Neon<Smmla>;

/// Sums of eight products by `smmla` for several tokens, of four by `sdot` for fewer.
struct Smmla;

impl Products for Smmla {
    #[inline(always)]
    unsafe fn dot<P: Codes, const N: usize>(codes: &[int32x4_t; 8], from: usize, x: *const i8) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { Sdot::dot::<P, N>(codes, from, x) }
    }

    #[inline(always)]
    unsafe fn panel<P: Codes, S: Scales, I: Input>(tile: &Tile<'_>, tokens: &Tokens<'_>, out: &mut Sums) -> bool {
        let pays = out.len() * I::PLANES > VECTORS;
        if pays {
            // SAFETY: the caller has the extensions.
            unsafe { panel::<S, I>(tile, decode::<P, S>, tokens, out) }
        }
        pays
    }

    #[inline(always)]
    unsafe fn run<J: Job>(job: J) {
        // SAFETY: the caller's promise.
        unsafe { Sdot::run(job) }
    }
}

/// Vectors of codes, each a plane of a token, that share the loads of weights.
const VECTORS: usize = 4;
/// Their pairs.
const PAIRS: usize = VECTORS / 2;
/// Rows whose sums with the vectors, those of a group and those before it, fill the registers.
const ROWS: usize = 8;
/// Columns of one instruction, in a group.
const OCTETS: usize = GROUP / 8;
/// Groups that are decoded at a time: they and their inputs leave room in the first-level cache.
const GROUPS: usize = 16;

/// A line of i32 per pair of rows; those of scales hold a pair twice.
type RowPairs = [int32x4_t; ROWS / 2];

/// The weights of a group of rows in a group of columns.
#[derive(Clone, Copy)]
struct Weights {
    /// Signed codes: eight columns of one row, then of the next.
    codes: [RowPairs; OCTETS],
    /// Scales of the two halves of the columns.
    s: [RowPairs; 2],
    /// Their offsets.
    z: [RowPairs; 2],
}

/// The vectors in a group of columns. A line belongs to a pair of them, and what is a number per vector is there twice.
#[derive(Clone, Copy)]
struct Inputs {
    /// Codes: eight columns of one vector, then of the other.
    codes: [[int32x4_t; PAIRS]; OCTETS],
    /// Sums of the two halves of the columns.
    sums: [[int32x4_t; PAIRS]; 2],
    /// Scales.
    scale: [int32x4_t; PAIRS],
}

/// i32 sums of the rows with the vectors: row 0 and row 1 with the first of a pair, then with the second.
type Block = [[int32x4_t; PAIRS]; ROWS / 2];

/// The weights of a section of a tile, by group of rows.
type Section = [[Weights; GROUPS]; TILE / ROWS];

/// Decodes the groups of a range. A function apart, so that what comes after is compiled once for all payloads.
type Decode = unsafe fn(tile: &Tile<'_>, groups: Range<usize>, weights: &mut Section);

/// The dot slot for a tile and all tokens of `out`.
///
/// # Safety
/// As for [`Lanes::panel`]; `decode` is that of the tile's payload and mode.
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn panel<S: Scales, I: Input>(tile: &Tile<'_>, decode: Decode, tokens: &Tokens<'_>, out: &mut Sums) {
    let zero = vdupq_n_s32(0);
    let none = [zero; ROWS / 2];
    let mut weights = [[Weights { codes: [none; OCTETS], s: [none; 2], z: [none; 2] }; GROUPS]; TILE / ROWS];
    let none = [zero; PAIRS];
    let mut inputs = [Inputs { codes: [none; OCTETS], sums: [none; 2], scale: none }; GROUPS];
    out.as_flattened_mut().fill(0);
    for first in (0..tile.groups).step_by(GROUPS) {
        let groups = first..tile.groups.min(first + GROUPS);
        // SAFETY: the caller's promise; the groups are below the tile's.
        unsafe { decode(tile, groups.clone(), &mut weights) }
        let inputs = &mut inputs[..groups.len()];
        for (i, out) in out.chunks_mut(VECTORS / I::PLANES).enumerate() {
            // Where there are fewer tokens, the last stands in for the others.
            let token = |v: usize| tokens.get(i * VECTORS / I::PLANES + (v / I::PLANES).min(out.len() - 1));
            arrange::<S, I>(from_fn(token), first, inputs);
            for (rows, weights) in weights.iter().enumerate() {
                for (weights, inputs) in weights.chunks(I::CHUNK).zip(inputs.chunks(I::CHUNK)) {
                    add::<I>(&multiply::<S, I>(weights, inputs), rows * ROWS, out);
                }
            }
        }
    }
}

/// Decodes the groups `groups` of every row of `tile`.
///
/// # Safety
/// As for [`Lanes::panel`]; the groups are below the tile's.
#[target_feature(enable = "neon,dotprod,i8mm")]
unsafe fn decode<P: Codes, S: Scales>(tile: &Tile<'_>, groups: Range<usize>, weights: &mut Section) {
    let mut stage = Stage::new();
    // Offsets count from code 0; without them, weights are levels.
    let zero = vdupq_n_s8(if S::OFFSET { 0 } else { zero_level::<I8mm, P>() as i8 });
    for row in (0..TILE).step_by(I8mm::ROWS) {
        let (part, pair) = (Part { tile, row }, row % ROWS / 2);
        let pairs = |v: int32x4_t| {
            let v = vreinterpretq_s64_s32(v);
            [vreinterpretq_s32_s64(vzip1q_s64(v, v)), vreinterpretq_s32_s64(vzip2q_s64(v, v))]
        };
        // SAFETY: the caller's promise.
        unsafe { stage.fill::<I8mm, P>(part, groups.clone()) }
        for (group, weights) in groups.clone().zip(&mut weights[row / ROWS]) {
            // SAFETY: the caller's promise.
            let (codes, scale) = unsafe {
                let table = I8mm::table(&tile.table_bytes(I8mm::SIGNED));
                (P::steps::<I8mm>(stage.words::<P>(part, group), table), S::group::<I8mm, P>(part, group))
            };
            for (&[left, right], octet) in codes.as_chunks().0.iter().zip(&mut weights.codes) {
                let left = vreinterpretq_s32_s8(vsubq_s8(vreinterpretq_s8_s32(left), zero));
                let right = vreinterpretq_s32_s8(vsubq_s8(vreinterpretq_s8_s32(right), zero));
                octet[pair] = vzip1q_s32(left, right);
                octet[pair + 1] = vzip2q_s32(left, right);
            }
            if S::SCALED {
                let z = [vshrq_n_s32::<16>(vshlq_n_s32::<16>(scale.z)), vshrq_n_s32::<16>(scale.z)];
                for half in 0..2 {
                    [weights.s[half][pair], weights.s[half][pair + 1]] = pairs(scale.s[half]);
                    [weights.z[half][pair], weights.z[half][pair + 1]] = pairs(z[half]);
                }
            }
        }
    }
}

/// Arranges the vectors of the tokens `tokens` from group `first` on. Planes are vectors, first that of high halves.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn arrange<S: Scales, I: Input>(tokens: [TokenCodes<'_>; VECTORS], first: usize, inputs: &mut [Inputs]) {
    let columns = first * GROUP..(first + inputs.len()) * GROUP;
    let codes: [&[[i8; GROUP]]; VECTORS] = from_fn(|v| {
        let plane = tokens[v].planes.len() / I::PLANES;
        tokens[v].planes[v % I::PLANES * plane..][columns.clone()].as_chunks().0
    });
    let sums: [&[[i16; GROUP / RUN]]; VECTORS] = from_fn(|v| {
        let plane = tokens[v].sums.len() / I::PLANES;
        tokens[v].sums[v % I::PLANES * plane..][columns.start / RUN..columns.end / RUN].as_chunks().0
    });
    let twice = |a: i32, b: i32| vcombine_s32(vdup_n_s32(a), vdup_n_s32(b));
    for (i, inputs) in inputs.iter_mut().enumerate() {
        for j in 0..PAIRS {
            let (a, b) = (2 * j, 2 * j + 1);
            for half in 0..2 {
                let (a, b) = (&codes[a][i].as_chunks::<RUN>().0[half], &codes[b][i].as_chunks::<RUN>().0[half]);
                // SAFETY: half a group's codes are readable.
                let (a, b) = unsafe { (vld1q_s8(a.as_ptr()), vld1q_s8(b.as_ptr())) };
                let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
                inputs.codes[2 * half][j] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
                inputs.codes[2 * half + 1][j] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
            }
            if S::OFFSET {
                for half in 0..2 {
                    inputs.sums[half][j] = twice(sums[a][i][half].into(), sums[b][i][half].into());
                }
            }
            if I::SCALED {
                inputs.scale[j] = twice(tokens[a].scales[first + i], tokens[b].scales[first + i]);
            }
        }
    }
}

/// Sums over groups that make at most a chunk.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn multiply<S: Scales, I: Input>(weights: &[Weights], inputs: &[Inputs]) -> Block {
    let zero = [[vdupq_n_s32(0); PAIRS]; ROWS / 2];
    let mut acc = zero;
    for (weights, inputs) in weights.iter().zip(inputs) {
        let mut sums = if I::SCALED { zero } else { acc };
        if S::HALVES {
            let first = products::<0, { OCTETS / 2 }>(zero, weights, inputs);
            sums = multiply_add(sums, &first, &weights.s[0]);
            let second = products::<{ OCTETS / 2 }, OCTETS>(zero, weights, inputs);
            sums = multiply_add(sums, &second, &weights.s[1]);
        } else if S::SCALED {
            sums = multiply_add(sums, &products::<0, OCTETS>(zero, weights, inputs), &weights.s[0]);
        } else {
            sums = products::<0, OCTETS>(sums, weights, inputs);
        }
        if S::OFFSET {
            sums = multiply_add(sums, &[inputs.sums[0]; ROWS / 2], &weights.z[0]);
            sums = multiply_add(sums, &[inputs.sums[1]; ROWS / 2], &weights.z[1]);
        }
        if I::SCALED {
            unrolled!(ROW < ROWS / 2, {
                unrolled!(J < PAIRS, {
                    acc[ROW][J] = vmlaq_s32(acc[ROW][J], sums[ROW][J], inputs.scale[J]);
                });
            });
        } else {
            acc = sums;
        }
    }
    acc
}

/// `acc` plus the products of the octets from `FROM` to `TO`.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn products<const FROM: usize, const TO: usize>(mut acc: Block, weights: &Weights, inputs: &Inputs) -> Block {
    unrolled!(OCTET < OCTETS, {
        if FROM <= OCTET && OCTET < TO {
            unrolled!(ROW < ROWS / 2, {
                unrolled!(J < PAIRS, {
                    acc[ROW][J] = smmla(acc[ROW][J], inputs.codes[OCTET][J], weights.codes[OCTET][ROW]);
                });
            });
        }
    });
    acc
}

/// `acc` plus `a`, each line times that of its rows in `b`.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn multiply_add(mut acc: Block, a: &Block, b: &RowPairs) -> Block {
    unrolled!(ROW < ROWS / 2, {
        unrolled!(J < PAIRS, {
            acc[ROW][J] = vmlaq_s32(acc[ROW][J], a[ROW][J], b[ROW]);
        });
    });
    acc
}

/// Adds the sums of the rows from `row` on to those of the tokens.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn add<I: Input>(block: &Block, row: usize, out: &mut Sums) {
    for (i, out) in out.iter_mut().enumerate() {
        for plane in 0..I::PLANES {
            let vector = i * I::PLANES + plane;
            // Of two planes the first holds the high halves, of 256 each.
            let shift = vdupq_n_s64(if plane + 1 < I::PLANES { 8 } else { 0 });
            for (out, pairs) in out[row..row + ROWS].as_chunks_mut::<2>().0.iter_mut().zip(block) {
                let pair = pairs[vector / 2];
                let sums = vmovl_s32(if vector.is_multiple_of(2) { vget_low_s32(pair) } else { vget_high_s32(pair) });
                // SAFETY: two sums are there.
                unsafe {
                    let sums = vaddq_s64(vld1q_s64(out.as_ptr()), vshlq_s64(sums, shift));
                    vst1q_s64(out.as_mut_ptr(), sums);
                }
            }
        }
    }
}

/// `acc` plus the products of two vectors in `x` with two rows in `weights`, eight columns each.
///
/// In assembly because `core::arch` has no stable intrinsic for it.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut acc: int32x4_t, x: int32x4_t, weights: int32x4_t) -> int32x4_t {
    // SAFETY: it touches nothing but its registers, and the function has the extension.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {x:v}.16b, {weights:v}.16b",
            acc = inout(vreg) acc,
            x = in(vreg) x,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
