//! The GGUF container, versions 2 and 3, little-endian.
use super::gguf_meta::{Meta, Reader};
use super::tensor::DType;
use crate::error::{Error, quoted, tensor_field};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// The most metadata keys, and the most tensors, of one file. Real models stay a hundredfold below; the limit keeps
/// the tables small beside the file whatever it announces.
const MOST_ENTRIES: u64 = 1 << 16;

/// A parsed header: it owns what it holds and refers to tensor data by position.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// All key-value pairs.
    pub meta: BTreeMap<String, Meta>,
    /// All tensors, in the file's order.
    pub tensors: Vec<TensorInfo>,
}

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// ggml's name.
    pub name: String,
    /// `[rows, columns]` or `[n]`; no dimension is 0.
    pub shape: Vec<usize>,
    /// The type of the elements.
    pub dtype: DType,
    /// Its bytes in the file: in bounds, of the size that shape and type give, disjoint from every other tensor's.
    pub range: Range<usize>,
}

impl Gguf {
    /// Parses the header of a whole file. `path` is for messages only.
    ///
    /// Memory stays below twice the file's size plus a constant, since sizes are proved before they are reserved.
    ///
    /// # Errors
    /// [`Error::NotACheckpoint`] for another kind of file; [`Error::Malformed`] for whatever contradicts the specification; [`Error::Unsupported`] for version 1,
    /// big-endian files, nested arrays, tensors of other types or with more than two dimensions.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader { path, bytes, at: 0 };
        let unsupported = |field: String, found: String, remedy| {
            Err(Error::Unsupported { path: path.to_owned(), field, found, remedy })
        };
        if reader.u32("magic")?.to_le_bytes() != *b"GGUF" {
            let problem = "the file does not begin with GGUF".to_owned();
            let remedy = "pass a GGUF file or a directory in Hugging Face's safetensors layout";
            return Err(Error::NotACheckpoint { path: path.to_owned(), problem, remedy });
        }
        match reader.u32("version")? {
            2 | 3 => {}
            version if (1..=3).contains(&version.swap_bytes()) => {
                let remedy = "convert the original checkpoint to a little-endian file";
                return unsupported("version".to_owned(), "a big-endian file".to_owned(), remedy);
            }
            version => {
                let remedy = "convert the original checkpoint with a current llama.cpp";
                return unsupported("version".to_owned(), version.to_string(), remedy);
            }
        }
        let tensor_count = reader.u64("tensor count")?;
        let key_count = reader.u64("key count")?;
        for (count, field) in [(tensor_count, "tensor count"), (key_count, "key count")] {
            if count > MOST_ENTRIES {
                return Err(reader.malformed(field, format!("{count} is more than {MOST_ENTRIES}")));
            }
        }

        let mut meta = BTreeMap::new();
        for index in 0..key_count {
            let key = reader.string(&format!("key {index}"))?;
            let value = reader.meta(&quoted(key))?;
            if meta.insert(key.to_owned(), value).is_some() {
                return Err(reader.malformed(&quoted(key), "the key occurs twice"));
            }
        }
        let alignment = match meta.get("general.alignment") {
            None => 32,
            Some(Meta::U64(value)) if value.is_power_of_two() && *value <= 1 << 20 => *value as usize,
            Some(_) => return Err(reader.malformed("general.alignment", "it is no power of two up to 2^20")),
        };

        let mut headers = Vec::new();
        let mut names = BTreeSet::new();
        for index in 0..tensor_count {
            let header = Header::read(&mut reader, index)?;
            if !names.insert(header.name) {
                return Err(reader.malformed(&tensor_field(header.name), "the name occurs twice"));
            }
            headers.push(header);
        }
        let data = reader.at.next_multiple_of(alignment);
        let tensors =
            headers.iter().map(|header| header.place(&reader, data, alignment)).collect::<Result<Vec<_>, _>>()?;
        prove_disjoint(&reader, &tensors)?;
        Ok(Self { meta, tensors })
    }

    /// A text by its key; `None` where the key is absent or holds something else.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.meta.get(key) {
            Some(Meta::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A non-negative integer by its key; `None` where the key is absent or holds something else.
    pub fn count(&self, key: &str) -> Option<u64> {
        match self.meta.get(key) {
            Some(Meta::U64(value)) => Some(*value),
            Some(Meta::I64(value)) => u64::try_from(*value).ok(),
            _ => None,
        }
    }
}

