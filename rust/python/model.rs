//! `Model`: a model directory, or a source converted in memory.

use crate::errors;
use intact::Loaded;
use intact::model::{self, Extras};
use intact_core::cpu::Pool;
use intact_core::formats::{DEFAULT_BLOCK, Format};
use intact_quantize::calibrate::Calibration;
use intact_quantize::convert::{self, Options, Profile};
use intact_quantize::import::Source;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model that passed every check of the contract, and the matrices that did not keep their source's codes.
#[pyclass(frozen, module = "intact._native")]
pub(crate) struct Model(pub(crate) Loaded, Vec<String>);

/// Threads for work on whole models: as asked, or one per CPU that this process may use.
pub(crate) fn threads(asked: Option<usize>) -> PyResult<usize> {
    match asked {
        None => Ok(crate::usable_cpus()),
        Some(n @ 1..=1024) => Ok(n),
        Some(n) => Err(errors::request(format!("threads: {n} is not within 1…1024"))),
    }
}

fn format(field: &str, name: Option<&str>) -> PyResult<Option<Format>> {
    let Some(name) = name else { return Ok(None) };
    Format::parse(name).map(Some).ok_or_else(|| {
        let all = Format::all().filter(|format| format.block == DEFAULT_BLOCK).map(|format| format.to_string());
        let all = all.collect::<Vec<_>>().join(" ");
        errors::request(format!("{field}: {name:?} is not one of {all}, or one of b4, b8, z8 with /16, /64 or /128"))
    })
}

#[pymethods]
impl Model {
    /// Opens a model directory.
    #[staticmethod]
    #[pyo3(signature = (path, threads = None))]
    fn open(py: Python<'_>, path: PathBuf, threads: Option<usize>) -> PyResult<Self> {
        let threads = self::threads(threads)?;
        py.detach(|| Loaded::open(&path, &Pool::new(threads)))
            .map(|model| Self(model, Vec::new()))
            .map_err(errors::model)
    }

    /// Converts a source in memory. `progress(done, total, tensor)` may raise to stop.
    #[staticmethod]
    #[pyo3(signature = (
        source, *, profile = "default", body = None, head = None, formats = None, calibration = None, threads = None,
        progress = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn convert(
        py: Python<'_>, source: PathBuf, profile: &str, body: Option<&str>, head: Option<&str>,
        formats: Option<BTreeMap<String, String>>, calibration: Option<PathBuf>, threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let threads = self::threads(threads)?;
        let named = |(matrix, name): (String, String)| {
            format(&matrix, Some(&name)).map(|format| format.map(|format| (matrix, format)))
        };
        let formats: PyResult<Vec<_>> = formats.unwrap_or_default().into_iter().map(named).collect();
        let calibration = calibration.map(|path| py.detach(|| Calibration::read(&path)).map_err(errors::model));
        let options = Options {
            formats: formats?.into_iter().flatten().collect(),
            calibration: calibration.transpose()?.map(Arc::new),
            profile: Profile::parse(profile)
                .ok_or_else(|| errors::request(format!("profile: {profile:?} is not one of default, fast, fastest")))?,
            body: format("type", body)?,
            head: format("head_type", head)?,
            threads,
            ..Options::default()
        };
        let path = source.as_path();
        let mut raised = None;
        let mut report = |done: usize, total: usize, tensor: &str| {
            let Some(progress) = &progress else { return true };
            raised = Python::attach(|py| progress.call1(py, (done, total, tensor)).err());
            raised.is_none()
        };
        let converted = py.detach(|| -> Result<_, String> {
            let source = Source::open(path).map_err(|error| error.to_string())?;
            let converted = convert::convert(&source, &options, &mut report).map_err(|error| error.to_string())?;
            let model = Loaded::from_model(converted.model, path, &Pool::new(threads));
            Ok(Self(model.map_err(|error| error.to_string())?, converted.requantized))
        });
        match raised {
            Some(error) => Err(error),
            None => converted.map_err(errors::model),
        }
    }

    /// Matrices of a converted source that did not keep its codes; empty for a model directory.
    #[getter]
    fn requantized(&self) -> Vec<String> {
        self.1.clone()
    }

    /// SHA-256 over everything that decides a bit.
    #[getter]
    fn digest(&self) -> &str {
        &self.0.manifest.digest
    }

    /// The directory or source.
    #[getter]
    fn path(&self) -> &Path {
        &self.0.path
    }

    /// F: logits are integers in units of 2^-F.
    #[getter]
    fn fraction_bits(&self) -> u32 {
        self.0.certified.model().fraction_bits
    }

    /// Tokens of the model.
    #[getter]
    fn vocabulary(&self) -> usize {
        self.0.certified.model().vocabulary
    }

    /// The longest sequence.
    #[getter]
    fn context(&self) -> u32 {
        self.0.certified.model().context
    }

    /// Bytes of all planes.
    #[getter]
    fn plane_bytes(&self) -> usize {
        model::plane_bytes(self.0.certified.model())
    }

    /// The text of intact.json.
    fn manifest(&self) -> PyResult<String> {
        serde_json::to_string(&self.0.manifest).map_err(errors::model)
    }

    /// Compares planes and small files with their recorded hashes; returns how many of each were checked.
    fn verify(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        let threads = self::threads(None)?;
        let verified = py.detach(|| self.0.verify(&Pool::new(threads))).map_err(errors::model)?;
        Ok((verified.planes, verified.files))
    }

    /// Writes the model as a directory, complete or not at all.
    #[pyo3(signature = (path, files, provenance, overwrite = false))]
    fn save(
        &self, py: Python<'_>, path: PathBuf, files: BTreeMap<String, Vec<u8>>, provenance: BTreeMap<String, String>,
        overwrite: bool,
    ) -> PyResult<()> {
        let extras = Extras { files, provenance };
        let threads = self::threads(None)?;
        py.detach(|| {
            let model = self.0.certified.model_as_written();
            model::write(&path, &model, &extras, overwrite, &Pool::new(threads))
        })
        .map(|_| ())
        .map_err(errors::model)
    }
}
