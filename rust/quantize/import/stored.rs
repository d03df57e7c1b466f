//! The tensors of safetensors files as they are stored, to be put together to matrices.
use super::packed::{GroupScales, Integers, Packing};
use super::tensor::{DType, Mapped, RowOrder, Tensor};
use crate::error::{Error, tensor_field};
use ::safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A tensor of a file, of any element type and shape.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) file: Arc<Mapped>,
    /// Proved to lie in the file and to have the size of shape and type.
    pub(super) range: Range<usize>,
}

impl Stored {
    pub(super) fn malformed(&self, problem: impl Into<String>) -> Error {
        let (path, field) = (self.file.path.clone(), tensor_field(&self.name));
        Error::Malformed { path, field, problem: problem.into() }
    }

    pub(super) fn unsupported(&self, found: String, remedy: &'static str) -> Error {
        Error::Unsupported { path: self.file.path.clone(), field: tensor_field(&self.name), found, remedy }
    }

    /// The type of its elements if they are floats.
    pub(super) fn float(&self) -> Option<DType> {
        match self.dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// The tensor of floats that it is.
    pub(super) fn tensor(self) -> Result<Tensor, Error> {
        let Some(dtype) = self.float() else {
            return Err(self.unsupported(format!("element type {:?}", self.dtype), "store it as F32, F16 or BF16"));
        };
        if !(1..=2).contains(&self.shape.len()) || self.shape.contains(&0) {
            let remedy = "use a model of matrices and vectors";
            return Err(self.unsupported(format!("the shape {:?}", self.shape), remedy));
        }
        let Self { name, shape, file, range, .. } = self;
        Ok(Tensor { shape, dtype, name, file, range, order: RowOrder::Same, derived: None })
    }

    /// Refuses another element type or shape.
    pub(super) fn expect(&self, dtypes: &[Dtype], shape: &[usize]) -> Result<(), Error> {
        if !dtypes.contains(&self.dtype) {
            return Err(self.malformed(format!("its elements are {:?} where {dtypes:?} belong", self.dtype)));
        }
        if self.shape != shape {
            return Err(self.malformed(format!("its shape is {:?} where the others give {shape:?}", self.shape)));
        }
        Ok(())
    }

    /// Rows and columns of a matrix without an empty side.
    pub(super) fn matrix(&self) -> Result<[usize; 2], Error> {
        match self.shape[..] {
            [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
            _ => Err(self.malformed(format!("its shape {:?} is not that of a matrix", self.shape))),
        }
    }

    /// All elements of a tensor of i32.
    pub(super) fn numbers(&self) -> impl Iterator<Item = i32> {
        self.file[self.range.clone()].as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes))
    }

    /// Integers in words of which a row of `stride` follows another; shape and type are the caller's to check.
    pub(super) fn integers(&self, bits: u32, packing: Packing, strides: (usize, usize)) -> Integers {
        let word = if self.dtype == Dtype::I32 { 4 } else { 1 };
        let (file, range) = (Arc::clone(&self.file), self.range.clone());
        Integers { file, range, word, bits, packing, strides, flip: 0, add: 0 }
    }

    /// Scales of F32, F16 or BF16; the shape is the caller's to check.
    pub(super) fn scales(&self, strides: (usize, usize)) -> Result<GroupScales, Error> {
        let not_float = || self.malformed(format!("its elements are {:?} where floats belong", self.dtype));
        let dtype = self.float().ok_or_else(not_float)?;
        Ok(GroupScales { file: Arc::clone(&self.file), range: self.range.clone(), dtype, strides, inverse: false })
    }
}

/// All stored tensors by name, to be taken until none is left.
#[derive(Debug)]
pub(super) struct Parts(BTreeMap<String, Stored>);

impl Parts {
    pub(super) fn new(stored: BTreeMap<String, Stored>) -> Self {
        Self(stored)
    }

    /// The names without `suffix` of the tensors that end with it and satisfy `condition`.
    pub(super) fn bases(&self, suffix: &str, condition: impl Fn(&Stored) -> bool) -> Vec<String> {
        let chosen = self.0.iter().filter(|(_, stored)| condition(stored));
        chosen.filter_map(|(name, _)| name.strip_suffix(suffix)).map(str::to_owned).collect()
    }

    /// Takes a tensor that may be missing.
    pub(super) fn take(&mut self, name: &str) -> Option<Stored> {
        self.0.remove(name)
    }

    /// Takes a tensor that `beside` needs.
    pub(super) fn need(&mut self, name: &str, beside: &Stored) -> Result<Stored, Error> {
        self.take(name).ok_or_else(|| beside.malformed(format!("{} is missing beside it", tensor_field(name))))
    }

    /// Drops tensors by the end of their names.
    pub(super) fn drop_all(&mut self, suffixes: &[&str]) {
        self.0.retain(|name, _| !suffixes.iter().any(|suffix| name.ends_with(suffix)));
    }

    /// What is left, all of it floats.
    pub(super) fn floats(self) -> Result<BTreeMap<String, Tensor>, Error> {
        self.0.into_iter().map(|(name, stored)| Ok((name, stored.tensor()?))).collect()
    }
}
