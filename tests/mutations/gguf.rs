//! GGUF files.

use crate::import_support::{F32, Gguf, Tensor, array, string, tiny};
use crate::random::Random;
use crate::{Mutant, Open, blind};

/// ggml's code, columns and bytes of a block of every type that is read.
const TYPES: [(u32, usize, usize); 19] = [
    (0, 1, 4),
    (1, 1, 2),
    (30, 1, 2),
    (8, 32, 34),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (20, 32, 18),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (10, 256, 84),
    (11, 256, 110),
    (23, 256, 136),
    (34, 256, 54),
    (35, 256, 66),
    (39, 32, 17),
    (40, 64, 36),
];

/// A model with 1 layer, width 256 and 2 heads of 32 whose matrices have any types.
fn quantized(random: &mut Random) -> Gguf {
    let mut gguf = Gguf::new()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 64)
        .u32("llama.embedding_length", 256)
        .u32("llama.feed_forward_length", 256)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .u32("llama.attention.key_length", 32)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .counting("output_norm.weight", &[256], 1)
        .counting("blk.0.attn_norm.weight", &[256], 2)
        .counting("blk.0.ffn_norm.weight", &[256], 3);
    for (name, columns, rows) in [
        ("token_embd", 256, 20),
        ("blk.0.attn_q", 256, 64),
        ("blk.0.attn_k", 256, 32),
        ("blk.0.attn_v", 256, 32),
        ("blk.0.attn_output", 64, 256),
        ("blk.0.ffn_gate", 256, 256),
        ("blk.0.ffn_up", 256, 256),
        ("blk.0.ffn_down", 256, 256),
    ] {
        let fitting: Vec<_> = TYPES.iter().filter(|(_, block, _)| columns % block == 0).collect();
        let &&(code, block, size) = random.pick(&fitting);
        // With bit 6 of every byte clear each number, whatever its type, is below 2.
        let data = (0..rows * columns / block * size).map(|_| random.word() as u8 & 0xbf).collect();
        gguf = gguf.tensor(&format!("{name}.weight"), &[columns as u64, rows as u64], code, data);
    }
    gguf
}

/// A sound file of any architecture, and its name.
fn base(random: &mut Random) -> (&'static str, Gguf) {
    match random.below(4) {
        0 => ("llama", tiny("llama")),
        1 => {
            let bias = |gguf: Gguf, name: &str, rows| gguf.counting(&format!("blk.0.attn_{name}.bias"), &[rows], 1);
            ("qwen2", bias(bias(bias(tiny("qwen2"), "q", 8), "k", 4), "v", 4))
        }
        2 => {
            let norm = |gguf: Gguf, name: &str| gguf.counting(&format!("blk.0.attn_{name}_norm.weight"), &[4], 1);
            ("qwen3", norm(norm(tiny("qwen3"), "q"), "k"))
        }
        _ => ("quantized", quantized(random)),
    }
}

fn mutant(base: &str, what: Vec<String>, file: Vec<u8>, random: &mut Random) -> Mutant {
    let directory = random.one_in(4);
    let path = if directory { String::new() } else { "model.gguf".to_owned() };
    Mutant { base: base.to_owned(), what, files: vec![("model.gguf".into(), file)], open: Open::Checkpoint(path) }
}

/// Keys, tensors and counts.
pub(crate) fn structure(random: &mut Random) -> Mutant {
    let (name, mut gguf) = base(random);
    let mut what = Vec::new();
    for _ in 0..1 + random.below(2) {
        what.push(match random.below(5) {
            0 => key(&mut gguf, random),
            1 => value(&mut gguf, random),
            2 => list(&mut gguf.tensors, random),
            _ => tensor(&mut gguf, random),
        });
    }
    let mut file = gguf.bytes();
    if random.one_in(8) {
        let at = *random.pick(&[4, 8, 16]);
        let word = u64::from_le_bytes(file[at..at + 8].try_into().unwrap_or_default());
        let lie = random.integer(word.into()) as u64;
        file[at..at + 8].copy_from_slice(&lie.to_le_bytes());
        what.push(format!("word at {at} is {lie}"));
    }
    if random.one_in(8) {
        let ends = boundaries(&gguf, &file);
        let end = *random.pick(&ends);
        file.truncate(end);
        what.push(format!("cut to {end}"));
    }
    mutant(name, what, file, random)
}

