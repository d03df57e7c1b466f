//! The format, from the document.

use crate::{engine, llama, models, prompt, request};
use intact::Loaded;
use intact::core::cpu::{Batch, Cpu, Pool, Token};
use intact::core::executor::Executor;
use intact::core::kernels::reference;
use intact::core::program::LOGITS;
use intact::core::storage::heap;
use intact::model::{canonical_json, sha256_hex};
use intact::receipt::{Receipt, Trace};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

fn hash(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let bytes = [format!("intact receipt {label}\n").as_bytes(), &parts.concat()].concat();
    Sha256::digest(bytes).to_vec()
}

fn little(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|n| n.as_u64().expect("a number") as u32).collect()
}

/// Gives every output the chain, and with `tensors` the digests, that follow from the request and its tokens.
pub(crate) fn rechain(receipt: &mut Value, path: &Path) {
    let mut head = receipt.clone();
    ["outputs", "sha256"].iter().for_each(|key| drop(head.as_object_mut().expect("an object").shift_remove(*key)));
    let head = hash("head", &[canonical_json(&head).as_bytes()]);
    let prompt = numbers(&receipt["request"]["prompt"]);
    let traced = receipt["trace"] == "tensors";
    for (stream, output) in receipt["outputs"].as_array_mut().expect("outputs").iter_mut().enumerate() {
        let ids = numbers(&output["ids"]);
        let rows = one_by_one(path, &[prompt.as_slice(), &ids].concat());
        let origin = hash("stream", &[&head, &(stream as u32).to_le_bytes()]);
        let (mut before, mut chain, mut tensors) = (origin.clone(), Vec::new(), Vec::new());
        for (step, id) in ids.iter().enumerate() {
            let position = prompt.len() + step - 1;
            let row = &rows[position];
            let digests: Vec<Vec<u8>> =
                row.writes.iter().map(|write| hash("tensor", &[&little(write)])[..8].to_vec()).collect();
            let numbers = [step as u32, position as u32, *id].map(u32::to_le_bytes).concat();
            let logits = hash("logits", &[&little(&row.logits)]);
            let bound = if traced { digests.concat() } else { Vec::new() };
            before = hash("step", &[&origin, &before, &numbers, &logits, &bound]);
            chain.push(hex(&before));
            tensors.push(digests.iter().map(|digest| hex(digest)).collect::<Vec<_>>());
        }
        output["chain"] = json!(chain);
        if traced {
            output["tensors"] = json!(tensors);
        }
    }
}

pub(crate) fn reseal(receipt: &mut Value) {
    receipt.as_object_mut().expect("an object").shift_remove("sha256");
    receipt["sha256"] = json!(sha256_hex(canonical_json(receipt).as_bytes()));
}

struct Position {
    logits: Vec<i32>,
    writes: Vec<Vec<i32>>,
}

/// Every position of a sequence, each in a batch of its own.
fn one_by_one(path: &Path, tokens: &[u32]) -> Vec<Position> {
    let pool = Arc::new(Pool::new(1));
    let certified = Loaded::open(path, &pool).expect("opens").certified;
    let vocabulary = certified.model().vocabulary;
    let mut cpu = Cpu::new(certified, &reference::KERNELS, pool, 8, heap);
    let table: Vec<u32> = (0..tokens.len().div_ceil(8) as u32).collect();
    cpu.reserve(table.len()).expect("a few pages");
    let position = |(position, &id): (usize, &u32)| {
        let (mut logits, mut writes) = (Vec::new(), Vec::new());
        let token = Token { id, sequence: 0, position: position as u32, logits: true };
        cpu.run(&Batch { tokens: &[token], tables: &[&table] }, &mut logits, &mut |slot, values| {
            writes.push(if slot == LOGITS { &values[..vocabulary] } else { values }.to_vec());
        });
        Position { logits, writes }
    };
    tokens.iter().enumerate().map(position).collect()
}

#[test]
fn receipts_are_as_documented() {
    let softcapped = models().into_iter().find(|path| path.ends_with("gemma2-softcap-fast")).expect("the model");
    for path in [llama(), softcapped] {
        for trace in [Trace::Logits, Trace::Tensors] {
            let mut asked = request(prompt(1, 9), 52_429, 3);
            asked.stop_ids = vec![4_000_000_000, 77, 4_000_000_000];
            let receipt = crate::receipt(&mut engine(&path, 1, |_| ()), asked, trace);
            let bytes = receipt.to_bytes();
            let value: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(String::from_utf8(bytes.clone()).expect("text"), canonical_json(&value) + "\n");
            let mut again = value.clone();
            for output in again["outputs"].as_array_mut().expect("outputs") {
                output["chain"] = json!([]);
            }
            rechain(&mut again, &path);
            reseal(&mut again);
            assert_eq!(canonical_json(&again), canonical_json(&value), "{}", path.display());
            assert_eq!(Receipt::parse(&bytes).expect("reads"), receipt);
            assert_eq!(Receipt::parse(bytes.trim_ascii_end()).expect("reads"), receipt);
            let request = &value["request"];
            assert_eq!(request["seed"], json!(30_064_771_075_u64));
            assert_eq!(numbers(&request["stop_ids"]), [77, 4_000_000_000], "sorted, and each once");
            assert_eq!(receipt.outputs[0].tensors.is_some(), trace == Trace::Tensors);
        }
    }
}
