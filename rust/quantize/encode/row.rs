//! One row between its encoder and the planes.
use crate::constants::dyadic;
use intact_core::formats::{Format, GROUP, PayloadKind};
use intact_core::matrix::RowScale;

/// A row of integer weights: `W[k] = scale · u + offset` or `scale · level` of its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// One code per column as `Payload::pack` takes them, up to a whole group.
    pub codes: Vec<i16>,
    /// Per block, −255..=255; empty in mode r.
    pub scales: Vec<i32>,
    /// Per block, ±32767; 0 except in mode z8.
    pub offsets: Vec<i32>,
    /// The row constants.
    pub constants: RowScale,
}

/// The constants of a row of zeros.
pub(super) const ZERO: RowScale = RowScale { m: 0, shift: 0 };

/// The row's weights are so large that its shift would be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unrepresentable;

/// The code of padding columns and of rows of zeros: level 0 where the payload has it.
pub(super) fn padding_code(format: &Format) -> i16 {
    match format.payload.kind() {
        PayloadKind::T16 | PayloadKind::T20 => 1,
        PayloadKind::U2 => 2,
        PayloadKind::U3 => 4,
        PayloadKind::U4 => 8,
        PayloadKind::U5 => 16,
        PayloadKind::U6 => 32,
        PayloadKind::U8 => 128,
        PayloadKind::N4 | PayloadKind::Trellis(_) | PayloadKind::W16 => 0,
    }
}

impl Default for Row {
    /// A row without columns.
    fn default() -> Self {
        Self { codes: Vec::new(), scales: Vec::new(), offsets: Vec::new(), constants: ZERO }
    }
}

impl Row {
    /// Makes the row one of `columns` zeros.
    pub(super) fn clear(&mut self, format: &Format, columns: usize) {
        self.codes.clear();
        self.codes.resize(columns.next_multiple_of(GROUP), padding_code(format));
        for plane in [&mut self.scales, &mut self.offsets] {
            plane.clear();
            plane.resize(format.blocks(columns), 0);
        }
        self.constants = ZERO;
    }

    /// Sets the constants from the row unit U ≥ 0. `Ok(false)` where the row is one of zeros: U is 0, or so small that
    /// no product of such a weight reaches the resolution of activations.
    pub(super) fn set_unit(&mut self, unit: f64) -> Result<bool, Unrepresentable> {
        if unit == 0.0 {
            return Ok(false);
        }
        let (m, shift) = dyadic(unit, 23);
        if shift > 127 {
            return Ok(false);
        }
        if shift < 0 {
            return Err(Unrepresentable);
        }
        self.constants = RowScale { m, shift };
        Ok(true)
    }
}
