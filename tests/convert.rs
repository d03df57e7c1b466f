//! Conversion of whole checkpoints: programs, profiles, formats, and what is refused.
mod import_support;

use import_support::{Gguf, Q8_0, singles};
use intact_core::certify::certify;
use intact_core::cpu::Pool;
use intact_core::formats::{Format, GROUP};
use intact_core::matrix::{Activation, Matrix};
use intact_core::program::{Model, Op, Slot, Vector};
use intact_quantize::convert::{ConvertError, Converted, Options, Profile, convert};
use intact_quantize::import::{Blocks, Source};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tempfile::TempDir;

/// A Hugging Face checkpoint that can be spoilt before it is written.
#[derive(Clone)]
struct Checkpoint {
    config: Map<String, Value>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

const LAYERS: usize = 2;
const HIDDEN: usize = 48;
const INTERMEDIATE: usize = 80;
const VOCABULARY: usize = 50;

impl Checkpoint {
    /// A model of a family with 4 heads of 16 over 2 key-value heads, tied and without biases.
    fn of(family: &str) -> Self {
        let config = json!({
            "model_type": family,
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        });
        let Value::Object(config) = config else { unreachable!() };
        let mut checkpoint = Self { config, tensors: BTreeMap::new() };
        checkpoint.random("model.embed_tokens.weight", &[VOCABULARY, HIDDEN]);
        checkpoint.random("model.norm.weight", &[HIDDEN]);
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("input_layernorm", &[HIDDEN][..]),
                ("post_attention_layernorm", &[HIDDEN]),
                ("self_attn.q_proj", &[64, HIDDEN]),
                ("self_attn.k_proj", &[32, HIDDEN]),
                ("self_attn.v_proj", &[32, HIDDEN]),
                ("self_attn.o_proj", &[HIDDEN, 64]),
                ("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]),
                ("mlp.up_proj", &[INTERMEDIATE, HIDDEN]),
                ("mlp.down_proj", &[HIDDEN, INTERMEDIATE]),
            ] {
                checkpoint.random(&format!("model.layers.{layer}.{name}.weight"), shape);
            }
        }
        match family {
            "qwen2" => checkpoint.layers("self_attn", &[("q_proj.bias", 64), ("k_proj.bias", 32), ("v_proj.bias", 32)]),
            "qwen3" => checkpoint.layers("self_attn", &[("q_norm.weight", 16), ("k_norm.weight", 16)]),
            _ => checkpoint,
        }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    /// Adds vectors to a part of every layer.
    fn layers(mut self, part: &str, vectors: &[(&str, usize)]) -> Self {
        for layer in 0..LAYERS {
            for (name, length) in vectors {
                self.random(&format!("model.layers.{layer}.{part}.{name}"), &[*length]);
            }
        }
        self
    }

    /// A tensor of pseudo-random singles between −1/4 and 1/4, a function of its name.
    fn random(&mut self, name: &str, shape: &[usize]) {
        let mut state = name.bytes().fold(7_u32, |state, byte| state.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Sign and fraction from the state, the exponent of 1/8.
            f32::from_bits(state & 0x8000_0000 | 0x3e00_0000 | state >> 9 & 0x007f_ffff)
        });
        self.set(name, shape, &values.collect::<Vec<_>>());
    }

    fn set(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.tensors.insert(name.to_owned(), (shape.to_vec(), singles(values.iter().copied())));
    }

    /// Writes and opens it. The directory must outlive the source.
    fn open(&self) -> (TempDir, Source) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), Value::Object(self.config.clone()).to_string()).unwrap();
        let view = |(shape, data): &'_ (Vec<usize>, Vec<u8>)| (shape.clone(), data.clone());
        let owned: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name.clone(), view(tensor))).collect();
        let views = owned.iter().map(|(name, (shape, data))| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
        });
        safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
        let source = Source::open(directory.path()).unwrap();
        (directory, source)
    }

    fn convert(&self, options: &Options) -> Result<Converted, ConvertError> {
        let (_directory, source) = self.open();
        convert(&source, options, &mut |_, _, _| ())
    }

    fn model(&self, options: &Options) -> Model {
        self.convert(options).unwrap().model
    }

    /// The message of the refusal.
    fn refusal(&self) -> String {
        self.convert(&Options::default()).unwrap_err().to_string()
    }
}

