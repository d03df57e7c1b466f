//! Checkpoints that another quantizer has packed: its codes become matrices under their plain names.
use super::derived::Derived;
use super::packed::{Integers, Packed};
use super::stored::{Parts, Stored};
use super::tensor::{DType, RowOrder, Tensor};
use super::{Grid, Shift, WHOLE_ROW, bitnet, compressed, gptq};
use crate::error::{Error, quoted};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A configuration's `quantization_config`, or an object in it.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a> {
    /// The configuration file.
    pub(super) path: &'a Path,
    pub(super) value: &'a Value,
}

impl<'a> Settings<'a> {
    /// The value of the first of these keys that is there and not null.
    pub(super) fn get(&self, keys: &[&str]) -> Option<&'a Value> {
        keys.iter().find_map(|key| self.value.get(key).filter(|value| !value.is_null()))
    }

    /// A text, `default` where it is absent.
    pub(super) fn text(&self, key: &str, default: &'a str) -> Result<&'a str, Error> {
        match self.get(&[key]) {
            None => Ok(default),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.malformed(key, "it is no text")),
        }
    }

    /// A truth value, `default` where it is absent.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.get(&[key]) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.malformed(key, "it is neither true nor false")),
        }
    }

    /// Bits of a code: those that divide a byte, whose packing all writers agree on.
    pub(super) fn bits(&self, keys: &[&str]) -> Result<u32, Error> {
        match self.get(keys).and_then(Value::as_u64) {
            Some(bits @ (2 | 4 | 8)) => Ok(bits as u32),
            Some(bits) => Err(self.unsupported(keys[0], bits.to_string(), "use a checkpoint of 2, 4 or 8 bits")),
            None => Err(self.malformed(keys[0], "the number is missing")),
        }
    }

    /// Columns that share a scale, [`WHOLE_ROW`] for −1.
    pub(super) fn group(&self, keys: &[&str]) -> Result<usize, Error> {
        match self.get(keys).and_then(Value::as_i64) {
            Some(-1) => Ok(WHOLE_ROW),
            Some(size) if (1..=1 << 20).contains(&size) => Ok(size as usize),
            _ => Err(self.malformed(keys[0], "it is neither -1 nor a number from 1 to 2^20")),
        }
    }

    pub(super) fn malformed(&self, key: &str, problem: impl Into<String>) -> Error {
        let (path, field) = (self.path.to_owned(), format!("quantization_config: {key}"));
        Error::Malformed { path, field, problem: problem.into() }
    }

    pub(super) fn unsupported(&self, key: &str, found: String, remedy: &'static str) -> Error {
        Error::Unsupported { path: self.path.to_owned(), field: format!("quantization_config: {key}"), found, remedy }
    }
}

/// The tensors of a checkpoint, packed ones under the names of the matrices that they are.
pub(super) fn tensors(path: &Path, value: &Value, mut parts: Parts) -> Result<BTreeMap<String, Tensor>, Error> {
    let settings = Settings { path, value };
    let method = value.get("quant_method").and_then(Value::as_str);
    let packed = match method {
        Some("compressed-tensors") => compressed::read(settings, &mut parts)?,
        Some("gptq") => gptq::read_gptq(settings, &mut parts)?,
        Some("awq") => gptq::read_awq(settings, &mut parts)?,
        Some("bitnet") => bitnet::read(settings, &mut parts)?,
        _ => {
            let method = method.map_or("an unnamed method".to_owned(), quoted);
            return Err(Error::AlreadyQuantized { path: path.to_owned(), method });
        }
    };
    let mut tensors = parts.floats()?;
    for tensor in packed {
        if let Some(twice) = tensors.insert(tensor.name.clone(), tensor) {
            let field = crate::error::tensor_field(&twice.name);
            let problem = "it is there both packed and not".to_owned();
            return Err(Error::Malformed { path: twice.file.path.clone(), field, problem });
        }
    }
    Ok(tensors)
}

