//! Requests in, tokens out.

use crate::error::RequestError;
use crate::memory::allocate;
use crate::model::Loaded;
use crate::receipt::chain::logits as logits_digest;
use crate::receipt::probe::Probe;
use crate::receipt::record::Recorder;
use crate::receipt::{Hash, Receipt, Short, Trace};
use crate::replay::Replay;
use crate::request::{Event, LogProb, Request, RequestId, check_tokens};
use crate::scheduler::{Plan, Scheduler};
use intact_core::certify::Certified;
use intact_core::cpu::{Batch, Cpu, Pool, SHARE};
use intact_core::executor::Executor;
use intact_core::kernels::Kernels;
use intact_core::ops::sample::{LogProbs, draw, greedy, random_word};
use intact_core::ops::softcap::softcap;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// How to run; nothing here changes a bit of any result.
#[derive(Clone, Copy)]
pub struct Options {
    /// Kernel set.
    pub kernels: &'static Kernels,
    /// Tokens per step at most: prefill runs in chunks of this.
    pub chunk: usize,
    /// Sequences per step at most.
    pub max_sequences: usize,
    /// Positions per cache page.
    pub page: usize,
    /// Positions that all sequences together may cache; beyond it, sequences wait or are computed again.
    pub kv_tokens: usize,
    /// Positions of a sequence that a thread takes at least, where threads share the attention of one.
    pub share: usize,
}

impl Options {
    /// Defaults for a model: chunks of 256 tokens, and room for its context or 32768 positions, whichever is more.
    #[must_use]
    pub fn new(kernels: &'static Kernels, context: u32) -> Self {
        let kv_tokens = (context as usize).max(32_768);
        Self { kernels, chunk: 256, max_sequences: 256, page: 64, kv_tokens, share: SHARE }
    }
}

/// Elements that the slots of one step hold at most, 1 GiB of i32: a model of wide slots runs in shorter chunks.
const MAX_SLOT_ELEMENTS: usize = 1 << 28;

/// One model with its sequences.
pub struct Engine {
    pub(crate) model: Arc<Certified>,
    pub(crate) digest: Hash,
    pub(crate) executor: Box<dyn Executor>,
    pub(crate) scheduler: Scheduler,
    requests: BTreeMap<RequestId, Running>,
    /// Of requests that have ended, until they are taken.
    receipts: BTreeMap<RequestId, Receipt>,
    next: RequestId,
    pub(crate) options: Options,
    pub(crate) logits: Vec<i32>,
}

/// A request of which a continuation is not finished.
struct Running {
    request: Request,
    /// The scheduler's keys of its continuations, in order of stream.
    keys: Range<u64>,
    /// Continuations that are not finished.
    open: u32,
    recorder: Option<Recorder>,
}

impl Engine {
    /// An engine for `loaded` on the threads of `pool`.
    #[must_use]
    pub fn new(loaded: &Loaded, pool: Arc<Pool>, options: Options) -> Self {
        let cpu = cpu(Arc::clone(&loaded.certified), pool, &options);
        Self::with_executor(loaded, Box::new(cpu), options)
    }

