//! Quantized sources: the codes are kept, block scales become integers.
use super::row::{Row, Unrepresentable, ZERO};
use crate::constants::round;
use crate::import::{Blocks, DType, Levels};
use intact_core::formats::{Format, N4_DEFAULT_TABLE, PAYLOADS, PayloadKind, ScaleMode};

/// What keeps a source's codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transcription {
    /// The format whose codes they become.
    pub format: Format,
    /// Levels of the codes, for payloads with a table.
    pub table: [i8; 16],
}

/// The format that keeps the codes of a quantized type; `None` for the others.
#[must_use]
pub fn transcription(dtype: DType) -> Option<Transcription> {
    let grid = dtype.grid()?;
    let (kind, table) = match (grid.levels, grid.bits) {
        (Levels::Table(table), 4) => (PayloadKind::N4, *table),
        (Levels::Linear { .. }, 4) => (PayloadKind::U4, N4_DEFAULT_TABLE),
        (Levels::Linear { .. }, 5) => (PayloadKind::U5, N4_DEFAULT_TABLE),
        (Levels::Linear { .. }, 6) => (PayloadKind::U6, N4_DEFAULT_TABLE),
        (Levels::Linear { .. }, 8) => (PayloadKind::U8, N4_DEFAULT_TABLE),
        _ => return None,
    };
    let payload = *PAYLOADS.iter().find(|payload| payload.kind() == kind)?;
    let mode = if grid.offset { ScaleMode::Z8 } else { ScaleMode::B8 };
    Some(Transcription { format: Format { payload, mode, block: grid.block }, table })
}

/// Turns a source's row into one of the format that [`transcription`] gives for its type.
///
/// # Errors
/// [`Unrepresentable`] for scales beyond the row constants.
pub fn transcribe(blocks: &Blocks, row: &mut Row) -> Result<(), Unrepresentable> {
    row.codes.clear();
    row.codes.extend(blocks.codes.iter().map(|&code| i16::from(code)));
    row.scales.clear();
    row.offsets.clear();
    let unit = if blocks.grid.offset { with_offsets(blocks, row) } else { without_offsets(blocks, row) };
    if !row.set_unit(unit)? {
        // A row of zeros, whatever its codes.
        let zero = match blocks.grid.levels {
            Levels::Linear { .. } => 1 << (blocks.grid.bits - 1),
            Levels::Table(_) => 0,
        };
        row.codes.fill(zero);
        row.scales.fill(0);
        row.offsets.fill(0);
        row.constants = ZERO;
    }
    Ok(())
}

/// Mode b8; returns U.
fn without_offsets(blocks: &Blocks, row: &mut Row) -> f64 {
    let unit = blocks.scale.iter().fold(0.0, |largest: f64, scale| largest.max(scale.abs())) / 255.0;
    let scale = |scale: &f64| if unit > 0.0 { round(scale / unit) as i32 } else { 0 };
    row.scales.extend(blocks.scale.iter().map(scale));
    row.offsets.resize(row.scales.len(), 0);
    unit
}

/// Mode z8; returns U.
fn with_offsets(blocks: &Blocks, row: &mut Row) -> f64 {
    let largest_code = (1 << blocks.grid.bits) - 1;
    let umax = f64::from(largest_code);
    let turned = |scale: f64, offset: f64| if scale < 0.0 { (-scale, offset + umax * scale) } else { (scale, offset) };
    let pairs = || blocks.scale.iter().zip(&blocks.offset).map(|(&scale, &offset)| turned(scale, offset));
    for (codes, scale) in row.codes.chunks_mut(blocks.grid.block).zip(&blocks.scale) {
        if *scale < 0.0 {
            codes.iter_mut().for_each(|code| *code = largest_code as i16 - *code);
        }
    }
    let mut unit: f64 = pairs().fold(0.0, |unit: f64, (scale, offset)| {
        let end = umax * scale + offset;
        unit.max(scale / 255.0).max(offset.abs() / 32767.0).max(end.abs() / 32767.0)
    });
    if unit == 0.0 {
        row.scales.resize(blocks.scale.len(), 0);
        row.offsets.resize(blocks.scale.len(), 0);
        return unit;
    }
    loop {
        row.scales.clear();
        row.offsets.clear();
        for (scale, offset) in pairs() {
            row.scales.push(round(scale / unit) as i32);
            row.offsets.push(round(offset / unit) as i32);
        }
        if row.scales.iter().zip(&row.offsets).all(|(&s, &z)| within_range(s, z, largest_code)) {
            return unit;
        }
        unit = raised(unit);
    }
}

/// Whether |W| ≤ 32767 for every code of a block of mode z8.
pub(super) fn within_range(s: i32, z: i32, largest_code: i32) -> bool {
    z.abs() <= 32767 && (s * largest_code + z).abs() <= 32767
}

/// The next larger unit to be tried.
pub(super) fn raised(unit: f64) -> f64 {
    unit * 65.0 / 64.0
}
