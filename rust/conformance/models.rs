//! models/: the tiny model directories. Every slot write, the logits, and a greedy and a sampled continuation.

use crate::vectors::{bytes, list, models, number, numbers, object, sha256};
use crate::{Case, Line, Machine};
use intact::request::Request;
use intact::{Engine, Loaded, Options};
use intact_core::cpu::{Batch, Cpu, Token};
use intact_core::executor::Executor;
use intact_core::ops::sample::Sampling;
use intact_core::ops::softcap::softcap;
use intact_core::program::{LOGITS, Op};
use intact_core::storage::{AlignedBytes, heap};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// Positions of a cache page: fewer than the prompts have, so that sequences span pages.
const PAGE: usize = 8;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &'static str| {
        Case::new(format!("models/{name}"), move |machine| {
            let loaded = load(name, machine)?;
            let expected = object(&format!("models/{name}.json"));
            let mut lines = Vec::new();
            // One token at a time, then all at once: what is published holds for both.
            for chunk in [1, 512] {
                let run = Run { loaded: &loaded, machine, chunk };
                let found = [run.writes(&expected), run.continuations(&expected)].concat();
                let published = published(&expected);
                let at = |i: usize| format!("{name}, chunks of {chunk}, result {i}");
                lines = (0..found.len().max(published.len()))
                    .map(|i| {
                        let value = |values: &[Value]| values.get(i).cloned().unwrap_or(Value::Null);
                        Line::with(at(i), value(&found), value(&published))
                    })
                    .collect();
                if lines.iter().any(|line| line.published.as_ref() != Some(&line.result)) {
                    break;
                }
            }
            Ok(lines)
        })
    };
    models().into_iter().map(case).collect()
}

/// A model of the vectors.
pub(crate) fn load(name: &str, machine: &Machine) -> Result<Loaded, String> {
    let file = |file: &str| bytes(&format!("models/{name}/{file}"));
    let planes = Arc::new(AlignedBytes::from(file(intact::model::PLANES)));
    Loaded::from_bytes(Path::new(name), file(intact::model::MANIFEST), planes, &machine.pool)
        .map_err(|error| error.to_string())
}

/// What models/NAME.json publishes, one list for each result.
fn published(expected: &Map<String, Value>) -> Vec<Value> {
    let write = |write: &Value| json!(["part", "op", "slot", "width", "sha256"].map(|key| &write[key]));
    let mut all: Vec<Value> = list(&expected["writes"]).iter().map(write).collect();
    all.push(json!(["logits", expected["logits"]["last"], expected["logits"]["sha256"]]));
    all.extend(
        ["greedy", "sampled"].map(|choice| json!([choice, expected[choice]["ids"], expected[choice]["logprobs"]])),
    );
    all
}

/// What was written by one op, for all tokens so far.
struct Written {
    slot: String,
    tokens: usize,
    values: Vec<i32>,
}

impl Written {
    fn result(&self, part: &str, op: usize) -> Value {
        json!([part, op, self.slot, self.values.len() / self.tokens, digest(&self.values)])
    }
}

fn digest(values: &[i32]) -> String {
    sha256(values.iter().map(|&value| i64::from(value)), 4)
}

/// One way to run a model.
struct Run<'a> {
    loaded: &'a Loaded,
    machine: &'a Machine,
    chunk: usize,
}

