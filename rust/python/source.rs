//! `Source`: a checkpoint in floats or in another engine's codes.

use crate::{errors, model};
use intact::model::Extras;
use intact_quantize::arch::Role;
use intact_quantize::convert::{self, Options};
use intact_quantize::import::{self, Array, Meta, TokenizerFiles};
use intact_quantize::survey;
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A GGUF file or Hugging Face directory, opened for reading.
#[pyclass(frozen, module = "intact._native")]
pub(crate) struct Source(pub(crate) import::Source);

#[pymethods]
impl Source {
    #[new]
    #[pyo3(signature = (path, rotate = false))]
    fn new(py: Python<'_>, path: PathBuf, rotate: bool) -> PyResult<Self> {
        let source = py.detach(|| import::Source::open(&path)).map_err(errors::model)?;
        Ok(Self(if rotate { convert::rotate(source).map_err(errors::model)? } else { source }))
    }

    /// "gguf" or "safetensors".
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0.tokenizer {
            TokenizerFiles::Gguf(_) => "gguf",
            TokenizerFiles::HuggingFace(_) => "safetensors",
        }
    }

    /// The text of a Hugging Face config.json.
    fn config(&self) -> String {
        serde_json::Value::Object(self.0.config.clone()).to_string()
    }

    /// Hugging Face names, sorted.
    fn tensor_names(&self) -> Vec<&str> {
        self.0.tensors.keys().map(String::as_str).collect()
    }

    /// The matrices of the model that this becomes, in order: name, "body", "head" or "embedding", rows and columns.
    fn matrices(&self) -> PyResult<Vec<(String, &'static str, usize, usize)>> {
        let role = |role| match role {
            Role::Body => "body",
            Role::Head => "head",
            Role::Embedding => "embedding",
        };
        let plans = convert::matrices(&self.0).map_err(errors::model)?;
        Ok(plans.into_iter().map(|plan| (plan.name, role(plan.role), plan.rows, plan.columns)).collect())
    }

    /// The format that keeps the codes of a matrix's tensor; None where there is none.
    fn own_format(&self, py: Python<'_>, matrix: &str) -> PyResult<Option<String>> {
        let own = py.detach(|| survey::own_format(&self.0, matrix)).map_err(errors::model)?;
        Ok(own.map(|format| format.to_string()))
    }

    /// Bytes of all files of the directory that a conversion with these formats writes, or a few more.
    #[pyo3(signature = (files, provenance, *, profile = "default", body = None, head = None, formats = None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn directory_bytes(
        &self, py: Python<'_>, files: BTreeMap<String, Vec<u8>>, provenance: BTreeMap<String, String>, profile: &str,
        body: Option<&str>, head: Option<&str>, formats: Option<BTreeMap<String, String>>,
    ) -> PyResult<usize> {
        let options = model::options(profile, body, head, formats)?;
        let outline = py.detach(|| survey::outline(&self.0, &options)).map_err(errors::model)?;
        let bytes = intact::model::directory_bytes(&outline, &Extras { files, provenance });
        bytes.ok_or_else(|| errors::model(format!("{}: too large for this machine", self.0.path.display())))
    }

    /// Relative error energies of matrices in formats, by a sample of rows that are quantized by a calibration.
    /// `progress(done, total, matrix)` may raise to stop.
    #[pyo3(signature = (candidates, *, calibration = None, threads = None, progress = None))]
    fn survey(
        &self, py: Python<'_>, candidates: BTreeMap<String, Vec<String>>, calibration: Option<PathBuf>,
        threads: Option<usize>, progress: Option<Py<PyAny>>,
    ) -> PyResult<BTreeMap<String, Vec<f64>>> {
        let named = |(matrix, names): (String, Vec<String>)| {
            let formats: PyResult<Vec<_>> = names.iter().map(|name| model::format(&matrix, name)).collect();
            formats.map(|formats| (matrix, formats))
        };
        let candidates = candidates.into_iter().map(named).collect::<PyResult<_>>()?;
        let calibration = model::calibration(py, calibration)?;
        let options = Options { calibration, threads: model::threads(threads)?, ..Options::default() };
        model::reporting(py, progress, |report| {
            survey::survey(&self.0, &candidates, &options, report).map_err(|error| error.to_string())
        })
    }

    /// The element type of a tensor, such as "Q4_1".
    fn tensor_type(&self, name: &str) -> PyResult<String> {
        Ok(format!("{:?}", self.tensor_of(name)?.dtype))
    }

    /// The shape of a tensor, rows first.
    fn tensor_shape<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.tensor_of(name)?.shape)
    }

    /// A tensor as float32.
    fn tensor<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let tensor = self.tensor_of(name)?;
        let values = py.detach(|| dequantize(tensor)).map_err(errors::model)?;
        PyArray1::from_vec(py, values).reshape(tensor.shape.clone())
    }

    /// All metadata of a GGUF file, None for a directory.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let TokenizerFiles::Gguf(metadata) = &self.0.tokenizer else { return Ok(None) };
        let out = PyDict::new(py);
        for (key, value) in metadata {
            out.set_item(key, to_python(py, value)?)?;
        }
        Ok(Some(out))
    }

    /// The files of a directory that concern text, by name; empty for GGUF.
    fn tokenizer_files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        if let TokenizerFiles::HuggingFace(files) = &self.0.tokenizer {
            for (name, path) in files {
                out.set_item(name, path)?;
            }
        }
        Ok(out)
    }
}

impl Source {
    fn tensor_of(&self, name: &str) -> PyResult<&import::Tensor> {
        self.0.tensors.get(name).ok_or_else(|| errors::model(format!("{name}: there is no such tensor")))
    }
}

fn dequantize(tensor: &import::Tensor) -> Result<Vec<f32>, intact_quantize::error::Error> {
    if tensor.shape.len() < 2 {
        return tensor.vector_f32();
    }
    let columns = tensor.shape[1];
    let mut values = vec![0.0; tensor.shape[0] * columns];
    for (row, out) in values.chunks_exact_mut(columns.max(1)).enumerate() {
        tensor.row_f32(row, out)?;
    }
    Ok(values)
}

fn to_python<'py>(py: Python<'py>, value: &Meta) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Meta::U64(v) => v.into_pyobject(py)?.into_any(),
        Meta::I64(v) => v.into_pyobject(py)?.into_any(),
        Meta::F64(v) => v.into_pyobject(py)?.into_any(),
        Meta::Bool(v) => v.into_pyobject(py)?.to_owned().into_any(),
        Meta::String(v) => v.into_pyobject(py)?.into_any(),
        Meta::Array(Array::Strings(texts)) => PyList::new(py, texts.iter().collect::<Vec<_>>())?.into_any(),
        Meta::Array(Array::Scalars(values)) => {
            let list = PyList::empty(py);
            for value in values.iter() {
                list.append(to_python(py, &value)?)?;
            }
            list.into_any()
        }
    })
}
