//! `Calibration`: second moments of what matrices read.

use crate::engine::Engine;
use crate::errors;
use crate::model::{self, Model};
use intact_core::cpu::Pool;
use intact_quantize::calibrate::{self, Error, Gradient, LONGEST_WINDOW, Settings, Weighting};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Sums over the windows of a text.
#[pyclass(frozen, module = "intact._native")]
pub(crate) struct Calibration(Mutex<calibrate::Calibration>);

/// A [`Gradient`] as Python gives it.
type Given<'py> = (PyReadonlyArray1<'py, f64>, PyReadonlyArray1<'py, i32>, f64);

fn raised(error: Error) -> PyErr {
    match error {
        Error::Request(_) | Error::Other { .. } | Error::Gradients { .. } => errors::request(error),
        _ => errors::model(error),
    }
}

impl Calibration {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut calibrate::Calibration) -> T + Send) -> T {
        py.detach(|| work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[pymethods]
impl Calibration {
    /// Empty sums for a model and a text of this SHA-256.
    #[new]
    fn new(
        py: Python<'_>, model: &Model, text_sha256: String, window: usize, weighting: &str, full: bool,
    ) -> PyResult<Self> {
        let weighting = Weighting::parse(weighting)
            .ok_or_else(|| errors::request(format!("weighting: {weighting:?} is not one of none, auto, gradient")))?;
        if !(1..=LONGEST_WINDOW).contains(&window) {
            return Err(errors::request(format!("window: {window} is not within 1…{LONGEST_WINDOW}")));
        }
        let settings = Settings { model: model.0.manifest.digest.clone(), text: text_sha256, window, weighting, full };
        let empty = py.detach(|| calibrate::Calibration::new(&model.0, settings)).map_err(raised)?;
        Ok(Self(Mutex::new(empty)))
    }

    /// Opens a file.
    #[staticmethod]
    fn read(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let read = py.detach(|| calibrate::Calibration::read(&path)).map_err(errors::model)?;
        Ok(Self(Mutex::new(read)))
    }

    /// Goes on from a file of the same model, text and settings.
    fn resume(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.with(py, |own| own.resume(calibrate::Calibration::read(&path)?)).map_err(raised)
    }

    /// Runs one window and adds it; gradients by matrix are weights of tokens, rows of an embedding, and sensitivity.
    #[pyo3(signature = (engine, tokens, gradients = BTreeMap::new()))]
    fn add(
        &self, py: Python<'_>, engine: &Engine, tokens: Vec<u32>, gradients: BTreeMap<String, Given<'_>>,
    ) -> PyResult<()> {
        let own = |(name, (weights, rows, sensitivity)): (String, Given<'_>)| {
            let (weights, rows) = (weights.as_array().to_vec(), rows.as_array().to_vec());
            (name, Gradient { weights, rows, sensitivity })
        };
        let gradients = gradients.into_iter().map(own).collect();
        self.with(py, |own| engine.lend(|inner, pool| own.add(inner, pool, &tokens, &gradients))).map_err(raised)
    }

    /// Measures what a unit of relative error energy of each matrix costs, where that is not known yet, on some windows.
    /// `progress(done, total, matrix)` may raise to stop.
    #[pyo3(signature = (model, windows, threads = None, progress = None))]
    fn try_matrices(
        &self, py: Python<'_>, model: &Model, windows: Vec<Vec<u32>>, threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let pool = Arc::new(Pool::new(model::threads(threads)?));
        let (vocabulary, context) = (model.0.certified.model().vocabulary, model.0.certified.model().context as usize);
        let sound = |window: &Vec<u32>| {
            (1..=context).contains(&window.len()) && window.iter().all(|&token| (token as usize) < vocabulary)
        };
        if !windows.iter().all(sound) {
            return Err(errors::request("windows: one is empty, too long, or has a token beyond the vocabulary"));
        }
        model::reporting(py, progress, |report| {
            let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            own.try_matrices(&model.0, &pool, &windows, report).map_err(|error| error.to_string())
        })
    }

    /// What a unit of relative error energy of a matrix costs, in nats; None where it is not known.
    fn sensitivity(&self, py: Python<'_>, matrix: &str) -> Option<f64> {
        self.with(py, |own| own.sensitivity(matrix))
    }

    /// Writes the file, complete or not at all.
    fn write(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.with(py, |own| own.write(&path)).map_err(raised)
    }

    /// Windows in the sums.
    #[getter]
    fn windows(&self, py: Python<'_>) -> u64 {
        self.with(py, |own| own.windows)
    }

    /// Whether it holds all second moments.
    #[getter]
    fn full(&self, py: Python<'_>) -> bool {
        self.with(py, |own| own.settings.full)
    }

    /// All matrices that have moments, sorted.
    fn matrices(&self, py: Python<'_>) -> Vec<String> {
        let mut names: Vec<String> =
            self.with(py, |own| own.sets.iter().flat_map(|set| set.matrices.clone()).collect());
        names.sort_unstable();
        names
    }

    /// The weighted sum of squares of each column that a matrix reads; None for a matrix without moments.
    fn importance<'py>(&self, py: Python<'py>, matrix: &str) -> Option<Bound<'py, PyArray1<f64>>> {
        let sums = self.with(py, |own| own.find(matrix).map(calibrate::Set::importance));
        sums.map(|sums| PyArray1::from_vec(py, sums))
    }

    /// The packed lower triangle of second moments; None where there is none.
    fn moments<'py>(&self, py: Python<'py>, matrix: &str) -> Option<Bound<'py, PyArray1<f64>>> {
        let sums = self.with(py, |own| own.find(matrix)?.moments().map(<[f64]>::to_vec));
        sums.map(|sums| PyArray1::from_vec(py, sums))
    }
}
