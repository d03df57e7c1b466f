//! Receipts as bytes, verdicts as dicts.

use crate::errors;
use intact::receipt::{Receipt, Tensor, Trace, What};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A verdict by the names of its fields.
pub(crate) type Verdict<'py> = Bound<'py, PyDict>;

/// "logits" or "tensors".
pub(crate) fn trace(name: &str) -> PyResult<Trace> {
    match name {
        "logits" => Ok(Trace::Logits),
        "tensors" => Ok(Trace::Tensors),
        _ => Err(errors::request(format!("receipt: {name:?} is not one of logits, tensors"))),
    }
}

pub(crate) fn parse(py: Python<'_>, bytes: &[u8]) -> PyResult<Receipt> {
    py.detach(|| Receipt::parse(bytes)).map_err(errors::receipt)
}

/// Raises ReceiptError unless the bytes are a well-formed receipt.
#[pyfunction]
pub(crate) fn check_receipt(py: Python<'_>, receipt: &[u8]) -> PyResult<()> {
    parse(py, receipt).map(drop)
}

pub(crate) fn verdict<'py>(py: Python<'py>, verdict: &intact::receipt::Verdict) -> PyResult<Verdict<'py>> {
    use intact::receipt::Verdict::{Different, Equal, Refused};
    let (counts, place, what) = match verdict {
        Equal { checked, steps } => (Some((*checked, *steps)), None, None),
        Different { place, what } => (None, *place, Some(what)),
        Refused { .. } => (None, None, None),
    };
    let dict = PyDict::new(py);
    dict.set_item("status", verdict.status())?;
    dict.set_item("message", verdict.to_string())?;
    dict.set_item("checked", counts.map(|(checked, _)| checked))?;
    dict.set_item("steps", counts.map(|(_, steps)| steps))?;
    dict.set_item("what", what.map(What::name))?;
    dict.set_item("output", place.map(|place| place.stream))?;
    dict.set_item("step", place.map(|place| place.step))?;
    dict.set_item("position", place.map(|place| place.position))?;
    let tensor = match what {
        Some(What::Tensor(Tensor { index, part, op, kind, slot, near })) => {
            let tensor = PyDict::new(py);
            tensor.set_item("index", index)?;
            tensor.set_item("part", part)?;
            tensor.set_item("op", op)?;
            tensor.set_item("kind", kind)?;
            tensor.set_item("slot", slot)?;
            tensor.set_item("near", near)?;
            Some(tensor)
        }
        _ => None,
    };
    dict.set_item("tensor", tensor)?;
    Ok(dict)
}
