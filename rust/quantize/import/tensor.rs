//! A named tensor inside a mapped file, read row by row.
use super::blocks::{Blocks, Grid, IQ4_NL_LEVELS, Levels, f32_from_half};
use crate::error::Error;
use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a source stores a tensor's elements, under ggml's names.
#[allow(non_camel_case_types, reason = "ggml's own names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    BF16,
    /// 8 bits, blocks of 32.
    Q8_0,
    /// 4 bits, blocks of 32.
    Q4_0,
    /// 4 bits, blocks of 32 with offset.
    Q4_1,
    /// 5 bits, blocks of 32.
    Q5_0,
    /// 5 bits, blocks of 32 with offset.
    Q5_1,
    /// 4 bits, blocks of 32 with offset in groups of 256.
    Q4_K,
    /// 5 bits, blocks of 32 with offset in groups of 256.
    Q5_K,
    /// 6 bits, blocks of 16 in groups of 256.
    Q6_K,
    /// 4 bits, table of 16 levels, blocks of 32.
    IQ4_NL,
}

impl DType {
    /// Columns in the smallest unit of storage; the columns of a matrix are a multiple of it.
    pub fn block_columns(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::IQ4_NL => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes in the smallest unit of storage.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// The grid of a quantized type; `None` for F32, F16 and BF16.
    pub fn grid(self) -> Option<Grid> {
        let linear = |block, bits, offset| {
            let zero = if offset { 0 } else { 1_u8 << (bits - 1) };
            Some(Grid { block, bits, levels: Levels::Linear { zero }, offset })
        };
        match self {
            Self::F32 | Self::F16 | Self::BF16 => None,
            Self::Q4_0 => linear(32, 4, false),
            Self::Q5_0 => linear(32, 5, false),
            Self::Q8_0 => linear(32, 8, false),
            Self::Q6_K => linear(16, 6, false),
            Self::Q4_1 | Self::Q4_K => linear(32, 4, true),
            Self::Q5_1 | Self::Q5_K => linear(32, 5, true),
            Self::IQ4_NL => Some(Grid { block: 32, bits: 4, levels: Levels::Table(&IQ4_NL_LEVELS), offset: false }),
        }
    }

    /// Bytes of `elements` elements that come in rows of `columns`; `None` where the columns are no whole number of
    /// blocks or the size overflows.
    pub(super) fn bytes(self, columns: usize, elements: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_columns()) {
            return None;
        }
        (elements / self.block_columns()).checked_mul(self.block_bytes())
    }
}

/// A file mapped into memory, or its bytes. It must not be changed while it is mapped: that is the one promise a caller
/// makes.
pub(super) struct Mapped {
    pub(super) path: PathBuf,
    bytes: Box<dyn Deref<Target = [u8]> + Send + Sync>,
}

impl Mapped {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let io = |cause| Error::Io { path: path.to_owned(), cause };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is private and read-only; as with every mapped file, it is sound as long as nobody
        // truncates or rewrites the file meanwhile, which the documentation of `Source` demands.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.to_owned(), bytes: Box::new(map) })
    }

    /// Bytes as if they were the file's.
    pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), bytes: Box::new(bytes) }
    }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({}, {} bytes)", self.path.display(), self.len())
    }
}

const USE_VALUES: &str = "read it with row_f32";

/// The order in which a file stores the rows of a matrix (the elements of a vector).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// Hugging Face's own.
    Same,
    /// Within each head, row `i + half·s` (s = 0, 1) is stored as row `2·i + s`: the order in which the two rows of
    /// a rotated pair are neighbours.
    Interleaved {
        /// Rows of a head, even.
        head: usize,
    },
}

impl RowOrder {
    /// Where row `row` is stored.
    fn stored(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { head } => {
                let (first, within, half) = (row / head * head, row % head, head / 2);
                first + 2 * (within % half) + within / half
            }
        }
    }
}

/// A matrix or vector of a checkpoint. Rows are read in Hugging Face's order, whatever the file's.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// `[rows, columns]` of a matrix, `[n]` of a vector; no dimension is 0.
    pub shape: Vec<usize>,
    /// How the elements are stored.
    pub dtype: DType,
    pub(super) name: String,
    pub(super) file: Arc<Mapped>,
    /// Proved to lie in `file` and to have the size that `shape` and `dtype` give.
    pub(super) range: Range<usize>,
    pub(super) order: RowOrder,
}

impl Tensor {
    /// Rows: 1 for a vector.
    pub fn rows(&self) -> usize {
        if self.shape.len() == 2 { self.shape[0] } else { 1 }
    }

