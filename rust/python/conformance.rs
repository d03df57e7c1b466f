//! The conformance suite from Python.

use intact_conformance::report::{self, Selection};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Runs the conformance suite on the back ends of this machine, or on those named, and returns its report: JSON with
/// `contract`, `machine`, `backends`, `damaged`, `cases`, `expected` and `equal` (docs/CONFORMANCE.md).
///
/// Raises ValueError for a back end that this build does not have.
#[pyfunction]
#[pyo3(signature = (backends=None, threads=1))]
pub(crate) fn conformance(py: Python<'_>, backends: Option<Vec<String>>, threads: usize) -> PyResult<String> {
    let selection = Selection { backends, prefix: String::new(), threads: threads.clamp(1, 1024) };
    let mut stopped = None;
    let result = py.detach(|| {
        report::run(&selection, &mut |_, _, _| match Python::attach(|py| py.check_signals()) {
            Ok(()) => true,
            Err(error) => {
                stopped = Some(error);
                false
            }
        })
    });
    match (stopped, result) {
        (Some(error), _) => Err(error),
        (None, Ok(report)) => Ok(report.json().to_string()),
        (None, Err(problem)) => Err(PyValueError::new_err(problem)),
    }
}
