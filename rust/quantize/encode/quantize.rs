//! Real values: round to nearest on grids so fine, or with offsets, that no search is made.
use super::row::{Row, Unrepresentable, padding_code};
use super::transcribe::{raised, within_range};
use crate::constants::round;
use intact_core::formats::{Format, PayloadKind, ScaleMode};

/// The formats that real values are quantized to; those with block scales in every block length.
pub const QUANTIZED: [&str; 39] = [
    "U8r", "W16r", "U8b8", "U6b8", "U5b8", "U4b8", "U3b8", "U2b8", "N4b8", "U6z8", "U5z8", "U4z8", "U3z8", "U2z8",
    "T16r", "T20r", "T20b4", "T20b8", "P10r", "P10b4", "P10b8", "P15r", "P15b4", "P15b8", "P20r", "P20b4", "P20b8",
    "P25r", "P25b4", "P25b8", "P30r", "P30b4", "P30b8", "P35r", "P35b4", "P35b8", "P40r", "P40b4", "P40b8",
];

/// The largest block scale of U8b8: so fine a grid absorbs the rounding of its scale, and small scales keep sums of
/// weights low.
const U8_MOST: f64 = 31.0;

/// Quantizes a row of finite values. The format is one of 8 or 16 bits, or of mode z8.
///
/// # Errors
/// [`Unrepresentable`] for values beyond the row constants.
pub(super) fn quantize(format: &Format, values: &[f32], row: &mut Row) -> Result<(), Unrepresentable> {
    row.clear(format, values.len());
    let encoder = match (format.payload.kind(), format.mode) {
        (_, ScaleMode::R) => per_row,
        (PayloadKind::U8, _) => eight_bits,
        _ => with_offsets,
    };
    let unit = encoder(format, values, row);
    if !row.set_unit(unit)? {
        row.clear(format, values.len());
    }
    Ok(())
}

/// The largest magnitude.
fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |largest: f64, &value| largest.max(f64::from(value).abs()))
}

/// U8r and W16r: one scale for all; returns U.
fn per_row(format: &Format, values: &[f32], row: &mut Row) -> f64 {
    let zero = padding_code(format);
    let top = if format.payload.kind() == PayloadKind::W16 { 32767.0 } else { 127.0 };
    let unit = largest(values) / top;
    if unit > 0.0 {
        for (code, &value) in row.codes.iter_mut().zip(values) {
            *code = round(f64::from(value) / unit).clamp(-top, top) as i16 + zero;
        }
    }
    unit
}

/// U8b8: each block's scale is just large enough; returns U.
fn eight_bits(format: &Format, values: &[f32], row: &mut Row) -> f64 {
    let unit = values.chunks(format.block).fold(0.0, |unit: f64, block| unit.max(largest(block) / (127.0 * U8_MOST)));
    if unit == 0.0 {
        return unit;
    }
    let blocks = values.chunks(format.block).zip(row.codes.chunks_mut(format.block));
    for ((values, codes), scale) in blocks.zip(&mut row.scales) {
        let s = (largest(values) / (127.0 * unit)).ceil().clamp(1.0, U8_MOST);
        *scale = s as i32;
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = round(f64::from(value) / (s * unit)).clamp(-127.0, 127.0) as i16 + 128;
        }
    }
    unit
}

/// Mode z8: each block's grid spans its values; returns U.
fn with_offsets(format: &Format, values: &[f32], row: &mut Row) -> f64 {
    let largest_code = format.payload.max_code();
    let umax = f64::from(largest_code);
    let ends = |values: &[f32]| {
        let first = f64::from(values[0]);
        values.iter().fold((first, first), |(min, max), &value| (min.min(f64::from(value)), max.max(f64::from(value))))
    };
    let mut unit = values.chunks(format.block).map(ends).fold(0.0, |unit: f64, (min, max)| {
        unit.max((max - min) / umax / 255.0).max(min.abs() / 32767.0).max(max.abs() / 32767.0)
    });
    if unit == 0.0 {
        return unit;
    }
    loop {
        let mut fits = true;
        let targets = row.scales.iter_mut().zip(&mut row.offsets);
        for (values, (scale, offset)) in values.chunks(format.block).zip(targets) {
            let (min, max) = ends(values);
            *scale = ((max - min) / umax / unit).ceil().clamp(1.0, 255.0) as i32;
            *offset = round(min / unit) as i32;
            fits &= within_range(*scale, *offset, largest_code);
        }
        if fits {
            break;
        }
        unit = raised(unit);
    }
    let blocks = values.chunks(format.block).zip(row.codes.chunks_mut(format.block));
    for ((values, codes), (&s, &z)) in blocks.zip(row.scales.iter().zip(&row.offsets)) {
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = round((f64::from(value) / unit - f64::from(z)) / f64::from(s)).clamp(0.0, umax) as i16;
        }
    }
    unit
}
