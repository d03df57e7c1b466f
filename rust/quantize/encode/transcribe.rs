//! Quantized sources: the codes are kept, block scales become integers.
use super::row::{Row, Unrepresentable, padding_code};
use crate::constants::round;
use crate::error::Error;
use crate::import::{Blocks, Grid, Levels, Scales, Shift, Tensor, WHOLE_ROW};
use intact_core::formats::{DEFAULT_BLOCK, Format, N4_DEFAULT_TABLE, PAYLOADS, PayloadKind, ScaleMode};

/// What keeps a source's codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transcription {
    /// The format whose codes they become.
    pub format: Format,
    /// Levels of the codes, for payloads with a table.
    pub table: [i8; 16],
}

impl Transcription {
    /// The transcription to `format` in place of its own, where that keeps the codes too: ternary digits fit two
    /// payloads.
    #[must_use]
    pub fn in_format(self, format: Format) -> Option<Self> {
        let ternary = |format: Format| matches!(format.payload.kind(), PayloadKind::T16 | PayloadKind::T20);
        let same = (self.format.mode, self.format.block) == (format.mode, format.block);
        (self.format == format || same && ternary(self.format) && ternary(format)).then_some(Self { format, ..self })
    }
}

/// The format that keeps a tensor's codes; `None` where its codes or its groups fit none. Rows of a ternary tensor are
/// read, to see whether each has one scale.
///
/// # Errors
/// As [`Tensor::row_blocks`], but `Access`.
pub fn kept(tensor: &Tensor) -> Result<Option<Transcription>, Error> {
    let Some(grid) = tensor.grid() else { return Ok(None) };
    if grid.is_ternary() && grid.block != WHOLE_ROW {
        let mut blocks = Blocks::default();
        for row in 0..tensor.rows() {
            match tensor.row_blocks(row, &mut blocks) {
                // A row that only its values can be read of: who asks for its codes will be told.
                Err(Error::Access { .. }) => return Ok(transcription(&grid)),
                read => read?,
            }
            let mut sizes = blocks.scale.iter().map(|scale| scale.abs()).filter(|&size| size > 0.0);
            let first = sizes.next();
            if sizes.any(|size| Some(size) != first) {
                return Ok(transcription(&grid));
            }
        }
        return Ok(transcription(&Grid { block: WHOLE_ROW, ..grid }));
    }
    Ok(transcription(&grid))
}

/// The format that keeps the codes of a grid; `None` where there is none.
#[must_use]
pub fn transcription(grid: &Grid) -> Option<Transcription> {
    let (kind, table) = match (grid.levels, grid.bits) {
        (Levels::Table(table), 4) => (PayloadKind::N4, *table),
        (Levels::Table(_), _) => return None,
        (Levels::Linear { .. }, bits) => {
            let kind = match bits {
                2 if grid.is_ternary() => PayloadKind::T20,
                2 => PayloadKind::U2,
                3 => PayloadKind::U3,
                4 => PayloadKind::U4,
                5 => PayloadKind::U5,
                6 => PayloadKind::U6,
                8 => PayloadKind::U8,
                _ => return None,
            };
            (kind, N4_DEFAULT_TABLE)
        }
    };
    let payload = *PAYLOADS.iter().find(|payload| payload.kind() == kind)?;
    let mode = match grid.shift {
        Shift::Offset | Shift::ZeroPoint => ScaleMode::Z8,
        Shift::None if grid.block == WHOLE_ROW => ScaleMode::R,
        Shift::None => ScaleMode::B8,
    };
    let block = match mode {
        ScaleMode::R => DEFAULT_BLOCK,
        _ if grid.block == WHOLE_ROW => 128,
        // Blocks of the format divide those of the source.
        _ => *[128, 64, 32, 16].iter().find(|&&block| grid.block.is_multiple_of(block))?,
    };
    Some(Transcription { format: Format { payload, mode, block }, table })
}

/// Turns a source's row into one of the format that [`kept`] gives for its tensor. In U8, which does not use the code
/// 0, it becomes 1.
///
/// # Errors
/// [`Unrepresentable`] for scales beyond the row constants.
pub fn transcribe(format: &Format, blocks: &Blocks, row: &mut Row) -> Result<(), Unrepresentable> {
    let columns = blocks.codes.len();
    row.clear(format, columns);
    let lowest = i16::from(format.payload.kind() == PayloadKind::U8);
    for (to, &from) in row.codes.iter_mut().zip(&blocks.codes) {
        *to = i16::from(from).max(lowest);
    }
    let unit = match format.mode {
        ScaleMode::R => whole_row(format, blocks, row),
        ScaleMode::B4 | ScaleMode::B8 => scales_alone(format, blocks, row),
        ScaleMode::Z8 => with_offsets(format, blocks, row),
    };
    if !row.set_unit(unit)? {
        // A row of zeros, whatever its codes.
        row.clear(format, columns);
    }
    Ok(())
}