fn format(name: &str) -> Option<Format> {
    Some(Format::parse(name).unwrap())
}

fn with_profile(profile: Profile) -> Options {
    Options { profile, ..Options::default() }
}

/// Every plane of a matrix, absent ones empty.
fn planes(matrix: &Matrix) -> [&[u8]; 7] {
    let p = &matrix.planes;
    let optional = [&p.scale, &p.sign, &p.offset, &p.bias, &p.embedding_row].map(|plane| plane.as_ref());
    let [scale, sign, offset, bias, embedding] = optional.map(|plane| plane.map_or(&[][..], |plane| plane.bytes()));
    [p.payload.bytes(), p.row.bytes(), scale, sign, offset, bias, embedding]
}

fn matrix<'a>(model: &'a Model, name: &str) -> &'a Matrix {
    model.matrices.iter().find(|matrix| matrix.name == name).unwrap()
}

/// One line for each op, with names in place of numbers.
fn listing(model: &Model, ops: &[Op]) -> Vec<String> {
    let slot = |slot: Slot| model.slots[slot].as_str();
    let line = |op: &Op| match op {
        Op::Embed { matrix, out } => format!("{} -> {}", model.matrices[*matrix].name, slot(*out)),
        Op::RmsNorm { input, out, gain, norm } => {
            let (name, n) = (&model.vectors[*gain].name, norm);
            let constants = [n.gain_shift, n.epsilon as i32, n.root, n.root_shift];
            format!("{} -> {} by {name} {constants:?}", slot(*input), slot(*out))
        }
        Op::Linear { input, outputs } => {
            let outputs: Vec<_> =
                outputs.iter().map(|&(id, out)| format!("{} {}", model.matrices[id].name, slot(out))).collect();
            format!("{} -> {}", slot(*input), outputs.join(", "))
        }
        Op::Rope { slot: s, head_width, table, pairs } => {
            format!("{} {head_width} {} {pairs:?}", slot(*s), model.vectors[*table].name)
        }
        Op::Hadamard { slot: s, head_width } => format!("{} {head_width}", slot(*s)),
        Op::Attention(a) => {
            let slots = [a.query, a.key, a.value, a.out].map(slot).join(" ");
            let (heads, ranges) = ([a.heads, a.kv_heads, a.head_width], [a.query_max, a.key_max, a.scoring.value_max]);
            let scale = [a.scoring.scale, a.scoring.scale_shift];
            assert_eq!(a.scoring.softcap, None);
            format!("{slots} {heads:?} window {} {ranges:?} {scale:?}", a.window)
        }
        Op::GatedActivation { kind, gate, up, out } => {
            format!("{kind:?} {} {} -> {}", slot(*gate), slot(*up), slot(*out))
        }
        Op::ResidualAdd { into, from } => format!("{} += {}", slot(*into), slot(*from)),
        Op::Relu2 { slot: s } | Op::Softcap { slot: s, .. } => slot(*s).to_owned(),
    };
    ops.iter().map(|op| format!("{} {}", op.name(), line(op))).collect()
}

