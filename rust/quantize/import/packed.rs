//! Matrices whose codes, scales and zero points are tensors of their own, as quantizers write them to safetensors files.
use super::blocks::{Blocks, Grid, WHOLE_ROW, f32_from_half};
use super::tensor::{DType, Mapped};
use std::ops::Range;
use std::sync::Arc;

/// How integers of a few bits lie in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// A word holds neighbours along a row, the first in the lowest bits.
    Columns,
    /// A word holds neighbours along a column, the first in the lowest bits.
    Rows,
    /// As `Rows` with 8 of them, of which those with even numbers come first.
    EvenRowsFirst,
    /// Word i of a column holds rows i, i + n, i + 2n, …, the first in the lowest bits.
    SpreadRows {
        /// Words of a column.
        words: usize,
    },
}

/// A matrix of unsigned integers of `bits` bits, read in place.
#[derive(Clone, Debug)]
pub(super) struct Integers {
    pub(super) file: Arc<Mapped>,
    /// Proved to hold every word that a row and a column below the matrix's reach.
    pub(super) range: Range<usize>,
    /// Bytes of a word: 1 or 4.
    pub(super) word: usize,
    /// 2, 4 or 8.
    pub(super) bits: u32,
    pub(super) packing: Packing,
    /// Words from one word of a column, and of a row, to the next.
    pub(super) strides: (usize, usize),
    /// What the stored number is combined with to make it unsigned: the top bit of two's complement, or 0.
    pub(super) flip: u8,
    /// What is then added: 1 where zero points are stored less one, and what moves signed bytes to a narrower range.
    pub(super) add: i16,
}

impl Integers {
    /// The number at a place within the matrix.
    pub(super) fn get(&self, row: usize, column: usize) -> i16 {
        let lanes = 8 * self.word / self.bits as usize;
        let (row, column, lane) = match self.packing {
            Packing::Columns => (row, column / lanes, column % lanes),
            Packing::Rows => (row / lanes, column, row % lanes),
            Packing::EvenRowsFirst => (row / lanes, column, row % lanes / 2 + row % 2 * (lanes / 2)),
            Packing::SpreadRows { words } => (row % words, column, row / words),
        };
        let (bit, index) = (lane * self.bits as usize, row * self.strides.0 + column * self.strides.1);
        let byte = self.file[self.range.start + index * self.word + bit / 8] >> (bit % 8);
        // No number spans two bytes: 2, 4 and 8 divide 8.
        let number = byte & (u8::MAX >> (8 - self.bits));
        i16::from(number ^ self.flip) + self.add
    }
}

/// The scales of a matrix: one for each row and group of columns.
#[derive(Clone, Debug)]
pub(super) struct GroupScales {
    pub(super) file: Arc<Mapped>,
    /// Proved to hold every element that a row and a group below the matrix's reach.
    pub(super) range: Range<usize>,
    /// F32, F16 or BF16.
    pub(super) dtype: DType,
    /// Elements from one row, and from one group, to the next; 0 where they share theirs.
    pub(super) strides: (usize, usize),
    /// Whether the scale is the inverse of the element.
    pub(super) inverse: bool,
}

impl GroupScales {
    fn get(&self, row: usize, group: usize) -> f64 {
        let at = self.range.start + (row * self.strides.0 + group * self.strides.1) * self.dtype.block_bytes();
        let value = match self.dtype {
            DType::F32 => self.file[at..].first_chunk().map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes)),
            _ => {
                let bits = self.file[at..].first_chunk().map_or(u16::MAX, |bytes| u16::from_le_bytes(*bytes));
                if self.dtype == DType::F16 { f32_from_half(bits) } else { f32::from_bits(u32::from(bits) << 16) }
            }
        };
        if self.inverse { 1.0 / f64::from(value) } else { f64::from(value) }
    }
}

/// A matrix in a quantizer's codes.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    /// Its rows and columns are the matrix's.
    pub(super) codes: Integers,
    pub(super) scales: GroupScales,
    /// Its columns are the groups. `None` where all zero points are the grid's.
    pub(super) zeros: Option<Integers>,
    /// The group of each column; empty where groups are runs of `grid.block` columns.
    pub(super) groups: Vec<u32>,
    pub(super) grid: Grid,
    pub(super) columns: usize,
}

/// What a row may hold that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A scale that is NaN, infinite, negative, or 0 under an inverse.
    Scale,
    /// A fourth ternary digit.
    Code,
}

impl Fault {
    /// What is wrong, for a message.
    pub(super) fn problem(self) -> &'static str {
        match self {
            Self::Scale => "a scale is NaN, infinite or negative",
            Self::Code => "a code is none of the three ternary ones",
        }
    }
}

impl Packed {
    /// Whether columns of one group lie together, so that a row is made of blocks.
    pub(super) fn in_blocks(&self) -> bool {
        self.groups.is_empty()
    }

    /// Row `row` in its codes, where [`Packed::in_blocks`].
    pub(super) fn decode(&self, row: usize, out: &mut Blocks) -> Result<(), Fault> {
        out.clear();
        out.grid = self.grid;
        for column in 0..self.columns {
            out.codes.push(self.code(row, column)? as u8);
        }
        for group in 0..self.group_count() {
            out.scale.push(self.scale(row, group)?);
            out.zero.extend(self.zeros.as_ref().map(|zeros| zeros.get(row, group)));
        }
        Ok(())
    }

    /// Row `row` as f32, each weight rounded once.
    pub(super) fn values(&self, row: usize, out: &mut [f32]) -> Result<(), Fault> {
        let zero = self.grid.levels.level(0);
        let mut known = Vec::new();
        for group in 0..self.group_count() {
            let lowest = self.zeros.as_ref().map_or(zero, |zeros| -i32::from(zeros.get(row, group)));
            known.push((self.scale(row, group)?, lowest));
        }
        for (column, value) in out.iter_mut().enumerate() {
            let group = self.groups.get(column).map_or(column / self.grid.block, |&group| group as usize);
            let (scale, lowest) = known[group];
            *value = (scale * f64::from(lowest + i32::from(self.code(row, column)?))) as f32;
        }
        Ok(())
    }

    /// Groups of a row.
    fn group_count(&self) -> usize {
        match self.groups.iter().max() {
            Some(&last) => last as usize + 1,
            None if self.grid.block == WHOLE_ROW => 1,
            None => self.columns.div_ceil(self.grid.block),
        }
    }

    fn code(&self, row: usize, column: usize) -> Result<i16, Fault> {
        let code = self.codes.get(row, column);
        if code == 3 && self.grid.is_ternary() { Err(Fault::Code) } else { Ok(code) }
    }

    fn scale(&self, row: usize, group: usize) -> Result<f64, Fault> {
        let scale = self.scales.get(row, group);
        if scale.is_finite() && scale >= 0.0 { Ok(scale) } else { Err(Fault::Scale) }
    }
}