impl Run<'_> {
    /// Feeds the prompt chunk by chunk: what each op wrote over all tokens, and the logits before a final softcap.
    fn feed(&self, prompt: &[u32]) -> (Vec<Written>, Vec<i32>) {
        let certified = Arc::clone(&self.loaded.certified);
        let mut cpu = Cpu::new(certified, self.machine.kernels, Arc::clone(&self.machine.pool), PAGE, heap);
        let pages = prompt.len().div_ceil(PAGE);
        cpu.reserve(pages).expect("a few pages");
        // A sequence's pages lie in any order.
        let table: Vec<u32> = (0..pages as u32).rev().collect();
        let token = |(position, &id): (usize, &u32)| Token { id, sequence: 0, position: position as u32, logits: true };
        let tokens: Vec<Token> = prompt.iter().enumerate().map(token).collect();
        let (mut written, mut logits): (Vec<Written>, Vec<i32>) = (Vec::new(), Vec::new());
        for tokens in tokens.chunks(self.chunk) {
            let mut index = 0;
            cpu.run(&Batch { tokens, tables: &[&table] }, &mut logits, &mut |slot, values| {
                if index == written.len() {
                    written.push(Written { slot: slot.to_string(), tokens: 0, values: Vec::new() });
                }
                written[index].tokens += tokens.len();
                written[index].values.extend_from_slice(values);
                index += 1;
            });
        }
        (written, logits)
    }

    fn writes(&self, expected: &Map<String, Value>) -> Vec<Value> {
        let model = self.loaded.certified.model();
        let prompt: Vec<u32> = numbers(&expected["prompt"]);
        let (mut written, mut logits) = self.feed(&prompt);
        for write in written.iter_mut().filter(|write| write.slot == LOGITS) {
            let width = write.values.len() / write.tokens;
            write.values = write.values.chunks_exact(width).flat_map(|row| &row[..model.vocabulary]).copied().collect();
        }
        let ops = |part: &'static str, ops: &[Op]| -> Vec<(&str, usize)> {
            ops.iter().enumerate().flat_map(|(i, op)| vec![(part, i); op.writes().len()]).collect()
        };
        let mut places = [ops("body", &model.body), ops("head", &model.head)].concat();
        if let Some(cap) = self.loaded.certified.final_softcap() {
            // The loader takes it out of the head, because the greedy choice reads the logits before it.
            logits.iter_mut().for_each(|x| *x = softcap(*x, cap, model.fraction_bits));
            written.push(Written { slot: LOGITS.to_string(), tokens: prompt.len(), values: logits.clone() });
            places.push(("head", model.head.len()));
        }
        let mut results: Vec<Value> =
            places.into_iter().zip(&written).map(|((part, op), write)| write.result(part, op)).collect();
        let last = &logits[logits.len() - model.vocabulary..];
        results.push(json!([LOGITS, last, digest(&logits)]));
        results
    }

    fn continuations(&self, expected: &Map<String, Value>) -> Vec<Value> {
        let settings = &expected["sampled"]["settings"];
        let [temperature, top_k, top_p, min_p, stream]: [u32; 5] =
            ["tau", "top_k", "top_p", "min_p", "stream"].map(|key| number(&settings[key]));
        let sampled = Sampling { temperature, top_k, top_p, min_p, seed: number(&settings["seed"]) };
        let choices = [("greedy", Sampling { temperature: 0, ..sampled }, 0), ("sampled", sampled, stream)];
        let context = self.loaded.certified.model().context;
        let options = Options { chunk: self.chunk, page: PAGE, ..Options::new(self.machine.kernels, context) };
        // Both requests run together, so that their tokens share batches.
        let mut engine = Engine::new(self.loaded, Arc::clone(&self.machine.pool), options);
        let ids = choices.map(|(choice, sampling, stream)| {
            let request = Request {
                prompt: numbers(&expected["prompt"]),
                max_tokens: list(&expected[choice]["ids"]).len() as u32,
                sampling,
                n: stream + 1,
                stop_ids: Vec::new(),
                logprobs: Some(0),
                first_step: 0,
            };
            engine.add(request).expect("a request of the vectors")
        });
        let mut events = Vec::new();
        while !engine.idle() {
            events.extend(engine.step().expect("a few pages"));
        }
        let result = |((choice, _, stream), id)| {
            let mine = events.iter().filter(|event| event.request == id && event.stream == stream);
            let (tokens, scores): (Vec<_>, Vec<_>) = mine.map(|event| (event.token, event.logprob)).unzip();
            json!([choice, tokens, scores])
        };
        choices.into_iter().zip(ids).map(result).collect()
    }
}
