//! Rust errors as the exception classes of `intact.errors`.

use intact::{RequestError, StateError};
use pyo3::prelude::*;
use std::fmt::Display;

/// An exception of class `intact.errors.<class>`.
fn raise(class: &str, message: &dyn Display) -> PyErr {
    Python::attach(|py| {
        let found = py.import("intact.errors").and_then(|module| module.getattr(class));
        match found.and_then(|class| class.call1((message.to_string(),))) {
            Ok(value) => PyErr::from_value(value),
            Err(error) => error,
        }
    })
}

/// A file, directory or source that cannot be used.
pub(crate) fn model(error: impl Display) -> PyErr {
    raise("ModelError", &error)
}

/// A request that cannot be run.
pub(crate) fn request(error: impl Display) -> PyErr {
    raise("RequestError", &error)
}

/// A request that cannot be run, or the failure of the device that runs it.
pub(crate) fn engine(error: RequestError) -> PyErr {
    match error {
        RequestError::Device { .. } => device(error),
        _ => request(error),
    }
}

/// A state that cannot be gone on from, or what becomes of its request.
pub(crate) fn state(error: StateError) -> PyErr {
    match error {
        StateError::Request(error) => engine(error),
        _ => raise("StateError", &error),
    }
}

/// A receipt that cannot be read.
pub(crate) fn receipt(error: impl Display) -> PyErr {
    raise("ReceiptError", &error)
}

/// A device or kernel set that is not there.
pub(crate) fn device(error: impl Display) -> PyErr {
    raise("DeviceError", &error)
}
