//! Sums of magnitudes of a matrix, and the constants of a linear layer that follow from them (2.2, 2.3).

use crate::fixed::bit_length;
use crate::formats::{GROUP, ScaleMode, TILE};
use crate::matrix::{Activation, Matrix};
use crate::storage::Plane;
use alloc::vec::Vec;

/// The largest pre-shift that has a meaning: sums stay below 2^47.
pub const MAX_PRESHIFT: u8 = 47;

/// Largest sums of |W| over a whole row and over aligned chunks of columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Magnitudes {
    /// L1: a whole row.
    pub row: u64,
    /// Chunks of 128 columns.
    pub chunk_128: u64,
    /// Chunks of 512 columns.
    pub chunk_512: u64,
}

impl Magnitudes {
    /// Measures rows `rows` of `matrix`.
    #[must_use]
    pub fn measure(matrix: &Matrix, rows: core::ops::Range<usize>) -> Self {
        let mut out = Self::default();
        let mut weights = [0; GROUP];
        for row in rows {
            let (mut sum, mut sum_128, mut sum_512) = (0, 0, 0);
            for group in 0..matrix.groups() {
                if group % (128 / GROUP) == 0 {
                    sum_128 = 0;
                }
                if group % (512 / GROUP) == 0 {
                    sum_512 = 0;
                }
                matrix.group_weights(row, group, &mut weights);
                let here: u64 = weights.iter().map(|w| u64::from(w.unsigned_abs())).sum();
                sum += here;
                sum_128 += here;
                sum_512 += here;
                out.chunk_128 = out.chunk_128.max(sum_128);
                out.chunk_512 = out.chunk_512.max(sum_512);
            }
            out.row = out.row.max(sum);
        }
        out
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            row: self.row.max(other.row),
            chunk_128: self.chunk_128.max(other.chunk_128),
            chunk_512: self.chunk_512.max(other.chunk_512),
        }
    }

    /// Whether rule 2.3 holds for a cap of A8b.
    #[must_use]
    pub fn allows_cap(&self, cap: u8) -> bool {
        self.chunk_128.saturating_mul(127 * u64::from(cap)) <= i32::MAX as u64
    }

    /// The cap of A8b that a converter chooses, or `None` where even 1 breaks rule 2.3.
    #[must_use]
    pub fn choose_cap(&self) -> Option<u8> {
        let cap = |sum: u64| (i32::MAX as u64).checked_div(sum).map_or(255, |x| x / 127).min(255);
        let long = cap(self.chunk_512);
        let chosen = if long >= 32 { long } else { cap(self.chunk_128).min(32) };
        (chosen > 0).then_some(chosen as u8)
    }

    /// The pre-shift `a` for an activation mode.
    #[must_use]
    pub fn preshift(&self, activation: Activation) -> u8 {
        bit_length(self.row * u64::from(activation.xmax())).saturating_sub(31) as u8
    }
}

/// What scales and offsets alone say about the weights of a tile, whatever its codes are. Rows of padding count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// The largest |W| that a code could give.
    pub weight: u32,
    /// The largest sum of |W| over an aligned chunk of 128 columns that codes could give.
    pub chunk_128: u64,
}

impl Ceiling {
    /// The largest magnitude of the levels that codes stand for.
    #[must_use]
    pub fn level(matrix: &Matrix) -> u32 {
        let payload = &matrix.format.payload;
        let levels = (0..=payload.max_code()).map(|code| payload.level(code as i16, &matrix.table).unsigned_abs());
        levels.max().unwrap_or(0)
    }

    /// The ceiling of tile `tile`, where `level` is [`Ceiling::level`].
    ///
    /// # Panics
    /// When a plane is absent or shorter than the shape asks for.
    #[must_use]
    pub fn of(matrix: &Matrix, level: u32, tile: usize) -> Self {
        let format = &matrix.format;
        let blocks = format.blocks(matrix.columns);
        let largest_code = format.payload.max_code();
        let bytes = |plane: &Option<Plane>, len: usize| -> Vec<u8> {
            plane.as_ref().map_or_else(Vec::new, |plane| plane.bytes()[tile * len..][..len].to_vec())
        };
        let (scales, offsets) = (
            bytes(&matrix.planes.scale, format.tile_scales(blocks)),
            bytes(&matrix.planes.offset, blocks.div_ceil(2) * 4 * TILE),
        );
        let mut out = Self::default();
        let mut sums = [0u64; TILE];
        for block in 0..blocks {
            if (block * format.block).is_multiple_of(128) {
                sums = [0; TILE];
            }
            for (r, sum) in sums.iter_mut().enumerate() {
                let weight = match format.mode {
                    ScaleMode::R => level,
                    ScaleMode::B4 => u32::from(scales[block / 2 * TILE + r] >> (4 * (block % 2)) & 15) * level,
                    ScaleMode::B8 => u32::from(scales[block * TILE + r]) * level,
                    ScaleMode::Z8 => {
                        let at = block / 2 * 4 * TILE + 4 * r + block % 2 * 2;
                        let z = i32::from(i16::from_le_bytes([offsets[at], offsets[at + 1]]));
                        let top = i32::from(scales[block * TILE + r]) * largest_code + z;
                        z.unsigned_abs().max(top.unsigned_abs())
                    }
                };
                *sum += u64::from(weight) * format.block as u64;
                out.weight = out.weight.max(weight);
                out.chunk_128 = out.chunk_128.max(*sum);
            }
        }
        out
    }
}
