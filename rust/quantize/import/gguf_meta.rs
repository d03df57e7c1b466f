//! GGUF metadata: typed values, and the reader that proves every size against the bytes that are left.
use crate::error::Error;
use std::path::Path;

/// A metadata value. Integers and floats are widened, exactly.
#[derive(Clone, Debug, PartialEq)]
pub enum Meta {
    /// Any unsigned integer.
    U64(u64),
    /// Any signed integer.
    I64(i64),
    /// A single or a double.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one type.
    Array(Array),
}

/// An array kept as compactly as in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Fixed-width elements.
    Scalars(Scalars),
    /// Texts.
    Strings(Strings),
}

/// Fixed-width elements, as the file's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalars {
    kind: Kind,
    bytes: Vec<u8>,
}

/// Texts, one after the other in one buffer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    text: String,
    /// Where each text ends; it begins where the one before it ends.
    ends: Vec<usize>,
}

impl Scalars {
    /// Elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.width()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements in order; none of them is a text or an array.
    pub fn iter(&self) -> impl Iterator<Item = Meta> + '_ {
        self.bytes.chunks_exact(self.kind.width()).filter_map(|bytes| self.kind.value(bytes))
    }
}

impl Strings {
    /// Texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text of that index.
    pub fn get(&self, index: usize) -> Option<&str> {
        let begin = if index == 0 { 0 } else { *self.ends.get(index - 1)? };
        self.text.get(begin..*self.ends.get(index)?)
    }

    /// The texts in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// A fixed-width value type of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Kind {
    fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn width(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value in `bytes`, [`Kind::width`] of them; `None` for a truth value other than 0 and 1.
    fn value(self, bytes: &[u8]) -> Option<Meta> {
        let mut word = [0; 8];
        word.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let bits = u64::from_le_bytes(word);
        Some(match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Meta::U64(bits),
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => {
                let unused = 64 - 8 * bytes.len() as u32;
                Meta::I64((bits << unused).cast_signed() >> unused)
            }
            Self::F32 => Meta::F64(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Meta::F64(f64::from_bits(bits)),
            Self::Bool => Meta::Bool(match bits {
                0 => false,
                1 => true,
                _ => return None,
            }),
        })
    }
}

/// A position in a file's bytes. Nothing is read, and no memory reserved, before it is known to be there.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn malformed(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.to_owned(), field: field.to_owned(), problem: problem.into() }
    }

    /// The next `count · width` bytes.
    fn take(&mut self, count: u64, width: usize, field: &str) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let size = usize::try_from(count).ok().and_then(|count| count.checked_mul(width));
        let Some(taken) = size.and_then(|size| rest.get(..size)) else {
            let problem = format!("{count} x {width} bytes are announced, {} are left", rest.len());
            return Err(self.malformed(field, problem));
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn word<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        let mut word = [0; N];
        word.copy_from_slice(self.take(N as u64, 1, field)?);
        Ok(word)
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, Error> {
        self.word(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, Error> {
        self.word(field).map(u64::from_le_bytes)
    }

    /// A text: its length in bytes as u64, then UTF-8.
    pub(super) fn string(&mut self, field: &str) -> Result<&'a str, Error> {
        let length = self.u64(field)?;
        let bytes = self.take(length, 1, field)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed(field, "the text is not UTF-8"))
    }

    /// A value type, then a value of it.
    pub(super) fn meta(&mut self, key: &str) -> Result<Meta, Error> {
        match self.u32(key)? {
            STRING => Ok(Meta::String(self.string(key)?.to_owned())),
            ARRAY => Ok(Meta::Array(self.array(key)?)),
            code => {
                let kind = self.kind(code, key)?;
                let bytes = self.take(1, kind.width(), key)?;
                kind.value(bytes).ok_or_else(|| self.malformed(key, "a truth value is neither 0 nor 1"))
            }
        }
    }

    fn kind(&self, code: u32, key: &str) -> Result<Kind, Error> {
        Kind::of(code).ok_or_else(|| self.malformed(key, format!("{code} is no value type")))
    }

    fn array(&mut self, key: &str) -> Result<Array, Error> {
        let code = self.u32(key)?;
        let count = self.u64(key)?;
        match code {
            STRING => Ok(Array::Strings(self.strings(count, key)?)),
            ARRAY => Err(Error::Unsupported {
                path: self.path.to_owned(),
                field: key.to_owned(),
                found: "an array of arrays".to_owned(),
                remedy: "remove the key",
            }),
            _ => {
                let kind = self.kind(code, key)?;
                let bytes = self.take(count, kind.width(), key)?;
                if bytes.chunks_exact(kind.width()).any(|bytes| kind.value(bytes).is_none()) {
                    return Err(self.malformed(key, "a truth value is neither 0 nor 1"));
                }
                Ok(Array::Scalars(Scalars { kind, bytes: bytes.to_owned() }))
            }
        }
    }

    /// `count` texts. A first pass measures them, so that both buffers are reserved once and exactly.
    fn strings(&mut self, count: u64, key: &str) -> Result<Strings, Error> {
        let begin = self.at;
        let mut total = 0;
        for _ in 0..count {
            total += self.string(key)?.len();
        }
        self.at = begin;
        // Every text took at least 8 bytes of the file, so `count` fits.
        let mut strings = Strings { text: String::with_capacity(total), ends: Vec::with_capacity(count as usize) };
        for _ in 0..count {
            strings.text.push_str(self.string(key)?);
            strings.ends.push(strings.text.len());
        }
        Ok(strings)
    }
}
