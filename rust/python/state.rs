//! `State`: what the caches hold about the beginning of a sequence.

use crate::errors;
use pyo3::prelude::*;
use std::path::PathBuf;

/// Keys and values of the first tokens of a sequence.
#[pyclass(frozen, module = "intact._native")]
pub(crate) struct State(pub(crate) intact::State);

#[pymethods]
impl State {
    /// Reads a file.
    #[staticmethod]
    fn read(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| intact::State::read(&path)).map(Self).map_err(errors::state)
    }

    /// Writes a file, complete or not at all.
    fn write(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.write(&path)).map_err(errors::state)
    }

    /// The tokens.
    #[getter]
    fn tokens(&self) -> Vec<u32> {
        self.0.tokens().to_vec()
    }

    /// The digest of the model.
    #[getter]
    fn model_digest(&self) -> String {
        self.0.model().to_string()
    }

    /// Bytes of keys and values.
    #[getter]
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}