/// What a packed matrix is made of.
pub(super) struct Pieces<'a> {
    /// The matrix's name.
    pub(super) name: String,
    pub(super) shape: [usize; 2],
    pub(super) bits: u32,
    /// Columns that share a scale, or [`WHOLE_ROW`].
    pub(super) group: usize,
    /// The tensor of codes.
    pub(super) stored: &'a Stored,
    pub(super) codes: Integers,
    pub(super) scales: super::packed::GroupScales,
    /// The zero points and their tensor.
    pub(super) zeros: Option<(Integers, &'a Stored)>,
    /// The group of each column, as stored; `None` where groups are runs of columns.
    pub(super) order: Option<&'a Stored>,
}

impl Pieces<'_> {
    /// Groups of a row; the group's size must divide the columns.
    pub(super) fn groups(settings: Settings<'_>, group: usize, columns: usize, of: &Stored) -> Result<usize, Error> {
        match group {
            WHOLE_ROW => Ok(1),
            _ if columns.is_multiple_of(group) => Ok(columns / group),
            _ => {
                let problem = format!("{group} does not divide the {columns} columns of {}", quoted(&of.name));
                Err(settings.malformed("group_size", problem))
            }
        }
    }

    /// The matrix. Zero points that are all the middle of the range are none.
    pub(super) fn tensor(self) -> Result<Tensor, Error> {
        let Self { name, shape: [rows, columns], bits, group, stored, codes, scales, zeros, order } = self;
        let groups = if group == WHOLE_ROW { 1 } else { columns / group };
        let order = match order {
            Some(order) => column_groups(order, columns, group, groups)?,
            None => Vec::new(),
        };
        let middle = 1 << (bits - 1);
        let symmetric = Grid::symmetric(group, bits, middle);
        let grid = Grid { shift: Shift::ZeroPoint, ..Grid::symmetric(group, bits, 0) };
        if let Some((zeros, of)) = &zeros {
            let places = || (0..rows).flat_map(|row| (0..groups).map(move |group| (row, group)));
            if let Some((row, group)) = places().find(|&(row, group)| !(0..1 << bits).contains(&zeros.get(row, group)))
            {
                let problem = format!("row {row}, group {group}: a zero point beyond {bits} bits");
                return Err(of.malformed(problem));
            }
        }
        let zeros = zeros
            .map(|(zeros, _)| zeros)
            .filter(|zeros| (0..rows).any(|row| (0..groups).any(|group| zeros.get(row, group) != i16::from(middle))));
        let grid = if zeros.is_some() { grid } else { symmetric };
        let packed = Packed { codes, scales, zeros, groups: order, grid, columns };
        Ok(derived(name, [rows, columns], stored, Derived::Packed(packed)))
    }
}

/// A matrix made of other tensors, of which `stored` is the one that messages name the file of.
pub(super) fn derived(name: String, shape: [usize; 2], stored: &Stored, derived: Derived) -> Tensor {
    Tensor {
        shape: shape.to_vec(),
        dtype: DType::Packed,
        name,
        file: Arc::clone(&stored.file),
        range: stored.range.clone(),
        order: RowOrder::Same,
        derived: Some(Arc::new(derived)),
    }
}

/// The group of each column; empty where groups are runs of `group` columns, or where nothing but −1 is stored.
fn column_groups(order: &Stored, columns: usize, group: usize, groups: usize) -> Result<Vec<u32>, Error> {
    order.expect(&[::safetensors::Dtype::I32], &[columns])?;
    if order.numbers().all(|number| number == -1) {
        return Ok(Vec::new());
    }
    if let Some((column, number)) =
        order.numbers().enumerate().find(|&(_, number)| !(0..groups as i64).contains(&number.into()))
    {
        return Err(order.malformed(format!("column {column} is in group {number} of {groups}")));
    }
    let runs = order.numbers().enumerate().all(|(column, number)| number as usize == column / group);
    Ok(if runs { Vec::new() } else { order.numbers().map(|number| number as u32).collect() })
}
