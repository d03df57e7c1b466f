//! safetensors files that can be spoilt before they are written.

use crate::json;
use crate::random::Random;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// A file in its parts.
#[derive(Clone)]
pub(crate) struct Safetensors {
    pub(crate) header: Value,
    pub(crate) data: Vec<u8>,
}

impl Safetensors {
    /// Tensors of name, type, shape and bytes.
    pub(crate) fn new(tensors: impl IntoIterator<Item = (String, &'static str, Vec<usize>, Vec<u8>)>) -> Self {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, dtype, shape, bytes) in tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            data.extend(bytes);
        }
        Self { header: Value::Object(header), data }
    }

    /// A file that is known to be sound.
    pub(crate) fn parse(file: &[u8]) -> Self {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&file[8..8 + length]).unwrap();
        Self { header, data: file[8 + length..].to_vec() }
    }

    /// Names of the tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.header.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    }

    /// The bytes of a tensor, as far as there are any.
    pub(crate) fn range(&self, name: &str) -> Range<usize> {
        let offset = |i| self.header[name]["data_offsets"][i].as_u64().unwrap_or(0) as usize;
        let end = offset(1).min(self.data.len());
        offset(0).min(end)..end
    }

    /// The file, its data at a multiple of 64.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut header = json::text(&self.header).into_bytes();
        header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat()
    }

    /// Changes the header in one place.
    pub(crate) fn mutate_header(&mut self, random: &mut Random) -> String {
        const TYPES: [&str; 14] =
            ["BOOL", "U8", "I8", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "F32", "F64", "I64", "F4", "u8"];
        let names = self.names();
        if random.one_in(100) {
            return self.crowd(random);
        }
        if names.is_empty() || random.one_in(2) {
            return format!("header {}", json::mutate(&mut self.header, &[], random));
        }
        let (a, b) = (random.pick(&names), random.pick(&names));
        let (first, second) = (self.header[a].clone(), self.header[b].clone());
        match random.below(4) {
            0 => {
                let dtype = *random.pick(&TYPES);
                json::set(self.header.get_mut(a), "dtype", json!(dtype));
                format!("{a} has type {dtype}")
            }
            1 => {
                json::set(Some(&mut self.header), a, second);
                json::set(Some(&mut self.header), b, first);
                format!("{a} and {b} swapped")
            }
            2 => {
                json::set(self.header.get_mut(a), "data_offsets", second["data_offsets"].clone());
                format!("{a} lies on {b}")
            }
            _ => {
                let shapes = [
                    json!([]),
                    json!([0]),
                    json!([1, 1, 1]),
                    json!([u64::MAX, 2]),
                    json!([1_u64 << 32, 1_u64 << 32]),
                    second["shape"].clone(),
                ];
                let shape = random.pick(&shapes).clone();
                let what = format!("{a} has shape {shape}");
                json::set(self.header.get_mut(a), "shape", shape);
                what
            }
        }
    }

    /// Adds so many tensors that work which grows with the square of their number is noticed, or too large a share of
    /// memory for each.
    fn crowd(&mut self, random: &mut Random) -> String {
        let count = 1 << (10 + random.below(7));
        let (dtype, end) = (*random.pick(&["U8", "F32"]), self.data.len());
        let Some(header) = self.header.as_object_mut() else { return String::new() };
        header.extend(
            (0..count).map(|i| (format!("t{i}"), json!({"dtype": dtype, "shape": [0], "data_offsets": [end, end]}))),
        );
        format!("{count} more tensors")
    }
}

/// Cuts a whole file at a boundary of its structure, or makes its first field lie.
pub(crate) fn mutate_frame(file: &mut Vec<u8>, random: &mut Random) -> String {
    if file.len() < 8 {
        return String::new();
    }
    let length = u64::from_le_bytes(file[..8].try_into().unwrap_or_default());
    let data = (length as usize).saturating_add(8).min(file.len());
    if random.one_in(2) {
        let ends = [0, 1, 7, 8, 9, data - 1, data, data + 1, data + 64, file.len() - 1, file.len().saturating_sub(64)];
        let end = (*random.pick(&ends)).min(file.len());
        file.truncate(end);
        return format!("cut to {end}");
    }
    if random.one_in(6) {
        file.resize(file.len() + random.below(129), 0);
        return format!("{} bytes long", file.len());
    }
    let lie = random.integer(length.into()) as u64;
    file[..8].copy_from_slice(&lie.to_le_bytes());
    format!("header length {lie}")
}
