//! compressed-tensors: integer weights of llm-compressor, one byte each or packed to words along the input dimension.
use super::WHOLE_ROW;
use super::packed::{GroupScales, Integers, Packing};
use super::quantized::{Pieces, Settings};
use super::stored::{Parts, Stored};
use super::tensor::Tensor;
use crate::error::{Error, quoted};
use ::safetensors::Dtype;
use serde_json::Value;

const FORMATS: &str = "use a checkpoint in the format pack-quantized or int-quantized";

/// Statistics of activations and caches, which Intact quantizes its own way.
const ACTIVATIONS: [&str; 9] = [
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".input_g_idx",
    ".output_scale",
    ".output_zero_point",
    ".k_scale",
    ".v_scale",
    ".q_scale",
];

/// How the weights of all quantized modules are stored.
struct Scheme {
    bits: u32,
    group: usize,
    /// Whether there is one scale for the whole matrix.
    one_scale: bool,
}

impl Scheme {
    /// The scheme that all of `config_groups` share.
    fn read(settings: Settings<'_>) -> Result<Self, Error> {
        for (key, neutral) in [("sparsity_config", "dense"), ("transform_config", "")] {
            let there = settings.get(&[key]).and_then(Value::as_object).is_some_and(|object| {
                let format = object.get("format").and_then(Value::as_str);
                !object.is_empty() && (neutral.is_empty() || format != Some(neutral))
            });
            if there {
                return Err(settings.unsupported(key, "an object".to_owned(), "use a checkpoint without it"));
            }
        }
        let groups = settings.get(&["config_groups"]).and_then(Value::as_object).filter(|groups| !groups.is_empty());
        let groups = groups.ok_or_else(|| settings.malformed("config_groups", "the object is missing or empty"))?;
        let mut weights = None;
        for group in groups.values() {
            let format = Settings { value: group, ..settings }.text("format", "")?;
            let format = if format.is_empty() { settings.text("format", "")? } else { format };
            if !["pack-quantized", "int-quantized", "naive-quantized"].contains(&format) {
                return Err(settings.unsupported("format", quoted(format), FORMATS));
            }
            let found = group.get("weights").filter(|found| found.is_object());
            let found = found.ok_or_else(|| settings.malformed("config_groups", "a group says nothing of weights"))?;
            if weights.replace(found).is_some_and(|before| before != found) {
                let remedy = "use a checkpoint that quantizes all weights alike";
                return Err(settings.unsupported("config_groups", "groups with different weights".to_owned(), remedy));
            }
        }
        let Some(value) = weights else { return Err(settings.malformed("config_groups", "it is empty")) };
        let weights = Settings { value, ..settings };
        let kind = weights.text("type", "int")?;
        if kind != "int" {
            return Err(settings.unsupported("type of weights", quoted(kind), FORMATS));
        }
        let bits = weights.bits(&["num_bits"])?;
        let grouped = weights.get(&["group_size"]).is_some();
        match weights.text("strategy", if grouped { "group" } else { "tensor" })? {
            "tensor" => Ok(Self { bits, group: WHOLE_ROW, one_scale: true }),
            "channel" => Ok(Self { bits, group: WHOLE_ROW, one_scale: false }),
            "group" => Ok(Self { bits, group: weights.group(&["group_size"])?, one_scale: false }),
            other => {
                let remedy = "use a checkpoint with scales per tensor, channel or group";
                Err(settings.unsupported("strategy of weights", quoted(other), remedy))
            }
        }
    }

    /// Scales, checked; a scale per row may be stored as a vector.
    fn scales(&self, stored: &Stored, rows: usize, groups: usize) -> Result<GroupScales, Error> {
        match &stored.shape[..] {
            [] | [1] | [1, 1] if self.one_scale => stored.scales((0, 0)),
            [n] if *n == rows && groups == 1 => stored.scales((1, 0)),
            _ => {
                stored.expect(&[stored.dtype], &[rows, groups])?;
                stored.scales((groups, 1))
            }
        }
    }

    /// Zero points, checked: bytes beside each scale, or packed along the output dimension.
    fn zeros(&self, stored: &Stored, rows: usize, groups: usize) -> Result<Integers, Error> {
        if stored.dtype == Dtype::I32 {
            stored.expect(&[Dtype::I32], &[rows.div_ceil(32 / self.bits as usize), groups])?;
            return Ok(stored.integers(self.bits, Packing::Rows, (groups, 1)));
        }
        let strides = match &stored.shape[..] {
            [] | [1] | [1, 1] if self.one_scale => (0, 0),
            [n] if *n == rows && groups == 1 => (1, 0),
            _ => {
                stored.expect(&[Dtype::I8], &[rows, groups])?;
                (groups, 1)
            }
        };
        stored.expect(&[Dtype::I8], &stored.shape)?;
        Ok(signed_bytes(stored, strides))
    }
}