#[test]
fn a_llama_becomes_its_program() {
    let checkpoint = Checkpoint::of("llama").with("num_hidden_layers", json!(1));
    let mut checkpoint = checkpoint;
    checkpoint.tensors.retain(|name, _| !name.contains("layers.1."));
    let gain = "model.layers.0.input_layernorm.weight";
    checkpoint.set(gain, &[HIDDEN], &(0..HIDDEN).map(|i| f32::from([2, -1, 0][i % 3] as i8)).collect::<Vec<_>>());
    let model = checkpoint.model(&Options::default());
    // The norms' constants: gs from gains below 1/4, E = round(48e-5 · 2^24), sqrt(48) = 28378 · 2^-12.
    assert_eq!(
        listing(&model, &model.body),
        [
            "embed model.embed_tokens -> x",
            "rms_norm x -> h by model.layers.0.input_layernorm.gain [13, 8053, 28378, 12]",
            "linear h -> model.layers.0.self_attn.q_proj q, model.layers.0.self_attn.k_proj k, \
             model.layers.0.self_attn.v_proj v",
            "rope q 16 rope.0.freq64 Half",
            "rope k 16 rope.0.freq64 Half",
            "attention q k v o [4, 2, 16] window 0 [11585, 11585, 127] [23637, 16]",
            "linear o -> model.layers.0.self_attn.o_proj y",
            "residual_add x += y",
            "rms_norm x -> h by model.layers.0.post_attention_layernorm.gain [17, 8053, 28378, 12]",
            "linear h -> model.layers.0.mlp.gate_proj gate, model.layers.0.mlp.up_proj up",
            "gated_activation Swiglu gate up -> gate",
            "linear gate -> model.layers.0.mlp.down_proj y",
            "residual_add x += y",
        ]
    );
    assert_eq!(
        listing(&model, &model.head),
        [
            "rms_norm x -> h by model.norm.gain [17, 8053, 28378, 12]",
            "linear h -> model.embed_tokens logits"
        ]
    );
    assert_eq!((model.fraction_bits, model.vocabulary, model.context), (12, VOCABULARY, 128));
    let names: Vec<_> = model.vectors.iter().map(|vector| vector.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "rope.0.freq64",
            "model.layers.0.input_layernorm.gain",
            "model.layers.0.post_attention_layernorm.gain",
            "model.norm.gain"
        ]
    );
    let Vector::Freq64(table) = &model.vectors[0].values else { panic!("no table") };
    assert_eq!((table.len(), table[0]), (8, 0x28be_60db_9391_054a));
    let Vector::Gain(gains) = &model.vectors[1].values else { panic!("no gains") };
    assert_eq!(gains[..4], [16384, -8192, 0, 16384]);
    for matrix in &model.matrices {
        assert_eq!(Some(matrix.format), format("U8b8"));
        assert_eq!(matrix.activation, Activation::A16);
    }
}

#[test]
fn the_fastest_profile_transforms_queries_and_keys() {
    let model = Checkpoint::of("llama").model(&with_profile(Profile::Fastest));
    let lines = listing(&model, &model.body);
    assert_eq!(lines[5..8], ["hadamard q 16", "hadamard k 16", "attention q k v o [4, 2, 16] window 0 [32385, 127, 127] [23637, 16]"]);
    assert!(model.matrices.iter().all(|matrix| matrix.activation == Activation::A8));
    // 24 is no power of two: there is no transform of that width.
    let mut odd = Checkpoint::of("llama").with("head_dim", json!(24));
    for layer in 0..LAYERS {
        for (name, shape) in [("q", [96, HIDDEN]), ("k", [48, HIDDEN]), ("v", [48, HIDDEN]), ("o", [HIDDEN, 96])] {
            odd.random(&format!("model.layers.{layer}.self_attn.{name}_proj.weight"), &shape);
        }
    }
    let model = odd.model(&with_profile(Profile::Fastest));
    assert!(!model.body.iter().any(|op| matches!(op, Op::Hadamard { .. })));
}

#[test]
fn every_family_is_certified_in_every_profile() {
    let untied = |mut checkpoint: Checkpoint| {
        checkpoint.random("lm_head.weight", &[VOCABULARY, HIDDEN]);
        checkpoint
    };
    let all = [("q_proj.bias", 64), ("k_proj.bias", 32), ("v_proj.bias", 32), ("o_proj.bias", HIDDEN)];
    let mlp = [("gate_proj.bias", INTERMEDIATE), ("up_proj.bias", INTERMEDIATE), ("down_proj.bias", HIDDEN)];
    let biased = Checkpoint::of("llama").with("attention_bias", json!(true)).with("mlp_bias", json!(true));
    let families = [
        Checkpoint::of("llama"),
        untied(biased.layers("self_attn", &all).layers("mlp", &mlp)),
        Checkpoint::of("mistral").with("sliding_window", json!(7)),
        untied(Checkpoint::of("qwen2")),
        Checkpoint::of("qwen3").with("rope_theta", json!(1e6)),
        Checkpoint::of("qwen3").with("attention_bias", json!(true)).layers("self_attn", &all),
    ];
    for checkpoint in families {
        for profile in Profile::ALL {
            let Converted { model, provenance } = checkpoint.convert(&with_profile(profile)).unwrap();
            assert_eq!(provenance.profile, profile.name());
            let name = &checkpoint.config["model_type"];
            certify(model, &Pool::new(1)).unwrap_or_else(|refusal| panic!("{name} {profile:?}: {refusal}"));
        }
    }
}

