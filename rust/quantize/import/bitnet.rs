//! BitNet b1.58: ternary weights, four to a byte, or master weights that are made ternary.
use super::derived::{Derived, Ternarised};
use super::packed::{Packed, Packing};
use super::quantized::{Settings, derived};
use super::stored::Parts;
use super::tensor::Tensor;
use super::{Grid, WHOLE_ROW};
use crate::error::{Error, quoted};
use ::safetensors::Dtype;
use serde_json::Value;

/// Codes of a byte.
const LANES: usize = 4;

/// Modules that stay as they are where the configuration names none.
const PLAIN: [&str; 2] = ["lm_head", "embed_tokens"];

/// Reads the ternary modules.
pub(super) fn read(settings: Settings<'_>, parts: &mut Parts) -> Result<Vec<Tensor>, Error> {
    if settings.flag("use_rms_norm", false)? {
        let remedy = "use a checkpoint whose norms are modules of their own";
        return Err(settings.unsupported("use_rms_norm", "true".to_owned(), remedy));
    }
    // One of the two classes of layers divides by the scale that the other multiplies by.
    let inverse = match settings.text("linear_class", "bitlinear")? {
        "bitlinear" => true,
        "autobitlinear" => false,
        other => {
            let remedy = "use a checkpoint of bitlinear or autobitlinear";
            return Err(settings.unsupported("linear_class", quoted(other), remedy));
        }
    };
    match settings.text("quantization_mode", "offline")? {
        "offline" => offline(inverse, parts),
        "online" if !inverse => online(settings, parts),
        other => {
            let remedy = "use offline, or online with autobitlinear";
            Err(settings.unsupported("quantization_mode", quoted(other), remedy))
        }
    }
}

/// Byte r of a column holds rows r, r + n, r + 2n and r + 3n, n the bytes of a column.
fn offline(inverse: bool, parts: &mut Parts) -> Result<Vec<Tensor>, Error> {
    let mut tensors = Vec::new();
    for base in parts.bases(".weight", |stored| stored.dtype == Dtype::U8) {
        let name = format!("{base}.weight");
        let Some(codes) = parts.take(&name) else { continue };
        let scale = parts.need(&format!("{name}_scale"), &codes)?;
        let [words, columns] = codes.matrix()?;
        let rows = words.checked_mul(LANES).ok_or_else(|| codes.malformed("it is too large"))?;
        if scale.shape.iter().product::<usize>() != 1 {
            return Err(scale.malformed(format!("its shape {:?} is not that of one scale", scale.shape)));
        }
        let mut scales = scale.scales((0, 0))?;
        scales.inverse = inverse;
        let integers = codes.integers(2, Packing::SpreadRows { words }, (columns, 1));
        let grid = Grid::symmetric(WHOLE_ROW, 2, 1);
        let packed = Packed { codes: integers, scales, zeros: None, groups: Vec::new(), grid, columns };
        tensors.push(derived(name, [rows, columns], &codes, Derived::Packed(packed)));
    }
    Ok(tensors)
}

/// Every matrix but those that the configuration excepts is rounded to −1, 0 and 1 times its mean magnitude.
fn online(settings: Settings<'_>, parts: &mut Parts) -> Result<Vec<Tensor>, Error> {
    let excepted: Vec<&str> = match settings.get(&["modules_to_not_convert"]) {
        None => Vec::new(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err(settings.malformed("modules_to_not_convert", "it is no array of names")),
    };
    let mut tensors = Vec::new();
    for base in parts.bases(".weight", |stored| stored.float().is_some() && stored.shape.len() == 2) {
        let plain = |name: &&str| base == *name || base.split('.').any(|part| part == *name);
        if PLAIN.iter().any(plain) || excepted.iter().any(plain) {
            continue;
        }
        let name = format!("{base}.weight");
        let Some(stored) = parts.take(&name) else { continue };
        let shape = stored.matrix()?;
        let master = stored.clone().tensor()?;
        tensors.push(derived(name, shape, &stored, Derived::Ternarised(Ternarised::new(master))));
    }
    Ok(tensors)
}
