//! 2.1, linear: exact integer dot products, then one requantisation per output.

use crate::activations::TokenCodes;
use crate::fixed::{requant, rshr, sat};
use crate::formats::{GROUP, TILE};
use crate::matrix::{Activation, Matrix, RowScale};

/// The value of column `column` of a quantized vector, as the contract's `q`.
#[inline]
#[must_use]
pub fn code_value(x: &TokenCodes<'_>, activation: Activation, column: usize) -> i32 {
    let code = i32::from(x.planes[column]);
    match activation {
        Activation::A8 => code,
        Activation::A8b { .. } => code * x.scales[column / GROUP],
        Activation::A16 => 256 * code + i32::from(x.planes[x.planes.len() / 2 + column]),
    }
}

/// The exact sums of one tile of 16 rows with one vector. Rows of padding give 0.
pub fn dot_tile(matrix: &Matrix, tile: usize, x: &TokenCodes<'_>, acc: &mut [i64; TILE]) {
    let mut weights = [0; GROUP];
    acc.fill(0);
    for (r, acc) in acc.iter_mut().enumerate() {
        let row = tile * TILE + r;
        if row >= matrix.rows {
            break;
        }
        for group in 0..matrix.groups() {
            matrix.group_weights(row, group, &mut weights);
            for (i, &weight) in weights[..GROUP.min(matrix.columns - group * GROUP)].iter().enumerate() {
                *acc += i64::from(weight) * i64::from(code_value(x, matrix.activation, group * GROUP + i));
            }
        }
    }
}

/// What a row does with its exact sum.
#[derive(Clone, Copy, Debug)]
pub struct Finish {
    /// The row's constants.
    pub scale: RowScale,
    /// The bias in QF, 0 where there is none.
    pub bias: i32,
}

/// An output in QF from its exact sum, for a vector quantized with `(d, t)` and pre-shift `a`.
#[inline(always)]
#[must_use]
pub fn finish(acc: i64, d: i32, t: i32, preshift: u8, row: Finish) -> i32 {
    let a = u32::from(preshift);
    let y = requant(sat(rshr(acc, a)), d * row.scale.m, row.scale.shift + 7 - t - a as i32);
    sat(i64::from(y) + i64::from(row.bias))
}
