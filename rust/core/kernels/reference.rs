//! The reference set: every slot as the plain op.

use super::{Attend, Dot, KernelSet, Kernels, RowConstants, Sums};
use crate::activations::quantize;
use crate::formats::TILE;
use crate::matrix::RowScale;
use crate::ops::attention;
use crate::ops::gated::gated_activation;
use crate::ops::linear::{self, Finish};
use crate::ops::rms_norm::rms_norm;
use crate::storage::read_u32;

/// The slots.
pub const KERNELS: Kernels =
    Kernels { name: "reference", dot: DOT, finish, quantize, rms_norm, gated_activation, attention: ATTEND };

/// The set.
pub(super) const SET: KernelSet = KernelSet { kernels: KERNELS, available: || true, needs: "nothing" };

const ATTEND: Attend = Attend { scores: attention::scores, sums: attention::sums, outputs: attention::outputs };

const DOT: Dot = |matrix, tile, x, tokens, sums| {
    for (token, sums) in tokens.zip(sums) {
        linear::dot_tile(matrix, tile, &x.token(token), sums);
    }
};

/// Outputs of tokens from their sums of a tile.
#[inline(always)]
pub(crate) fn finish(sums: &Sums, d: &[i32], t: &[i32], rows: RowConstants<'_>, out: &mut [[i32; TILE]]) {
    let bias = |r| rows.bias.filter(|bias| 4 * r < bias.len()).map_or(0, |bias| read_u32(bias, r) as i32);
    let row = |r| Finish { scale: RowScale::from_word(read_u32(rows.rows, r)), bias: bias(r) };
    let constants: [Finish; TILE] = core::array::from_fn(row);
    for (((out, sums), &d), &t) in out.iter_mut().zip(sums).zip(d).zip(t) {
        for ((out, &sum), &row) in out.iter_mut().zip(sums).zip(&constants) {
            *out = linear::finish(sum, d, t, rows.preshift, row);
        }
    }
}
