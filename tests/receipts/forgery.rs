//! Forgeries, by someone who edits a receipt, and by someone who knows the format and has the model.

use crate::document::{rechain, reseal};
use crate::{VOCABULARY_MARGIN, engine, llama, models, sample, steps};
use intact::core::cpu::Pool;
use intact::core::kernels::reference;
use intact::model::canonical_json;
use intact::receipt::{Receipt, Spot, Trace, Verdict, What};
use intact::{Engine, Loaded, Options, ReceiptError};
use serde_json::{Value, json};
use std::sync::Arc;

fn parse(value: &Value) -> Result<Receipt, ReceiptError> {
    Receipt::parse(canonical_json(value).as_bytes())
}

/// What the check of a forged receipt names: "sha256", "token", … or "malformed", "refused", "equal".
fn finding(engine: &mut Engine, value: &Value) -> &'static str {
    match parse(value) {
        Err(_) => "malformed",
        Ok(receipt) => match engine.verify(&receipt, None).expect("fits the cache") {
            Verdict::Different { what, .. } => what.name(),
            other => other.status(),
        },
    }
}

type Edit = fn(&mut Value);

/// An edit; what is found where the forger seals the receipt again (one of several things, by chance), and where he
/// computes the chain again as well.
const FORGERIES: [(&str, Edit, &str, &str); 31] = [
    ("contract", |r| r["contract"] = json!(2), "refused", "refused"),
    ("model", |r| r["model"] = json!("0".repeat(64)), "refused", "refused"),
    ("version", |r| r["receipt"] = json!(2), "malformed", "malformed"),
    ("a token of the prompt", |r| r["request"]["prompt"][3] = json!(7), "token|logits", "token"),
    ("a token beyond the vocabulary", |r| r["request"]["prompt"][3] = json!(1 << 30), "request", "request"),
    ("a longer prompt", |r| list(&mut r["request"]["prompt"]).push(json!(5)), "token|logits", "token"),
    ("no prompt", |r| r["request"]["prompt"] = json!([]), "malformed", "malformed"),
    ("a prompt beyond the context", |r| r["request"]["prompt"] = json!(vec![1; 5000]), "request", "request"),
    ("max_tokens up", |r| r["request"]["max_tokens"] = json!(11), "finish", "finish"),
    ("max_tokens down", |r| r["request"]["max_tokens"] = json!(9), "finish", "finish"),
    ("max_tokens 0", |r| r["request"]["max_tokens"] = json!(0), "malformed", "malformed"),
    ("seed", |r| r["request"]["seed"] = json!(4), "token|logits", "token"),
    ("temperature", |r| r["request"]["temperature"] = json!(120_000), "token|logits", "token"),
    ("greedy", |r| r["request"]["temperature"] = json!(0), "token|logits", "token"),
    ("top_k", |r| r["request"]["top_k"] = json!(2), "token|logits", "token"),
    ("top_p", |r| r["request"]["top_p"] = json!(9_000), "token|logits", "token"),
    ("min_p", |r| r["request"]["min_p"] = json!(65_000), "token|logits", "token"),
    ("min_p by one", |r| r["request"]["min_p"] = json!(11), "logits", "equal"),
    ("top_p beyond 1", |r| r["request"]["top_p"] = json!(65_537), "malformed", "malformed"),
    ("no stop ids", |r| r["request"]["stop_ids"] = json!([]), "finish", "finish"),
    ("n", |r| r["request"]["n"] = json!(2), "outputs", "outputs"),
    ("n and its output", |r| drop((r["request"]["n"] = json!(2), list(&mut r["outputs"]).pop())), "logits", "equal"),
    ("a dropped output", |r| drop(list(&mut r["outputs"]).remove(0)), "outputs", "outputs"),
    ("swapped outputs", |r| list(&mut r["outputs"]).swap(0, 2), "token|logits", "token"),
    ("a generated token", |r| other(&mut r["outputs"][0]["ids"][3]), "token", "token"),
    ("a token that is none", |r| r["outputs"][2]["ids"][3] = json!(1 << 20), "token", "token"),
    ("finish", |r| r["outputs"][1]["finish"] = json!("length"), "finish", "finish"),
    ("cancelled", |r| r["outputs"][1]["finish"] = json!("cancelled"), "finish", "finish"),
    ("a truncated output", |r| truncate(r, "length"), "finish", "finish"),
    ("an extended output", extend, "finish", "finish"),
    ("a chain entry", |r| hexadecimal(&mut r["outputs"][0]["chain"][2]), "logits", "equal"),
];