/// Numbers inside tensors, and blind changes.
pub(crate) fn bytes(random: &mut Random) -> Mutant {
    let (name, mut gguf) = base(random);
    let mut what = Vec::new();
    if random.one_in(2) {
        for _ in 0..1 + random.below(3) {
            what.push(data(&mut gguf, random));
        }
        return mutant(name, what, gguf.bytes(), random);
    }
    let mut file = gguf.bytes();
    for _ in 0..1 + random.below(3) {
        what.push(blind::mutate(&mut file, random));
    }
    mutant(name, what, file, random)
}

/// Where a name, a number behind a name, or a tensor's data begins or ends.
fn boundaries(gguf: &Gguf, file: &[u8]) -> Vec<usize> {
    let mut ends = vec![0, 4, 8, 16, 24, file.len() - 1];
    let names = gguf.meta.iter().map(|(key, ..)| key).chain(gguf.tensors.iter().map(|tensor| &tensor.name));
    for name in names.filter(|name| !name.is_empty()) {
        if let Some(at) = file.windows(name.len()).position(|bytes| bytes == name.as_bytes()) {
            ends.extend([at - 8, at, at + name.len(), at + name.len() + 4, at + name.len() + 8]);
        }
    }
    let data: usize = gguf.tensors.iter().map(|tensor| tensor.data.len().next_multiple_of(gguf.alignment)).sum();
    ends.extend([file.len().saturating_sub(data), file.len() - data / 2]);
    ends.retain(|&end| end <= file.len());
    ends
}

/// Removes, repeats or exchanges entries.
fn list<T: Clone>(entries: &mut Vec<T>, random: &mut Random) -> String {
    if entries.is_empty() {
        return "nothing there".into();
    }
    let (a, b) = (random.below(entries.len()), random.below(entries.len()));
    match random.below(3) {
        0 => {
            entries.remove(a);
            format!("entry {a} removed")
        }
        1 => {
            entries.insert(b, entries[a].clone());
            format!("entry {a} again at {b}")
        }
        _ => {
            entries.swap(a, b);
            format!("entries {a} and {b} exchanged")
        }
    }
}

/// Keys: their names, and new ones that mean something.
fn key(gguf: &mut Gguf, random: &mut Random) -> String {
    const NAMES: [&str; 16] = [
        "split.count",
        "split.no",
        "split.tensors.count",
        "general.alignment",
        "general.type",
        "llama.rope.dimension_count",
        "llama.rope.freq_base",
        "llama.rope.scaling.type",
        "llama.rope.scaling.factor",
        "llama.attention.sliding_window",
        "llama.attention.causal",
        "llama.attention.key_length",
        "llama.attention.value_length",
        "llama.expert_count",
        "qwen3.attention.key_length",
        "tokenizer.ggml.eos_token_id",
    ];
    if random.one_in(2) && !gguf.meta.is_empty() {
        if random.one_in(2) {
            return format!("keys: {}", list(&mut gguf.meta, random));
        }
        let index = random.below(gguf.meta.len());
        let name = random.text(&gguf.meta[index].0);
        gguf.meta[index].0 = name;
        return format!("key {index} renamed");
    }
    let name = *random.pick(&NAMES);
    let (code, value) = any_value(random);
    gguf.meta.push((name.to_owned(), code, value.clone()));
    format!("{name} is {code}: {:02x?}", &value[..value.len().min(16)])
}

