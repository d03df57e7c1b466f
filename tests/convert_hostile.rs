//! Checkpoints that must be refused, each by the name of the field or tensor at fault.
mod convert_support;

use convert_support::{Checkpoint, HIDDEN, INTERMEDIATE};
use intact_quantize::convert::Options;
use serde_json::{Value, json};

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
