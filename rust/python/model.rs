//! `Model`: a model directory, or a source converted in memory.

use crate::errors;
use intact::Loaded;
use intact::model::{self, Extras};
use intact_core::cpu::Pool;
use intact_core::formats::{DEFAULT_BLOCK, Format};
use intact_core::matrix::PlaneSizes;
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

/// The format of that name; `field` says where it stands.
pub(crate) fn format(field: &str, name: &str) -> PyResult<Format> {
    Format::parse(name).ok_or_else(|| {
        let all = Format::all().filter(|format| format.block == DEFAULT_BLOCK).map(|format| format.to_string());
        let all = all.collect::<Vec<_>>().join(" ");
        errors::request(format!("{field}: {name:?} is not one of {all}, or one of b4, b8, z8 with /16, /64 or /128"))
    })
}

/// Bytes of a matrix in a format, without bias: all planes with their padding.
#[pyfunction]
pub(crate) fn matrix_bytes(format: &str, rows: usize, columns: usize) -> PyResult<usize> {
    let sizes = PlaneSizes::of(&self::format("format", format)?, rows, columns);
    sizes.and_then(|sizes| sizes.stored()).ok_or_else(|| errors::request("rows, columns: too large for this machine"))
}

/// Options of a conversion as Python names them, without calibration and threads.
pub(crate) fn options(
    profile: &str, body: Option<&str>, head: Option<&str>, formats: Option<BTreeMap<String, String>>,
) -> PyResult<Options> {
    let named = |(matrix, name): (String, String)| format(&matrix, &name).map(|format| (matrix, format));
    Ok(Options {
        profile: Profile::parse(profile)
            .ok_or_else(|| errors::request(format!("profile: {profile:?} is not one of default, fast, fastest")))?,
        body: body.map(|name| format("type", name)).transpose()?,
        head: head.map(|name| format("head_type", name)).transpose()?,
        formats: formats.unwrap_or_default().into_iter().map(named).collect::<PyResult<_>>()?,
        ..Options::default()
    })
}

/// A calibration's file.
pub(crate) fn calibration(py: Python<'_>, path: Option<PathBuf>) -> PyResult<Option<Arc<Calibration>>> {
    let read = |path: PathBuf| py.detach(|| Calibration::read(&path)).map(Arc::new).map_err(errors::model);
    path.map(read).transpose()
}

/// Does long work without the GIL; `work` tells its report how many of how many are done, and what the last one was.
/// `progress`, the same in Python, may raise to stop it.
pub(crate) fn reporting<T: Send>(
    py: Python<'_>, progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(usize, usize, &str) -> bool) -> Result<T, String> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let mut report = |done: usize, total: usize, last: &str| {
        let Some(progress) = &progress else { return true };
        raised = Python::attach(|py| progress.call1(py, (done, total, last)).err());
        raised.is_none()
    };
    let done = py.detach(|| work(&mut report));
    match raised {
        Some(error) => Err(error),
        None => done.map_err(errors::model),
    }
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
        source, *, profile = "default", body = None, head = None, formats = None, calibration = None, rotate = false,
        threads = None, progress = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn convert(
        py: Python<'_>, source: PathBuf, profile: &str, body: Option<&str>, head: Option<&str>,
        formats: Option<BTreeMap<String, String>>, calibration: Option<PathBuf>, rotate: bool, threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let threads = self::threads(threads)?;
        let options = self::options(profile, body, head, formats)?;
        let options = Options { calibration: self::calibration(py, calibration)?, threads, ..options };
        let path = source.as_path();
        reporting(py, progress, |report| {
            let source = Source::open(path).map_err(|error| error.to_string())?;
            let source = if rotate { convert::rotate(source).map_err(|error| error.to_string())? } else { source };
            let converted = convert::convert(&source, &options, report).map_err(|error| error.to_string())?;
            let model = Loaded::from_model(converted.model, path, &Pool::new(threads));
            Ok(Self(model.map_err(|error| error.to_string())?, converted.requantized))
        })
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
