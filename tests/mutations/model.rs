//! Intact model directories.

use crate::json::{self, Limits};
use crate::random::Random;
use crate::safetensors::{Safetensors, mutate_frame};
use crate::{Mutant, Open, blind, program};
use intact::model::{MANIFEST, PLANES, canonical_json, sha256_hex};
use serde_json::{Value, json};
use std::path::Path;

/// A directory that is known to be sound.
pub(crate) struct Base {
    name: String,
    manifest: Value,
    planes: Safetensors,
    config: Vec<u8>,
}

const MODEL: &Limits = &[
    ("fraction_bits", 8, 20),
    ("vocabulary", 1, (1 << 20) - 1),
    ("context", 1, 1 << 24),
    ("rows", 1, 1 << 20),
    ("columns", 1, 131_072),
    ("preshift", 0, 47),
    ("cap", 1, 255),
];

const CONFIG: &str = "config.json";

/// The models of the Python oracle.
pub(crate) fn bases() -> Vec<Base> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models");
    let read = |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut bases: Vec<Base> = std::fs::read_dir(root)
        .expect("tests/vectors/models")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.is_dir())
        .map(|path| Base {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            manifest: serde_json::from_slice(&read(&path.join(MANIFEST))).expect("a manifest"),
            planes: Safetensors::parse(&read(&path.join(PLANES))),
            config: read(&path.join(CONFIG)),
        })
        .collect();
    bases.sort_by(|a, b| a.name.cmp(&b.name));
    bases
}

fn mutant(base: &Base, what: Vec<String>, manifest: Vec<u8>, planes: Vec<u8>) -> Mutant {
    let files = vec![(MANIFEST.into(), manifest), (PLANES.into(), planes), (CONFIG.into(), base.config.clone())];
    Mutant { base: base.name.clone(), what, files, open: Open::Model }
}

/// The manifest's text with the digest that its model has, so that a changed model passes for whole.
fn signed(manifest: &Value) -> Vec<u8> {
    let text = json::text(manifest);
    // What the text says is what counts: of keys that occur twice, the last.
    let Ok(mut read) = serde_json::from_str::<Value>(&text) else { return text.into() };
    let model = read.get_mut("model").map(Value::take).unwrap_or_default();
    let digest = sha256_hex(canonical_json(&model).as_bytes());
    match manifest["digest"].as_str() {
        Some(old) if !old.is_empty() => text.replacen(old, &digest, 1).into(),
        _ => text.into(),
    }
}

/// Operations, their slots and their constants.
pub(crate) fn program(bases: &[Base], random: &mut Random) -> Mutant {
    let base = random.pick(bases);
    let mut manifest = base.manifest.clone();
    let program = &mut manifest["model"]["program"];
    let what = (0..1 + random.below(3)).map(|_| program::mutate(program, random)).collect();
    mutant(base, what, signed(&manifest), base.planes.bytes())
}

/// Everything else in `intact.json`.
pub(crate) fn manifest(bases: &[Base], random: &mut Random) -> Mutant {
    let base = random.pick(bases);
    let mut manifest = base.manifest.clone();
    let what = (0..1 + random.below(2)).map(|_| field(&mut manifest, random)).collect();
    // Some keep a digest that is no longer theirs.
    let text = if random.one_in(12) { json::text(&manifest).into() } else { signed(&manifest) };
    mutant(base, what, text, base.planes.bytes())
}

fn field(manifest: &mut Value, random: &mut Random) -> String {
    const FORMATS: [&str; 14] = [
        "U4b8", "N4b8", "U4r", "N4r", "U4z8/128", "U5b8", "U6z8", "U8b8/16", "U8r", "W16r", "W16b8", "u4b8", "U4b8/17",
        "",
    ];
    let whole =
        |manifest: &mut Value, random: &mut Random| format!("manifest{}", json::mutate(manifest, MODEL, random));
    if !random.one_in(2) {
        return whole(manifest, random);
    }
    if random.one_in(6) {
        // Sizes in bytes whose padding to 64 leaves 64 bits, and lengths beside the true one.
        let length = *random.pick(&[(1 << 61) - 1, (1 << 63) - 1, u64::MAX, 1 << 61, 0, 63, 64, 65, 96]);
        let vectors = manifest.pointer_mut("/model/vectors").and_then(Value::as_object_mut);
        vectors.into_iter().flatten().for_each(|(_, vector)| json::set(Some(vector), "length", json!(length)));
        return format!("every vector has {length} values");
    }
    let Some(Value::Object(matrices)) = manifest.pointer_mut("/model/matrices") else { return whole(manifest, random) };
    let names: Vec<String> = matrices.keys().cloned().collect();
    if names.is_empty() {
        return whole(manifest, random);
    }
    match random.below(5) {
        0 => {
            let (mode, cap) = (*random.pick(&["A8", "A8b", "A16"]), random.between(0, 256));
            for matrix in matrices.values_mut().filter_map(Value::as_object_mut) {
                matrix.insert("activation".into(), json!(mode));
                matrix.remove("cap");
                if mode == "A8b" {
                    matrix.insert("cap".into(), json!(cap));
                }
            }
            format!("every matrix in mode {mode} with cap {cap}")
        }
        1 => {
            let (name, format) = (random.pick(&names), *random.pick(&FORMATS));
            json::set(matrices.get_mut(name), "format", json!(format));
            format!("{name} in format {format}")
        }
        2 => {
            let name = random.pick(&names);
            let table: Vec<i64> = (0..16).map(|_| random.between(-128, 127)).collect();
            json::set(matrices.get_mut(name), "table", json!(table));
            format!("{name} has table {table:?}")
        }
        3 => {
            let preshift = random.between(0, 48);
            matrices.values_mut().for_each(|matrix| json::set(Some(matrix), "preshift", json!(preshift)));
            format!("every preshift {preshift}")
        }
        _ => {
            let (key, low, high) = *random.pick(&MODEL[..3]);
            let value = random.between(low - 1, high + 1);
            json::set(manifest.get_mut("model"), key, json!(value));
            format!("{key} is {value}")
        }
    }
}

