//! A stored matrix: the 16-row dword tile of docs/FORMATS.md, section 2.

use crate::activations::RUN;
use crate::formats::{Format, GROUP, RowWords, ScaleMode, TILE};
use crate::storage::{Plane, read_i16};
use alloc::{string::String, vec::Vec};

/// How the input of a linear layer is quantized (contract 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// i8 codes, one scale per token.
    A8,
    /// i8 codes with an integer scale of at most `cap` per 32 columns.
    A8b {
        /// S of the contract, 1…255.
        cap: u8,
    },
    /// i16 codes, stored as two i8 planes.
    A16,
}

impl Activation {
    /// The code range handed to `dynquant`.
    #[must_use]
    pub fn xmax(self) -> u32 {
        match self {
            Self::A8 => 127,
            Self::A8b { cap } => 127 * u32::from(cap),
            Self::A16 => crate::fixed::A16_MAX,
        }
    }

    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A8 => "A8",
            Self::A8b { .. } => "A8b",
            Self::A16 => "A16",
        }
    }
}

/// A row's constants: the real weight is `W · m · 2^-shift`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowScale {
    /// 2^22 ≤ m < 2^23, or 0 for an all-zero row.
    pub m: i32,
    /// 0…127.
    pub shift: i32,
}

impl RowScale {
    /// Reads a row word, `m + shift · 2^23`.
    #[inline(always)]
    #[must_use]
    pub fn from_word(word: u32) -> Self {
        Self { m: (word & 0x7F_FFFF) as i32, shift: ((word >> 23) & 127) as i32 }
    }

    /// The row word.
    #[must_use]
    pub fn word(self) -> u32 {
        self.m as u32 | (self.shift as u32) << 23
    }
}

/// Which planes a matrix has, with their bytes. A plane that the format does not have is `None`.
#[derive(Clone, Debug)]
pub struct Planes {
    /// Codes.
    pub payload: Plane,
    /// Block scale magnitudes (modes b4, b8 and z8).
    pub scale: Option<Plane>,
    /// Block scale signs (mode b8).
    pub sign: Option<Plane>,
    /// Block offsets (mode z8).
    pub offset: Option<Plane>,
    /// Row constants.
    pub row: Plane,
    /// i32 × rows in QF.
    pub bias: Option<Plane>,
    /// Row constants for embedding lookup, where they differ.
    pub embedding_row: Option<Plane>,
}

/// A matrix of integer weights, as stored.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The name in the file.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// How weights are stored.
    pub format: Format,
    /// Levels of payloads with a table.
    pub table: [i8; 16],
    /// How the input is quantized.
    pub activation: Activation,
    /// The contract's pre-shift `a`.
    pub preshift: u8,
    /// The bytes.
    pub planes: Planes,
}

/// Bytes of each plane of a matrix, before padding to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneSizes {
    /// Codes.
    pub payload: usize,
    /// Scale magnitudes, 0 where the mode has none.
    pub scale: usize,
    /// Scale signs, 0 where the mode has none.
    pub sign: usize,
    /// Offsets, 0 where the mode has none.
    pub offset: usize,
    /// Row words.
    pub row: usize,
}

impl PlaneSizes {
    /// The sizes for a shape, or `None` where they do not fit the address space.
    #[must_use]
    pub fn of(format: &Format, rows: usize, columns: usize) -> Option<Self> {
        let tiles = rows.div_ceil(TILE);
        let groups = columns.div_ceil(GROUP);
        let blocks = format.blocks(columns);
        let mode = format.mode;
        Some(Self {
            payload: tiles.checked_mul(format.payload.row_words(groups)?)?.checked_mul(4 * TILE)?,
            scale: tiles.checked_mul(format.tile_scales(blocks))?,
            sign: if mode == ScaleMode::B8 { tiles.checked_mul(blocks * 2)? } else { 0 },
            offset: if mode == ScaleMode::Z8 { tiles.checked_mul(blocks.div_ceil(2))?.checked_mul(64)? } else { 0 },
            row: tiles.checked_mul(64)?,
        })
    }

    /// The bytes of all planes as they are stored, each padded to 64; `None` where they do not fit the address space.
    #[must_use]
    pub fn stored(&self) -> Option<usize> {
        let planes = [self.payload, self.scale, self.sign, self.offset, self.row];
        planes.into_iter().try_fold(0_usize, |sum, plane| sum.checked_add(plane.checked_next_multiple_of(64)?))
    }
}

/// One block's scale and offset: `W = s · u + z` (z8) or `s · level` (r, b8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockScale {
    /// Signed scale.
    pub s: i32,
    /// Offset, 0 unless the mode is z8.
    pub z: i32,
}