/// A tensor's entry as it stands in the file.
struct Header<'a> {
    name: &'a str,
    shape: Vec<usize>,
    dtype: DType,
    offset: u64,
}

impl<'a> Header<'a> {
    fn read(reader: &mut Reader<'a>, index: u64) -> Result<Self, Error> {
        let name = reader.string(&format!("tensor {index}"))?;
        let field = tensor_field(name);
        let dimensions = reader.u32(&field)?;
        if !(1..=4).contains(&dimensions) {
            return Err(reader.malformed(&field, format!("{dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            match usize::try_from(reader.u64(&field)?) {
                Ok(size) if size > 0 => shape.push(size),
                _ => return Err(reader.malformed(&field, "a dimension is 0 or too large")),
            }
        }
        // ggml counts the fastest dimension first.
        shape.reverse();
        let code = reader.u32(&field)?;
        let offset = reader.u64(&field)?;
        let unsupported = |found: String, remedy| Error::Unsupported {
            path: reader.path.to_owned(),
            field: field.clone(),
            found,
            remedy,
        };
        let dtype = dtype(code).map_err(|found| {
            let remedy = "use F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, \
                          MXFP4 or NVFP4";
            unsupported(found, remedy)
        })?;
        if shape.len() > 2 {
            return Err(unsupported(format!("the shape {shape:?}"), "use a model of matrices and vectors"));
        }
        Ok(Self { name, shape, dtype, offset })
    }

    /// The tensor's place, given where tensor data begins.
    fn place(&self, reader: &Reader<'_>, data: usize, alignment: usize) -> Result<TensorInfo, Error> {
        let field = tensor_field(self.name);
        let begin = usize::try_from(self.offset).ok().and_then(|offset| data.checked_add(offset));
        let columns = self.shape[self.shape.len() - 1];
        let elements = self.shape.iter().try_fold(1, |product: usize, &size| product.checked_mul(size));
        let size = elements.and_then(|elements| self.dtype.bytes(columns, elements));
        let Some((begin, size)) = begin.zip(size) else {
            let problem = format!("shape {:?} and offset {} do not fit type {:?}", self.shape, self.offset, self.dtype);
            return Err(reader.malformed(&field, problem));
        };
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(reader.malformed(&field, format!("offset {} is not aligned to {alignment}", self.offset)));
        }
        match begin.checked_add(size) {
            Some(end) if end <= reader.bytes.len() => Ok(TensorInfo {
                name: self.name.to_owned(),
                shape: self.shape.clone(),
                dtype: self.dtype,
                range: begin..end,
            }),
            _ => {
                Err(reader.malformed(&field, format!("its {size} bytes at offset {} pass the file's end", self.offset)))
            }
        }
    }
}

fn prove_disjoint(reader: &Reader<'_>, tensors: &[TensorInfo]) -> Result<(), Error> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            let problem = format!("its data overlap those of {}", quoted(&pair[1].name));
            return Err(reader.malformed(&tensor_field(&pair[0].name), problem));
        }
    }
    Ok(())
}

/// The type of ggml's code, or a description of one that is not read.
fn dtype(code: u32) -> Result<DType, String> {
    Ok(match code {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        10 => DType::Q2_K,
        11 => DType::Q3_K,
        12 => DType::Q4_K,
        13 => DType::Q5_K,
        14 => DType::Q6_K,
        20 => DType::IQ4_NL,
        23 => DType::IQ4_XS,
        30 => DType::BF16,
        34 => DType::TQ1_0,
        35 => DType::TQ2_0,
        39 => DType::MXFP4,
        40 => DType::NVFP4,
        _ => {
            const OTHERS: [(u32, &str); 14] = [
                (9, "Q8_1"),
                (15, "Q8_K"),
                (16, "IQ2_XXS"),
                (17, "IQ2_XS"),
                (18, "IQ3_XXS"),
                (19, "IQ1_S"),
                (21, "IQ3_S"),
                (22, "IQ2_S"),
                (24, "I8"),
                (25, "I16"),
                (26, "I32"),
                (27, "I64"),
                (28, "F64"),
                (29, "IQ1_M"),
            ];
            let name = OTHERS.iter().find(|(other, _)| *other == code).map_or("not one of ggml's", |(_, name)| name);
            return Err(format!("element type {code} ({name})"));
        }
    })
}
