//! Receipts (docs/RECEIPTS.md): the same bytes under every run option, every kind of forgery found, nothing hostile
//! accepted. The chain is computed here a second time, from the document.

mod document;
mod equality;
mod forgery;
mod hostile;

use intact::core::cpu::Pool;
use intact::core::kernels::reference;
use intact::core::ops::sample::Sampling;
use intact::receipt::{Receipt, Trace, Verdict};
use intact::request::Request;
use intact::{Engine, Loaded, Options};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const VOCABULARY_MARGIN: u32 = 100;

fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models");
    let entries = std::fs::read_dir(root).expect("tests/vectors/models");
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).filter(|p| p.is_dir()).collect();
    models.sort();
    assert!(models.len() > 10, "the oracle's models are missing");
    models
}

fn llama() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models/llama-default")
}

fn engine(path: &Path, threads: usize, change: impl FnOnce(&mut Options)) -> Engine {
    let pool = Arc::new(Pool::new(threads));
    let loaded = Loaded::open(path, &pool).expect("opens");
    let mut options = Options::new(&reference::KERNELS, loaded.certified.model().context);
    change(&mut options);
    Engine::new(&loaded, pool, options)
}

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (seed.wrapping_mul(97) + i.wrapping_mul(i + 31)) % VOCABULARY_MARGIN).collect()
}

fn request(prompt: Vec<u32>, temperature: u32, n: u32) -> Request {
    let sampling = Sampling { temperature, top_k: 0, top_p: 62_000, min_p: 10, seed: (7 << 32) + 3 };
    Request { prompt, max_tokens: 10, sampling, n, stop_ids: Vec::new(), logprobs: None, first_step: 0 }
}

fn drain(engine: &mut Engine) {
    while !engine.idle() {
        engine.step().expect("runs");
    }
}

fn receipt(engine: &mut Engine, request: Request, trace: Trace) -> Receipt {
    let id = engine.add_with_receipt(request, trace).expect("accepted");
    drain(engine);
    engine.take_receipt(id).expect("a receipt")
}

/// Three sampled outputs of 10 tokens, but for the second, which a stop id ends earlier.
fn sample(engine: &mut Engine, trace: Trace) -> Receipt {
    let mut asked = request(prompt(1, 9), 52_429, 3);
    let free = receipt(engine, asked.clone(), trace);
    let [first, second, third] = &free.outputs[..] else { panic!("three outputs") };
    let own = |id: &&u32| !first.ids.contains(id) && !third.ids.contains(id);
    let stop = *second.ids[1..8].iter().find(own).expect("a token of the second output only");
    asked.stop_ids = vec![4_000_000_000, stop, 4_000_000_000];
    receipt(engine, asked, trace)
}

fn steps(receipt: &Receipt) -> usize {
    receipt.outputs.iter().map(|output| output.ids.len()).sum()
}

fn equal(receipt: &Receipt) -> Verdict {
    Verdict::Equal { checked: steps(receipt), steps: steps(receipt) }
}
