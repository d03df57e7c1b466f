//! The engine against the oracle's models: every slot that is written, logits, and continuations, by equality.
//!
//! tests/oracle/README.md describes the files.

use intact::core::cpu::{Batch, Cpu, Pool, Token};
use intact::core::kernels::Kernels;
use intact::core::ops::sample::Sampling;
use intact::core::ops::softcap::softcap;
use intact::core::program::{LOGITS, Op};
use intact::model::sha256_hex;
use intact::request::Request;
use intact::{Engine, Loaded, Options};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Positions of a cache page: fewer than the prompts have, so that sequences span pages.
const PAGE: usize = 8;

#[test]
fn every_model_computes_what_the_oracle_computes() {
    let pool = Arc::new(Pool::new(2));
    for path in models() {
        let text = fs::read_to_string(path.with_extension("json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let loaded = Loaded::open(&path, &pool).unwrap_or_else(|error| panic!("{error}"));
        assert!(loaded.verify(&pool).is_ok_and(|verified| verified.planes > 0), "{}", path.display());
        for kernels in Kernels::available() {
            for chunk in [1, 512] {
                let run = Run { loaded: &loaded, pool: &pool, kernels, chunk };
                let name = format!("{}, {}, chunks of {chunk}", path.display(), kernels.name);
                check_writes(&run, &expected, &name);
                check_continuations(&run, &expected, &name);
            }
        }
    }
}

/// The model directories, each with a file of what it computes beside it.
fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models");
    let entries = fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let (mut directories, files): (Vec<_>, Vec<_>) =
        entries.map(|entry| entry.unwrap().path()).partition(|path| path.is_dir());
    assert!(!directories.is_empty() && directories.len() == files.len(), "tests/vectors/models is incomplete");
    directories.sort();
    directories
}

/// One way to run a model.
struct Run<'a> {
    loaded: &'a Loaded,
    pool: &'a Arc<Pool>,
    kernels: &'static Kernels,
    chunk: usize,
}

/// What was written by one op, for all tokens so far.
struct Written {
    slot: String,
    tokens: usize,
    values: Vec<i32>,
}

impl Run<'_> {
    /// Feeds the prompt chunk by chunk: what each op wrote over all tokens, and the logits before a final softcap.
    fn feed(&self, prompt: &[u32]) -> (Vec<Written>, Vec<i32>) {
        let mut cpu = Cpu::new(Arc::clone(&self.loaded.certified), self.kernels, Arc::clone(self.pool), PAGE);
        let pages = prompt.len().div_ceil(PAGE);
        cpu.kv_mut().reserve(pages).unwrap();
        // A sequence's pages lie in any order.
        let table: Vec<u32> = (0..pages as u32).rev().collect();
        let token = |(position, &id): (usize, &u32)| Token { id, sequence: 0, position: position as u32, logits: true };
        let tokens: Vec<Token> = prompt.iter().enumerate().map(token).collect();
        let (mut written, mut logits): (Vec<Written>, Vec<i32>) = (Vec::new(), Vec::new());
        for tokens in tokens.chunks(self.chunk) {
            let mut index = 0;
            cpu.forward(&Batch { tokens, tables: &[&table] }, &mut logits, &mut |slot, values| {
                if index == written.len() {
                    written.push(Written { slot: slot.to_string(), tokens: 0, values: Vec::new() });
                }
                assert_eq!(written[index].slot, slot, "the ops run in another order in another chunk");
                written[index].tokens += tokens.len();
                written[index].values.extend_from_slice(values);
                index += 1;
            });
            assert_eq!(index, written.len(), "an op writes in one chunk and not in another");
        }
        (written, logits)
    }
}

fn check_writes(run: &Run<'_>, expected: &Value, name: &str) {
    let model = run.loaded.certified.model();
    let prompt: Vec<u32> = serde_json::from_value(expected["prompt"].clone()).unwrap();
    let (mut written, mut logits) = run.feed(&prompt);
    for write in written.iter_mut().filter(|write| write.slot == LOGITS) {
        let width = write.values.len() / write.tokens;
        write.values = write.values.chunks_exact(width).flat_map(|row| &row[..model.vocabulary]).copied().collect();
    }
    let ops = |part: &'static str, ops: &[Op]| -> Vec<(&str, usize)> {
        ops.iter().enumerate().flat_map(|(i, op)| vec![(part, i); op.writes().len()]).collect()
    };
    let mut places = [ops("body", &model.body), ops("head", &model.head)].concat();
    if let Some(cap) = run.loaded.certified.final_softcap() {
        // The loader takes it out of the head, because the greedy choice reads the logits before it.
        logits.iter_mut().for_each(|x| *x = softcap(*x, cap, model.fraction_bits));
        written.push(Written { slot: LOGITS.to_string(), tokens: prompt.len(), values: logits.clone() });
        places.push(("head", model.head.len()));
    }
    assert_eq!(places.len(), written.len(), "{name}");
    let writes = expected["writes"].as_array().unwrap();
    assert_eq!(writes.len(), written.len(), "{name}");
    for (((part, op), write), expected) in places.into_iter().zip(&written).zip(writes) {
        let width = write.values.len() / prompt.len();
        let found =
            json!({"part": part, "op": op, "slot": write.slot, "width": width, "sha256": digest(&write.values)});
        assert_eq!(found, *expected, "{name}");
    }
    let last = &logits[logits.len() - model.vocabulary..];
    assert_eq!(json!({"last": last, "sha256": digest(&logits)}), expected["logits"], "{name}");
}

fn digest(values: &[i32]) -> String {
    sha256_hex(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

fn check_continuations(run: &Run<'_>, expected: &Value, name: &str) {
    let settings = &expected["sampled"]["settings"];
    let [temperature, top_k, top_p, min_p, stream] =
        ["tau", "top_k", "top_p", "min_p", "stream"].map(|key| settings[key].as_u64().unwrap() as u32);
    let seed = settings["seed"].as_u64().unwrap();
    let sampled = Sampling { temperature, top_k, top_p, min_p, seed };
    let choices = [("greedy", Sampling { temperature: 0, ..sampled }, 0), ("sampled", sampled, stream)];
    let options =
        Options { chunk: run.chunk, page: PAGE, ..Options::new(run.kernels, run.loaded.certified.model().context) };
    // Both requests run together, so that their tokens share batches.
    let mut engine = Engine::new(run.loaded, Arc::clone(run.pool), options);
    let ids = choices.map(|(choice, sampling, stream)| {
        let request = Request {
            prompt: serde_json::from_value(expected["prompt"].clone()).unwrap(),
            max_tokens: expected[choice]["ids"].as_array().unwrap().len() as u32,
            sampling,
            n: stream + 1,
            stop_ids: Vec::new(),
            logprobs: Some(0),
        };
        engine.add(request).unwrap()
    });
    let mut events = Vec::new();
    while !engine.idle() {
        events.extend(engine.step().unwrap());
    }
    for ((choice, _, stream), id) in choices.into_iter().zip(ids) {
        let mine = events.iter().filter(|event| event.request == id && event.stream == stream);
        let (tokens, scores): (Vec<_>, Vec<_>) = mine.map(|event| (event.token, event.logprob)).unzip();
        assert_eq!(json!(tokens), expected[choice]["ids"], "{name}: {choice}");
        assert_eq!(json!(scores), expected[choice]["logprobs"], "{name}: {choice}");
    }
}