    /// Elements of a row: all of a vector.
    pub fn columns(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Row `row` as f32, into `out` of length [`Tensor::columns`].
    ///
    /// F16 and BF16 are widened exactly. A quantized weight is its exact value rounded once to nearest, ties to
    /// even, which is bit for bit what ggml's `dequantize_row_*` returns.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or an infinity, [`Error::Access`] for a row or length that does not exist.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        let bytes = self.row_bytes(row)?;
        if out.len() != self.columns() {
            let problem = format!("a row of {} elements was asked for, it has {}", out.len(), self.columns());
            return Err(self.access(problem, "pass a slice of that length"));
        }
        let vector = self.shape.len() == 1;
        let place = |k| if vector { self.order.stored(k) } else { k };
        match self.dtype {
            DType::F32 => {
                let values = bytes.as_chunks::<4>().0;
                out.iter_mut().enumerate().for_each(|(k, y)| *y = f32::from_le_bytes(values[place(k)]));
            }
            DType::F16 | DType::BF16 => {
                let values = bytes.as_chunks::<2>().0;
                for (k, y) in out.iter_mut().enumerate() {
                    let bits = u16::from_le_bytes(values[place(k)]);
                    *y = match self.dtype {
                        DType::F16 => f32_from_half(bits),
                        _ => f32::from_bits(u32::from(bits) << 16),
                    };
                }
            }
            _ => {
                let mut blocks = Blocks::default();
                self.decode(row, bytes, &mut blocks)?;
                out.iter_mut().enumerate().for_each(|(k, y)| *y = blocks.weight(place(k)) as f32);
            }
        }
        if out.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(self.not_finite(row)) }
    }

    /// Row `row` in its own codes, which replace the content of `out`. Quantized types only.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a scale that is not finite. [`Error::Access`] for a type without codes, a row that
    /// does not exist, and a Q8_0 row with the code −128: ggml writes −127..=127, and no integer format has a 256th
    /// level; [`Tensor::row_f32`] reads such a row.
    pub fn row_blocks(&self, row: usize, out: &mut Blocks) -> Result<(), Error> {
        if self.shape.len() != 2 {
            return Err(self.access(format!("it has the shape {:?}, not that of a matrix", self.shape), USE_VALUES));
        }
        self.decode(row, self.row_bytes(row)?, out)?;
        if self.dtype == DType::Q8_0 && out.codes.contains(&0) {
            let problem = format!("row {row} holds the Q8_0 code -128, which ggml never writes");
            return Err(self.access(problem, "quantize its real values instead of keeping its codes"));
        }
        Ok(())
    }

    /// All elements of a vector (`shape.len() == 1`) as f32.
    ///
    /// # Errors
    /// As [`Tensor::row_f32`], and [`Error::Access`] for a matrix.
    pub fn vector_f32(&self) -> Result<Vec<f32>, Error> {
        if self.shape.len() != 1 {
            return Err(
                self.access(format!("it has the shape {:?}, not that of a vector", self.shape), "read its rows")
            );
        }
        let mut out = vec![0.0; self.columns()];
        self.row_f32(0, &mut out)?;
        Ok(out)
    }

    /// The stored bytes of row `row` of a matrix, or of a whole vector.
    fn row_bytes(&self, row: usize) -> Result<&[u8], Error> {
        if row >= self.rows() {
            let problem = format!("row {row} was asked for, it has {}", self.rows());
            return Err(self.access(problem, "ask for a row that exists"));
        }
        let size = self.range.len() / self.rows();
        let stored = if self.shape.len() == 2 { self.order.stored(row) } else { row };
        let begin = self.range.start + stored * size;
        Ok(&self.file[begin..begin + size])
    }

    /// Replaces the content of `out` by the codes in `bytes`, which are those of row `row`.
    fn decode(&self, row: usize, bytes: &[u8], out: &mut Blocks) -> Result<(), Error> {
        let no_codes = || self.access(format!("{:?} elements have no codes", self.dtype), USE_VALUES);
        out.grid = self.dtype.grid().ok_or_else(no_codes)?;
        out.decode(self.dtype, bytes);
        if out.is_finite() { Ok(()) } else { Err(self.not_finite(row)) }
    }

    fn not_finite(&self, row: usize) -> Error {
        Error::NotFinite { path: self.file.path.clone(), tensor: self.name.clone(), row }
    }

    fn access(&self, problem: String, remedy: &'static str) -> Error {
        Error::Access { path: self.file.path.clone(), tensor: self.name.clone(), problem, remedy }
    }
}
