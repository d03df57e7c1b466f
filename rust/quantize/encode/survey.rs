//! What a format costs a matrix, estimated from some of its rows.
use super::guidance::{Guidance, Guide};
use super::layout::PlaneBuffers;
use super::row::Row;
use super::{RowError, quantize};
use crate::import::Tensor;
use intact_core::certify::magnitudes;
use intact_core::cpu::Pool;
use intact_core::formats::{Format, N4_DEFAULT_TABLE, TILE};
use intact_core::matrix::{Activation, Matrix, Planes};
use std::sync::{Mutex, PoisonError};

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

/// `matrix` quantized anew to `format`, as [`super::encode`] does it, and the energy of the errors over that of its weights,
/// as in [`losses`]. `None` where `guidance` is for another matrix, or a row cannot be represented.
#[must_use]
pub fn degraded(matrix: &Matrix, format: Format, guidance: &Guidance, pool: &Pool) -> Option<(Matrix, f64)> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    // Constants for lookups alone would have to follow.
    if !guidance.fits(columns) || matrix.planes.embedding_row.is_some() {
        return None;
    }
    let guide = Guide::new(guidance, columns, pool);
    let mut buffers = PlaneBuffers::new(format, rows, columns);
    let tiles: Vec<_> = buffers.tiles().into_iter().map(Mutex::new).collect();
    let energies = pool.map(tiles.len(), |number| {
        let mut tile = tiles[number].lock().unwrap_or_else(PoisonError::into_inner);
        let first = number * TILE;
        let values: Vec<Vec<f32>> = (first..rows.min(first + TILE))
            .map(|row| weights(matrix, row).iter().map(|&weight| weight as f32).collect())
            .collect();
        let mut out = vec![Row::default(); values.len()];
        quantize(&format, &N4_DEFAULT_TABLE, &guide, &values, &mut out).ok()?;
        out.iter().enumerate().for_each(|(r, row)| tile.write(r, row));
        let lost = energy(guidance, &values, Some(&decoded(format, &out, columns)));
        Some([energy(guidance, &values, None), lost])
    });
    drop(tiles);
    let (mut whole, mut lost) = (0.0, 0.0);
    for part in energies {
        let [all, error] = part?;
        (whole, lost) = (whole + all, lost + error);
    }
    let planes = Planes { bias: matrix.planes.bias.clone(), ..buffers.finish() };
    let mut out = Matrix { format, table: N4_DEFAULT_TABLE, planes, ..matrix.clone() };
    out.preshift = magnitudes(&out, pool).preshift(out.activation);
    Some((out, if lost > 0.0 { lost / whole } else { 0.0 }))
}

/// The real weights of a row.
fn weights(matrix: &Matrix, row: usize) -> Vec<f64> {
    let constants = matrix.row_scale(row);
    let unit = f64::from(constants.m) / (0..constants.shift).fold(1.0, |power, _| power * 2.0);
    let mut weights = Vec::new();
    matrix.row_weights(row, &mut weights);
    weights.iter().map(|&weight| f64::from(weight) * unit).collect()
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
    (0..rows.len()).map(|row| weights(&matrix, row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::tests::Random;
    use crate::import::Source;
    use serde_json::{Map, json};
    use std::path::Path;

    /// A source with one tensor of `rows` rows, all of them `scale` times the same few.
    fn source(rows: usize, columns: usize, scale: f32) -> Source {
        let mut random = Random(3);
        let distinct: Vec<Vec<f32>> = (0..TILE).map(|_| random.row(columns)).collect();
        let values = (0..rows).flat_map(|row| distinct[row % TILE].iter().map(|x| x * scale));
        let data: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let header = json!({"t.weight": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, data.len()]}});
        let header = header.to_string().into_bytes();
        let file = [&(header.len() as u64).to_le_bytes(), &*header, &data].concat();
        Source::from_bytes(Path::new("memory"), Map::new(), file).unwrap()
    }

    #[test]
    fn a_sample_stands_for_the_matrix_whatever_its_scale_and_the_threads() {
        let formats = ["P20b4", "N4b8", "U8b8", "W16r"].map(|name| Format::parse(name).unwrap());
        let of = |rows, scale, threads| {
            let source = source(rows, 64, scale);
            losses(&source.tensors["t.weight"], &formats, &Guidance::None, &Pool::new(threads)).unwrap()
        };
        let all = of(TILE, 1.0, 1);
        assert!(all.windows(2).all(|pair| pair[0] > 4.0 * pair[1]) && all[0] < 0.2, "{all:?}");
        assert_eq!(all, of(TILE, 4.0, 3));
        let sampled = of(1000, 1.0, 2);
        assert_eq!(sampled, of(1000, 1.0, 1));
        assert!(sampled.iter().zip(&all).all(|(a, b)| (a / b - 1.0).abs() < 0.3), "{sampled:?} {all:?}");
        assert_eq!(of(1, 0.0, 1), [0.0; 4]);
    }
}
