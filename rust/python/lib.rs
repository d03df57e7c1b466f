//! The native module of the Python package. It converts values and releases the GIL around work, nothing else.

mod adapters;
mod calibrate;
mod conformance;
mod engine;
mod errors;
mod model;
mod numerics;
mod receipt;
mod roof;
mod source;
mod state;
mod stream;

use intact_core::kernels::{Kernels, SETS};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// The kernel sets of this build: `[{"name", "needs", "available", "chosen"}]`, slowest first.
#[pyfunction]
fn kernels(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let chosen = Kernels::choose(None).map(|kernels| kernels.name);
    let list = PyList::empty(py);
    for set in SETS {
        let entry = PyDict::new(py);
        entry.set_item("name", set.kernels.name)?;
        entry.set_item("needs", set.needs)?;
        entry.set_item("available", (set.available)())?;
        entry.set_item("chosen", Some(set.kernels.name) == chosen)?;
        list.append(entry)?;
    }
    Ok(list)
}

/// CPUs that this process may use, by affinity and by a container's quota; at least 1.
#[pyfunction]
fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Hands memory that was freed, but kept by the allocator, back to the system. Parsing a tokenizer leaves tens of MB.
#[pyfunction]
fn release_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: glibc's malloc_trim may be called at any time, from any thread.
        unsafe { malloc_trim(0) };
    }
}

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("CONTRACT_VERSION", intact_core::CONTRACT_VERSION)?;
    m.add("ROTATION", intact_quantize::encode::ROTATION)?;
    m.add_function(wrap_pyfunction!(kernels, m)?)?;
    m.add_function(wrap_pyfunction!(usable_cpus, m)?)?;
    m.add_function(wrap_pyfunction!(release_free_memory, m)?)?;
    m.add_function(wrap_pyfunction!(conformance::conformance, m)?)?;
    m.add_function(wrap_pyfunction!(roof::decode_bytes, m)?)?;
    m.add_function(wrap_pyfunction!(model::matrix_bytes, m)?)?;
    m.add_function(wrap_pyfunction!(roof::read_bandwidth, m)?)?;
    m.add("MAX_RECEIPT_BYTES", intact::receipt::MAX_BYTES)?;
    m.add_function(wrap_pyfunction!(receipt::check_receipt, m)?)?;
    m.add_class::<model::Model>()?;
    m.add_class::<source::Source>()?;
    m.add_class::<engine::Engine>()?;
    m.add_class::<state::State>()?;
    m.add_function(wrap_pyfunction!(adapters::adapters, m)?)?;
    m.add_function(wrap_pyfunction!(adapters::choose_adapter, m)?)?;
    m.add_function(wrap_pyfunction!(adapters::self_test, m)?)?;
    m.add_class::<calibrate::Calibration>()?;
    numerics::register(m)
}