/// The block of the source that block `block` of the format belongs to.
fn origin(format: &Format, blocks: &Blocks, block: usize) -> usize {
    block * format.block / blocks.grid.block
}

/// Mode r, in which all scales but those of 0 have one magnitude; returns U.
fn whole_row(format: &Format, blocks: &Blocks, row: &mut Row) -> f64 {
    let zero = padding_code(format);
    let length = blocks.grid.block.min(row.codes.len().max(1));
    for (codes, &scale) in row.codes.chunks_mut(length).zip(&blocks.scale) {
        if scale == 0.0 {
            codes.fill(zero);
        } else if scale < 0.0 {
            codes.iter_mut().for_each(|code| *code = 2 * zero - *code);
        }
    }
    largest(&blocks.scale)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()))
}

/// Mode b8; returns U.
fn scales_alone(format: &Format, blocks: &Blocks, row: &mut Row) -> f64 {
    let largest = largest(&blocks.scale);
    let unit = match blocks.grid.scales {
        Scales::Real => largest / 255.0,
        // A power of two, so that scales of few bits stay what they are: the largest becomes 128 to 255.
        Scales::Minifloat => f64::from_bits(largest.to_bits() & !((1 << 52) - 1)) / 128.0,
    };
    if unit > 0.0 {
        for (block, scale) in row.scales.iter_mut().enumerate() {
            let from = blocks.scale.get(origin(format, blocks, block));
            *scale = from.map_or(0, |scale| round(scale / unit) as i32);
        }
    }
    unit
}

/// A block of mode z8 in reals: a scale ≥ 0, and an offset or a zero point.
struct Shifted {
    scale: f64,
    offset: f64,
    zero: Option<i32>,
}

/// Mode z8; returns U.
fn with_offsets(format: &Format, blocks: &Blocks, row: &mut Row) -> f64 {
    // Codes of U8 are turned around 128, so that 0 stays unused.
    let turn = (1 << blocks.grid.bits) - i32::from(blocks.grid.bits != 8);
    let largest_code = format.payload.max_code();
    let umax = f64::from(turn);
    let shifted = |block: usize| {
        let (scale, zero) = (blocks.scale[block], blocks.zero.get(block).map(|&zero| i32::from(zero)));
        let offset = blocks.offset.get(block).copied().unwrap_or_else(|| -scale * f64::from(zero.unwrap_or(0)));
        if scale < 0.0 {
            Shifted { scale: -scale, offset: offset + umax * scale, zero: zero.map(|zero| turn - zero) }
        } else {
            Shifted { scale, offset, zero }
        }
    };
    let length = blocks.grid.block.min(row.codes.len().max(1));
    for (codes, &scale) in row.codes.chunks_mut(length).zip(&blocks.scale) {
        if scale < 0.0 {
            codes.iter_mut().for_each(|code| *code = turn as i16 - *code);
        }
    }
    let mut unit: f64 = (0..blocks.scale.len()).map(shifted).fold(0.0, |unit: f64, block| {
        let end = umax * block.scale + block.offset;
        unit.max(block.scale / 255.0).max(block.offset.abs() / 32767.0).max(end.abs() / 32767.0)
    });
    if unit == 0.0 {
        return unit;
    }
    let columns = blocks.codes.len();
    let mean = |block: usize| {
        let codes = &row.codes[(block * format.block).min(columns)..((block + 1) * format.block).min(columns)];
        codes.iter().fold(0.0, |sum, &code| sum + f64::from(code)) / codes.len().max(1) as f64
    };
    let means: Vec<f64> = (0..row.scales.len()).map(mean).collect();
    loop {
        let mut fits = true;
        for (block, (scale, offset)) in row.scales.iter_mut().zip(&mut row.offsets).enumerate() {
            let origin = origin(format, blocks, block);
            if origin < blocks.scale.len() {
                let source = shifted(origin);
                *scale = round(source.scale / unit) as i32;
                // What rounding adds to the scale, the offset takes off again for the mean code of the block.
                let excess = f64::from(*scale) * unit - source.scale;
                let offset_of = || round((source.offset - excess * means[block]) / unit) as i32;
                *offset = source.zero.map_or_else(offset_of, |zero| -zero * *scale);
                fits &= within_range(*scale, *offset, largest_code);
            }
        }
        if fits {
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
