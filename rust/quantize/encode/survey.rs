//! What a format costs a matrix, estimated from some of its rows.
use super::guidance::{Guidance, Guide};
use super::layout::PlaneBuffers;
use super::row::Row;
use super::{RowError, quantize};
use crate::import::Tensor;
use intact_core::cpu::Pool;
use intact_core::formats::{Format, N4_DEFAULT_TABLE, TILE};
use intact_core::matrix::{Activation, Matrix};

/// Rows that are encoded, spread evenly over the matrix; all of a smaller one.
const SAMPLE: usize = 64;

/// For each format the energy of errors over that of the values, in the rows of a sample that are quantized with
/// `guidance`: ‖ΔW·x‖² / ‖W·x‖² over the inputs that the guidance is of. Formats are as in [`super::QUANTIZED`].
///
/// # Errors
/// The first row that cannot be read or represented.
///
/// # Panics
/// Where the guidance does not fit the tensor's columns ([`Guidance::fits`]).
pub fn losses(tensor: &Tensor, formats: &[Format], guidance: &Guidance, pool: &Pool) -> Result<Vec<f64>, RowError> {
    let (rows, columns) = (tensor.rows(), tensor.columns());
    assert!(guidance.fits(columns), "guidance is for another matrix");
    let guide = Guide::new(guidance, columns, pool);
    let count = rows.min(SAMPLE);
    let sample: Vec<usize> = (0..count).map(|i| (2 * i + 1) * rows / (2 * count)).collect();
    let tiles: Vec<&[usize]> = sample.chunks(TILE).collect();
    let values = |tile: &[usize]| -> Result<Vec<Vec<f32>>, RowError> {
        let read = |&row: &usize| {
            let mut values = vec![0.0; columns];
            tensor.row_f32(row, &mut values).map_err(RowError::Read)?;
            Ok(values)
        };
        tile.iter().map(read).collect()
    };
    let whole = pool.map(tiles.len(), |tile| Some(values(tiles[tile]).map(|rows| energy(guidance, &rows, None))));
    let lost = pool.map(formats.len() * tiles.len(), |task| {
        let (format, tile) = (formats[task / tiles.len()], tiles[task % tiles.len()]);
        Some(values(tile).and_then(|values| {
            let mut rows = vec![Row::default(); values.len()];
            quantize(&format, &N4_DEFAULT_TABLE, &guide, &values, &mut rows)
                .map_err(|r| RowError::TooLarge(tile[r]))?;
            Ok(energy(guidance, &values, Some(&decoded(format, &rows, columns))))
        }))
    });
    let whole = whole.into_iter().flatten().try_fold(0.0, |sum, part| Ok(sum + part?))?;
    let lost: Result<Vec<f64>, RowError> = lost.into_iter().flatten().collect();
    let ratio = |lost: &[f64]| {
        let lost = lost.iter().fold(0.0, |sum, lost| sum + lost);
        // Moments that are no sums of squares may make an energy negative.
        if lost > 0.0 { lost / whole } else { 0.0 }
    };
    Ok(lost?.chunks(tiles.len()).map(ratio).collect())
}

/// The energy of up to 16 rows, less what is decoded.
fn energy(guidance: &Guidance, values: &[Vec<f32>], decoded: Option<&[Vec<f64>]>) -> f64 {
    let mut columns = vec![[0.0; TILE]; values[0].len()];
    for (r, values) in values.iter().enumerate() {
        for (k, (column, &value)) in columns.iter_mut().zip(values).enumerate() {
            column[r] = f64::from(value) - decoded.map_or(0.0, |decoded| decoded[r][k]);
        }
    }
    guidance.energies(&columns).iter().fold(0.0, |sum, energy| sum + energy)
}

/// What a reader makes of up to 16 rows.
fn decoded(format: Format, rows: &[Row], columns: usize) -> Vec<Vec<f64>> {
    let mut buffers = PlaneBuffers::new(format, rows.len(), columns);
    for tile in &mut buffers.tiles() {
        rows.iter().enumerate().for_each(|(r, row)| tile.write(r, row));
    }
    let matrix = Matrix {
        name: String::new(),
        rows: rows.len(),
        columns,
        format,
        table: N4_DEFAULT_TABLE,
        activation: Activation::A16,
        preshift: 0,
        planes: buffers.finish(),
    };
    let row = |row| {
        let constants = matrix.row_scale(row);
        let unit = f64::from(constants.m) / (0..constants.shift).fold(1.0, |power, _| power * 2.0);
        let mut weights = Vec::new();
        matrix.row_weights(row, &mut weights);
        weights.iter().map(|&weight| f64::from(weight) * unit).collect()
    };
    (0..rows.len()).map(row).collect()
}
