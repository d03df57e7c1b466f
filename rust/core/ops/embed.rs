//! 2.5, embed: a row of a matrix as a vector in QF.

use crate::fixed::requant;
use crate::formats::GROUP;
use crate::matrix::Matrix;

/// Writes row `token` of `matrix` to `out` (`matrix.columns` elements).
pub fn embed(matrix: &Matrix, token: usize, fraction_bits: u32, out: &mut [i32]) {
    let scale = matrix.embedding_scale(token);
    let mut weights = [0; GROUP];
    for (group, out) in out.chunks_mut(GROUP).enumerate() {
        matrix.group_weights(token, group, &mut weights);
        for (out, &weight) in out.iter_mut().zip(&weights) {
            *out = requant(weight, scale.m, scale.shift - fraction_bits as i32);
        }
    }
}