    /// An engine for `loaded` on `executor`, which runs the same model; its page counts, not that of `options`.
    #[must_use]
    pub fn with_executor(loaded: &Loaded, executor: Box<dyn Executor>, mut options: Options) -> Self {
        let model = Arc::clone(&loaded.certified);
        let width: usize = model.widths().iter().sum();
        options.chunk = options.chunk.min(MAX_SLOT_ELEMENTS / width.max(1)).max(1);
        (options.page, options.max_sequences) = (executor.page(), options.max_sequences.max(1));
        let mut scheduler = Scheduler::default();
        scheduler.pages.most = options.kv_tokens.div_ceil(options.page).max(1);
        // Every model that was loaded has a digest of 64 digits.
        let digest = Hash::parse(&loaded.manifest.digest).unwrap_or_default();
        let (requests, receipts) = (BTreeMap::new(), BTreeMap::new());
        Self { model, digest, executor, scheduler, requests, receipts, next: 0, options, logits: Vec::new() }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Certified {
        &self.model
    }

    /// The model, to keep while the engine runs.
    #[must_use]
    pub fn certified(&self) -> Arc<Certified> {
        Arc::clone(&self.model)
    }

    /// Runs `tokens` as one sequence in one batch and gives `see` the slot that an op has written, for every write of
    /// the program in order: tokens · width values, in the head too.
    ///
    /// # Errors
    /// As for a prompt; [`RequestError::CacheTooSmall`] where slots of so many tokens are too large as well.
    pub fn observe(&mut self, tokens: &[u32], see: &mut dyn FnMut(&[i32])) -> Result<(), RequestError> {
        check_tokens(tokens, self.model.model().vocabulary, self.context())?;
        let capacity = MAX_SLOT_ELEMENTS / self.model.widths().iter().sum::<usize>().max(1);
        if tokens.len() > capacity {
            return Err(RequestError::CacheTooSmall { tokens: tokens.len(), capacity });
        }
        Replay::new(self).observe(tokens, see)
    }

    pub(crate) fn context(&self) -> usize {
        self.model.model().context as usize
    }

    /// Takes a request; its tokens come from [`Engine::step`].
    ///
    /// # Errors
    /// A field out of range, or a sequence that the cache could never hold.
    pub fn add(&mut self, request: Request) -> Result<RequestId, RequestError> {
        Ok(self.queue(request, None)?.0)
    }

    /// Takes a request and keeps a receipt for it, which [`Engine::take_receipt`] gives once the request has ended.
    ///
    /// # Errors
    /// As for [`Engine::add`]; [`RequestError::ReceiptTooLarge`].
    pub fn add_with_receipt(&mut self, request: Request, trace: Trace) -> Result<RequestId, RequestError> {
        Ok(self.queue(request, Some(trace))?.0)
    }

    /// Also returns the scheduler's key of the first continuation.
    pub(crate) fn queue(
        &mut self, mut request: Request, trace: Option<Trace>,
    ) -> Result<(RequestId, u64), RequestError> {
        request.check(self.model.model().vocabulary, self.context())?;
        if trace.is_some() && request.first_step > 0 {
            // A receipt says nothing about where its request began.
            let (found, range) = (u64::from(request.first_step), "0 where a receipt is asked for");
            return Err(RequestError::OutOfRange { field: "first_step", found, range });
        }
        let tokens = request.prompt.len().saturating_add(request.max_tokens as usize - 1).min(self.context());
        let capacity = self.scheduler.pages.most * self.options.page;
        if tokens > capacity {
            return Err(RequestError::CacheTooSmall { tokens, capacity });
        }
        let recorder = trace.map(|trace| Recorder::new(&self.model, self.digest, &request, trace)).transpose()?;
        request.stop_ids.sort_unstable();
        let id = self.next;
        self.next += 1;
        let keys = self.scheduler.add(id, &request);
        let (open, first) = (request.n, keys.start);
        self.requests.insert(id, Running { request, keys, open, recorder });
        Ok((id, first))
    }

    /// Ends a request, or one of its continuations, without a further event.
    pub fn cancel(&mut self, id: RequestId, stream: Option<u32>) {
        let Some(running) = self.requests.get(&id) else { return };
        let keys = match stream {
            None => running.keys.clone(),
            Some(stream) => {
                let key = running.keys.start + u64::from(stream);
                key..(key + 1).min(running.keys.end)
            }
        };
        keys.for_each(|key| self.close(id, key));
    }

    /// Ends a continuation, and with the last one its request.
    fn close(&mut self, id: RequestId, key: u64) {
        let Some(running) = self.requests.get_mut(&id) else { return };
        if self.scheduler.remove(key) {
            running.open -= 1;
            if running.open == 0 {
                let recorder = self.requests.remove(&id).and_then(|running| running.recorder);
                self.receipts.extend(recorder.map(|recorder| (id, recorder.finish())));
            }
        }
    }

    /// The receipt of a request that has ended, by itself or by [`Engine::cancel`]. It is there until it is taken; none
    /// where the request was added without one.
    pub fn take_receipt(&mut self, id: RequestId) -> Option<Receipt> {
        self.receipts.remove(&id)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.scheduler.is_empty()
    }

    /// Runs one batch and returns the tokens that it generated; none while prompts are being read.
    ///
    /// # Errors
    /// [`RequestError::OutOfMemory`] when the cache cannot grow; the sequences stay as they were.
    /// [`RequestError::Device`] when the device failed.
    pub fn step(&mut self) -> Result<Vec<Event>, RequestError> {
        let plan = self.scheduler.plan(self.options.chunk, self.options.max_sequences, self.options.page);
        self.reserve()?;
        let tables: Vec<&[u32]> = plan.runs.iter().map(|&(key, _)| self.scheduler.table(key)).collect();
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        let mut probe = self.probe(&plan);
        let batch = Batch { tokens: &plan.tokens, tables: &tables };
        let forward = probe.watch(|see| self.executor.forward(&batch, &mut logits, see));
        if let Err(fault) = forward {
            self.logits = logits;
            return Err(fault.into());
        }

        let mut rows = logits.chunks_exact_mut(self.model.model().vocabulary).enumerate();
        let mut events = Vec::new();
        for (key, end) in plan.runs {
            let last = plan.tokens[end - 1];
            if let Some(sequence) = self.scheduler.get_mut(key) {
                sequence.computed = last.position as usize + 1;
            }
            if last.logits {
                events.extend(rows.next().and_then(|(i, row)| self.extend(key, row, probe.digests(i))));
            }
        }
        self.logits = logits;
        Ok(events)
    }

    /// Goes on with another executor of the same model, such as one on another device: takes over what the caches hold,
    /// and changes no bit of what is still to come.
    ///
    /// # Errors
    /// [`RequestError::OutOfMemory`] and [`RequestError::Device`]; the engine goes on with the executor that it has.
    ///
    /// # Panics
    /// When the pages of `executor` are of another size.
    pub fn move_to(&mut self, mut executor: Box<dyn Executor>) -> Result<(), RequestError> {
        assert_eq!(executor.page(), self.options.page, "positions per page");
        executor.reserve(self.scheduler.pages.high_water())?;
        let mut bytes = Vec::new();
        for page in self.scheduler.pages.taken() {
            bytes.clear();
            self.executor.save(page, &mut bytes)?;
            executor.restore(page, &bytes)?;
        }
        self.executor = executor;
        Ok(())
    }

    /// Goes on with another executor of the same model after the one before it has failed: nothing of its caches is
    /// there any more, and it is computed again.
    ///
    /// # Panics
    /// When the pages of `executor` are of another size.
    pub fn start_again(&mut self, executor: Box<dyn Executor>) {
        assert_eq!(executor.page(), self.options.page, "positions per page");
        self.scheduler.forget();
        self.executor = executor;
    }

    /// Hashes what a receipt has to say about the slots of this step.
    fn probe(&self, plan: &Plan) -> Probe {
        let traced = |sequence: u32| {
            let running =
                self.scheduler.get(plan.runs[sequence as usize].0).and_then(|s| self.requests.get(&s.request));
            let recorder = running.and_then(|running| running.recorder.as_ref());
            recorder.is_some_and(|recorder| recorder.trace() == Trace::Tensors)
        };
        Probe::new(&self.model, &plan.tokens, traced)
    }

    /// Chooses the next token of a sequence, and ends the sequence where it is complete.
    fn extend(&mut self, key: u64, logits: &mut [i32], tensors: &[Short]) -> Option<Event> {
        let context = self.context();
        let sequence = self.scheduler.get_mut(key)?;
        let Running { request, recorder, .. } = self.requests.get_mut(&sequence.request)?;
        let stream = sequence.stream;
        // Before the choice, which may apply the final softcap.
        let hash = recorder.is_some().then(|| logits_digest(logits));
        let step = request.first_step.saturating_add(sequence.generated() as u32);
        let (token, logprob, top) = choose(logits, &self.model, request, stream, step);
        sequence.tokens.push(token);
        let finish = request.finish(token, sequence.generated(), context);
        if let (Some(recorder), Some(hash)) = (recorder, hash) {
            recorder.push(stream, token, hash, tensors, finish);
        }
        let event = Event { request: sequence.request, stream, token, logprob, top, finish };
        if finish.is_some() {
            self.close(event.request, key);
        }
        Some(event)
    }

    pub(crate) fn reserve(&mut self) -> Result<(), RequestError> {
        let pages = self.scheduler.pages.high_water();
        Ok(self.executor.reserve(pages)?)
    }

    /// The logits after every token of `tokens` as one sequence: `tokens.len() · vocabulary` values in QF, after a
    /// final softcap. `each` takes the rows as they come.
    ///
    /// # Errors
    /// As for a prompt.
    pub fn logits(&mut self, tokens: &[u32], each: &mut dyn FnMut(&[i32])) -> Result<(), RequestError> {
        let vocabulary = self.model.model().vocabulary;
        check_tokens(tokens, vocabulary, self.context())?;
        let model = Arc::clone(&self.model);
        let wanted: Vec<usize> = (0..tokens.len()).collect();
        Replay::new(self).run(tokens, &wanted, Trace::Logits, &mut |row| {
            cap(row.logits, &model);
            each(row.logits);
            ControlFlow::Continue(())
        })
    }
}

/// The CPU executor of `model` on the threads of `pool`, with the kernels, page and share of `options`.
#[must_use]
pub fn cpu(model: Arc<Certified>, pool: Arc<Pool>, options: &Options) -> Cpu {
    let mut cpu = Cpu::new(model, options.kernels, pool, options.page, allocate);
    cpu.set_share(options.share);
    cpu
}

/// Applies the model's final softcap, where it has one.
fn cap(logits: &mut [i32], model: &Certified) {
    if let Some(constants) = model.final_softcap() {
        logits.iter_mut().for_each(|x| *x = softcap(*x, constants, model.model().fraction_bits));
    }
}

/// Section 4: greedy choice reads the logits before a final softcap, everything else after it.
pub(crate) fn choose(
    logits: &mut [i32], model: &Certified, request: &Request, stream: u32, step: u32,
) -> (u32, Option<i32>, Vec<LogProb>) {
    let f = model.model().fraction_bits;
    let sampling = &request.sampling;
    let greedy_choice = (sampling.temperature == 0).then(|| greedy(logits));
    if greedy_choice.is_none() || request.logprobs.is_some() {
        cap(logits, model);
    }
    let token = greedy_choice.unwrap_or_else(|| draw(logits, f, sampling, random_word(sampling.seed, stream, step)));
    let Some(count) = request.logprobs else { return (token, None, Vec::new()) };
    let logprobs = LogProbs::new(logits, f);
    let top = logprobs.top(count as usize).into_iter().map(|id| LogProb { token: id, logprob: logprobs.of(id) });
    (token, Some(logprobs.of(token)), top.collect())
}
