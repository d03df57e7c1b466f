//! GGUF models: configuration, names, row order, metadata, split files.
mod import_support;

use import_support::{F32, Gguf, array, singles, string, tiny};
use intact_quantize::error::Error;
use intact_quantize::import::{Array, Gguf as Header, Meta, Source, Tensor, TokenizerFiles};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn open(gguf: &Gguf) -> Result<Source, Error> {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    fs::write(file.path(), gguf.bytes()).unwrap();
    Source::open(file.path())
}

/// The error, whose message must hold all of `parts`.
#[track_caller]
fn assert_refused(gguf: Gguf, parts: &[&str]) {
    let message = open(&gguf).unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

/// All elements, row by row, as the small integers that they are.
fn integers(tensor: &Tensor) -> Vec<i64> {
    let mut out = vec![0.0; tensor.columns()];
    let mut all = Vec::new();
    for row in 0..tensor.rows() {
        tensor.row_f32(row, &mut out).unwrap();
        all.extend(out.iter().map(|&value| value as i64));
    }
    all
}

#[test]
fn a_llama_becomes_hugging_face_s() {
    let gguf = tiny("llama")
        .f32("llama.rope.freq_base", 500_000.0)
        .u32("llama.rope.dimension_count", 4)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    let source = open(&gguf).unwrap();
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "vocab_size": 5, "max_position_embeddings": 64,
        "rms_norm_eps": 9.999_999_747_378_752e-6, "rope_theta": 500_000.0, "rope_scaling": null,
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    assert_eq!(Value::Object(source.config), expected);
    let names: Vec<&str> = source.tensors.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "model.embed_tokens.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.o_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.v_proj.weight",
            "model.norm.weight",
        ]
    );
    let norms = ["input_layernorm", "post_attention_layernorm"].map(|name| format!("model.layers.0.{name}.weight"));
    assert_eq!(norms.map(|name| integers(&source.tensors[&name])[0]), [2, 3]);
    let down = &source.tensors["model.layers.0.mlp.down_proj.weight"];
    assert_eq!(down.shape, [8, 12]);
    assert_eq!(integers(down), (700..796).collect::<Vec<_>>());
}

#[test]
fn interleaved_rows_return_to_hugging_face_s_order() {
    // Heads of 8: Hugging Face rotates row i with i + 4, which the file holds as rows 2i and 2i + 1.
    let mut gguf = tiny("llama").u32("llama.attention.key_length", 8);
    for (name, rows, first) in [("attn_q", 16, 100), ("attn_k", 8, 300), ("attn_v", 8, 400)] {
        let [weight, bias] = ["weight", "bias"].map(|suffix| format!("blk.0.{name}.{suffix}"));
        gguf = gguf.without(&weight).counting(&weight, &[1, rows], first).counting(&bias, &[rows], first);
    }
    let source = open(&gguf).unwrap();
    let projection = |name: &str| format!("model.layers.0.self_attn.{name}");
    let head = |first: i64| [0, 2, 4, 6, 1, 3, 5, 7].map(|row| first + row);
    for suffix in ["weight", "bias"] {
        let rows = |name: &str| integers(&source.tensors[&projection(&format!("{name}_proj.{suffix}"))]);
        assert_eq!(rows("q"), [head(100), head(108)].concat());
        assert_eq!(rows("k"), head(300));
        assert_eq!(rows("v"), (400..408).collect::<Vec<_>>());
    }
    assert_eq!(source.config["attention_bias"], json!(true));
    for architecture in ["qwen2", "qwen3"] {
        let rows = integers(&open(&tiny(architecture)).unwrap().tensors[&projection("q_proj.weight")]);
        assert_eq!(rows, (100..164).collect::<Vec<_>>());
    }
    let name = "blk.0.attn_k.weight";
    assert_refused(
        tiny("llama").without(name).counting(name, &[8, 3], 0),
        &["blk.0.attn_k.weight", "no whole number of heads"],
    );
}