fn list(value: &mut Value) -> &mut Vec<Value> {
    value.as_array_mut().expect("a list")
}

fn other(id: &mut Value) {
    *id = json!((id.as_u64().expect("an id") + 1) % u64::from(VOCABULARY_MARGIN));
}

fn truncate(receipt: &mut Value, finish: &str) {
    for key in ["ids", "chain"] {
        list(&mut receipt["outputs"][0][key]).truncate(4);
    }
    receipt["outputs"][0]["finish"] = json!(finish);
}

fn extend(receipt: &mut Value) {
    for key in ["ids", "chain"] {
        let items = list(&mut receipt["outputs"][1][key]);
        let first = items[0].clone();
        items.push(first);
    }
}

fn hexadecimal(digest: &mut Value) {
    let text = digest.as_str().expect("a digest");
    let digit = if text.starts_with('0') { "1" } else { "0" };
    *digest = json!(format!("{digit}{}", &text[1..]));
}

#[test]
fn forgeries_are_found() {
    let path = llama();
    let mut engine = engine(&path, 1, |_| ());
    let value: Value = serde_json::from_slice(&sample(&mut engine, Trace::Logits).to_bytes()).expect("JSON");
    assert_eq!(finding(&mut engine, &value), "equal");
    for (name, edit, sealed, chained) in FORGERIES {
        let mut forged = value.clone();
        edit(&mut forged);
        assert_ne!(forged, value, "{name}");
        let naive = if sealed == "malformed" { sealed } else { "sha256" };
        assert_eq!(finding(&mut engine, &forged), naive, "{name}, as edited");
        reseal(&mut forged);
        let found = finding(&mut engine, &forged);
        assert!(sealed.split('|').any(|expected| expected == found), "{name}, sealed again: {found}");
        // A token that the model does not have has no logits for a chain.
        if ["malformed", "request"].contains(&sealed) || name == "a token that is none" {
            continue;
        }
        rechain(&mut forged, &path);
        reseal(&mut forged);
        assert_eq!(finding(&mut engine, &forged), chained, "{name}, chained again");
    }
    // A beginning is no forgery: it says no more than that the caller stopped there.
    let mut beginning = value.clone();
    truncate(&mut beginning, "cancelled");
    reseal(&mut beginning);
    assert_eq!(finding(&mut engine, &beginning), "equal");
    let mut unsealed = value.clone();
    hexadecimal(&mut unsealed["sha256"]);
    assert_eq!(finding(&mut engine, &unsealed), "sha256");
    let mut short = value.clone();
    list(&mut short["outputs"][0]["chain"]).pop();
    reseal(&mut short);
    assert_eq!(finding(&mut engine, &short), "chain");
}

#[test]
fn the_first_difference_is_named() {
    let mut engine = engine(&llama(), 1, |_| ());
    let receipt = sample(&mut engine, Trace::Tensors);
    let value: Value = serde_json::from_slice(&receipt.to_bytes()).expect("JSON");
    let mut check = |edit: &dyn Fn(&mut Value)| {
        let mut forged = value.clone();
        edit(&mut forged);
        reseal(&mut forged);
        let verdict = engine.verify(&parse(&forged).expect("reads"), None).expect("runs");
        (verdict.to_string(), verdict)
    };
    let count = receipt.outputs[0].tensors.as_ref().expect("tensors").per_step();
    for index in 0..count {
        let (text, verdict) = check(&|r| hexadecimal(&mut r["outputs"][2]["tensors"][5][index]));
        let Verdict::Different { place: Some(place), what: What::Tensor(tensor) } = verdict else { panic!("{text}") };
        assert_eq!((place.stream, place.step, place.position, tensor.index), (2, 5, 13, index));
        assert_eq!(tensor.part, if tensor.near.contains("layers") { "body" } else { tensor.part });
    }
    let (text, _) = check(&|r| {
        hexadecimal(&mut r["outputs"][0]["tensors"][1][2]);
        hexadecimal(&mut r["outputs"][0]["tensors"][1][9]);
        hexadecimal(&mut r["outputs"][1]["tensors"][0][0]);
    });
    assert_eq!(
        text,
        "different: output 0, step 1, position 9: tensor: slot \"q\" of body op 2, linear, at or after \
         model.layers.0.self_attn.q_proj"
    );
    for (name, edit) in [
        ("chain", (|r| hexadecimal(&mut r["outputs"][0]["chain"][2])) as Edit),
        ("token", |r| other(&mut r["outputs"][0]["ids"][2])),
        ("tensors", |r| drop(list(&mut r["outputs"][0]["tensors"]).pop())),
        ("tensors", |r| drop(r["outputs"][0].as_object_mut().expect("output").shift_remove("tensors"))),
        ("tensors", |r| list(&mut r["outputs"][0]["tensors"]).iter_mut().for_each(|step| drop(list(step).pop()))),
        ("tensors", |r| r["trace"] = json!("logits")),
    ] {
        let (text, verdict) = check(&edit);
        let Verdict::Different { place: Some(place), what } = verdict else { panic!("{text}") };
        assert_eq!((what.name(), place.stream), (name, 0), "{text}");
    }
}