#[test]
fn families_differ_where_they_should() {
    let biases = |model: &Model| -> Vec<String> {
        let biased = model.matrices.iter().filter(|matrix| matrix.planes.bias.is_some());
        biased.filter_map(|matrix| Some(matrix.name.strip_prefix("model.layers.0.")?.to_owned())).collect()
    };
    let llama = Checkpoint::of("llama").model(&Options::default());
    assert_eq!(biases(&llama), [""; 0]);
    let checkpoint = Checkpoint::of("qwen2");
    let qwen2 = checkpoint.model(&Options::default());
    assert_eq!(biases(&qwen2), ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
    // A bias between −1/4 and 1/4 times 2^12.
    let q = matrix(&qwen2, "model.layers.0.self_attn.q_proj");
    let (_, bytes) = &checkpoint.tensors["model.layers.0.self_attn.q_proj.bias"];
    for (row, bits) in bytes.as_chunks::<4>().0.iter().enumerate() {
        // The exponent is −3, so that the 24 bits of the fraction count 2^-26: 14 of them go, half up.
        let bits = u32::from_le_bytes(*bits);
        let magnitude = i64::from(bits & 0x007f_ffff | 0x0080_0000);
        let value = if bits >> 31 == 1 { -magnitude } else { magnitude };
        assert_eq!(i64::from(q.bias(row)), (value + (1 << 13)) >> 14, "{row}");
    }
    let qwen3 = Checkpoint::of("qwen3").model(&Options::default());
    assert_eq!(biases(&qwen3), [""; 0]);
    assert_eq!(
        listing(&qwen3, &qwen3.body)[3..6],
        [
            "rms_norm q -> q by model.layers.0.self_attn.q_norm.gain [17, 2684, 16384, 12]",
            "rms_norm k -> k by model.layers.0.self_attn.k_norm.gain [17, 2684, 16384, 12]",
            "rope q 16 rope.0.freq64 Half"
        ]
    );
}

#[test]
fn windows_follow_the_configuration() {
    let windows = |checkpoint: Checkpoint| -> Vec<u32> {
        let model = checkpoint.model(&Options::default());
        model.body.iter().filter_map(|op| if let Op::Attention(a) = op { Some(a.window) } else { None }).collect()
    };
    let mistral = || Checkpoint::of("mistral");
    assert_eq!(windows(mistral().with("sliding_window", json!(7))), [7, 7]);
    assert_eq!(windows(mistral().with("sliding_window", Value::Null)), [0, 0]);
    assert_eq!(windows(mistral()), [4096, 4096]);
    let qwen = || Checkpoint::of("qwen2").with("sliding_window", json!(9));
    assert_eq!(windows(qwen()), [0, 0]);
    let sliding = || qwen().with("use_sliding_window", json!(true));
    assert_eq!(windows(sliding()), [0, 0]);
    assert_eq!(windows(sliding().with("max_window_layers", json!(1))), [0, 9]);
    let types = json!(["sliding_attention", "full_attention"]);
    assert_eq!(windows(sliding().with("layer_types", types.clone())), [9, 0]);
    assert!(qwen().with("layer_types", types).refusal().contains("layer_types: a layer slides"));
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let checkpoint = Checkpoint::of("llama");
    for body in ["U8b8", "U4b8", "U5z8/16", "N4b8", "W16r"] {
        let run = |threads| {
            let options = Options { body: format(body), profile: Profile::Fast, threads, ..Options::default() };
            checkpoint.model(&options)
        };
        let one = run(1);
        for threads in [2, 7] {
            let other = run(threads);
            assert_eq!(one.body, other.body);
            for (a, b) in one.matrices.iter().zip(&other.matrices) {
                assert_eq!(planes(a), planes(b), "{} {body} {threads}", a.name);
                assert_eq!((a.activation, a.preshift), (b.activation, b.preshift));
            }
        }
    }
}

#[test]
fn formats_are_chosen_by_role() {
    let mut checkpoint = Checkpoint::of("llama");
    checkpoint.random("lm_head.weight", &[VOCABULARY, HIDDEN]);
    let options = Options { body: format("U4z8"), head: format("U6b8/16"), ..with_profile(Profile::Fast) };
    let model = checkpoint.model(&options);
    for matrix in &model.matrices {
        let body = matrix.name.contains("layers");
        assert_eq!(matrix.format.to_string(), if body { "U4z8" } else { "U6b8/16" }, "{}", matrix.name);
        assert_eq!(matches!(matrix.activation, Activation::A8b { .. }), body, "{}", matrix.name);
    }
    // Matrices of one input have one cap, and it is a cap of A8b.
    for op in &model.body {
        if let Op::Linear { outputs, .. } = op {
            let modes: Vec<_> = outputs.iter().map(|&(id, _)| model.matrices[id].activation).collect();
            assert!(modes.windows(2).all(|two| two[0] == two[1]), "{modes:?}");
            assert!(matches!(modes[0], Activation::A8b { cap: 1.. }));
        }
    }
    // Without a choice the layers' has no influence on the head's.
    let model = checkpoint.model(&Options { body: format("U4z8"), ..Options::default() });
    assert_eq!(Some(matrix(&model, "lm_head").format), format("U8b8"));
}

/// A GGUF model of width 32 whose matrices are Q8_0 with random codes.
fn quantized() -> (tempfile::NamedTempFile, Source) {
    let mut gguf = Gguf::new();
    gguf.text("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        gguf.u32(&format!("llama.{key}"), value);
    }
    gguf.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let mut state = 1_u32;
    for (name, dimensions) in [
        ("token_embd", [32, 40]),
        ("blk.0.attn_q", [32, 32]),
        ("blk.0.attn_k", [32, 16]),
        ("blk.0.attn_v", [32, 16]),
        ("blk.0.attn_output", [32, 32]),
        ("blk.0.ffn_gate", [32, 64]),
        ("blk.0.ffn_up", [32, 64]),
        ("blk.0.ffn_down", [64, 32]),
    ] {
        let mut data = Vec::new();
        for block in 0..dimensions[0] * dimensions[1] / 32 {
            // Halves between 1/64 and 1/32, of either sign.
            let scale = 0x2400 | block as u16 * 37 & 0x3ff | (block as u16 & 1) << 15;
            data.extend(scale.to_le_bytes());
            data.extend((0..32).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 24) as i8).max(-127).cast_unsigned()
            }));
        }
        gguf.tensor(&format!("{name}.weight"), &dimensions, Q8_0, data);
    }
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        gguf.tensor(&format!("{name}.weight"), &[32], 0, singles((0..32).map(|_| 1.0)));
    }
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), gguf.bytes()).unwrap();
    let source = Source::open(file.path()).unwrap();
    (file, source)
}

