//! Real values: round to nearest on the grid of a format.
use super::row::{Row, Unrepresentable, padding_code};
use super::transcribe::{raised, within_range};
use crate::constants::round;
use intact_core::formats::{Format, PayloadKind, ScaleMode};

/// The formats that real values are quantized to; those with block scales in every block length.
pub const QUANTIZED: [&str; 10] = ["U8r", "W16r", "U8b8", "U6b8", "U5b8", "U4b8", "N4b8", "U6z8", "U5z8", "U4z8"];

/// The largest block scale of U8b8: so fine a grid absorbs the rounding of its scale, and small scales keep sums of
/// weights low.
const U8_MOST: f64 = 31.0;

/// Quantizes a row of finite values. The format is one of [`QUANTIZED`] in some block length.
///
/// # Errors
/// [`Unrepresentable`] for values beyond the row constants.
pub fn quantize(format: &Format, table: &[i8; 16], values: &[f32], row: &mut Row) -> Result<(), Unrepresentable> {
    row.clear(format, values.len());
    let encoder = match (format.payload.kind(), format.mode) {
        (_, ScaleMode::R) => per_row,
        (PayloadKind::U8, ScaleMode::B8) => eight_bits,
        (_, ScaleMode::B8) => searched,
        (_, ScaleMode::Z8) => with_offsets,
    };
    let unit = encoder(format, table, values, row);
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
fn per_row(format: &Format, _table: &[i8; 16], values: &[f32], row: &mut Row) -> f64 {
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
fn eight_bits(format: &Format, _table: &[i8; 16], values: &[f32], row: &mut Row) -> f64 {
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

/// The levels of a payload, as far as [`searched`] needs them.
enum Levels<'a> {
    /// −2^(k−1) … 2^(k−1) − 1.
    Uniform { zero: i16 },
    /// A table.
    Table(&'a [i8; 16]),
}

impl Levels<'_> {
    /// The level that an element of the largest magnitude takes.
    fn deepest(&self) -> f64 {
        match self {
            Self::Uniform { zero } => -f64::from(*zero),
            Self::Table(_) => -127.0,
        }
    }

    /// The code nearest to `x`, and its level.
    fn nearest(&self, x: f64) -> (i16, f64) {
        match self {
            Self::Uniform { zero } => {
                let level = round(x).clamp(-f64::from(*zero), f64::from(*zero - 1));
                (level as i16 + zero, level)
            }
            Self::Table(table) => {
                let mut best = (0, f64::from(table[0]));
                for (code, &level) in table.iter().enumerate() {
                    let level = f64::from(level);
                    if (x - level).abs() < (x - best.1).abs() {
                        best = (code as i16, level);
                    }
                }
                best
            }
        }
    }
}

/// U4b8, U5b8, U6b8 and N4b8: each block takes the one of 15 signed scales that has the least squared error; returns U.
fn searched(format: &Format, table: &[i8; 16], values: &[f32], row: &mut Row) -> f64 {
    let levels = match format.payload.kind() {
        PayloadKind::N4 => Levels::Table(table),
        _ => Levels::Uniform { zero: padding_code(format) },
    };
    let start = |values: &[f32]| {
        let deepest =
            values.iter().fold(
                0.0,
                |found: f64, &value| {
                    if f64::from(value).abs() > found.abs() { f64::from(value) } else { found }
                },
            );
        deepest / levels.deepest()
    };
    let unit = values.chunks(format.block).fold(0.0, |unit: f64, block| unit.max(start(block).abs())) / 255.0;
    if unit == 0.0 {
        return unit;
    }
    let blocks = values.chunks(format.block).zip(row.codes.chunks_mut(format.block));
    for ((values, codes), scale) in blocks.zip(&mut row.scales) {
        let start = start(values);
        let mut least = f64::INFINITY;
        for i in 0..15 {
            let s = round(start * f64::from(28 + i) / 40.0 / unit).clamp(-255.0, 255.0);
            let step = s * unit;
            let error = values.iter().fold(0.0, |sum: f64, &value| {
                let value = f64::from(value);
                let level = if s == 0.0 { 0.0 } else { levels.nearest(value / step).1 };
                let off = value - step * level;
                sum + off * off
            });
            if error < least {
                least = error;
                *scale = s as i32;
            }
        }
        if *scale != 0 {
            let step = f64::from(*scale) * unit;
            for (code, &value) in codes.iter_mut().zip(values) {
                *code = levels.nearest(f64::from(value) / step).0;
            }
        }
    }
    unit
}

/// U4z8, U5z8 and U6z8: each block's grid spans its values; returns U.
fn with_offsets(format: &Format, _table: &[i8; 16], values: &[f32], row: &mut Row) -> f64 {
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