#[test]
fn a_receipt_of_another_model_is_refused() {
    let all = models();
    let known = sample(&mut engine(&llama(), 1, |_| ()), Trace::Logits);
    for path in all.iter().filter(|path| **path != llama()) {
        let verdict = engine(path, 1, |_| ()).verify(&known, None).expect("runs");
        let Verdict::Refused { reason } = verdict else { panic!("{}: {verdict}", path.display()) };
        assert!(reason.contains(&known.model.to_string()), "{reason}");
    }
}

/// The model whose weights are not those of its digest: what it computes is not what the receipt says.
#[test]
fn other_weights_are_found() {
    let path = llama();
    let manifest = std::fs::read(path.join(intact::model::MANIFEST)).expect("a manifest");
    let mut planes = std::fs::read(path.join(intact::model::PLANES)).expect("planes");
    let length = u64::from_le_bytes(*planes.first_chunk().expect("a length")) as usize;
    let header: Value = serde_json::from_slice(&planes[8..8 + length]).expect("a header");
    let offsets = &header["model.layers.0.mlp.down_proj.payload"]["data_offsets"];
    planes[8 + length + offsets[0].as_u64().expect("an offset") as usize] ^= 0x11;
    let pool = Arc::new(Pool::new(1));
    let planes = Arc::new(intact::core::storage::AlignedBytes::from(&planes[..]));
    let loaded = Loaded::from_bytes(&path, &manifest, planes, &pool).expect("opens");
    let mut other = Engine::new(&loaded, pool, Options::new(&reference::KERNELS, 64));
    let receipt = sample(&mut engine(&path, 1, |_| ()), Trace::Tensors);
    let verdict = other.verify(&receipt, None).expect("runs");
    assert!(verdict.to_string().contains("linear, at or after model.layers.0.mlp.down_proj"), "{verdict}");
    // Any step shows it.
    for seed in 0..20 {
        let verdict = other.verify(&receipt, Some(Spot { steps: 1, seed })).expect("runs");
        assert_eq!(verdict.status(), "different");
    }
}

#[test]
fn spot_checks_are_by_chance() {
    let path = llama();
    let mut engine = engine(&path, 1, |_| ());
    let receipt = sample(&mut engine, Trace::Logits);
    let mut value: Value = serde_json::from_slice(&receipt.to_bytes()).expect("JSON");
    let total = steps(&receipt);
    for count in [1, 3, total, total + 1, usize::MAX] {
        let verdict = engine.verify(&receipt, Some(Spot { steps: count, seed: 5 }));
        assert_eq!(verdict, Ok(Verdict::Equal { checked: count.min(total), steps: total }));
    }
    // One false token, at the end so that no other follows from it: 4 steps find it with probability 4 / total.
    other(&mut value["outputs"][0]["ids"][9]);
    rechain(&mut value, &path);
    reseal(&mut value);
    let forged = parse(&value).expect("reads");
    let (checks, chosen) = (400, 4);
    let found = |seed: &u64| {
        let verdict = engine.verify(&forged, Some(Spot { steps: chosen, seed: *seed })).expect("runs");
        assert!(verdict.status() == "equal" || verdict.to_string().contains("output 0, step 9,"), "{verdict}");
        verdict.status() == "different"
    };
    let found = (0..checks).filter(found).count();
    let expected = checks as usize * chosen / total;
    assert!(found.abs_diff(expected) < expected / 3, "{found} of {checks}, {expected} expected");
}