#[test]
fn codes_of_a_quantized_source_are_kept() {
    let (_file, source) = quantized();
    let mut steps = Vec::new();
    let mut progress = |done: usize, total: usize, name: &str| steps.push((done, total, name.to_owned()));
    let converted = convert(&source, &Options::default(), &mut progress).unwrap();
    let names: Vec<_> = converted.model.matrices.iter().map(|matrix| matrix.name.clone()).collect();
    assert_eq!(steps, names.into_iter().enumerate().map(|(i, name)| (i + 1, 8, name)).collect::<Vec<_>>());
    // The format of the codes, asked for by name, keeps them as well.
    let options = Options { body: format("U8b8"), head: format("U8b8"), ..Options::default() };
    let asked = convert(&source, &options, &mut |_, _, _| ()).unwrap();
    for (matrix, asked) in converted.model.matrices.iter().zip(&asked.model.matrices) {
        assert_eq!(matrix.format.to_string(), "U8b8");
        assert_eq!(planes(matrix), planes(asked));
        let tensor = &source.tensors[&format!("{}.weight", matrix.name)];
        let (mut blocks, mut codes) = (Blocks::default(), [0; GROUP]);
        for row in 0..matrix.rows {
            tensor.row_blocks(row, &mut blocks).unwrap();
            for group in 0..matrix.groups() {
                matrix.group_codes(row, group, &mut codes);
                let own = &blocks.codes[group * GROUP..][..GROUP];
                assert!(codes.iter().zip(own).all(|(&a, &b)| a == i16::from(b)), "{} {row}", matrix.name);
            }
        }
    }
    certify(converted.model, &Pool::new(1)).unwrap();
    let options = Options { body: format("U4b8"), ..Options::default() };
    let anew = convert(&source, &options, &mut |_, _, _| ()).unwrap().model;
    assert_eq!(Some(matrix(&anew, "model.layers.0.mlp.up_proj").format), format("U4b8"));
    assert_eq!(Some(matrix(&anew, "model.embed_tokens").format), format("U8b8"));
    certify(anew, &Pool::new(1)).unwrap();
}

