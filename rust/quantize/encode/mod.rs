//! Encoders: from a checkpoint's tensor to the planes of a matrix (docs/NUMERICS.md, section 8).
//!
//! Rows are independent and tiles of 16 rows go to threads, so bytes do not depend on their number. Floats are IEEE
//! doubles; additions, subtractions, multiplications, divisions, floor and comparisons come one at a time in the
//! order written, which fixes their results on every machine.
mod layout;
mod quantize;
mod row;
mod transcribe;

pub use layout::PlaneBuffers;
pub use quantize::{QUANTIZED, quantize};
pub use row::{Row, Unrepresentable};
pub use transcribe::{Transcription, transcribe, transcription};

use crate::error::Error;
use crate::import::{Blocks, Tensor};
use intact_core::cpu::Pool;
use intact_core::formats::{Format, N4_DEFAULT_TABLE, TILE};
use intact_core::matrix::Planes;
use std::sync::{Mutex, PoisonError};

/// Why a row has no code.
#[derive(Debug)]
pub enum RowError {
    /// The tensor could not be read.
    Read(Error),
    /// A weight is too large for the row constants; the row.
    TooLarge(usize),
}

/// A tensor encoded.
pub struct Encoded {
    /// All planes but the bias.
    pub planes: Planes,
    /// Levels of the codes, for payloads with a table.
    pub table: [i8; 16],
}

/// Encodes a matrix in `format`. Where that is the format of the tensor's own codes they are kept ([`transcription`]);
/// otherwise its real values are quantized, for which `format` must be one of [`QUANTIZED`].
///
/// # Errors
/// The first row that cannot be read or represented.
pub fn encode(tensor: &Tensor, format: Format, pool: &Pool) -> Result<Encoded, RowError> {
    let kept = transcription(tensor.dtype).filter(|kept| kept.format == format);
    let table = kept.map_or(N4_DEFAULT_TABLE, |kept| kept.table);
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let mut buffers = PlaneBuffers::new(format, rows, columns);
    let tiles: Vec<_> = buffers.tiles().into_iter().map(Mutex::new).collect();
    let faults = pool.map(tiles.len(), |number| {
        let mut tile = tiles[number].lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Row::default();
        let (mut values, mut blocks) = (vec![0.0; if kept.is_some() { 0 } else { columns }], Blocks::default());
        (number * TILE..rows.min((number + 1) * TILE)).find_map(|row| {
            let done = if kept.is_some() {
                tensor.row_blocks(row, &mut blocks).map(|()| transcribe(&blocks, &mut out))
            } else {
                tensor.row_f32(row, &mut values).map(|()| quantize(&format, &table, &values, &mut out))
            };
            match done {
                Err(error) => return Some(RowError::Read(error)),
                Ok(Err(Unrepresentable)) => return Some(RowError::TooLarge(row)),
                Ok(Ok(())) => tile.write(row % TILE, &out),
            }
            None
        })
    });
    drop(tiles);
    match faults.into_iter().flatten().next() {
        None => Ok(Encoded { planes: buffers.finish(), table }),
        Some(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests;
