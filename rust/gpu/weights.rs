//! Matrices and vectors on the device.

use crate::device::{Device, Fault};
use intact_core::formats::{PayloadKind, ScaleMode, TILE, TRELLIS_TABLE};
use intact_core::matrix::Matrix;
use intact_core::program::{Model, NamedVector, Op, Vector};
use intact_core::storage::Plane;
use std::ops::Range;
use wgpu::BufferUsages;

/// Where there is no such plane.
pub(crate) const NONE: u32 = u32::MAX;
/// Bytes that may wait in the driver's own memory.
const UPLOAD: usize = 64 << 20;
/// Workgroups of a dispatch along one dimension, which every device has.
const MOST_TILES: usize = 32768;
/// Bytes of what a shader reads of weights at once.
const UNIT: usize = 16;
/// Pieces that one dispatch takes at most (shaders/parts/linear.wgsl).
pub(crate) const PIECES: usize = 4;

/// Some tiles of a matrix within a buffer; planes are at multiples of 16 bytes.
pub(crate) struct Piece {
    /// The buffer, as a number in [`Uploader::buffers`].
    pub(crate) data: usize,
    /// Rows that it has.
    pub(crate) rows: Range<usize>,
    pub(crate) tiles: usize,
    /// Table, columns, words of a row's payload, and the places of payload, scale, sign, offset, row and bias.
    pub(crate) params: [u32; 12],
    /// The place of the row constants for embeddings.
    pub(crate) embedding_row: u32,
}

/// Uploads with little memory of the host.
pub(crate) struct Uploader<'a> {
    gpu: &'a Device,
    waiting: usize,
    pub(crate) buffers: Vec<wgpu::Buffer>,
}

impl<'a> Uploader<'a> {
    pub(crate) fn new(gpu: &'a Device) -> Self {
        Self { gpu, waiting: 0, buffers: Vec::new() }
    }

    fn upload(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let buffer = self.gpu.buffer("weights", bytes.len() as u64, usage)?;
        self.gpu.queue.write_buffer(&buffer, 0, bytes);
        self.waiting += bytes.len();
        if self.waiting > UPLOAD {
            self.finish()?;
        }
        self.buffers.push(buffer);
        Ok(self.buffers.len() - 1)
    }

    /// Waits until everything is there.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.waiting = 0;
        self.gpu.queue.submit([]);
        self.gpu.wait()
    }

    /// All matrices, those that one dispatch may take in one buffer.
    pub(crate) fn matrices(&mut self, model: &Model) -> Result<Vec<Vec<Piece>>, Fault> {
        let mut pieces: Vec<Vec<Piece>> = model.matrices.iter().map(|_| Vec::new()).collect();
        for op in model.body.iter().chain(&model.head) {
            let Op::Linear { outputs, .. } = op else { continue };
            let ids: Vec<usize> = outputs.iter().map(|&(id, _)| id).filter(|&id| pieces[id].is_empty()).collect();
            for shelf in ids.chunk_by(|&a, &b| model.matrices[a].format == model.matrices[b].format) {
                for shelf in shelf.chunks(PIECES) {
                    self.shelf(model, shelf, &mut pieces)?;
                }
            }
        }
        for id in 0..pieces.len() {
            if pieces[id].is_empty() {
                self.shelf(model, &[id], &mut pieces)?;
            }
        }
        Ok(pieces)
    }

    /// Some matrices as one buffer, where a binding sees so much; else pieces of each as several.
    fn shelf(&mut self, model: &Model, ids: &[usize], pieces: &mut [Vec<Piece>]) -> Result<(), Fault> {
        let matrices = || ids.iter().map(|&id| &model.matrices[id]);
        let bytes: usize = matrices().map(|matrix| Planes::new(matrix, 0..matrix.tiles()).bytes()).sum();
        let tiles: usize = matrices().map(Matrix::tiles).sum();
        if ids.len() > 1 && (bytes as u64 > self.gpu.binding() || tiles > MOST_TILES) {
            return ids.iter().try_for_each(|&id| self.shelf(model, &[id], pieces));
        }
        let mut buffer = Vec::new();
        for &id in ids {
            let matrix = &model.matrices[id];
            let per_tile = Planes::new(matrix, 0..1).bytes();
            let most = (self.gpu.binding() as usize / per_tile.max(1)).min(MOST_TILES);
            if most == 0 {
                let bytes = per_tile as u64;
                return Err(Fault::OutOfMemory { adapter: self.gpu.label().to_owned(), what: "16 rows", bytes });
            }
            for start in (0..matrix.tiles()).step_by(most) {
                if start > 0 {
                    self.upload(&buffer)?;
                    buffer.clear();
                }
                let tiles = start..(start + most).min(matrix.tiles());
                pieces[id].push(piece(matrix, tiles, &mut buffer, self.buffers.len()));
            }
        }
        self.upload(&buffer)?;
        Ok(())
    }

    /// All vectors as one buffer, with the place of each: a word per gain, two per frequency, low one first.
    pub(crate) fn vectors(&mut self, vectors: &[NamedVector]) -> Result<Vec<u32>, Fault> {
        let (mut words, mut places) = (Vec::new(), Vec::new());
        for vector in vectors {
            places.push(words.len() as u32);
            match &vector.values {
                Vector::Gain(gain) => words.extend(gain.iter().map(|&g| i32::from(g) as u32)),
                Vector::Freq64(table) => words.extend(table.iter().flat_map(|&f| [f as u32, (f >> 32) as u32])),
            }
        }
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        self.upload(&bytes)?;
        Ok(places)
    }
}

/// Appends some tiles of a matrix to what becomes buffer number `data`.
fn piece(matrix: &Matrix, tiles: Range<usize>, buffer: &mut Vec<u8>, data: usize) -> Piece {
    let planes = Planes::new(matrix, tiles.clone());
    buffer.reserve(planes.bytes());
    let places = planes.0.map(|plane| {
        plane.map_or(NONE, |plane| {
            let place = buffer.len() / UNIT;
            buffer.extend_from_slice(plane);
            buffer.resize(buffer.len().next_multiple_of(UNIT), 0);
            place as u32
        })
    });
    let trellis = matches!(matrix.format.payload.kind(), PayloadKind::Trellis(_));
    let levels = if trellis { &TRELLIS_TABLE } else { &matrix.table };
    let [payload, scale, sign, offset, row, bias, embedding_row] = places;
    let mut params = [0; 12];
    for (word, levels) in params.iter_mut().zip(levels.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(levels.map(|level| level as u8));
    }
    let (columns, row_words) = (matrix.columns as u32, matrix.row_words() as u32);
    params[4..].copy_from_slice(&[columns, row_words, payload, scale, sign, offset, row, bias]);
    let rows = tiles.start * TILE..(tiles.end * TILE).min(matrix.rows);
    Piece { data, rows, tiles: tiles.len(), params, embedding_row }
}

/// The bytes of some tiles, plane by plane: payload, scale, sign, offset, row, bias, embedding_row.
struct Planes<'a>([Option<&'a [u8]>; 7]);

impl<'a> Planes<'a> {
    fn new(matrix: &'a Matrix, tiles: Range<usize>) -> Self {
        let planes = &matrix.planes;
        let blocks = matrix.format.blocks(matrix.columns);
        let part = |plane: &'a Plane, tile: usize| {
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
        self.0.iter().flatten().map(|plane| plane.len().next_multiple_of(UNIT)).sum()
    }
}
