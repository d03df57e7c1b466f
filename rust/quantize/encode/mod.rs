//! Encoders: from a checkpoint's tensor to the planes of a matrix (docs/NUMERICS.md, section 8).
//!
//! Rows are independent and tiles of 16 rows go to threads, so bytes do not depend on their number. Floats are IEEE
//! doubles; additions, subtractions, multiplications, divisions, floor and comparisons come one at a time in the
//! order written, which fixes their results on every machine.
mod factor;
mod feedback;
mod fit;
mod grid;
mod guidance;
mod layout;
mod quantize;
mod rotation;
mod row;
mod scalar;
mod survey;
mod transcribe;
mod trellis;
mod viterbi;

pub use guidance::{Guidance, Moments};
pub use layout::PlaneBuffers;
pub use quantize::QUANTIZED;
pub use rotation::{ROTATION, rotate};
pub use row::{Row, Unrepresentable};
pub use survey::{degraded, losses};
pub use transcribe::{Transcription, kept, transcribe, transcription};

use crate::error::Error;
use crate::import::{Blocks, Tensor};
use guidance::Guide;
use intact_core::cpu::Pool;
use intact_core::formats::{Format, N4_DEFAULT_TABLE, PayloadKind, TILE};
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

/// Encodes a matrix in `format`. Where `kept`, which is what [`kept`] gives for the tensor, is a transcription to that
/// format, the tensor's own codes are kept; otherwise its real values are quantized, for which `format` must be one of
/// [`QUANTIZED`], with what `guidance` says of its inputs.
///
/// # Errors
/// The first row that cannot be read or represented.
///
/// # Panics
/// Where the guidance does not fit the tensor's columns ([`Guidance::fits`]).
pub fn encode(
    tensor: &Tensor, format: Format, kept: Option<Transcription>, guidance: &Guidance, pool: &Pool,
) -> Result<Encoded, RowError> {
    let kept = kept.and_then(|kept| kept.in_format(format));
    let table = kept.map_or(N4_DEFAULT_TABLE, |kept| kept.table);
    let (rows, columns) = (tensor.rows(), tensor.columns());
    assert!(guidance.fits(columns), "guidance is for another matrix");
    let guide =
        if kept.is_some() { Guide::new(&Guidance::None, columns, pool) } else { Guide::new(guidance, columns, pool) };
    let mut buffers = PlaneBuffers::new(format, rows, columns);
    let tiles: Vec<_> = buffers.tiles().into_iter().map(Mutex::new).collect();
    let faults = pool.map(tiles.len(), |number| {
        let mut tile = tiles[number].lock().unwrap_or_else(PoisonError::into_inner);
        let first = number * TILE;
        let mut out = vec![Row::default(); TILE.min(rows - first)];
        let done = if kept.is_some() {
            kept_rows(tensor, &format, first, &mut out)
        } else {
            read_rows(tensor, first, out.len()).and_then(|values| {
                quantize(&format, &table, &guide, &values, &mut out).map_err(|r| RowError::TooLarge(first + r))
            })
        };
        out.iter().enumerate().for_each(|(r, row)| tile.write(r, row));
        done.err()
    });
    drop(tiles);
    match faults.into_iter().flatten().next() {
        None => Ok(Encoded { planes: buffers.finish(), table }),
        Some(fault) => Err(fault),
    }
}

/// Transcribes rows from `first` on.
fn kept_rows(tensor: &Tensor, format: &Format, first: usize, out: &mut [Row]) -> Result<(), RowError> {
    let mut blocks = Blocks::default();
    for (row, out) in (first..).zip(out) {
        tensor.row_blocks(row, &mut blocks).map_err(RowError::Read)?;
        transcribe(format, &blocks, out).map_err(|Unrepresentable| RowError::TooLarge(row))?;
    }
    Ok(())
}

/// The values of `count` rows from `first` on.
fn read_rows(tensor: &Tensor, first: usize, count: usize) -> Result<Vec<Vec<f32>>, RowError> {
    let read = |row| {
        let mut values = vec![0.0; tensor.columns()];
        tensor.row_f32(row, &mut values).map_err(RowError::Read)?;
        Ok(values)
    };
    (first..first + count).map(read).collect()
}

/// Quantizes up to 16 rows of finite values. The format is one of [`QUANTIZED`] in some block length.
///
/// # Errors
/// The index of a row whose values are beyond the row constants.
fn quantize(
    format: &Format, table: &[i8; 16], guide: &Guide, values: &[Vec<f32>], rows: &mut [Row],
) -> Result<(), usize> {
    let wide = || values.iter().map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect::<Vec<Vec<f64>>>();
    if matches!(format.payload.kind(), PayloadKind::Trellis(_)) {
        return trellis::encode(format, guide, &wide(), rows);
    }
    if scalar::serves(format) {
        return scalar::encode(format, table, guide, &wide(), rows);
    }
    for (r, (values, row)) in values.iter().zip(rows).enumerate() {
        quantize::quantize(format, values, row).map_err(|Unrepresentable| r)?;
    }
    Ok(())
}

#[cfg(test)]
mod guidance_tests;
#[cfg(test)]
mod tests;
