//! Requests in, tokens out.

use crate::error::RequestError;
use crate::model::Loaded;
use crate::request::{Event, Finish, LogProb, Request, RequestId, check_tokens};
use crate::scheduler::Scheduler;
use intact_core::certify::Certified;
use intact_core::cpu::{Batch, Cpu, Pool, Token};
use intact_core::kernels::Kernels;
use intact_core::ops::sample::{LogProbs, draw, greedy, random_word};
use intact_core::ops::softcap::softcap;
use std::collections::BTreeMap;
use std::ops::Range;
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
}

impl Options {
    /// Defaults for a model: chunks of 256 tokens, and room for its context or 32768 positions, whichever is more.
    #[must_use]
    pub fn new(kernels: &'static Kernels, context: u32) -> Self {
        let kv_tokens = (context as usize).max(32_768);
        Self { kernels, chunk: 256, max_sequences: 256, page: 64, kv_tokens }
    }
}

/// Elements that the slots of one step hold at most, 1 GiB of i32: a model of wide slots runs in shorter chunks.
const MAX_SLOT_ELEMENTS: usize = 1 << 28;

/// One model with its sequences.
pub struct Engine {
    model: Arc<Certified>,
    executor: Cpu,
    scheduler: Scheduler,
    requests: BTreeMap<RequestId, Running>,
    next: RequestId,
    options: Options,
    logits: Vec<i32>,
}

/// A request of which a continuation is not finished.
struct Running {
    request: Request,
    /// The scheduler's keys of its continuations, in order of stream.
    keys: Range<u64>,
    /// Continuations that are not finished.
    open: u32,
}

impl Engine {
    /// An engine for `loaded` on the threads of `pool`.
    #[must_use]
    pub fn new(loaded: &Loaded, pool: Arc<Pool>, mut options: Options) -> Self {
        let model = Arc::clone(&loaded.certified);
        let width: usize = model.widths().iter().sum();
        options.chunk = options.chunk.min(MAX_SLOT_ELEMENTS / width.max(1)).max(1);
        (options.page, options.max_sequences) = (options.page.max(1), options.max_sequences.max(1));
        let executor = Cpu::new(Arc::clone(&model), options.kernels, pool, options.page);
        let mut scheduler = Scheduler::default();
        scheduler.pages.most = options.kv_tokens.div_ceil(options.page).max(1);
        Self { model, executor, scheduler, requests: BTreeMap::new(), next: 0, options, logits: Vec::new() }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Certified {
        &self.model
    }

    fn context(&self) -> usize {
        self.model.model().context as usize
    }

    /// Takes a request; its tokens come from [`Engine::step`].
    ///
    /// # Errors
    /// A field out of range, or a sequence that the cache could never hold.
    pub fn add(&mut self, request: Request) -> Result<RequestId, RequestError> {
        request.check(self.model.model().vocabulary, self.context())?;
        let tokens = request.prompt.len().saturating_add(request.max_tokens as usize - 1).min(self.context());
        let capacity = self.scheduler.pages.most * self.options.page;
        if tokens > capacity {
            return Err(RequestError::CacheTooSmall { tokens, capacity });
        }
        let id = self.next;
        self.next += 1;
        let keys = self.scheduler.add(id, &request);
        let open = request.n;
        self.requests.insert(id, Running { request, keys, open });
        Ok(id)
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
                self.requests.remove(&id);
            }
        }
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
    pub fn step(&mut self) -> Result<Vec<Event>, RequestError> {
        let plan = self.scheduler.plan(self.options.chunk, self.options.max_sequences, self.options.page);
        self.reserve()?;
        let tables: Vec<&[u32]> = plan.runs.iter().map(|&(key, _)| self.scheduler.table(key)).collect();
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        self.executor.forward(&Batch { tokens: &plan.tokens, tables: &tables }, &mut logits, &mut |_, _| ());

        let mut rows = logits.chunks_exact_mut(self.model.model().vocabulary);
        let mut events = Vec::new();
        for (key, end) in plan.runs {
            let last = plan.tokens[end - 1];
            if let Some(sequence) = self.scheduler.get_mut(key) {
                sequence.computed = last.position as usize + 1;
            }
            if last.logits {
                events.extend(rows.next().and_then(|row| self.extend(key, row)));
            }
        }
        self.logits = logits;
        Ok(events)
    }

    /// Chooses the next token of a sequence, and ends the sequence where it is complete.
    fn extend(&mut self, key: u64, logits: &mut [i32]) -> Option<Event> {
        let sequence = self.scheduler.get_mut(key)?;
        let request = &self.requests.get(&sequence.request)?.request;
        let step = sequence.generated() as u32;
        let (token, logprob, top) = choose(logits, &self.model, request, sequence.stream, step);
        sequence.tokens.push(token);
        let full = sequence.generated() >= request.max_tokens as usize
            || sequence.tokens.len() > self.model.model().context as usize;
        let finish = match (request.stop_ids.contains(&token), full) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        };
        let event = Event { request: sequence.request, stream: sequence.stream, token, logprob, top, finish };
        if finish.is_some() {
            self.close(event.request, key);
        }
        Some(event)
    }

    fn reserve(&mut self) -> Result<(), RequestError> {
        let pages = self.scheduler.pages.high_water();
        let kv = self.executor.kv_mut();
        if pages > kv.pages() {
            // Growing by half keeps the copies of a growing cache linear in its size.
            let wanted = pages.max(kv.pages() + kv.pages() / 2).min(self.scheduler.pages.most.max(pages));
            let bytes = kv.page_bytes().unwrap_or(usize::MAX).saturating_mul(wanted - kv.pages());
            kv.reserve(wanted).map_err(|_| RequestError::OutOfMemory { bytes })?;
        }
        Ok(())
    }

    /// The logits after every token of `tokens` as one sequence: `tokens.len() · vocabulary` values in QF, after a
    /// final softcap. `each` takes the rows as they come.
    ///
    /// # Errors
    /// As for a prompt.
    pub fn logits(&mut self, tokens: &[u32], each: &mut dyn FnMut(&[i32])) -> Result<(), RequestError> {
        let vocabulary = self.model.model().vocabulary;
        check_tokens(tokens, vocabulary, self.context())?;
        let mut table = Vec::new();
        if !self.scheduler.pages.extend(&mut table, tokens.len().div_ceil(self.options.page)) {
            let capacity = self.scheduler.pages.most * self.options.page;
            return Err(RequestError::CacheTooSmall { tokens: tokens.len(), capacity });
        }
        let result = self.reserve();
        if result.is_ok() {
            for (i, ids) in tokens.chunks(self.options.chunk).enumerate() {
                let first = (i * self.options.chunk) as u32;
                let token = |(&id, position)| Token { id, sequence: 0, position, logits: true };
                let run: Vec<Token> = ids.iter().zip(first..).map(token).collect();
                self.logits.clear();
                let batch = Batch { tokens: &run, tables: &[&table] };
                self.executor.forward(&batch, &mut self.logits, &mut |_, _| ());
                for row in self.logits.chunks_exact_mut(vocabulary) {
                    cap(row, &self.model);
                    each(row);
                }
            }
        }
        self.scheduler.pages.release(&mut table);
        result
    }
}

/// Applies the model's final softcap, where it has one.
fn cap(logits: &mut [i32], model: &Certified) {
    if let Some(constants) = model.final_softcap() {
        logits.iter_mut().for_each(|x| *x = softcap(*x, constants, model.model().fraction_bits));
    }
}

/// Section 4: greedy choice reads the logits before a final softcap, everything else after it.
fn choose(
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
