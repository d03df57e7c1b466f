//! Run options change speed, never a bit: every option against a plain run on the reference kernels.

use intact::core::cpu::Pool;
use intact::core::kernels::Kernels;
use intact::core::ops::sample::Sampling;
use intact::request::{Event, Finish, Request};
use intact::{Engine, Loaded, Options};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const VOCABULARY_MARGIN: u32 = 100;

fn full() -> bool {
    std::env::var_os("INTACT_TEST_FULL").is_some()
}

/// Every third model, another third for another `turn`, unless the full suite runs.
fn some_models(turn: usize) -> Vec<PathBuf> {
    models().into_iter().enumerate().filter(|(i, _)| full() || i % 3 == turn % 3).map(|(_, path)| path).collect()
}

fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models");
    let mut models: Vec<PathBuf> = std::fs::read_dir(root)
        .expect("tests/vectors/models")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.is_dir())
        .collect();
    models.sort();
    assert!(models.len() > 10, "the oracle's models are missing");
    models
}

fn engine(path: &Path, threads: usize, change: impl FnOnce(&mut Options)) -> Engine {
    let pool = Arc::new(Pool::new(threads));
    let loaded = Loaded::open(path, &pool).expect("opens");
    let mut options = Options::new(&intact::core::kernels::reference::KERNELS, loaded.certified.model().context);
    change(&mut options);
    Engine::new(&loaded, pool, options)
}

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (seed.wrapping_mul(97) + i.wrapping_mul(i + 31)) % VOCABULARY_MARGIN).collect()
}

fn request(prompt: Vec<u32>, temperature: u32, n: u32) -> Request {
    let sampling = Sampling { temperature, top_k: 0, top_p: 62_000, min_p: 0, seed: 7 };
    Request { prompt, max_tokens: 12, sampling, n, stop_ids: Vec::new(), logprobs: Some(2), first_step: 0 }
}

/// Runs requests to the end; events by (index of the request, stream).
fn run(engine: &mut Engine, requests: &[Request]) -> BTreeMap<(usize, u32), Vec<Event>> {
    let ids: Vec<u64> = requests.iter().map(|r| engine.add(r.clone()).expect("accepted")).collect();
    let mut out: BTreeMap<(usize, u32), Vec<Event>> = BTreeMap::new();
    while !engine.idle() {
        for mut event in engine.step().expect("runs") {
            let index = ids.iter().position(|&id| id == event.request).expect("known request");
            event.request = 0;
            out.entry((index, event.stream)).or_default().push(event);
        }
    }
    out
}

fn logits(engine: &mut Engine, tokens: &[u32]) -> Vec<i32> {
    let mut out = Vec::new();
    engine.logits(tokens, &mut |row| out.extend_from_slice(row)).expect("runs");
    out
}

#[test]
fn options_change_no_logit() {
    let tokens = prompt(3, 45);
    for (turn, path) in models().into_iter().enumerate() {
        let expected = logits(&mut engine(&path, 1, |_| ()), &tokens);
        let options = [(1, 512, 64), (2, 64, 16), (3, 7, 5), (7, 1, 1), (2, 45, 1024)];
        for (i, kernels) in Kernels::available().into_iter().enumerate() {
            for (j, (threads, chunk, page)) in options.into_iter().enumerate() {
                if !full() && (i + j + turn) % 3 > 0 {
                    continue;
                }
                // Three threads and seven share what they attend to.
                let share = if threads > 2 { 1 } else { 256 };
                let mut engine = engine(&path, threads, |o| {
                    (o.kernels, o.chunk, o.page, o.share) = (kernels, chunk, page, share);
                });
                let found = logits(&mut engine, &tokens);
                let how = format!("{} threads {threads} chunk {chunk} page {page}", kernels.name);
                assert!(found == expected, "{}: {how}", path.display());
            }
        }
    }
}

