//! GPU adapters of this machine.

use crate::errors;
use intact_conformance::self_test::{Depth, run};
use intact_core::CONTRACT_VERSION;
use intact_core::certify::Certified;
use intact_core::executor::Executor;
use intact_gpu::{Adapter, Gpu};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::Arc;

/// The GPU adapters: `[{"name", "backend", "driver", "software", "identity"}]`, the best first. `identity` names
/// everything that a result of the self-test depends on.
#[pyfunction]
pub(crate) fn adapters(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for adapter in py.detach(Adapter::all) {
        list.append(describe(py, &adapter)?)?;
    }
    Ok(list)
}

fn describe<'py>(py: Python<'py>, adapter: &Adapter) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    entry.set_item("name", adapter.label())?;
    entry.set_item("backend", adapter.backend)?;
    entry.set_item("driver", &adapter.driver)?;
    entry.set_item("software", adapter.software)?;
    let (version, driver) = (env!("CARGO_PKG_VERSION"), &adapter.driver);
    let identity = format!("{} | {driver} | intact {version} | contract {CONTRACT_VERSION}", adapter.label());
    entry.set_item("identity", identity)?;
    Ok(entry)
}

/// The adapter that `wanted` names: a back end, a part of an adapter's name, or `backend:name`; empty for the best.
///
/// Raises DeviceError, which lists what there is.
#[pyfunction]
pub(crate) fn choose_adapter<'py>(py: Python<'py>, wanted: &str) -> PyResult<Bound<'py, PyDict>> {
    let adapter = py.detach(|| Adapter::choose(wanted)).map_err(errors::device)?;
    describe(py, &adapter)
}

/// Runs the self-test on the adapter of that name; returns how many programs were equal.
///
/// Raises DeviceError with the first that differs.
#[pyfunction]
pub(crate) fn self_test(py: Python<'_>, adapter: &str) -> PyResult<usize> {
    py.detach(|| {
        let adapter = Adapter::choose(adapter).map_err(|fault| fault.to_string())?;
        // Software compiles a shader in as long as hardware takes for ten, and is there for tests.
        let depth = if adapter.software { Depth::Brief } else { Depth::Full };
        let device = adapter.open().map_err(|fault| fault.to_string())?;
        let mut make = |model: Arc<Certified>, page: usize| -> Result<Box<dyn Executor>, String> {
            let gpu = Gpu::new(device.clone(), model, page);
            gpu.map(|gpu| Box::new(gpu) as Box<dyn Executor>).map_err(|fault| fault.to_string())
        };
        run(depth, &mut make).map_err(|failure| {
            let (name, driver) = (adapter.label(), &adapter.driver);
            format!(
                "{name} (driver {driver}) fails the self-test and is not used: {failure}; update the driver, or use another adapter or device=\"cpu\""
            )
        })
    })
    .map_err(errors::device)
}