#[test]
fn the_other_architectures() {
    let source = open(&tiny("qwen2")).unwrap();
    assert_eq!(source.config["model_type"], json!("qwen2"));
    assert_eq!(source.config["architectures"], json!(["Qwen2ForCausalLM"]));
    assert_eq!(source.config["rope_theta"], json!(10_000.0));

    let gguf =
        tiny("qwen3").counting("blk.0.attn_q_norm.weight", &[4], 7).counting("blk.0.attn_k_norm.weight", &[4], 8);
    let source = open(&gguf).unwrap();
    assert_eq!(source.config["architectures"], json!(["Qwen3ForCausalLM"]));
    assert_eq!(integers(&source.tensors["model.layers.0.self_attn.q_norm.weight"]), [7, 8, 9, 10]);
    assert_eq!(integers(&source.tensors["model.layers.0.self_attn.k_norm.weight"]), [8, 9, 10, 11]);

    let gguf = tiny("llama").u32("llama.attention.sliding_window", 32).counting("output.weight", &[8, 5], 0);
    let source = open(&gguf).unwrap();
    assert_eq!(source.config["model_type"], json!("mistral"));
    assert_eq!(source.config["sliding_window"], json!(32));
    assert_eq!(source.config["tie_word_embeddings"], json!(false));
    assert_eq!(source.tensors["lm_head.weight"].shape, [5, 8]);
}

#[test]
fn rotation_scaling() {
    let scaling = |gguf: &Gguf| open(gguf).map(|source| source.config["rope_scaling"].clone());
    let factor = |value| tiny("llama").f32("llama.rope.scaling.factor", value);
    let kind = |kind| factor(4.0).text("llama.rope.scaling.type", kind);
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    for gguf in [factor(4.0), kind("linear"), tiny("llama").f32("llama.rope.scale_linear", 4.0)] {
        assert_eq!(scaling(&gguf).unwrap(), linear);
    }
    for gguf in [factor(0.0), factor(1.0), kind("none")] {
        assert_eq!(scaling(&gguf).unwrap(), Value::Null);
    }
    assert_refused(kind("yarn"), &["llama.rope.scaling.type", "yarn"]);
    for wrong in [-1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(scaling(&factor(wrong)), Err(Error::Malformed { .. })));
    }

    let gguf = tiny("llama").counting("rope_freqs.weight", &[2], 1);
    assert_eq!(scaling(&gguf).unwrap(), json!({"rope_type": "llama3_factors"}));
    assert_eq!(integers(&open(&gguf).unwrap().tensors["rope_freqs"]), [1, 2]);
    assert_refused(
        factor(4.0).counting("rope_freqs.weight", &[2], 1),
        &["llama.rope.scaling.factor", "rope_freqs.weight"],
    );
    let gguf = tiny("llama").counting("rope_freqs.weight", &[3], 1);
    assert_refused(gguf, &["rope_freqs.weight", "one divisor per rotated pair"]);
}

#[test]
fn what_is_not_understood_is_named() {
    let llama = || tiny("llama");
    assert_refused(tiny("mamba"), &["general.architecture", "mamba", "llama, qwen2 and qwen3"]);
    assert_refused(llama().text("general.type", "adapter"), &["general.type", "adapter"]);
    assert_refused(llama().f32("llama.logit_scale", 2.0), &["llama.logit_scale", "2", "original Hugging Face"]);
    assert_refused(llama().u32("llama.expert_count", 8), &["llama.expert_count", "mixture of experts"]);
    assert_refused(llama().u32("llama.rope.dimension_count", 2), &["llama.rope.dimension_count"]);
    assert_refused(llama().u32("llama.attention.value_length", 2), &["llama.attention.value_length"]);
    assert_refused(llama().meta("llama.attention.causal", 7, [0]), &["llama.attention.causal"]);
    assert_refused(llama().text("llama.tensor_data_layout", "reference"), &["llama.tensor_data_layout"]);
    assert_refused(tiny("qwen2").u32("qwen2.attention.sliding_window", 32), &["qwen2.attention.sliding_window"]);
    for name in [
        "blk.0.ffn_gate_inp.weight",
        "blk.1.attn_q.weight",
        "blk.00.attn_q.weight",
        "blk.0.attn_norm.bias",
        "blk.0.attn_q_norm.weight",
        "output.bias",
    ] {
        assert_refused(llama().counting(name, &[8], 0), &[name, "architecture llama does not have"]);
    }
    assert_refused(llama().tensor("x", &[256], 16, vec![0; 84]), &["tensor \"x\"", "IQ2_XXS", "use F32"]);
    assert_refused(llama().tensor("x", &[1], 77, vec![0; 84]), &["tensor \"x\"", "77"]);
    assert_refused(llama().tensor("x", &[2, 2, 2], F32, vec![0; 32]), &["tensor \"x\"", "[2, 2, 2]"]);
}