#[test]
fn the_cache_equals_recomputation() {
    for path in models() {
        let tokens = prompt(5, 30);
        let mut engine = engine(&path, 2, |o| o.kernels = Kernels::choose(None).expect("reference"));
        let whole = logits(&mut engine, &tokens);
        let width = whole.len() / tokens.len();
        for length in 1..=tokens.len() {
            let found = logits(&mut engine, &tokens[..length]);
            assert!(found[..] == whole[..length * width], "{}: prefix of {length}", path.display());
        }
    }
}

#[test]
fn company_changes_no_token() {
    for (turn, path) in some_models(0).into_iter().chain(some_models(1)).enumerate() {
        for temperature in [[0, 52_429][turn % 2]] {
            let requests: Vec<Request> =
                (0..16).map(|i| request(prompt(i, 1 + (i as usize * 7) % 40), temperature, 1 + i % 3)).collect();
            let mut alone = BTreeMap::new();
            for (i, request) in requests.iter().enumerate() {
                for ((_, stream), events) in run(&mut engine(&path, 1, |_| ()), std::slice::from_ref(request)) {
                    alone.insert((i, stream), events);
                }
            }
            let options = [(512, 64, 4096), (16, 4, 96), (5, 3, 60)];
            for (i, size) in [2, 5, 16].into_iter().enumerate() {
                for (j, (chunk, page, kv_tokens)) in options.into_iter().enumerate() {
                    if !full() && i != (j + turn) % 3 {
                        continue;
                    }
                    let mut engine = engine(&path, 2, |o| {
                        o.kernels = Kernels::choose(None).expect("reference");
                        (o.chunk, o.page, o.kv_tokens) = (chunk, page, kv_tokens);
                    });
                    for (start, batch) in requests.chunks(size).enumerate() {
                        for ((i, stream), events) in run(&mut engine, batch) {
                            let expected = &alone[&(start * size + i, stream)];
                            assert_eq!(&events, expected, "{}: batch of {size}, chunk {chunk}", path.display());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn stop_ids_and_lengths_end_a_sequence() {
    let path = &models()[0];
    let free = run(&mut engine(path, 1, |_| ()), &[request(prompt(1, 9), 52_429, 1)]);
    let tokens: Vec<u32> = free[&(0, 0)].iter().map(|event| event.token).collect();
    assert_eq!(tokens.len(), 12);
    assert_eq!(free[&(0, 0)].last().expect("events").finish, Some(Finish::Length));
    let mut stopped = request(prompt(1, 9), 52_429, 1);
    stopped.stop_ids = vec![tokens[5]];
    let first = tokens.iter().position(|&token| token == tokens[5]).expect("is there");
    let events = run(&mut engine(path, 1, |_| ()), &[stopped]);
    let found: Vec<u32> = events[&(0, 0)].iter().map(|event| event.token).collect();
    assert_eq!(found, tokens[..=first]);
    assert_eq!(events[&(0, 0)].last().expect("events").finish, Some(Finish::Stop));
}

#[test]
fn a_cancelled_request_disturbs_nobody() {
    let path = &models()[0];
    let expected = run(&mut engine(path, 1, |_| ()), &[request(prompt(2, 20), 0, 1)]);
    let mut engine = engine(path, 2, |o| (o.page, o.kv_tokens) = (4, 64));
    let doomed = engine.add(request(prompt(9, 33), 0, 3)).expect("accepted");
    let kept = engine.add(request(prompt(2, 20), 0, 1)).expect("accepted");
    let mut events = Vec::new();
    for step in 0.. {
        if engine.idle() {
            break;
        }
        if step == 2 {
            engine.cancel(doomed, Some(1));
        }
        if step == 4 {
            engine.cancel(doomed, None);
        }
        events.extend(engine.step().expect("runs").into_iter().filter(|event| event.request == kept));
    }
    events.iter_mut().for_each(|event| event.request = 0);
    assert_eq!(events, expected[&(0, 0)]);
}
