//! Matrices and vectors on the device.

use crate::device::{Device, Fault};
use intact_core::formats::{PayloadKind, ScaleMode, TILE, TRELLIS_TABLE};
use intact_core::matrix::Matrix;
use intact_core::program::{NamedVector, Vector};
use std::ops::Range;
use wgpu::BufferUsages;

/// Where there is no such plane.
pub(crate) const NONE: u32 = u32::MAX;
/// Bytes that may wait in the driver's own memory.
const UPLOAD: usize = 64 << 20;
/// Workgroups of a dispatch along one dimension, which every device has.
const MOST_TILES: usize = 32768;

/// Some tiles of a matrix as one buffer; offsets are in words.
pub(crate) struct Piece {
    pub(crate) buffer: wgpu::Buffer,
    /// Rows that it has.
    pub(crate) rows: Range<usize>,
    pub(crate) tiles: usize,
    /// The levels of codes that index a table, four to a word.
    pub(crate) table: [u32; 4],
    pub(crate) row_words: u32,
    pub(crate) payload: u32,
    pub(crate) scale: u32,
    pub(crate) sign: u32,
    pub(crate) offset: u32,
    pub(crate) row: u32,
    pub(crate) bias: u32,
    pub(crate) embedding_row: u32,
}

/// Uploads with little memory of the host.
pub(crate) struct Uploader<'a> {
    gpu: &'a Device,
    waiting: usize,
    /// All that was uploaded.
    pub(crate) bytes: u64,
}

impl<'a> Uploader<'a> {
    pub(crate) fn new(gpu: &'a Device) -> Self {
        Self { gpu, waiting: 0, bytes: 0 }
    }

    fn upload(&mut self, bytes: &[u8]) -> Result<wgpu::Buffer, Fault> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let buffer = self.gpu.buffer("weights", bytes.len() as u64, usage)?;
        self.gpu.queue.write_buffer(&buffer, 0, bytes);
        self.bytes += bytes.len() as u64;
        self.waiting += bytes.len();
        if self.waiting > UPLOAD {
            self.finish()?;
        }
        Ok(buffer)
    }

    /// Waits until everything is there.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.waiting = 0;
        self.gpu.queue.submit([]);
        self.gpu.wait()
    }

    /// The pieces of a matrix: one, unless it exceeds what a binding may see.
    pub(crate) fn matrix(&mut self, matrix: &Matrix) -> Result<Vec<Piece>, Fault> {
        let per_tile = Planes::new(matrix, 0..1).bytes();
        let most = (self.gpu.binding() as usize / per_tile.max(1)).min(MOST_TILES);
        if most == 0 {
            let bytes = per_tile as u64;
            return Err(Fault::OutOfMemory { adapter: self.gpu.label().to_owned(), what: "16 rows", bytes });
        }
        let starts = (0..matrix.tiles()).step_by(most);
        starts.map(|start| self.piece(matrix, start..(start + most).min(matrix.tiles()))).collect()
    }

    fn piece(&mut self, matrix: &Matrix, tiles: Range<usize>) -> Result<Piece, Fault> {
        let planes = Planes::new(matrix, tiles.clone());
        let (mut bytes, mut places) = (Vec::with_capacity(planes.bytes()), [NONE; 7]);
        for (place, plane) in places.iter_mut().zip(planes.0) {
            if let Some(plane) = plane {
                *place = (bytes.len() / 4) as u32;
                bytes.extend_from_slice(plane);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
        }
        let buffer = self.upload(&bytes)?;
        let [payload, scale, sign, offset, row, bias, embedding_row] = places;
        let trellis = matches!(matrix.format.payload.kind(), PayloadKind::Trellis(_));
        let levels = if trellis { &TRELLIS_TABLE } else { &matrix.table };
        let table = std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|c| levels[4 * i + c] as u8)));
        let rows = tiles.start * TILE..(tiles.end * TILE).min(matrix.rows);
        let (tiles, row_words) = (tiles.len(), matrix.row_words() as u32);
        Ok(Piece { buffer, rows, tiles, table, row_words, payload, scale, sign, offset, row, bias, embedding_row })
    }

    /// All vectors as one buffer, with the place of each: a word per gain, two per frequency, low one first.
    pub(crate) fn vectors(&mut self, vectors: &[NamedVector]) -> Result<(wgpu::Buffer, Vec<u32>), Fault> {
        let (mut words, mut places) = (Vec::new(), Vec::new());
        for vector in vectors {
            places.push(words.len() as u32);
            match &vector.values {
                Vector::Gain(gain) => words.extend(gain.iter().map(|&g| i32::from(g) as u32)),
                Vector::Freq64(table) => words.extend(table.iter().flat_map(|&f| [f as u32, (f >> 32) as u32])),
            }
        }
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        Ok((self.upload(&bytes)?, places))
    }
}

/// The bytes of some tiles, plane by plane: payload, scale, sign, offset, row, bias, embedding_row.
struct Planes<'a>([Option<&'a [u8]>; 7]);

impl<'a> Planes<'a> {
    fn new(matrix: &'a Matrix, tiles: Range<usize>) -> Self {
        let planes = &matrix.planes;
        let blocks = matrix.format.blocks(matrix.columns);
        let part = |plane: &'a intact_core::storage::Plane, tile: usize| {
            let bytes = plane.bytes();
            &bytes[tiles.start * tile..(tiles.end * tile).min(bytes.len())]
        };
        let optional = |plane: &'a Option<_>, tile| plane.as_ref().map(|plane| part(plane, tile));
        let z8 = if matrix.format.mode == ScaleMode::Z8 { blocks.div_ceil(2) * 64 } else { 0 };
        Self([
            Some(part(&planes.payload, matrix.row_words() * 4 * TILE)),
            optional(&planes.scale, matrix.format.tile_scales(blocks)),
            optional(&planes.sign, 2 * blocks),
            optional(&planes.offset, z8),
            Some(part(&planes.row, 4 * TILE)),
            optional(&planes.bias, 4 * TILE),
            optional(&planes.embedding_row, 4 * TILE),
        ])
    }

    fn bytes(&self) -> usize {
        self.0.iter().flatten().map(|plane| plane.len().next_multiple_of(4)).sum()
    }
}
