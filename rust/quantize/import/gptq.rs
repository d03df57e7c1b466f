//! GPTQ and AWQ: codes, zero points and scales of the transposed matrix, 32 bits of neighbours to a word.
use super::packed::Packing;
use super::quantized::{Pieces, Settings};
use super::stored::Parts;
use super::tensor::Tensor;
use crate::error::{Error, quoted};
use ::safetensors::Dtype;

/// GPTQ: words run along the input dimension, zero points along the output dimension, and `g_idx` gives each input its
/// group.
pub(super) fn read_gptq(settings: Settings<'_>, parts: &mut Parts) -> Result<Vec<Tensor>, Error> {
    let bits = settings.bits(&["bits"])?;
    let group = settings.group(&["group_size"])?;
    // The first version stores zero points less one.
    let add = match settings.text("checkpoint_format", "gptq")? {
        "gptq" => 1,
        "gptq_v2" => 0,
        other => {
            let remedy = "use a checkpoint in the format gptq or gptq_v2";
            return Err(settings.unsupported("checkpoint_format", quoted(other), remedy));
        }
    };
    if let Some(rules) = settings.get(&["dynamic"]).filter(|rules| rules.as_object().is_none_or(|map| !map.is_empty()))
    {
        let found = if rules.is_object() { "an object of rules" } else { "something else than an object" };
        return Err(settings.unsupported(
            "dynamic",
            found.to_owned(),
            "use a checkpoint with one rule for all modules",
        ));
    }
    let lanes = 32 / bits as usize;
    let mut tensors = Vec::new();
    for base in parts.bases(".qweight", |_| true) {
        let Some(codes) = parts.take(&format!("{base}.qweight")) else { continue };
        let [words, rows] = codes.matrix()?;
        let zeros = parts.need(&format!("{base}.qzeros"), &codes)?;
        let scales = parts.need(&format!("{base}.scales"), &codes)?;
        let order = parts.take(&format!("{base}.g_idx"));
        let columns = words.checked_mul(lanes).ok_or_else(|| codes.malformed("it is too large"))?;
        codes.expect(&[Dtype::I32], &[words, rows])?;
        let groups = Pieces::groups(settings, group, columns, &codes)?;
        if !rows.is_multiple_of(lanes) {
            return Err(codes.malformed(format!("its {rows} outputs are no multiple of {lanes}")));
        }
        zeros.expect(&[Dtype::I32], &[groups, rows / lanes])?;
        scales.expect(&[scales.dtype], &[groups, rows])?;
        let mut zero_points = zeros.integers(bits, Packing::Rows, (1, rows / lanes));
        zero_points.add = add;
        let pieces = Pieces {
            name: format!("{base}.weight"),
            shape: [rows, columns],
            bits,
            group,
            stored: &codes,
            codes: codes.integers(bits, Packing::Columns, (1, rows)),
            scales: scales.scales((1, rows))?,
            zeros: Some((zero_points, &zeros)),
            order: order.as_ref(),
        };
        tensors.push(pieces.tensor()?);
    }
    Ok(tensors)
}

/// AWQ's `gemm` layout: all words run along the output dimension, even outputs first.
pub(super) fn read_awq(settings: Settings<'_>, parts: &mut Parts) -> Result<Vec<Tensor>, Error> {
    const LANES: usize = 8;
    let bits = settings.bits(&["bits", "w_bit"])?;
    if bits != 4 {
        return Err(settings.unsupported("bits", bits.to_string(), "use a checkpoint of 4 bits"));
    }
    let group = settings.group(&["group_size", "q_group_size"])?;
    let version = settings.text("version", "gemm")?;
    if !version.eq_ignore_ascii_case("gemm") {
        return Err(settings.unsupported("version", quoted(version), "use a checkpoint of the version gemm"));
    }
    let mut tensors = Vec::new();
    for base in parts.bases(".qweight", |_| true) {
        let Some(codes) = parts.take(&format!("{base}.qweight")) else { continue };
        let [columns, words] = codes.matrix()?;
        let zeros = parts.need(&format!("{base}.qzeros"), &codes)?;
        let scales = parts.need(&format!("{base}.scales"), &codes)?;
        let rows = words.checked_mul(LANES).ok_or_else(|| codes.malformed("it is too large"))?;
        codes.expect(&[Dtype::I32], &[columns, words])?;
        let groups = Pieces::groups(settings, group, columns, &codes)?;
        zeros.expect(&[Dtype::I32], &[groups, words])?;
        scales.expect(&[scales.dtype], &[groups, rows])?;
        let pieces = Pieces {
            name: format!("{base}.weight"),
            shape: [rows, columns],
            bits,
            group,
            stored: &codes,
            codes: codes.integers(bits, Packing::EvenRowsFirst, (1, words)),
            scales: scales.scales((1, rows))?,
            zeros: Some((zeros.integers(bits, Packing::EvenRowsFirst, (1, words)), &zeros)),
            order: None,
        };
        tensors.push(pieces.tensor()?);
    }
    Ok(tensors)
}