#[test]
fn missing_and_senseless_hyperparameters_are_named() {
    for key in ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"] {
        let key = format!("llama.{key}");
        let gguf = tiny("llama").without(&key);
        assert_refused(gguf.clone(), &[&key, "missing"]);
        assert_refused(gguf.clone().u32(&key, 0), &[&key, "0"]);
        assert_refused(gguf.clone().text(&key, "8"), &[&key, "non-negative integer"]);
        assert_refused(gguf.meta(&key, 9, array(4, 1, &[1, 0, 0, 0])), &[&key, "per layer"]);
    }
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    assert_refused(tiny("llama").without(epsilon), &[epsilon, "missing"]);
    assert_refused(tiny("llama").without(epsilon).f32(epsilon, f32::NAN), &[epsilon, "NaN"]);
    assert_refused(tiny("llama").u32("llama.attention.key_length", 3), &["llama.attention.key_length", "width 3"]);
    let heads = "llama.attention.head_count";
    assert_refused(tiny("llama").without(heads).u32(heads, 3), &[heads, "do not divide"]);
    assert_refused(tiny("llama").without("general.architecture"), &["general.architecture", "missing"]);
    assert_refused(tiny("llama").without("token_embd.weight"), &["token_embd.weight"]);
}

#[test]
fn metadata_of_every_type() {
    let mut gguf = Gguf::new();
    let scalars: [(u32, &[u8], Meta); 12] = [
        (0, &[200], Meta::U64(200)),
        (1, &[0xff], Meta::I64(-1)),
        (2, &[0, 0xff], Meta::U64(0xff00)),
        (3, &[0, 0x80], Meta::I64(-32768)),
        (4, &[0xff; 4], Meta::U64(0xffff_ffff)),
        (5, &[0xfe, 0xff, 0xff, 0xff], Meta::I64(-2)),
        (6, &[0, 0, 0xc0, 0x3f], Meta::F64(1.5)),
        (7, &[1], Meta::Bool(true)),
        (8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0xa9], Meta::String("é".to_owned())),
        (10, &[0xff; 8], Meta::U64(u64::MAX)),
        (11, &[0xff; 8], Meta::I64(-1)),
        (12, &[0, 0, 0, 0, 0, 0, 0xf8, 0xbf], Meta::F64(-1.5)),
    ];
    for (code, bytes, _) in &scalars {
        gguf = gguf.meta(&format!("scalar {code}"), *code, bytes);
        let twice = if *code == 8 { [*bytes, &string("")].concat() } else { bytes.repeat(2) };
        gguf = gguf.meta(&format!("array {code}"), 9, array(*code, 2, &twice));
        gguf = gguf.meta(&format!("empty {code}"), 9, array(*code, 0, &[]));
    }
    let header = Header::parse(Path::new("x.gguf"), &gguf.bytes()).unwrap();
    assert_eq!(header.meta.len(), 36);
    for (code, _, value) in scalars {
        assert_eq!(header.meta[&format!("scalar {code}")], value);
        match (&header.meta[&format!("array {code}")], &header.meta[&format!("empty {code}")]) {
            (Meta::Array(Array::Scalars(pair)), Meta::Array(Array::Scalars(none))) => {
                assert_eq!(pair.iter().collect::<Vec<_>>(), [value.clone(), value]);
                assert_eq!((pair.len(), none.len(), none.is_empty()), (2, 0, true));
            }
            (Meta::Array(Array::Strings(pair)), Meta::Array(Array::Strings(none))) => {
                assert_eq!(pair.iter().collect::<Vec<_>>(), ["é", ""]);
                assert_eq!((pair.get(1), pair.get(2), none.get(0)), (Some(""), None, None));
                assert_eq!((pair.len(), none.len(), none.is_empty()), (2, 0, true));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn version_2_and_any_alignment() {
    let mut gguf = tiny("llama");
    gguf.version = 2;
    for alignment in [1, 8, 64, 4096] {
        gguf.alignment = alignment;
        let gguf = gguf.clone().u32("general.alignment", alignment as u32);
        assert_eq!(integers(&open(&gguf).unwrap().tensors["model.norm.weight"]), (1..9).collect::<Vec<_>>());
    }
    assert_refused(tiny("llama").u32("general.alignment", 24), &["general.alignment", "power of two"]);
}

/// `tiny` over two files: hyperparameters and some tensors in the first, the rest in the second.
fn split() -> [Gguf; 2] {
    let mut first = tiny("llama");
    let mut second = Gguf::new();
    second.tensors = first.tensors.split_off(4);
    let total = (first.tensors.len() + second.tensors.len()) as u32;
    let part =
        |gguf: Gguf, number| gguf.u16("split.no", number).u16("split.count", 2).u32("split.tensors.count", total);
    [part(first, 0), part(second, 1)]
}

#[test]
fn split_models_are_one_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let [first, second] = split();
    fs::write(path("m-00001-of-00002.gguf"), first.bytes()).unwrap();
    let error = Source::open(&path("m-00001-of-00002.gguf")).unwrap_err();
    assert!(error.to_string().contains("m-00002-of-00002.gguf"), "{error}");

    fs::write(path("m-00002-of-00002.gguf"), second.bytes()).unwrap();
    for opened in [path("m-00001-of-00002.gguf"), directory.path().to_owned()] {
        let source = Source::open(&opened).unwrap();
        assert_eq!(source.path, path("m-00001-of-00002.gguf"));
        assert_eq!(source.tensors.len(), 11);
        assert_eq!(integers(&source.tensors["model.layers.0.mlp.down_proj.weight"])[0], 700);
        let TokenizerFiles::Gguf(meta) = source.tokenizer else { panic!("no metadata") };
        assert_eq!(meta["general.architecture"], Meta::String("llama".to_owned()));
    }
    let error = Source::open(&path("m-00002-of-00002.gguf")).unwrap_err().to_string();
    assert!(error.contains("not the first of the model's 2 files"), "{error}");

    fs::rename(path("m-00001-of-00002.gguf"), path("m.gguf")).unwrap();
    let error = Source::open(&path("m.gguf")).unwrap_err().to_string();
    assert!(error.contains("restore the names"), "{error}");
}

#[test]
fn split_models_must_be_consistent() {
    let open = |files: &[Gguf; 2]| {
        let directory = tempfile::tempdir().unwrap();
        for (file, number) in files.iter().zip(1..) {
            fs::write(directory.path().join(format!("m-0000{number}-of-00002.gguf")), file.bytes()).unwrap();
        }
        Source::open(directory.path()).unwrap_err().to_string()
    };
    let [first, second] = split();
    let error = open(&[first.clone(), second.clone().without("split.no").u16("split.no", 0)]);
    assert!(error.contains("m-00002-of-00002.gguf: split.no"), "{error}");
    let wrong_total = first.clone().without("split.tensors.count").u32("split.tensors.count", 12);
    let error = open(&[wrong_total, second.clone()]);
    assert!(error.contains("split.tensors.count: 12 tensors are announced, the files hold 11"), "{error}");
    let stolen = first.tensors[0].clone();
    let mut twice = second;
    twice.tensors[0] = stolen;
    let error = open(&[first, twice]);
    assert!(error.contains("token_embd.weight") && error.contains("two files"), "{error}");
}

#[test]
fn quantized_rows_follow_the_order_too() {
    let rows: Vec<u8> = (0..4).flat_map(|row| [&[0x00, 0x3c][..], &[row; 32]].concat()).collect();
    let gguf = tiny("llama")
        .without("blk.0.attn_k.weight")
        .tensor("blk.0.attn_k.weight", &[32, 4], import_support::Q8_0, rows)
        .tensor("blk.0.attn_k.bias", &[4], F32, singles([5.0, 6.0, 7.0, 8.0]));
    let source = open(&gguf).unwrap();
    let key = &source.tensors["model.layers.0.self_attn.k_proj.weight"];
    assert_eq!(integers(key).chunks(32).map(|row| row[31]).collect::<Vec<_>>(), [0, 2, 1, 3]);
    let mut blocks = intact_quantize::import::Blocks::default();
    key.row_blocks(1, &mut blocks).unwrap();
    assert_eq!(blocks.codes, [130; 32]);
    assert_eq!(integers(&source.tensors["model.layers.0.self_attn.k_proj.bias"]), [5, 7, 6, 8]);
}