/// Bytes in two's complement, made unsigned.
fn signed_bytes(stored: &Stored, strides: (usize, usize)) -> Integers {
    Integers { flip: 0x80, ..stored.integers(8, Packing::Columns, strides) }
}

/// Reads every quantized module; those that the quantizer ignored are plain.
pub(super) fn read(settings: Settings<'_>, parts: &mut Parts) -> Result<Vec<Tensor>, Error> {
    let scheme = Scheme::read(settings)?;
    parts.drop_all(&ACTIVATIONS);
    let mut tensors = Vec::new();
    for base in parts.bases(".weight_packed", |_| true) {
        tensors.push(packed(settings, &scheme, parts, &base)?);
    }
    for base in parts.bases(".weight", |stored| stored.dtype == Dtype::I8) {
        tensors.push(bytes(settings, &scheme, parts, &base)?);
    }
    Ok(tensors)
}

fn packed(settings: Settings<'_>, scheme: &Scheme, parts: &mut Parts, base: &str) -> Result<Tensor, Error> {
    let name = format!("{base}.weight");
    let Some(codes) = parts.take(&format!("{name}_packed")) else {
        return Err(settings.malformed("format", format!("{} is not packed", quoted(&name))));
    };
    let shape = parts.need(&format!("{name}_shape"), &codes)?;
    let scales = parts.need(&format!("{name}_scale"), &codes)?;
    let (zeros, order) = (parts.take(&format!("{name}_zero_point")), parts.take(&format!("{name}_g_idx")));
    let [rows, columns] = stated_shape(&shape)?;
    let words = columns.div_ceil(32 / scheme.bits as usize);
    codes.expect(&[Dtype::I32], &[rows, words])?;
    let groups = Pieces::groups(settings, scheme.group, columns, &codes)?;
    let zeros = zeros.map(|stored| Ok((unpacked_zeros(scheme, &stored, rows, groups)?, stored))).transpose()?;
    let pieces = Pieces {
        name,
        shape: [rows, columns],
        bits: scheme.bits,
        group: scheme.group,
        stored: &codes,
        codes: codes.integers(scheme.bits, Packing::Columns, (words, 1)),
        scales: scheme.scales(&scales, rows, groups)?,
        zeros: zeros.as_ref().map(|(zeros, stored)| (zeros.clone(), stored)),
        order: order.as_ref(),
    };
    pieces.tensor()
}

/// Zero points of packed codes; as bytes they are signed numbers around 0, which is the middle of the codes.
fn unpacked_zeros(scheme: &Scheme, stored: &Stored, rows: usize, groups: usize) -> Result<Integers, Error> {
    let mut zeros = scheme.zeros(stored, rows, groups)?;
    if zeros.word == 1 {
        zeros.add = (1 << (scheme.bits - 1)) - 128;
    }
    Ok(zeros)
}

/// A module of one byte a weight, whatever the range that the quantizer used of it.
fn bytes(settings: Settings<'_>, scheme: &Scheme, parts: &mut Parts, base: &str) -> Result<Tensor, Error> {
    let name = format!("{base}.weight");
    let Some(codes) = parts.take(&name) else {
        return Err(settings.malformed("format", format!("{} is missing", quoted(&name))));
    };
    let scales = parts.need(&format!("{name}_scale"), &codes)?;
    let (zeros, order) = (parts.take(&format!("{name}_zero_point")), parts.take(&format!("{name}_g_idx")));
    let [rows, columns] = codes.matrix()?;
    let groups = Pieces::groups(settings, scheme.group, columns, &codes)?;
    let zeros = zeros.map(|stored| Ok((scheme.zeros(&stored, rows, groups)?, stored))).transpose()?;
    let pieces = Pieces {
        name,
        shape: [rows, columns],
        bits: 8,
        group: scheme.group,
        stored: &codes,
        codes: signed_bytes(&codes, (columns, 1)),
        scales: scheme.scales(&scales, rows, groups)?,
        zeros: zeros.as_ref().map(|(zeros, stored)| (zeros.clone(), stored)),
        order: order.as_ref(),
    };
    pieces.tensor()
}

/// The shape that a tensor of two integers states.
fn stated_shape(stored: &Stored) -> Result<[usize; 2], Error> {
    let size = match stored.dtype {
        Dtype::I64 => 8,
        Dtype::I32 => 4,
        _ => return Err(stored.malformed("it does not hold integers")),
    };
    stored.expect(&[stored.dtype], &[2])?;
    let side = |bytes: &[u8]| {
        let number =
            bytes.iter().rev().try_fold(0_usize, |number, &byte| Some(number.checked_mul(256)? + usize::from(byte)));
        number.filter(|&number| (1..=u32::MAX as usize).contains(&number))
    };
    let mut sides = stored.file[stored.range.clone()].chunks_exact(size).map(side);
    match (sides.next().flatten(), sides.next().flatten()) {
        (Some(rows), Some(columns)) => Ok([rows, columns]),
        _ => Err(stored.malformed("it holds no shape of a matrix")),
    }
}
