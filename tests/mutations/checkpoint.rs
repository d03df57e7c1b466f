//! Hugging Face directories.

use crate::random::Random;
use crate::safetensors::{Safetensors, mutate_frame};
use crate::{Mutant, Open, blind, json};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "bitnet"];
const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";

/// A checkpoint in its parts: a configuration and files of tensors, with an index where there are several.
struct Checkpoint {
    config: Value,
    files: BTreeMap<String, Safetensors>,
    index: Value,
}

const HIDDEN: usize = 16;
const INTERMEDIATE: usize = 32;
const VOCABULARY: usize = 20;

/// Tensors of a model with 1 layer, 2 heads of 8 and 1 key-value head.
fn shapes(family: &str) -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
    ];
    let layer: &[(&str, &[usize])] = &[
        ("input_layernorm.weight", &[HIDDEN]),
        ("post_attention_layernorm.weight", &[HIDDEN]),
        ("self_attn.q_proj.weight", &[16, HIDDEN]),
        ("self_attn.k_proj.weight", &[8, HIDDEN]),
        ("self_attn.v_proj.weight", &[8, HIDDEN]),
        ("self_attn.o_proj.weight", &[HIDDEN, 16]),
        ("mlp.gate_proj.weight", &[INTERMEDIATE, HIDDEN]),
        ("mlp.up_proj.weight", &[INTERMEDIATE, HIDDEN]),
        ("mlp.down_proj.weight", &[HIDDEN, INTERMEDIATE]),
    ];
    let own: &[(&str, &[usize])] = match family {
        "qwen2" => {
            &[("self_attn.q_proj.bias", &[16]), ("self_attn.k_proj.bias", &[8]), ("self_attn.v_proj.bias", &[8])]
        }
        "bitnet" => &[("self_attn.attn_sub_norm.weight", &[16]), ("mlp.ffn_sub_norm.weight", &[INTERMEDIATE])],
        "qwen3" => &[("self_attn.q_norm.weight", &[8]), ("self_attn.k_norm.weight", &[8])],
        _ => &[],
    };
    shapes.extend(layer.iter().chain(own).map(|(name, shape)| (format!("model.layers.0.{name}"), shape.to_vec())));
    shapes
}

