//! What a dot kernel reads: the planes of one tile and the codes of a few tokens, with their lengths proved once.

use super::scales::PREFETCH;
use crate::activations::{Activations, Section, Shape, TokenCodes};
use crate::formats::{GROUP, PayloadKind, ScaleMode, TILE};
use crate::matrix::{Activation, Matrix};
use crate::storage::Plane;
use core::ops::Range;

/// The planes of one tile of 16 rows, cut to its own bytes; a plane that the format lacks is empty.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Tile<'a> {
    /// The payload's words, a line of 64 bytes each.
    pub(super) payload: &'a [u8],
    /// 16 bytes per block, or per pair of blocks in mode b4.
    pub(super) scale: &'a [u8],
    /// 2 bytes per block.
    pub(super) sign: &'a [u8],
    /// A line of 64 bytes per pair of blocks.
    pub(super) offset: &'a [u8],
    /// How codes are stored.
    pub(in crate::kernels) kind: PayloadKind,
    /// Whether weights are scaled from unsigned codes, without their zero level.
    pub(super) unsigned: bool,
    /// Levels of N4.
    pub(super) table: [i8; 16],
    /// Groups of 32 columns.
    pub(in crate::kernels) groups: usize,
    /// log2 of the groups in a block, 0 for blocks of 16 and 32.
    pub(super) block_shift: u32,
    /// Groups from one to that which is to be asked for while it is multiplied.
    pub(super) ahead: usize,
    /// Which pass over the tile this is: in the first its bytes come from memory, in later ones from a cache.
    pub(super) pass: usize,
    /// Passes that there are.
    pub(in crate::kernels) passes: usize,
}

impl<'a> Tile<'a> {
    /// Tile `tile` of `matrix`.
    ///
    /// # Panics
    /// When a plane is absent or shorter than the shape asks for, which certified models rule out.
    pub(super) fn new(matrix: &'a Matrix, tile: usize) -> Self {
        let (format, planes) = (&matrix.format, &matrix.planes);
        assert!(matches!(format.block, 16 | 32 | 64 | 128), "{}: blocks of {}", matrix.name, format.block);
        let (groups, blocks) = (matrix.groups(), format.blocks(matrix.columns));
        let payload = matrix.tile_payload(tile);
        let cut = |plane: &'a Plane, len: usize| &plane.bytes()[tile * len..][..len];
        let block_plane = |present: bool, plane: &'a Option<Plane>, len: usize| match plane {
            Some(plane) if present => cut(plane, len),
            _ => {
                assert!(!present, "{}: a plane of format {format} is missing", matrix.name);
                &[]
            }
        };
        Self {
            payload,
            scale: block_plane(format.mode != ScaleMode::R, &planes.scale, format.tile_scales(blocks)),
            sign: block_plane(format.mode == ScaleMode::B8, &planes.sign, blocks * TILE / 8),
            offset: block_plane(format.mode == ScaleMode::Z8, &planes.offset, blocks.div_ceil(2) * 4 * TILE),
            kind: format.payload.kind(),
            unsigned: format.mode == ScaleMode::Z8,
            table: matrix.table,
            groups,
            block_shift: (format.block / GROUP).max(1).trailing_zeros(),
            ahead: PREFETCH * groups / payload.len().max(1),
            pass: 0,
            passes: 1,
        }
    }
}

#[cfg(test)]
impl<'a> Tile<'a> {
    /// A tile of nothing but codes.
    pub(in crate::kernels) fn of_payload(payload: &'a [u8], groups: usize) -> Self {
        Self {
            payload,
            scale: &[],
            sign: &[],
            offset: &[],
            kind: PayloadKind::U8,
            unsigned: false,
            table: [0; 16],
            groups,
            block_shift: 0,
            ahead: 0,
            pass: 0,
            passes: 1,
        }
    }
}

impl Tile<'_> {
    /// The tile for pass `pass` of `passes`. Where there are several, each asks for its part of the next tile, so that
    /// memory has all of their time to deliver it.
    pub(in crate::kernels) fn in_passes(&self, pass: usize, passes: usize) -> Self {
        let ahead = if passes == 1 { self.ahead } else { self.groups };
        Self { ahead, pass, passes, ..*self }
    }

    /// The table as bytes: levels, or levels plus 128 where codes are unsigned.
    #[inline(always)]
    pub(in crate::kernels) fn table_bytes(&self, signed: bool) -> [u8; 16] {
        self.table.map(|level| level as u8 ^ if signed { 0 } else { 128 })
    }
}

/// Tokens that a kernel multiplies with.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Tokens<'a> {
    x: &'a Activations,
    shape: Shape,
    first: usize,
}

impl<'a> Tokens<'a> {
    /// Tokens `tokens` of `x`, which are for `matrix`: their codes, sums and scales cover every group.
    ///
    /// # Panics
    /// When the tokens are not there, or mode, cap or width differ from what `matrix` takes, which certified models
    /// rule out.
    pub(super) fn new(matrix: &Matrix, x: &'a Activations, tokens: Range<usize>) -> Self {
        let expected = Shape { activation: matrix.activation, columns: matrix.columns };
        assert!(x.shape() == expected, "{}: the input is {:?}, not {expected:?}", matrix.name, x.shape());
        assert!(tokens.end <= x.tokens(), "tokens {tokens:?} of {}", x.tokens());
        Self { x, shape: expected, first: tokens.start }
    }

    /// The same without the first `count`.
    pub(super) fn skip(self, count: usize) -> Self {
        Self { first: self.first + count, ..self }
    }

    /// Token `j`.
    #[inline(always)]
    pub(in crate::kernels) fn get(&self, j: usize) -> TokenCodes<'a> {
        self.x.token(self.first + j)
    }

    /// Some columns of a plane of token `j`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AVX-512 alone multiplies by sections"))]
    #[inline(always)]
    pub(in crate::kernels) fn section(&self, j: usize, plane: usize, groups: &Range<usize>) -> Section<'a> {
        self.x.section(self.shape, self.first + j, plane, groups)
    }

    /// The whole codes of token `j` in A16, in some columns.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AVX-512 alone multiplies by sections"))]
    #[inline(always)]
    pub(in crate::kernels) fn wide_section(&self, j: usize, groups: &Range<usize>) -> &'a [i16] {
        self.x.wide_section(self.shape, self.first + j, groups)
    }

    /// The mode.
    pub(super) fn activation(&self) -> Activation {
        self.shape.activation
    }

    /// Columns of one plane.
    #[inline(always)]
    pub(in crate::kernels) fn padded(&self) -> usize {
        self.shape.padded()
    }
}
