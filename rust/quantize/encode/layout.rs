//! Rows into planes: the 16-row tile of docs/FORMATS.md, section 2.
use super::Row;
use intact_core::formats::{Format, ScaleMode, TILE};
use intact_core::matrix::{PlaneSizes, Planes};
use intact_core::storage::AlignedBytes;

/// A buffer for each plane of a matrix, all zero at first; those that the format does not have are empty.
pub struct PlaneBuffers {
    format: Format,
    tiles: usize,
    sizes: PlaneSizes,
    payload: AlignedBytes,
    scale: AlignedBytes,
    sign: AlignedBytes,
    offset: AlignedBytes,
    row: AlignedBytes,
}

/// The part of every plane that belongs to 16 rows.
pub struct Tile<'a> {
    format: Format,
    payload: &'a mut [u8],
    scale: &'a mut [u8],
    sign: &'a mut [u8],
    offset: &'a mut [u8],
    row: &'a mut [u8],
}

impl PlaneBuffers {
    /// Buffers for a matrix.
    ///
    /// # Panics
    /// For a shape whose planes exceed the address space.
    #[must_use]
    pub fn new(format: Format, rows: usize, columns: usize) -> Self {
        let sizes = PlaneSizes::of(&format, rows, columns).expect("planes that fit the address space");
        let buffer = |size: usize| AlignedBytes::zeroed(size.next_multiple_of(64));
        Self {
            format,
            tiles: rows.div_ceil(TILE),
            payload: buffer(sizes.payload),
            scale: buffer(sizes.scale),
            sign: buffer(sizes.sign),
            offset: buffer(sizes.offset),
            row: buffer(sizes.row),
            sizes,
        }
    }

    /// The tiles, in order, to be filled independently.
    pub fn tiles(&mut self) -> Vec<Tile<'_>> {
        let (format, tiles) = (self.format, self.tiles);
        let mut payload = parts(&mut self.payload, self.sizes.payload, tiles);
        let mut scale = parts(&mut self.scale, self.sizes.scale, tiles);
        let mut sign = parts(&mut self.sign, self.sizes.sign, tiles);
        let mut offset = parts(&mut self.offset, self.sizes.offset, tiles);
        let mut row = parts(&mut self.row, self.sizes.row, tiles);
        let mut next = move || {
            Some(Tile {
                format,
                payload: payload.next()?,
                scale: scale.next()?,
                sign: sign.next()?,
                offset: offset.next()?,
                row: row.next()?,
            })
        };
        std::iter::from_fn(&mut next).take(tiles).collect()
    }

    /// The planes as a matrix has them.
    #[must_use]
    pub fn finish(self) -> Planes {
        let mode = self.format.mode;
        Planes {
            payload: self.payload.into(),
            scale: (mode != ScaleMode::R).then(|| self.scale.into()),
            sign: (mode == ScaleMode::B8).then(|| self.sign.into()),
            offset: (mode == ScaleMode::Z8).then(|| self.offset.into()),
            row: self.row.into(),
            bias: None,
            embedding_row: None,
        }
    }
}

/// A plane's bytes before its padding in `tiles` equal parts, all empty for a plane that does not exist.
fn parts(plane: &mut AlignedBytes, size: usize, tiles: usize) -> impl Iterator<Item = &mut [u8]> {
    let mut rest = &mut plane.as_mut_slice()[..size];
    std::iter::from_fn(move || {
        let (part, later) = std::mem::take(&mut rest).split_at_mut(size / tiles);
        rest = later;
        Some(part)
    })
}

impl Tile<'_> {
    /// Writes row `r` < 16, which was zero; `row` is one of the matrix's format and columns.
    pub fn write(&mut self, r: usize, row: &Row) {
        let mut words = vec![0; self.payload.len() / (4 * TILE)];
        self.format.payload.pack(&row.codes, &mut words);
        for (i, word) in words.iter().enumerate() {
            put(self.payload, i * 4 * TILE + 4 * r, &word.to_le_bytes());
        }
        put(self.row, 4 * r, &row.constants.word().to_le_bytes());
        if self.format.mode == ScaleMode::R {
            return;
        }
        if self.format.mode == ScaleMode::B4 {
            for (block, &scale) in row.scales.iter().enumerate() {
                self.scale[block / 2 * TILE + r] |= (scale as u8 & 15) << (4 * (block % 2));
            }
            return;
        }
        for (block, &scale) in row.scales.iter().enumerate() {
            self.scale[block * TILE + r] = scale.unsigned_abs() as u8;
            if scale < 0 {
                self.sign[2 * block + r / 8] |= 1 << (r % 8);
            }
        }
        if self.format.mode == ScaleMode::Z8 {
            for (block, &offset) in row.offsets.iter().enumerate() {
                put(self.offset, block / 2 * 64 + 4 * r + block % 2 * 2, &(offset as i16).to_le_bytes());
            }
        }
    }
}

fn put(plane: &mut [u8], at: usize, bytes: &[u8]) {
    plane[at..at + bytes.len()].copy_from_slice(bytes);
}
