//! Linear layers: every matrix that reads a vector, tile by tile.

use super::{Cpu, Disjoint, ThreadScratch};
use crate::activations::{Activations, TokenWriter};
use crate::formats::TILE;
use crate::kernels::{Kernels, RowConstants};
use crate::matrix::Matrix;
use crate::program::{MatrixId, Slot};
use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

/// Tokens that meet a tile at a time, so that their codes stay in a cache while tiles come and go.
const TOKENS: usize = 128;
/// Parts per thread of a parallel loop: enough to even out, few enough to stream.
const PARTS: usize = 4;

impl Cpu {
    pub(super) fn linear(&mut self, input: Slot, outputs: &[(MatrixId, Slot)], tokens: usize) {
        let model = Arc::clone(&self.model);
        let (matrices, widths) = (&model.model().matrices, model.widths());
        let columns = widths[input];
        let x = &self.slots[input];
        self.activations.reset(matrices[outputs[0].0].activation, columns, tokens);
        let activation = self.activations.shape().activation;
        let writer: TokenWriter = self.activations.writer();
        let quantize = self.kernels.quantize;
        self.pool.run(tokens, &|_, i| {
            // SAFETY: each token is written by one part, and the activations outlive `run`.
            quantize(&x[i * columns..(i + 1) * columns], activation, unsafe { writer.token(i) });
        });

        let mut targets: Vec<(&Matrix, Disjoint<i32>)> = Vec::with_capacity(outputs.len());
        for &(matrix, slot) in outputs {
            self.slots[slot].resize(tokens * widths[slot], 0);
            targets.push((&matrices[matrix], Disjoint::new(&mut self.slots[slot])));
        }
        let tiles: usize = targets.iter().map(|(matrix, _)| matrix.tiles()).sum();
        let parts = (self.pool.threads() * PARTS).min(tiles).max(1);
        let scratch = Disjoint::new(&mut self.scratch);
        let (x, kernels) = (&self.activations, self.kernels);
        self.pool.run(parts, &|thread, part| {
            // SAFETY: each thread has its own scratch, which outlives `run`.
            let scratch = &mut unsafe { scratch.part(thread, 1) }[0];
            for start in (0..tokens).step_by(TOKENS) {
                let block = start..tokens.min(start + TOKENS);
                for mut tile in part * tiles / parts..(part + 1) * tiles / parts {
                    for (matrix, out) in &targets {
                        if tile < matrix.tiles() {
                            // SAFETY: every tile meets every token once, so its outputs are written once.
                            unsafe { linear_tile(kernels, matrix, tile, x, block.clone(), scratch, out) };
                            break;
                        }
                        tile -= matrix.tiles();
                    }
                }
            }
        });
    }
}

/// One tile with a block of tokens: exact sums, then outputs.
///
/// # Safety
/// No other thread writes the rows of this tile for these tokens, and the buffer behind `out` is alive.
unsafe fn linear_tile(
    kernels: &Kernels, matrix: &Matrix, tile: usize, x: &Activations, block: Range<usize>, scratch: &mut ThreadScratch,
    out: &Disjoint<i32>,
) {
    let first = tile * TILE;
    let count = TILE.min(matrix.rows - first);
    let rows = RowConstants {
        rows: &matrix.planes.row.bytes()[first * 4..][..64],
        bias: matrix.planes.bias.as_ref().map(|plane| &plane.bytes()[first * 4..][..count * 4]),
        preshift: matrix.preshift,
    };
    scratch.sums.resize(block.len(), [0; TILE]);
    scratch.outputs.resize(block.len(), [0; TILE]);
    (kernels.dot)(matrix, tile, x, block.clone(), &mut scratch.sums);
    let (d, t) = x.scales(block.clone());
    (kernels.finish)(&scratch.sums, d, t, rows, &mut scratch.outputs);
    for (token, outputs) in block.zip(&scratch.outputs) {
        // SAFETY: as promised by the caller; tokens are disjoint.
        let out = unsafe { out.part(token * matrix.rows + first, count) };
        match out.first_chunk_mut() {
            Some(whole) => *whole = *outputs,
            None => out.copy_from_slice(&outputs[..count]),
        }
    }
}