#[test]
fn hostile_configurations_are_refused_by_name() {
    let huge = json!(u64::MAX);
    let scaling = |kind: &str, rest: Value| {
        let mut scaling = json!({"rope_type": kind});
        scaling.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        scaling
    };
    let llama3 = |key: &str, value: Value| {
        let mut rest = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        rest[key] = value;
        scaling("llama3", rest)
    };
    let cases = [
        ("model_type", json!("mamba"), "llama, mistral, qwen2, qwen3"),
        ("model_type", json!(5), "a text"),
        ("hidden_act", json!("gelu"), "silu"),
        ("hidden_size", huge.clone(), "16384"),
        ("hidden_size", json!(0), "from 1"),
        ("hidden_size", json!(-48), "from 1"),
        ("hidden_size", json!("48"), "whole number"),
        ("intermediate_size", huge.clone(), "131072"),
        ("num_hidden_layers", huge.clone(), "65536"),
        ("num_attention_heads", huge.clone(), "131072"),
        ("num_attention_heads", json!(131_072), "wider than"),
        ("num_attention_heads", json!(0), "from 1"),
        ("num_key_value_heads", json!(3), "does not divide"),
        ("num_key_value_heads", json!(0), "from 1 to 4"),
        ("head_dim", json!(15), "even width"),
        ("head_dim", huge.clone(), "4096"),
        ("vocab_size", huge.clone(), "1048575"),
        ("max_position_embeddings", huge, "16777216"),
        ("rms_norm_eps", json!(-1e-5), "from 0"),
        ("rms_norm_eps", json!("1e-5"), "a number"),
        ("rope_theta", json!(1.0), "above 1"),
        ("rope_theta", json!(1e300), "from 1e0"),
        ("partial_rotary_factor", json!(0.5), "implements 1 only"),
        ("rope_scaling", json!("linear"), "an object"),
        ("rope_scaling.rope_type", scaling("yarn", json!({"factor": 4.0})), "default, linear and llama3"),
        ("rope_scaling.rope_type", scaling("longrope", json!({})), "default, linear and llama3"),
        ("rope_scaling.rope_type", scaling("dynamic", json!({"factor": 4.0})), "default, linear and llama3"),
        ("rope_scaling.factor", scaling("linear", json!({})), "missing"),
        ("rope_scaling.factor", scaling("linear", json!({"factor": 0.0})), "from 1e0"),
        ("rope_scaling.factor", llama3("factor", json!(1e-300)), "from 1e0"),
        ("rope_scaling.high_freq_factor", llama3("high_freq_factor", json!(1.0)), "not more than"),
        ("rope_scaling.low_freq_factor", llama3("low_freq_factor", Value::Null), "missing"),
        ("attention_bias", json!("yes"), "true or false"),
    ];
    for (field, value, part) in cases {
        let key = field.split('.').next().unwrap();
        let message = Checkpoint::of("llama").with(key, value.clone()).refusal();
        assert!(message.contains(&format!("config.json: {field}: ")) && message.contains(part), "{value}: {message}");
    }
    for key in ["model_type", "hidden_size", "vocab_size", "rms_norm_eps", "max_position_embeddings"] {
        let message = Checkpoint::of("llama").without(key).refusal();
        assert!(message.contains(&format!("config.json: {key}: it is missing")), "{message}");
    }
    let message = Checkpoint::of("qwen2").with("layer_types", json!(["full_attention"])).refusal();
    assert!(message.contains("layer_types"), "{message}");
    let message = Checkpoint::of("qwen3").with("layer_types", json!(["full_attention", 3])).refusal();
    assert!(message.contains("layer_types"), "{message}");
}

