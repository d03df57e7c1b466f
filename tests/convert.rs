//! Conversion of whole checkpoints: programs, profiles, formats, and what is refused.
mod convert_support;
mod import_support;

use convert_support::{Checkpoint, HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY};
use import_support::{Gguf, Q8_0, singles};
use intact_core::certify::certify;
use intact_core::cpu::Pool;
use intact_core::formats::{Format, GROUP};
use intact_core::matrix::{Activation, Matrix};
use intact_core::program::{Model, Op, Slot, Vector};
use intact_quantize::convert::{ConvertError, Converted, Options, Profile, convert};
use intact_quantize::import::{Blocks, Source};
use serde_json::{Value, json};

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
        ["rms_norm x -> h by model.norm.gain [17, 8053, 28378, 12]", "linear h -> model.embed_tokens logits"]
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
    assert_eq!(
        lines[3..8],
        [
            "rope q 16 rope.0.freq64 Half",
            "hadamard q 16",
            "rope k 16 rope.0.freq64 Half",
            "hadamard k 16",
            "attention q k v o [4, 2, 16] window 0 [32385, 127, 127] [23637, 16]"
        ]
    );
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
            let Converted { model, provenance, requantized } = checkpoint.convert(&with_profile(profile)).unwrap();
            assert_eq!(requantized, [""; 0]);
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
            "rope q 16 rope.0.freq64 Half",
            "rms_norm k -> k by model.layers.0.self_attn.k_norm.gain [17, 2684, 16384, 12]"
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
    let mut gguf = Gguf::new().text("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        gguf = gguf.u32(&format!("llama.{key}"), value);
    }
    gguf = gguf.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
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
            let scale = 0x2400 | ((block as u16 * 37) & 0x3ff) | ((block as u16 & 1) << 15);
            data.extend(scale.to_le_bytes());
            data.extend((0..32).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 24) as i8).max(-127).cast_unsigned()
            }));
        }
        gguf = gguf.tensor(&format!("{name}.weight"), &dimensions, Q8_0, data);
    }
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        gguf = gguf.tensor(&format!("{name}.weight"), &[32], 0, singles((0..32).map(|_| 1.0)));
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
    let mut progress = |done: usize, total: usize, name: &str| {
        steps.push((done, total, name.to_owned()));
        true
    };
    let converted = convert(&source, &Options::default(), &mut progress).unwrap();
    let names: Vec<_> = converted.model.matrices.iter().map(|matrix| matrix.name.clone()).collect();
    assert_eq!(steps, names.into_iter().enumerate().map(|(i, name)| (i + 1, 8, name)).collect::<Vec<_>>());
    // The format of the codes, asked for by name, keeps them as well.
    let options = Options { body: format("U8b8"), head: format("U8b8"), ..Options::default() };
    let asked = convert(&source, &options, &mut |_, _, _| true).unwrap();
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
    assert_eq!(converted.requantized, [""; 0]);
    certify(converted.model, &Pool::new(1)).unwrap();
    let options = Options { body: format("U4b8"), ..Options::default() };
    let anew = convert(&source, &options, &mut |_, _, _| true).unwrap();
    let of_layers = |name: &String| name.contains("layers");
    assert!(anew.requantized.len() == 7 && anew.requantized.iter().all(of_layers), "{:?}", anew.requantized);
    let anew = anew.model;
    assert_eq!(Some(matrix(&anew, "model.layers.0.mlp.up_proj").format), format("U4b8"));
    assert_eq!(Some(matrix(&anew, "model.embed_tokens").format), format("U8b8"));
    certify(anew, &Pool::new(1)).unwrap();
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
fn a_conversion_can_be_stopped() {
    let (_directory, source) = Checkpoint::of("llama").open();
    let mut reports = 0;
    let stopped = convert(&source, &Options::default(), &mut |done, _, _| {
        reports += 1;
        done < 3
    });
    assert!(matches!(stopped, Err(ConvertError::Stopped)));
    assert_eq!(reports, 3);
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
