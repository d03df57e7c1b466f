//! Receipts: what one machine writes down, every other one confirms (docs/RECEIPTS.md).

use crate::models::load;
use crate::vectors::{numbers, object};
use crate::{Case, Line, Machine};
use intact::core::ops::sample::Sampling;
use intact::model::sha256_hex;
use intact::receipt::{Receipt, Spot, Trace, Verdict};
use intact::request::Request;
use intact::{Engine, Loaded, Options};
use intact_core::cpu::Pool;
use intact_core::kernels::Kernels;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const MODELS: [&str; 4] = ["llama-default", "qwen3-qknorm-fast", "mistral-window-fastest", "gemma2-softcap-default"];

/// Receipts of tiny models: SHA-256 of the file, and what verifying it says.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &'static str| {
        Case::new(format!("receipts/{name}"), move |machine| {
            let loaded = load(name, machine)?;
            [Trace::Logits, Trace::Tensors].map(|trace| line(name, &loaded, trace, machine)).into_iter().collect()
        })
    };
    MODELS.map(case).into()
}

fn line(name: &str, loaded: &Loaded, trace: Trace, machine: &Machine) -> Result<Line, String> {
    let options = Options { chunk: 5, page: 8, ..Options::new(machine.kernels, loaded.certified.model().context) };
    let mut engine = Engine::new(loaded, Arc::clone(&machine.pool), options);
    let request = Request {
        prompt: numbers(&object(&format!("models/{name}.json"))["prompt"]),
        max_tokens: 8,
        sampling: Sampling { temperature: 52429, top_k: 40, top_p: 62259, min_p: 1311, seed: 42 },
        n: 2,
        stop_ids: vec![1],
        logprobs: None,
        first_step: 0,
    };
    let id = engine.add_with_receipt(request, trace).map_err(|error| error.to_string())?;
    while !engine.idle() {
        engine.step().map_err(|error| error.to_string())?;
    }
    let bytes = engine.take_receipt(id).map(|receipt| receipt.to_bytes()).unwrap_or_default();
    let receipt = Receipt::parse(&bytes).map_err(|error| error.to_string())?;
    let verdict = engine.verify(&receipt, None).map_err(|error| error.to_string())?;
    Ok(Line::new(format!("{name}, {trace:?}"), json!([sha256_hex(&bytes), verdict.status()])))
}

/// Checks the receipt in `file` against the model directory `model`, its planes included.
///
/// # Errors
/// A receipt or model that cannot be read, in words.
pub fn verify(
    file: &Path, model: &Path, kernels: &'static Kernels, threads: usize, spot: Option<Spot>,
) -> Result<Verdict, String> {
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let receipt = Receipt::parse(&bytes).map_err(|error| format!("{}: {error}", file.display()))?;
    let pool = Arc::new(Pool::new(threads));
    let loaded = Loaded::open(model, &pool).map_err(|error| error.to_string())?;
    loaded.verify(&pool).map_err(|error| error.to_string())?;
    let options = Options::new(kernels, loaded.certified.model().context);
    Engine::new(&loaded, pool, options).verify(&receipt, spot).map_err(|error| error.to_string())
}
