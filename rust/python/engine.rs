//! `Engine`: requests in, tokens out.

use crate::errors;
use crate::model::{self, Model};
use crate::receipt::{self, Verdict};
use intact::receipt::Spot;
use intact::request::{Finish, Request};
use intact::{Engine as Inner, Options, RequestError};
use intact_core::cpu::Pool;
use intact_core::kernels::Kernels;
use intact_core::ops::sample::Sampling;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, PoisonError};

/// One model with its threads, cache and sequences. Calls from several threads take turns.
#[pyclass(frozen, module = "intact._native")]
pub(crate) struct Engine {
    inner: Mutex<Inner>,
    pool: Arc<Pool>,
    kernels: &'static str,
    threads: usize,
    vocabulary: usize,
}

/// (request, stream, token, logprob, top, finish).
type Event = (u64, u32, u32, Option<i32>, Vec<(u32, i32)>, Option<&'static str>);

impl Engine {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Inner) -> T + Send) -> T {
        py.detach(|| work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The engine and its threads, for work without the GIL.
    pub(crate) fn lend<T>(&self, work: impl FnOnce(&mut Inner, &Pool) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner), &self.pool)
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (model, *, kernels = None, threads = None, chunk = 256, page = 64, kv_tokens = None,
                        max_sequences = 256))]
    fn new(
        model: &Model, kernels: Option<&str>, threads: Option<usize>, chunk: usize, page: usize,
        kv_tokens: Option<usize>, max_sequences: usize,
    ) -> PyResult<Self> {
        let Some(set) = Kernels::choose(kernels) else {
            let names: Vec<&str> = Kernels::available().iter().map(|kernels| kernels.name).collect();
            let asked = kernels.unwrap_or_default();
            return Err(errors::device(format!("cpu: {asked:?} is not one of {} on this machine", names.join(", "))));
        };
        for (field, value, most) in
            [("chunk", chunk, 1 << 16), ("page", page, 1 << 16), ("max_sequences", max_sequences, 1 << 16)]
        {
            if !(1..=most).contains(&value) {
                return Err(errors::request(format!("{field}: {value} is not within 1…{most}")));
            }
        }
        let defaults = Options::new(set, model.0.certified.model().context);
        let kv_tokens = kv_tokens.unwrap_or(defaults.kv_tokens);
        if !(1..=1 << 32).contains(&kv_tokens) {
            return Err(errors::request(format!("kv_tokens: {kv_tokens} is not within 1…2^32")));
        }
        let options = Options { chunk, page, kv_tokens, max_sequences, ..defaults };
        let pool = Arc::new(Pool::new(model::threads(threads)?));
        let threads = pool.threads();
        let vocabulary = model.0.certified.model().vocabulary;
        Ok(Self {
            inner: Mutex::new(Inner::new(&model.0, Arc::clone(&pool), options)),
            pool,
            kernels: set.name,
            threads,
            vocabulary,
        })
    }

    /// The kernel set in use.
    #[getter]
    fn kernels(&self) -> &'static str {
        self.kernels
    }

    /// Threads in use.
    #[getter]
    fn threads(&self) -> usize {
        self.threads
    }

    /// Takes a request and returns its number; its tokens come from `step`. Settings are the contract's integers.
    #[pyo3(signature = (prompt, *, max_tokens, temperature, top_k, top_p, min_p, seed, n, stop_ids, logprobs,
                        receipt = None))]
    #[allow(clippy::too_many_arguments)]
    fn add(
        &self, py: Python<'_>, prompt: Vec<u32>, max_tokens: u32, temperature: u32, top_k: u32, top_p: u32, min_p: u32,
        seed: u64, n: u32, stop_ids: Vec<u32>, logprobs: Option<u32>, receipt: Option<&str>,
    ) -> PyResult<u64> {
        let trace = receipt.map(receipt::trace).transpose()?;
        let sampling = Sampling { temperature, top_k, top_p, min_p, seed };
        let request = Request { prompt, max_tokens, sampling, n, stop_ids, logprobs };
        let add = |engine: &mut Inner| match trace {
            Some(trace) => engine.add_with_receipt(request, trace),
            None => engine.add(request),
        };
        self.with(py, add).map_err(errors::request)
    }

    /// The receipt of a request that has ended, once; None where it has none. Of output i it keeps `lengths[i]` tokens.
    fn take_receipt<'py>(&self, py: Python<'py>, request: u64, lengths: Vec<usize>) -> Option<Bound<'py, PyBytes>> {
        let bytes = self.with(py, |engine| {
            let mut receipt = engine.take_receipt(request)?;
            lengths.into_iter().enumerate().for_each(|(stream, length)| receipt.cut(stream, length));
            Some(receipt.to_bytes())
        });
        bytes.map(|bytes| PyBytes::new(py, &bytes))
    }

    /// Checks a receipt: all steps, or `spot` steps chosen by `spot_seed`.
    #[pyo3(signature = (receipt, spot = None, spot_seed = 0))]
    fn verify_receipt<'py>(
        &self, py: Python<'py>, receipt: &[u8], spot: Option<usize>, spot_seed: u64,
    ) -> PyResult<Verdict<'py>> {
        let spot = spot.map(|steps| Spot { steps, seed: spot_seed });
        let receipt = receipt::parse(py, receipt)?;
        let verdict = self.with(py, |engine| engine.verify(&receipt, spot)).map_err(errors::request)?;
        receipt::verdict(py, &verdict)
    }

    /// Ends a request, or one of its continuations.
    #[pyo3(signature = (request, stream = None))]
    fn cancel(&self, py: Python<'_>, request: u64, stream: Option<u32>) {
        self.with(py, |engine| engine.cancel(request, stream));
    }

    /// Runs one batch; returns (request, stream, token, logprob, top, finish) for every token that it generated.
    fn step(&self, py: Python<'_>) -> PyResult<Vec<Event>> {
        let events = self.with(py, Inner::step).map_err(errors::request)?;
        let event = |event: intact::request::Event| {
            let top = event.top.into_iter().map(|entry| (entry.token, entry.logprob)).collect();
            let finish = event.finish.map(|finish| match finish {
                Finish::Stop => "stop",
                Finish::Length => "length",
            });
            (event.request, event.stream, event.token, event.logprob, top, finish)
        };
        Ok(events.into_iter().map(event).collect())
    }

    /// Whether nothing is left to do.
    fn idle(&self, py: Python<'_>) -> bool {
        self.with(py, |engine| engine.idle())
    }

    /// The logits after every token of one sequence: int32 of shape (tokens, vocabulary), in QF.
    fn logits<'py>(&self, py: Python<'py>, tokens: Vec<u32>) -> PyResult<Bound<'py, PyArray2<i32>>> {
        let shape = [tokens.len(), self.vocabulary];
        let values = self
            .with(py, |engine| {
                let mut values = Vec::with_capacity(if tokens.is_empty() { 0 } else { self.vocabulary });
                engine.logits(&tokens, &mut |row| values.extend_from_slice(row))?;
                Ok::<_, RequestError>(values)
            })
            .map_err(errors::request)?;
        PyArray1::from_vec(py, values).reshape(shape)
    }
}