/// Values in planes, mostly ones that the contract allows and no converter would write.
pub(crate) fn planes(bases: &[Base], random: &mut Random) -> Mutant {
    let base = random.pick(bases);
    let mut planes = base.planes.clone();
    let names = planes.names();
    let mut what = Vec::new();
    for _ in 0..1 + random.below(6) {
        // Rare kinds of planes matter as much as frequent ones.
        let kinds = ["row", "embedding_row", "bias", "gain", "freq64", "scale", "sign", "offset", "payload"];
        let kind = *random.pick(&kinds);
        let mine: Vec<&String> = names.iter().filter(|name| name.rsplit('.').next() == Some(kind)).collect();
        if mine.is_empty() {
            continue;
        }
        let all = random.one_in(4);
        let chosen = if all { mine } else { vec![*random.pick(&mine)] };
        let value = random.word();
        for name in &chosen {
            let range = planes.range(name);
            fill(kind, &mut planes.data[range], &mut Random::new(value));
        }
        let name = if all { "every" } else { chosen[0].as_str() };
        what.push(format!("{name} {kind} from {value:#x}"));
    }
    let mut manifest = base.manifest.clone();
    if random.one_in(3) {
        what.push(program::mutate(&mut manifest["model"]["program"], random));
    }
    mutant(base, what, signed(&manifest), planes.bytes())
}

/// Fills a part of a plane with one value, or with many of one sort.
fn fill(kind: &str, plane: &mut [u8], random: &mut Random) {
    let range = random.range(plane.len() / 8);
    let plane = &mut plane[range.start * 8..range.end * 8];
    let (sort, same, fixed) = (random.below(8), random.one_in(2), random.word());
    let mut word = || if same { fixed } else { random.word() };
    match kind {
        "row" | "embedding_row" => plane.as_chunks_mut::<4>().0.iter_mut().for_each(|bytes| {
            let word = word();
            let m = [1 << 22, (1 << 23) - 1, 1 << 22 | word as u32 >> 10][word as usize % 3];
            let shift = [0, 127, word >> 40 & 127, word >> 40 & 31][(word >> 8) as usize % 4] as u32;
            let valid = if sort == 0 { 0 } else { m | shift << 23 };
            *bytes = if sort == 1 { word as u32 } else { valid }.to_le_bytes();
        }),
        "bias" => plane.as_chunks_mut::<4>().0.iter_mut().for_each(|bytes| {
            let word = word();
            *bytes = [i32::MIN, i32::MAX, word as i32, word as i32 >> 16][(word >> 40) as usize % 4].to_le_bytes();
        }),
        "gain" => plane.as_chunks_mut::<2>().0.iter_mut().for_each(|bytes| {
            let word = word();
            *bytes = [i16::MIN, i16::MAX, 0, word as i16][(word >> 40) as usize % 4].to_le_bytes();
        }),
        "offset" => plane.as_chunks_mut::<2>().0.iter_mut().for_each(|bytes| {
            let word = word();
            let narrow = word as i16 >> (sort + 3);
            *bytes = [-32768, 32767, narrow, narrow, narrow, narrow][if sort < 6 { 2 } else { word as usize % 6 }]
                .to_le_bytes();
        }),
        "freq64" => plane.as_chunks_mut::<8>().0.iter_mut().for_each(|bytes| {
            let word = word();
            *bytes = [0, u64::MAX, 1 << 63, word][(word >> 40) as usize % 4].to_le_bytes();
        }),
        _ => plane.iter_mut().for_each(|byte| *byte = [0, 0xff, 0x80, 0x7f, word() as u8][sort.min(4)]),
    }
}

/// The files as bytes: headers, frames, blind changes, absence.
pub(crate) fn bytes(bases: &[Base], random: &mut Random) -> Mutant {
    let base = random.pick(bases);
    let mut planes = base.planes.clone();
    let mut what = Vec::new();
    if random.one_in(2) {
        what.push(planes.mutate_header(random));
    }
    let mut mutant = mutant(base, what, json::text(&base.manifest).into(), planes.bytes());
    match random.below(6) {
        0 => mutant.what.push(mutate_frame(&mut mutant.files[1].1, random)),
        1 if random.one_in(4) => {
            let index = random.below(2);
            let (name, _) = mutant.files.remove(index);
            mutant.what.push(format!("{name} is missing"));
        }
        _ if mutant.what.is_empty() || random.one_in(4) => {
            let (name, bytes) = &mut mutant.files[random.below(3)];
            for _ in 0..1 + random.below(3) {
                mutant.what.push(format!("{name}: {}", blind::mutate(bytes, random)));
            }
        }
        _ => {}
    }
    mutant
}