/// The value of a key.
fn value(gguf: &mut Gguf, random: &mut Random) -> String {
    if gguf.meta.is_empty() {
        return "no keys".into();
    }
    let index = random.below(gguf.meta.len());
    let (key, code, bytes) = &mut gguf.meta[index];
    match (*code, random.below(4)) {
        (_, 0) => (*code, *bytes) = any_value(random),
        (_, 1) => *code = random.below(14) as u32,
        (6, _) => *bytes = random.single().to_le_bytes().to_vec(),
        (8, _) => {
            let names = ["llama", "qwen2", "qwen3", "gemma3", "none", "linear"];
            *bytes = string(&if random.one_in(2) { random.text("llama") } else { (*random.pick(&names)).to_owned() });
        }
        _ => {
            let mut word = [0; 8];
            word[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
            let changed = random.integer(u64::from_le_bytes(word).into()) as u64;
            *bytes = changed.to_le_bytes()[..bytes.len().min(8)].to_vec();
        }
    }
    format!("{key} is {code}: {:02x?}", &bytes[..bytes.len().min(16)])
}

/// A value of any type, sound but for arrays whose count lies.
fn any_value(random: &mut Random) -> (u32, Vec<u8>) {
    let word = (random.integer(2) as u64).to_le_bytes();
    match random.below(9) {
        0 => (0, word[..1].to_vec()),
        1 => (4, word[..4].to_vec()),
        2 => (5, word[..4].to_vec()),
        3 => (6, random.single().to_le_bytes().to_vec()),
        4 => (7, vec![random.below(3) as u8]),
        5 => (8, string(&random.text("linear"))),
        6 => (10, word.to_vec()),
        7 => (12, f64::from(random.single()).to_le_bytes().to_vec()),
        _ => {
            let code = random.below(14) as u32;
            (9, array(code, random.integer(2) as u64, &[0; 64]))
        }
    }
}

/// A tensor's entry.
fn tensor(gguf: &mut Gguf, random: &mut Random) -> String {
    if gguf.tensors.is_empty() {
        return "no tensors".into();
    }
    let other = random.pick(&gguf.tensors).clone();
    let index = random.below(gguf.tensors.len());
    let offsets: Vec<u64> = gguf.tensors.iter().map(|tensor| tensor.data.len() as u64).collect();
    let honest: u64 = offsets[..index].iter().map(|length| length.next_multiple_of(gguf.alignment as u64)).sum();
    let tensor = &mut gguf.tensors[index];
    let what = tensor.name.clone();
    match random.below(7) {
        0 => {
            tensor.name = if random.one_in(2) { other.name } else { random.text(&tensor.name) };
            format!("{what} renamed")
        }
        1 => {
            let size = random.pick(&tensor.dimensions.clone()).to_owned();
            let at = random.below(tensor.dimensions.len());
            tensor.dimensions[at] = random.integer(size.into()) as u64;
            format!("{what} has dimensions {:?}", tensor.dimensions)
        }
        2 => {
            match random.below(4) {
                0 => tensor.dimensions.reverse(),
                1 => tensor.dimensions.push(*random.pick(&[1, 0, 2, u64::MAX])),
                2 => drop(tensor.dimensions.pop()),
                _ => tensor.dimensions = other.dimensions,
            }
            if tensor.dimensions.is_empty() {
                tensor.dimensions = vec![1; 5];
            }
            format!("{what} has dimensions {:?}", tensor.dimensions)
        }
        3 => {
            tensor.code = if random.one_in(2) { random.pick(&TYPES).0 } else { random.integer(41) as u32 };
            format!("{what} has type {}", tensor.code)
        }
        4 => {
            let near = *random.pick(&[-32, -1, 0, 1, 32, 64]);
            let offset = if random.one_in(2) { i128::from(honest) + near } else { random.integer(honest.into()) };
            tensor.offset = Some(offset as u64);
            format!("{what} lies at {}", offset as u64)
        }
        5 => {
            let size = random.below(tensor.data.len() + 64);
            tensor.data.resize(size, 0);
            format!("{what} has {size} bytes")
        }
        _ => {
            let Tensor { code, data, dimensions, .. } = other;
            (tensor.code, tensor.data, tensor.dimensions) = (code, data, dimensions);
            format!("{what} holds what {} does", other.name)
        }
    }
}

/// Numbers that do not fit, where singles or the scales of blocks are.
fn data(gguf: &mut Gguf, random: &mut Random) -> String {
    let index = random.below(gguf.tensors.len());
    let tensor = &mut gguf.tensors[index];
    let value = random.single();
    let (_, _, size) = *TYPES.iter().find(|(code, ..)| *code == tensor.code).unwrap_or(&TYPES[0]);
    let blocks = random.range(tensor.data.len() / size);
    let byte = random.word() as u8;
    let codes = random.one_in(2);
    for block in tensor.data[blocks.start * size..blocks.end * size].chunks_exact_mut(size) {
        match tensor.code {
            F32 => block.copy_from_slice(&value.to_le_bytes()),
            // Codes −128, which Q8_0 does not have, among others.
            _ if codes => block[size / 2..].fill(if byte < 128 { 0x80 } else { byte }),
            // Scales stand at the beginning, but for Q6_K.
            14 => block[208..].copy_from_slice(&value.to_le_bytes()[2..]),
            _ => block[..2].copy_from_slice(&value.to_le_bytes()[2..]),
        }
    }
    format!("{}: blocks {blocks:?} hold {value:e} or code {byte}", tensor.name)
}