#[test]
fn ropes_are_read_in_both_spellings() {
    let table = |checkpoint: Checkpoint| checkpoint.model(&Options::default()).vectors[0].values.clone();
    let llama = || Checkpoint::of("llama");
    let linear = table(llama().with("rope_scaling", json!({"type": "linear", "factor": 4})));
    assert_ne!(linear, table(llama()));
    let parameters = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0});
    assert_eq!(linear, table(llama().without("rope_theta").with("rope_parameters", parameters)));
    let other = json!({"rope_type": "default", "rope_theta": 500000.0});
    assert_eq!(
        table(llama().without("rope_theta").with("rope_parameters", other)),
        table(llama().with("rope_theta", json!(500_000)))
    );
}

#[test]
fn tensors_must_be_the_models() {
    let spoilt = |spoil: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = Checkpoint::of("llama");
        spoil(&mut checkpoint);
        checkpoint.refusal()
    };
    let up = "model.layers.1.mlp.up_proj.weight";
    let message = spoilt(&|checkpoint| drop(checkpoint.tensors.remove(up)));
    assert!(message.contains(&format!("tensor {up}: it is missing")), "{message}");
    let message = spoilt(&|checkpoint| checkpoint.random(up, &[HIDDEN, INTERMEDIATE]));
    assert!(message.contains(&format!("tensor {up}: its shape is [48, 80]")), "{message}");
    let message = spoilt(&|checkpoint| checkpoint.random("model.norm.weight", &[HIDDEN, 1]));
    assert!(message.contains("tensor model.norm.weight: its shape"), "{message}");
    let message = spoilt(&|checkpoint| checkpoint.random("model.layers.0.self_attn.q_proj.bias", &[64]));
    assert!(message.contains("model.layers.0.self_attn.q_proj.bias"), "{message}");
    let message = spoilt(&|checkpoint| checkpoint.random("rope_freqs", &[8]));
    assert!(message.contains("rope_freqs"), "{message}");
    // More layers than there are tensors, and a derived buffer.
    let message = Checkpoint::of("llama").with("num_hidden_layers", json!(60_000)).refusal();
    assert!(message.contains("tensor model.layers.2.input_layernorm.weight: it is missing"), "{message}");
    let mut checkpoint = Checkpoint::of("llama");
    checkpoint.random("model.layers.0.self_attn.rotary_emb.inv_freq", &[8]);
    checkpoint.model(&Options::default());
}

#[test]
fn values_must_be_representable() {
    let up = "model.layers.1.mlp.up_proj.weight";
    let spoilt = |name: &str, shape: &[usize], at: usize, value: f32| {
        let mut checkpoint = Checkpoint::of("qwen2");
        let mut values = vec![0.125; shape.iter().product()];
        values[at] = value;
        checkpoint.set(name, shape, &values);
        checkpoint.refusal()
    };
    for value in [f32::NAN, f32::INFINITY] {
        let message = spoilt(up, &[INTERMEDIATE, HIDDEN], 37 * HIDDEN + 5, value);
        assert!(message.contains(up) && message.contains("row 37"), "{message}");
    }
    let message = spoilt(up, &[INTERMEDIATE, HIDDEN], 40 * HIDDEN, f32::MAX);
    assert!(message.contains(&format!("tensor {up}: row 40: weights are too large")), "{message}");
    let message = spoilt("model.norm.weight", &[HIDDEN], 3, f32::MAX);
    assert!(message.contains("tensor model.norm.weight: a gain"), "{message}");
    let bias = "model.layers.0.self_attn.k_proj.bias";
    let message = spoilt(bias, &[32], 31, 1e9);
    assert!(message.contains(&format!("tensor {bias}: 1e9")), "{message}");
}

#[test]
fn options_are_checked() {
    let llama = Checkpoint::of("llama");
    let refused = |options: Options| llama.convert(&options).unwrap_err().to_string();
    for fraction_bits in [0, 7, 21, u32::MAX] {
        assert!(refused(Options { fraction_bits, ..Options::default() }).contains("option fraction_bits"));
    }
    for fraction_bits in [8, 20] {
        let model = llama.model(&Options { fraction_bits, ..Options::default() });
        assert_eq!(model.fraction_bits, fraction_bits);
        certify(model, &Pool::new(1)).unwrap();
    }
    assert!(refused(Options { threads: 0, ..Options::default() }).contains("option threads"));
    for name in ["U4r", "U8z8", "N4r"] {
        let message = refused(Options { head: format(name), ..Options::default() });
        assert!(message.contains("option head") && message.contains(name) && message.contains("U4z8"), "{message}");
    }
}