/// Name, element type, shape, content.
type Entry = (String, &'static str, Vec<usize>, Vec<u8>);

/// Replaces the projections by what a quantizer stores, of random content; returns its configuration.
fn packed(tensors: &mut Vec<Entry>, family: &str, random: &mut Random) -> Value {
    let method = if family == "bitnet" { 3 } else { random.below(3) };
    let mut out = Vec::new();
    for (name, dtype, shape, content) in tensors.drain(..) {
        let Some(base) = name.strip_suffix(".weight").filter(|base| base.ends_with("_proj")) else {
            out.push((name, dtype, shape, content));
            continue;
        };
        let (rows, columns) = (shape[0], shape[1]);
        let parts: &[(&str, &'static str, Vec<usize>, usize)] = match method {
            0 => &[
                ("qweight", "I32", vec![columns / 8, rows], 4),
                ("qzeros", "I32", vec![columns / 16, rows / 8], 4),
                ("scales", "F16", vec![columns / 16, rows], 2),
            ],
            1 => &[
                ("qweight", "I32", vec![columns, rows / 8], 4),
                ("qzeros", "I32", vec![columns / 16, rows / 8], 4),
                ("scales", "F16", vec![columns / 16, rows], 2),
            ],
            2 => &[
                ("weight", "I8", vec![rows, columns], 1),
                ("weight_scale", "BF16", vec![rows, columns / 16], 2),
                ("weight_zero_point", "I8", vec![rows, columns / 16], 1),
            ],
            _ => &[("weight", "U8", vec![rows / 4, columns], 1), ("weight_scale", "BF16", vec![1], 2)],
        };
        for (part, dtype, shape, width) in parts {
            // Ternary digits are never 3, and scales are positive and below 2.
            let mask = if dtype.ends_with("16") { 0x3f } else { 0x55 };
            let size = shape.iter().product::<usize>() * width;
            let content = (0..size).map(|_| random.word() as u8 & mask).collect();
            out.push((format!("{base}.{part}"), *dtype, shape.clone(), content));
        }
    }
    *tensors = out;
    match method {
        0 => json!({"quant_method": "gptq", "bits": 4, "group_size": 16}),
        1 => json!({"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}),
        2 => json!({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {
            "group_0": {"weights": {"num_bits": 8, "strategy": "group", "group_size": 16}}}}),
        _ => json!({"quant_method": "bitnet", "linear_class": "autobitlinear"}),
    }
}

impl Checkpoint {
    fn new(family: &str, random: &mut Random) -> Self {
        let config = json!({
            "model_type": family, "hidden_act": if family == "bitnet" { "relu2" } else { "silu" }, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
            "vocab_size": VOCABULARY, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "rope_scaling": random.pick(&[
                Value::Null,
                json!({"rope_type": "linear", "factor": 2.0}),
                json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32}),
            ]),
        });
        let tensors = shapes(family).into_iter().map(|(name, shape)| {
            let (dtype, width) = *random.pick(&[("F32", 4), ("F16", 2), ("BF16", 2)]);
            let elements: usize = shape.iter().product();
            // With bit 6 of every byte clear each type holds numbers below 2.
            let bytes = (0..elements * width).map(|_| random.word() as u8 & 0xbf).collect();
            (name, dtype, shape, bytes)
        });
        let mut tensors: Vec<_> = tensors.collect();
        let quantization = if random.one_in(3) { packed(&mut tensors, family, random) } else { Value::Null };
        let mut config = config;
        config["quantization_config"] = quantization;
        let split = if random.one_in(3) { random.below(tensors.len()) } else { 0 };
        if split == 0 {
            let files = BTreeMap::from([("model.safetensors".to_owned(), Safetensors::new(tensors))]);
            return Self { config, files, index: Value::Null };
        }
        let second = tensors.split_off(split);
        let parts = [("model-00001-of-00002.safetensors", tensors), ("model-00002-of-00002.safetensors", second)];
        let files: BTreeMap<_, _> =
            parts.into_iter().map(|(name, tensors)| (name.to_owned(), Safetensors::new(tensors))).collect();
        let map: BTreeMap<String, &String> =
            files.iter().flat_map(|(file, part)| part.names().into_iter().map(move |name| (name, file))).collect();
        let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
        Self { config, files, index }
    }

    fn mutant(&self, base: String, what: Vec<String>) -> Mutant {
        let mut files = vec![(CONFIG.to_owned(), json::text(&self.config).into_bytes())];
        files.extend(self.files.iter().map(|(name, part)| (name.clone(), part.bytes())));
        if !self.index.is_null() {
            files.push((INDEX.to_owned(), json::text(&self.index).into_bytes()));
        }
        Mutant { base, what, files, open: Open::Checkpoint(String::new()) }
    }

    /// Any of the files of tensors.
    fn part(&mut self, random: &mut Random) -> Option<(&String, &mut Safetensors)> {
        let index = random.below(self.files.len());
        self.files.iter_mut().nth(index)
    }
}

/// Configuration, index and headers.
pub(crate) fn structure(random: &mut Random) -> Mutant {
    let family = *random.pick(&FAMILIES);
    let mut checkpoint = Checkpoint::new(family, random);
    let mut what = Vec::new();
    for _ in 0..1 + random.below(2) {
        what.push(match random.below(5) {
            0 | 1 => format!("config{}", json::mutate(&mut checkpoint.config, &[], random)),
            2 => configuration(&mut checkpoint.config, random),
            3 if !checkpoint.index.is_null() => format!("index{}", json::mutate(&mut checkpoint.index, &[], random)),
            _ => checkpoint.part(random).map_or_else(String::new, |(_, part)| part.mutate_header(random)),
        });
    }
    checkpoint.mutant(family.to_owned(), what)
}

/// Keys that change what the other keys mean.
fn configuration(config: &mut Value, random: &mut Random) -> String {
    let settings = [
        ("quantization_config", json!({"quant_method": random.text("gptq")})),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4, "group_size": 32})),
        ("quantization_config", json!({"quant_method": "awq", "bits": 4, "group_size": -1})),
        (
            "quantization_config",
            json!({"quant_method": "bitnet", "linear_class": "autobitlinear",
            "quantization_mode": random.pick(&["online", "offline"])}),
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "format": "int-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "channel"}}}}),
        ),
        ("quantization_config", json!({})),
        ("sliding_window", json!(random.integer(8) as u64)),
        ("use_sliding_window", json!(true)),
        ("max_window_layers", json!(u64::MAX)),
        ("layer_types", json!(["sliding_attention"])),
        ("tie_word_embeddings", json!(true)),
        ("attention_bias", json!(true)),
        ("head_dim", json!(null)),
        ("hidden_size", json!(1)),
        ("rms_norm_eps", json!(random.pick(&[0.0, 1e-300, 1.0, 0.5]))),
        ("rope_theta", json!(random.pick(&[1.0, 1.000_000_000_1, 1e30]))),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 1e6})),
        ("rope_scaling", json!({"type": "llama3_factors"})),
        ("rope_scaling", json!({"type": "linear", "factor": 1e6})),
    ];
    let (key, value) = random.pick(&settings);
    config[*key] = value.clone();
    format!("config: {key} is {:.60}", value.to_string().escape_default().to_string())
}

/// Weights at the ends of their types, frames and blind changes.
pub(crate) fn bytes(random: &mut Random) -> Mutant {
    let family = *random.pick(&FAMILIES);
    let mut checkpoint = Checkpoint::new(family, random);
    let mut what = Vec::new();
    if random.one_in(2) {
        for _ in 0..1 + random.below(3) {
            what.extend(checkpoint.part(random).map(|(_, part)| weights(part, random)));
        }
        return checkpoint.mutant(family.to_owned(), what);
    }
    let mut mutant = checkpoint.mutant(family.to_owned(), what);
    let index = random.below(mutant.files.len());
    let (name, bytes) = &mut mutant.files[index];
    mutant.what.push(match random.below(4) {
        0 if name.ends_with(".safetensors") => format!("{name}: {}", mutate_frame(bytes, random)),
        1 if random.one_in(4) => {
            let (name, _) = mutant.files.remove(index);
            format!("{name} is missing")
        }
        _ => format!("{name}: {}", blind::mutate(bytes, random)),
    });
    mutant
}

/// Sets a run of a tensor's elements to one number, or to a scale of its own.
fn weights(part: &mut Safetensors, random: &mut Random) -> String {
    let names = part.names();
    if names.is_empty() {
        return "no tensors".into();
    }
    let name = random.pick(&names);
    let wide = part.header[name]["dtype"] == "F32";
    let range = part.range(name);
    let elements = &mut part.data[range];
    let value = random.single();
    let width = if wide { 4 } else { 2 };
    let run = random.range(elements.len() / width);
    for element in elements[run.start * width..run.end * width].chunks_exact_mut(width) {
        // The upper half is the same number in BF16, and some number at the end of its range in F16.
        element.copy_from_slice(&value.to_le_bytes()[4 - width..]);
    }
    format!("{name}: {run:?} are {value:e}")
}
