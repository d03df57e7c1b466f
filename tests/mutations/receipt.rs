//! Receipts.

use crate::drive::{Met, RAN};
use crate::json::{self, Limits};
use crate::model::Base;
use crate::random::Random;
use crate::{Mutant, Open, blind};
use intact::core::cpu::Pool;
use intact::core::kernels::reference;
use intact::core::ops::sample::Sampling;
use intact::model::{canonical_json, sha256_hex};
use intact::receipt::{Receipt, Spot, Trace, Verdict};
use intact::request::Request;
use intact::{Engine, Loaded, Options, ReceiptError};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// What mutants of a receipt must meet.
pub(crate) const RECEIPT_FAMILIES: [&str; 6] =
    [RAN, "receipt Version", "receipt Malformed", "receipt different", "receipt equal", "receipt refused"];

const FILE: &str = "receipt.json";

const RECEIPT: &Limits = &[
    ("contract", 1, 1),
    ("max_tokens", 1, u32::MAX as i64),
    ("min_p", 0, 65_536),
    ("n", 1, 1024),
    ("receipt", 1, 1),
    ("temperature", 0, u32::MAX as i64),
    ("top_k", 0, u32::MAX as i64),
    ("top_p", 0, 65_536),
];

/// Sound receipts, one for each trace, in the order of [`Trace`].
static SOUND: LazyLock<[Receipt; 2]> = LazyLock::new(|| {
    let mut engine = engine();
    [Trace::Logits, Trace::Tensors].map(|trace| {
        let sampling = Sampling { temperature: 52_429, top_k: 40, top_p: 62_000, min_p: 10, seed: 7 };
        let stop_ids = vec![3, 77];
        let request = Request {
            prompt: vec![1, 2, 3, 4],
            max_tokens: 6,
            sampling,
            n: 3,
            stop_ids,
            logprobs: None,
            first_step: 0,
        };
        let id = engine.add_with_receipt(request, trace).expect("accepted");
        while !engine.idle() {
            engine.step().expect("runs");
        }
        engine.take_receipt(id).expect("a receipt")
    })
});

fn engine() -> Engine {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models/llama-default");
    let pool = Arc::new(Pool::new(1));
    let loaded = Loaded::open(&path, &pool).expect("opens");
    Engine::new(&loaded, pool, Options { chunk: 16, page: 4, ..Options::new(&reference::KERNELS, 64) })
}

/// Fields and lists, mostly under a new seal.
pub(crate) fn structure(_: &[Base], random: &mut Random) -> Mutant {
    let sound = random.pick(&*SOUND);
    let mut value: Value = serde_json::from_slice(&sound.to_bytes()).expect("JSON");
    let what = (0..1 + random.below(2)).map(|_| json::mutate(&mut value, RECEIPT, random)).collect();
    let mut text = json::text(&value);
    if !random.one_in(4)
        && let Ok(Value::Object(mut read)) = serde_json::from_str::<Value>(&text)
    {
        read.shift_remove("sha256");
        let seal = sha256_hex(canonical_json(&Value::Object(read.clone())).as_bytes());
        read.insert("sha256".into(), json!(seal));
        text = canonical_json(&Value::Object(read));
    }
    mutant(sound, what, text.into())
}

/// Bytes.
pub(crate) fn bytes(_: &[Base], random: &mut Random) -> Mutant {
    let sound = random.pick(&*SOUND);
    let mut bytes = sound.to_bytes();
    let what = (0..random.below(3)).map(|_| blind::mutate(&mut bytes, random)).collect();
    mutant(sound, what, bytes)
}

fn mutant(sound: &Receipt, what: Vec<String>, bytes: Vec<u8>) -> Mutant {
    let base = format!("receipt of {:?}", sound.trace);
    Mutant { base, what, files: vec![(FILE.into(), bytes)], open: Open::Receipt }
}

/// Reads a receipt and checks it, whole or in a few steps.
pub(crate) fn drive(directory: &Path, random: &mut Random) -> Met {
    let bytes = std::fs::read(directory.join(FILE)).expect("the mutant");
    let receipt = match Receipt::parse(&bytes) {
        Ok(receipt) => receipt,
        Err(error) => {
            let message = error.to_string();
            let fit = message.len() < 2_000 && !message.contains(char::is_control);
            assert!(fit, "a message of {} bytes: {message:.200?}", message.len());
            return Met::from([match error {
                ReceiptError::TooLarge { .. } => "receipt TooLarge",
                ReceiptError::Version { .. } => "receipt Version",
                ReceiptError::Malformed { .. } => "receipt Malformed",
            }]);
        }
    };
    assert_eq!(receipt.to_bytes().trim_ascii_end(), bytes.trim_ascii_end(), "two texts for one receipt");
    let spot = random.one_in(3).then(|| Spot { steps: 1 + random.below(4), seed: random.word() });
    let verdict = engine().verify(&receipt, spot).expect("fits the cache");
    let found = match verdict {
        Verdict::Equal { .. } => {
            assert!(spot.is_some() || true_of(&receipt), "a forgery passes");
            "receipt equal"
        }
        Verdict::Different { .. } => "receipt different",
        Verdict::Refused { .. } => "receipt refused",
    };
    Met::from([RAN, found])
}

/// Whether a receipt says no more than a sound one: its outputs may be cut.
fn true_of(receipt: &Receipt) -> bool {
    SOUND.iter().any(|sound| {
        let mut cut = sound.clone();
        receipt.outputs.iter().enumerate().for_each(|(stream, output)| cut.cut(stream, output.ids.len()));
        cut == *receipt
    })
}
