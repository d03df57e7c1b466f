//! `Engine`: requests in, tokens out.

use crate::errors;
use crate::model::{self, Model};
use crate::receipt::{self, Verdict};
use crate::state::State;
use intact::receipt::Spot;
use intact::request::{Finish, Request};
use intact::{Engine as Inner, Options, RequestError, Split};
use intact_core::certify::Certified;
use intact_core::cpu::Pool;
use intact_core::executor::Executor;
use intact_core::kernels::Kernels;
use intact_core::ops::sample::Sampling;
use intact_gpu::{Adapter, Gpu};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, PoisonError};

/// One model with its threads, cache and sequences. Calls from several threads take turns.
#[pyclass(frozen, module = "intact._native")]
pub(crate) struct Engine {
    inner: Mutex<Inner>,
    /// The adapter's name, or "cpu".
    device: Mutex<String>,
    model: Arc<Certified>,
    pool: Arc<Pool>,
    options: Options,
    threads: usize,
}

/// (request, stream, token, logprob, top, finish).
type Event = (u64, u32, u32, Option<i32>, Vec<(u32, i32)>, Option<&'static str>);

impl Engine {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Inner) -> T + Send) -> T {
        py.detach(|| work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The executor on the GPU of that name but for the last `offload` layers, or on the CPU, with the device's name.
    fn executor(&self, device: Option<&str>, offload: usize) -> PyResult<(Box<dyn Executor>, String)> {
        let cpu = |model| intact::engine::cpu(model, Arc::clone(&self.pool), &self.options);
        let Some(wanted) = device else {
            return Ok((Box::new(cpu(Arc::clone(&self.model))), "cpu".to_owned()));
        };
        let adapter = Adapter::choose(wanted).map_err(errors::device)?;
        let gpu = |model| adapter.open().and_then(|device| Gpu::new(device, model, self.options.page));
        let name = adapter.label().to_owned();
        if offload == 0 {
            return Ok((Box::new(gpu(Arc::clone(&self.model)).map_err(errors::device)?), name));
        }
        let Some((first, second)) = self.model.divide(offload) else {
            let layers = self.model.attentions().len();
            return Err(errors::request(format!(
                "offload: {offload} is not within 0…{layers}, the layers of the model"
            )));
        };
        let parts = (Arc::new(first), Arc::new(second));
        let first = gpu(Arc::clone(&parts.0)).map_err(errors::device)?;
        let second = cpu(Arc::clone(&parts.1));
        Ok((Box::new(Split::new(&parts, Box::new(first), second)), name))
    }

    /// Changes the executor.
    fn change(
        &self, py: Python<'_>, device: Option<&str>, offload: usize,
        change: impl FnOnce(&mut Inner, Box<dyn Executor>) -> Result<(), RequestError> + Send,
    ) -> PyResult<()> {
        let (executor, name) = py.detach(|| self.executor(device, offload))?;
        self.with(py, |engine| change(engine, executor)).map_err(errors::engine)?;
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = name;
        Ok(())
    }

    /// The engine and its threads, for work without the GIL.
    pub(crate) fn lend<T>(&self, work: impl FnOnce(&mut Inner, &Pool) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner), &self.pool)
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (model, *, device = None, offload = 0, kernels = None, threads = None, chunk = 256, page = 64,
                        kv_tokens = None, max_sequences = 256))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>, model: &Model, device: Option<&str>, offload: usize, kernels: Option<&str>,
        threads: Option<usize>, chunk: usize, page: usize, kv_tokens: Option<usize>, max_sequences: usize,
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
        let engine = Self {
            inner: Mutex::new(Inner::new(&model.0, Arc::clone(&pool), options)),
            device: Mutex::new("cpu".to_owned()),
            model: Arc::clone(&model.0.certified),
            pool,
            options,
            threads,
        };
        if device.is_some() {
            engine.to(py, device, offload)?;
        }
        Ok(engine)
    }

    /// The device in use: "cpu", or the name of an adapter.
    #[getter]
    fn device(&self) -> String {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on on the GPU of that name, or on the CPU for None, with all that is cached; the last `offload` layers stay on
    /// the CPU.
    #[pyo3(signature = (device = None, offload = 0))]
    fn to(&self, py: Python<'_>, device: Option<&str>, offload: usize) -> PyResult<()> {
        self.change(py, device, offload, Inner::move_to)
    }

    /// Goes on on the CPU after a device has failed: what was cached is computed again.
    fn start_again(&self, py: Python<'_>) -> PyResult<()> {
        self.change(py, None, 0, |engine, executor| {
            engine.start_again(executor);
            Ok(())
        })
    }

    /// The kernel set in use.
    #[getter]
    fn kernels(&self) -> &'static str {
        self.options.kernels.name
    }

    /// Threads in use.
    #[getter]
    fn threads(&self) -> usize {
        self.threads
    }

    /// Takes a request and returns its number; its tokens come from `step`. Settings are the contract's integers.
    #[pyo3(signature = (prompt, *, max_tokens, temperature, top_k, top_p, min_p, seed, n, stop_ids, logprobs,
                        first_step = 0, receipt = None, state = None))]
    #[allow(clippy::too_many_arguments)]
    fn add(
        &self, py: Python<'_>, prompt: Vec<u32>, max_tokens: u32, temperature: u32, top_k: u32, top_p: u32, min_p: u32,
        seed: u64, n: u32, stop_ids: Vec<u32>, logprobs: Option<u32>, first_step: u32, receipt: Option<&str>,
        state: Option<&State>,
    ) -> PyResult<u64> {
        let trace = receipt.map(receipt::trace).transpose()?;
        let sampling = Sampling { temperature, top_k, top_p, min_p, seed };
        let request = Request { prompt, max_tokens, sampling, n, stop_ids, logprobs, first_step };
        if let Some(State(state)) = state {
            return self.with(py, |engine| engine.add_from(request, trace, state)).map_err(errors::state);
        }
        let add = |engine: &mut Inner| match trace {
            Some(trace) => engine.add_with_receipt(request, trace),
            None => engine.add(request),
        };
        self.with(py, add).map_err(errors::engine)
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
        let verdict = self.with(py, |engine| engine.verify(&receipt, spot)).map_err(errors::engine)?;
        receipt::verdict(py, &verdict)
    }

    /// Ends a request, or one of its continuations.
    #[pyo3(signature = (request, stream = None))]
    fn cancel(&self, py: Python<'_>, request: u64, stream: Option<u32>) {
        self.with(py, |engine| engine.cancel(request, stream));
    }

    /// Runs one batch; returns (request, stream, token, logprob, top, finish) for every token that it generated.
    fn step(&self, py: Python<'_>) -> PyResult<Vec<Event>> {
        let events = self.with(py, Inner::step).map_err(errors::engine)?;
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

    /// What the caches hold after these tokens; what `state` knows of them is not computed again.
    #[pyo3(signature = (tokens, state = None))]
    fn state(&self, py: Python<'_>, tokens: Vec<u32>, state: Option<&State>) -> PyResult<State> {
        let from = state.map(|state| &state.0);
        self.with(py, |engine| engine.state(&tokens, from)).map(State).map_err(errors::state)
    }

    /// Whether nothing is left to do.
    fn idle(&self, py: Python<'_>) -> bool {
        self.with(py, |engine| engine.idle())
    }

    /// The logits after every token of one sequence: int32 of shape (tokens, vocabulary), in QF.
    fn logits<'py>(&self, py: Python<'py>, tokens: Vec<u32>) -> PyResult<Bound<'py, PyArray2<i32>>> {
        let shape = [tokens.len(), self.model.model().vocabulary];
        let values = self
            .with(py, |engine| {
                let mut values = Vec::with_capacity(if tokens.is_empty() { 0 } else { self.model.model().vocabulary });
                engine.logits(&tokens, &mut |row| values.extend_from_slice(row))?;
                Ok::<_, RequestError>(values)
            })
            .map_err(errors::engine)?;
        PyArray1::from_vec(py, values).reshape(shape)
    }
}
