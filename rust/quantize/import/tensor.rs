//! A named tensor inside a mapped file, read row by row.
use super::blocks::{Blocks, FP4_LEVELS, Grid, IQ4_NL_LEVELS, Levels, Scales, Shift, f32_from_half};
use super::derived::{Derived, Rotated};
use super::packed::Fault;
use crate::error::{Error, tensor_field};
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
    /// 2 bits, blocks of 16 with offset in groups of 256.
    Q2_K,
    /// 3 bits, blocks of 16 in groups of 256.
    Q3_K,
    /// 4 bits, table of 16 levels, blocks of 32 in groups of 256.
    IQ4_XS,
    /// Ternary digits, five a byte, blocks of 256.
    TQ1_0,
    /// Ternary digits of 2 bits, blocks of 256.
    TQ2_0,
    /// 4-bit floats, blocks of 32 whose scale is a power of two.
    MXFP4,
    /// 4-bit floats, blocks of 16 whose scale is an 8-bit float, in groups of 64.
    NVFP4,
    /// Integer codes in one tensor of a safetensors file, scales in another.
    Packed,
}

impl DType {
    /// Whether elements are floats of their own, without scales.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Columns in the smallest unit of storage; the columns of a matrix are a multiple of it.
    pub fn block_columns(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Packed => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::IQ4_NL | Self::MXFP4 => 32,
            Self::NVFP4 => 64,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
            Self::IQ4_XS | Self::TQ1_0 | Self::TQ2_0 => 256,
        }
    }

    /// Bytes in the smallest unit of storage; of a packed tensor, of a code at most.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Packed => 1,
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
            Self::MXFP4 => 17,
            Self::NVFP4 => 36,
            Self::TQ1_0 => 54,
            Self::TQ2_0 => 66,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::IQ4_XS => 136,
        }
    }

    /// The grid of one of ggml's quantized types; `None` for the others.
    pub fn grid(self) -> Option<Grid> {
        let middle = |block, bits| Grid::symmetric(block, bits, 1_u8 << (bits - 1));
        let offset = |block, bits| Grid { shift: Shift::Offset, ..Grid::symmetric(block, bits, 0) };
        let table = |levels| Grid { levels: Levels::Table(levels), ..Grid::symmetric(32, 4, 0) };
        let fp4 = |block| Grid { block, scales: Scales::Minifloat, ..table(&FP4_LEVELS) };
        Some(match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Packed => return None,
            Self::Q4_0 => middle(32, 4),
            Self::Q5_0 => middle(32, 5),
            Self::Q8_0 => middle(32, 8),
            Self::Q3_K => middle(16, 3),
            Self::Q6_K => middle(16, 6),
            Self::Q2_K => offset(16, 2),
            Self::Q4_1 | Self::Q4_K => offset(32, 4),
            Self::Q5_1 | Self::Q5_K => offset(32, 5),
            Self::IQ4_NL | Self::IQ4_XS => table(&IQ4_NL_LEVELS),
            Self::TQ1_0 | Self::TQ2_0 => Grid::symmetric(256, 2, 1),
            Self::MXFP4 => fp4(32),
            Self::NVFP4 => fp4(16),
        })
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
    /// What the elements are made of, where the type is [`DType::Packed`] and only there.
    pub(super) derived: Option<Arc<Derived>>,
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

    /// The same matrix with its rows rotated: each run of [`ROTATION`](crate::encode::ROTATION) elements transformed by
    /// the orthogonal Walsh–Hadamard matrix. The columns are a multiple of that.
    #[must_use]
    pub fn rotated(&self) -> Self {
        let derived = Some(Arc::new(Derived::Rotated(Rotated::new(self.clone()))));
        Self { dtype: DType::Packed, derived, ..self.clone() }
    }

    /// Whether the elements are stored as floats.
    pub fn is_float(&self) -> bool {
        match self.derived.as_deref() {
            Some(Derived::Rotated(rotated)) => rotated.is_float(),
            _ => self.dtype.is_float(),
        }
    }

    /// The meaning of the codes of a row; `None` for floats, for vectors, and where groups of columns that share a scale
    /// do not lie together.
    pub fn grid(&self) -> Option<Grid> {
        match &self.derived {
            _ if self.shape.len() != 2 => None,
            Some(derived) => derived.grid(),
            None => self.dtype.grid(),
        }
    }

    /// Row `row` as f32, into `out` of length [`Tensor::columns`].
    ///
    /// F16 and BF16 are widened exactly. A quantized weight is its exact value rounded once to nearest, ties to
    /// even, which is bit for bit what ggml's `dequantize_row_*` returns.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or an infinity, [`Error::Malformed`] for a scale or code of a packed tensor that means nothing, [`Error::Access`] for a row or length that does not exist.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        let bytes = self.row_bytes(row)?;
        if out.len() != self.columns() {
            let problem = format!("a row of {} elements was asked for, it has {}", out.len(), self.columns());
            return Err(self.access(problem, "pass a slice of that length"));
        }
        if let Some(derived) = &self.derived {
            match &**derived {
                Derived::Packed(packed) => packed.values(row, out).map_err(|fault| self.fault(row, fault))?,
                Derived::Ternarised(ternarised) => ternarised.values(row, out)?,
                Derived::Rotated(rotated) => rotated.values(row, out)?,
            }
            return if out.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(self.not_finite(row)) };
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
    /// [`Error::NotFinite`] for a scale that is not finite, [`Error::Malformed`] for a bad one of a packed tensor.
    /// [`Error::Access`] for a tensor without [`Tensor::grid`], a row that does not exist, a Q8_0 row with the code −128
    /// and a TQ2_0 row with the code 3: ggml writes −127..=127 and 0..=2, and no integer format has another level;
    /// [`Tensor::row_f32`] reads such a row.
    pub fn row_blocks(&self, row: usize, out: &mut Blocks) -> Result<(), Error> {
        if self.shape.len() != 2 {
            return Err(self.access(format!("it has the shape {:?}, not that of a matrix", self.shape), USE_VALUES));
        }
        let bytes = self.row_bytes(row)?;
        match self.derived.as_deref() {
            None => {}
            Some(Derived::Ternarised(ternarised)) => return ternarised.decode(row, out),
            Some(Derived::Packed(packed)) if packed.in_blocks() => {
                return packed.decode(row, out).map_err(|fault| self.fault(row, fault));
            }
            Some(Derived::Rotated(_)) => return Err(self.access("rotated rows have no codes".to_owned(), USE_VALUES)),
            Some(Derived::Packed(_)) => {
                return Err(self.access("columns that share a scale lie apart".to_owned(), USE_VALUES));
            }
        }
        self.decode(row, bytes, out)?;
        let (unwritten, shown) = match self.dtype {
            DType::Q8_0 => (0, "-128"),
            DType::TQ2_0 => (3, "3"),
            _ => return Ok(()),
        };
        if out.codes.contains(&unwritten) {
            let problem = format!("row {row} holds the {:?} code {shown}, which ggml never writes", self.dtype);
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
        if self.derived.is_some() {
            return Ok(&[]);
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

    fn fault(&self, row: usize, fault: Fault) -> Error {
        let (path, field) = (self.file.path.clone(), tensor_field(&self.name));
        Error::Malformed { path, field, problem: format!("row {row}: {}", fault.problem()) }
    }

    fn not_finite(&self, row: usize) -> Error {
        Error::NotFinite { path: self.file.path.clone(), tensor: self.name.clone(), row }
    }

    fn access(&self, problem: String, remedy: &'static str) -> Error {
        Error::Access { path: self.file.path.clone(), tensor: self.name.clone(), problem, remedy }
    }
}