impl Matrix {
    /// Tiles of 16 rows.
    #[inline(always)]
    #[must_use]
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// Groups of 32 columns.
    #[inline(always)]
    #[must_use]
    pub fn groups(&self) -> usize {
        self.columns.div_ceil(GROUP)
    }

    /// The constants of a row, for linear layers.
    #[inline]
    #[must_use]
    pub fn row_scale(&self, row: usize) -> RowScale {
        RowScale::from_word(self.planes.row.u32(row))
    }

    /// The constants of a row, for embedding lookup.
    #[inline]
    #[must_use]
    pub fn embedding_scale(&self, row: usize) -> RowScale {
        RowScale::from_word(self.planes.embedding_row.as_ref().unwrap_or(&self.planes.row).u32(row))
    }

    /// The bias of a row, 0 where there is none.
    #[inline]
    #[must_use]
    pub fn bias(&self, row: usize) -> i32 {
        self.planes.bias.as_ref().map_or(0, |plane| plane.u32(row) as i32)
    }

    /// Scale and offset of block `block` of row `row`.
    #[must_use]
    pub fn block_scale(&self, row: usize, block: usize) -> BlockScale {
        let (tile, r) = (row / TILE, row % TILE);
        let blocks = self.format.blocks(self.columns);
        let magnitude =
            || self.planes.scale.as_ref().map_or(0, |plane| i32::from(plane.bytes()[(tile * blocks + block) * 16 + r]));
        match self.format.mode {
            ScaleMode::R => BlockScale { s: 1, z: 0 },
            ScaleMode::B4 => {
                let at = (tile * blocks.div_ceil(2) + block / 2) * 16 + r;
                let byte = self.planes.scale.as_ref().map_or(0, |plane| plane.bytes()[at]);
                BlockScale { s: i32::from(byte >> (4 * (block % 2)) & 15), z: 0 }
            }
            ScaleMode::B8 => {
                let signs = self.planes.sign.as_ref().map_or(0, |plane| read_i16(plane.bytes(), tile * blocks + block));
                let s = magnitude();
                BlockScale { s: if signs >> r & 1 == 1 { -s } else { s }, z: 0 }
            }
            ScaleMode::Z8 => {
                let pair = (tile * blocks.div_ceil(2) + block / 2) * 16 + r;
                let word = self.planes.offset.as_ref().map_or(0, |plane| plane.u32(pair));
                BlockScale { s: magnitude(), z: i32::from((word >> (16 * (block % 2))) as i16) }
            }
        }
    }

    /// Words of each row's payload.
    ///
    /// # Panics
    /// Where they exceed the address space, which the planes of a certified model rule out.
    #[inline]
    #[must_use]
    pub fn row_words(&self) -> usize {
        self.format.payload.row_words(self.groups()).expect("a payload in memory")
    }

    /// The payload of tile `tile`.
    #[inline]
    #[must_use]
    pub fn tile_payload(&self, tile: usize) -> &[u8] {
        let len = self.row_words() * 4 * TILE;
        &self.planes.payload.bytes()[tile * len..][..len]
    }

    /// The codes of one group of a row.
    pub fn group_codes(&self, row: usize, group: usize, codes: &mut [i16; GROUP]) {
        self.format.payload.unpack(RowWords::new(self.tile_payload(row / TILE), row % TILE), group, codes);
    }

    /// The integer weights of one group of a row; columns beyond the matrix are 0.
    pub fn group_weights(&self, row: usize, group: usize, weights: &mut [i32; GROUP]) {
        let mut codes = [0; GROUP];
        self.group_codes(row, group, &mut codes);
        for (run, (weights, codes)) in weights.chunks_exact_mut(RUN).zip(codes.chunks_exact(RUN)).enumerate() {
            let first = group * GROUP + run * RUN;
            if first >= self.columns {
                weights.fill(0);
                continue;
            }
            // The shortest block is a run, so a run has one scale.
            let BlockScale { s, z } = self.block_scale(row, first / self.format.block);
            for (weight, &code) in weights.iter_mut().zip(codes) {
                *weight = match self.format.mode {
                    ScaleMode::Z8 => s * i32::from(code) + z,
                    ScaleMode::R | ScaleMode::B4 | ScaleMode::B8 => s * self.format.payload.level(code, &self.table),
                };
            }
            weights[(self.columns - first).min(RUN)..].fill(0);
        }
    }

    /// The integer weights of a row, `columns` of them.
    pub fn row_weights(&self, row: usize, out: &mut Vec<i32>) {
        out.clear();
        let mut weights = [0; GROUP];
        for group in 0..self.groups() {
            self.group_weights(row, group, &mut weights);
            out.extend_from_slice(&weights[..GROUP.min(self.columns - group * GROUP)]);
        }
    }
}
