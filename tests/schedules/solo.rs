//! What every request and text gives alone: straight through the executor on the reference kernels and one thread,
//! and section 4 of docs/MODEL.md. No engine takes part, so that what an engine always does wrong shows as well.

use crate::requests::{request, text};
use crate::schedule::Schedule;
use intact::Loaded;
use intact::core::cpu::{Batch, Cpu, Pool, Token};
use intact::core::executor::Executor;
use intact::core::kernels::reference;
use intact::core::ops::sample::{LogProbs, draw, greedy, random_word};
use intact::core::ops::softcap::softcap;
use intact::core::storage::heap;
use intact::request::{Event, Finish, LogProb, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// A request with the events of each of its continuations; their request ids are 0.
pub(crate) struct Alone {
    pub(crate) request: Request,
    pub(crate) streams: Vec<Vec<Event>>,
}

/// One model with what it gives to requests and texts, computed when first asked for.
pub(crate) struct Solo {
    pub(crate) loaded: Loaded,
    executor: Cpu,
    runs: BTreeMap<usize, Rc<Alone>>,
    logits: BTreeMap<usize, Rc<[i32]>>,
}

impl Solo {
    /// The model in directory `path`; `pool` is of one thread.
    pub(crate) fn open(path: &Path, pool: &Arc<Pool>) -> Self {
        let loaded = Loaded::open(path, pool).expect("a model of the oracle");
        let (model, context) = (Arc::clone(&loaded.certified), loaded.certified.model().context as usize);
        let mut executor = Cpu::new(model, &reference::KERNELS, Arc::clone(pool), context, heap);
        executor.reserve(1).expect("enough memory");
        Self { loaded, executor, runs: BTreeMap::new(), logits: BTreeMap::new() }
    }

    pub(crate) fn context(&self) -> usize {
        self.loaded.certified.model().context as usize
    }

    /// The logits, before a final softcap, after each of `tokens`, or after the last. They stand from position `first`
    /// on; of what is cached, the positions before count.
    fn forward(&mut self, tokens: &[u32], first: usize, each: bool) -> Vec<i32> {
        let last = first + tokens.len() - 1;
        let token =
            |(position, &id)| Token { id, sequence: 0, position: position as u32, logits: each || position == last };
        let tokens: Vec<Token> = (first..).zip(tokens).map(token).collect();
        let mut logits = Vec::new();
        self.executor.run(&Batch { tokens: &tokens, tables: &[&[0]] }, &mut logits, &mut |_, _| ());
        logits
    }

    fn cap(&self, logits: &mut [i32]) {
        let model = &self.loaded.certified;
        if let Some(constants) = model.final_softcap() {
            logits.iter_mut().for_each(|x| *x = softcap(*x, constants, model.model().fraction_bits));
        }
    }

    /// Request `number` alone.
    pub(crate) fn run(&mut self, number: usize) -> Rc<Alone> {
        if let Some(alone) = self.runs.get(&number) {
            return Rc::clone(alone);
        }
        let request = request(number, self.context());
        let after_prompt = self.forward(&request.prompt, 0, false);
        let streams = (0..request.n).map(|stream| self.stream(&request, stream, after_prompt.clone())).collect();
        let alone = Rc::new(Alone { request, streams });
        self.runs.insert(number, Rc::clone(&alone));
        alone
    }

    /// One continuation; the prompt is cached, and `logits` are those after it.
    fn stream(&mut self, request: &Request, stream: u32, mut logits: Vec<i32>) -> Vec<Event> {
        let (f, sampling) = (self.loaded.certified.model().fraction_bits, &request.sampling);
        let mut events = Vec::new();
        for step in 0.. {
            let most_likely = greedy(&logits);
            self.cap(&mut logits);
            let token = match sampling.temperature {
                0 => most_likely,
                _ => draw(&logits, f, sampling, random_word(sampling.seed, stream, step)),
            };
            let logprobs = request.logprobs.map(|count| (LogProbs::new(&logits, f), count as usize));
            let logprob = logprobs.as_ref().map(|(logprobs, _)| logprobs.of(token));
            let top = logprobs.iter().flat_map(|(logprobs, count)| {
                logprobs.top(*count).into_iter().map(|token| LogProb { token, logprob: logprobs.of(token) })
            });
            let top = top.collect();
            let length = request.prompt.len() + step as usize;
            let full = step + 1 == request.max_tokens || length == self.context();
            let finish =
                if request.stop_ids.contains(&token) { Some(Finish::Stop) } else { full.then_some(Finish::Length) };
            events.push(Event { request: 0, stream, token, logprob, top, finish });
            if finish.is_some() {
                break;
            }
            logits = self.forward(&[token], length, false);
        }
        events
    }

    /// The logits after every token of text `number`.
    pub(crate) fn logits(&mut self, number: usize) -> Rc<[i32]> {
        if let Some(logits) = self.logits.get(&number) {
            return Rc::clone(logits);
        }
        let mut logits = self.forward(&text(number, self.context()), 0, true);
        self.cap(&mut logits);
        let logits: Rc<[i32]> = logits.into();
        self.logits.insert(number, Rc::clone(&logits));
        logits
    }

    /// The requests of a schedule, for people.
    pub(crate) fn describe(&self, schedule: &Schedule) -> String {
        let mut text = String::new();
        for number in schedule.requests().collect::<BTreeSet<_>>() {
            let request = request(number, self.context());
            writeln!(text, "request {number}: {} tokens; {request:?}", request.prompt.len()).expect("memory");
        }
        text
    }
}
