//! What `intact bench` compares the speed of decoding with: the bytes of a token, and how fast memory gives bytes.

use crate::errors;
use crate::model::{Model, threads};
use crate::stream::bandwidth;
use intact_core::program::Op;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

/// Bytes of weights that one token reads when it is decoded alone: all planes of the matrices of linear layers, head
/// included. The few bytes of its embedding and of norms are left out, and so is the KV cache, which grows.
#[pyfunction]
pub(crate) fn decode_bytes(model: &Model) -> usize {
    let model = model.0.certified.model();
    let linear = model.body.iter().chain(&model.head).flat_map(|op| match op {
        Op::Linear { outputs, .. } => outputs.as_slice(),
        _ => &[],
    });
    linear
        .map(|&(matrix, _)| {
            let planes = &model.matrices[matrix].planes;
            let optional = [&planes.scale, &planes.sign, &planes.offset, &planes.bias];
            let optional: usize = optional.into_iter().flatten().map(|plane| plane.bytes().len()).sum();
            planes.payload.bytes().len() + planes.row.bytes().len() + optional
        })
        .sum()
}

/// Bytes per second of reading a buffer of `size` bytes again and again with `threads` threads, the best of several
/// periods. MemoryError where there is no room for the buffer.
#[pyfunction]
pub(crate) fn read_bandwidth(py: Python<'_>, size: usize, threads: usize) -> PyResult<u64> {
    let threads = self::threads(Some(threads))?;
    let count = size / size_of::<u64>();
    if count == 0 {
        return Err(errors::request(format!("size: {size} is not at least {}", size_of::<u64>())));
    }
    py.detach(|| {
        let mut words: Vec<u64> = Vec::new();
        words.try_reserve_exact(count).ok()?;
        // Written, since pages that never were are all the same zeros.
        words.extend(0..count as u64);
        Some(bandwidth(&words, threads))
    })
    .ok_or_else(|| PyMemoryError::new_err(format!("size: no room for {size} bytes")))
}
