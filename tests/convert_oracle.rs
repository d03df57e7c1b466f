//! The converter against the oracle (tests/oracle): constants, and the programs of whole models.
#![allow(clippy::float_arithmetic, reason = "a converter's input is real numbers")]
mod convert_support;

use convert_support::Checkpoint;
use intact::Loaded;
use intact_core::cpu::Pool;
use intact_quantize::constants::{self, RopeScaling};
use intact_quantize::convert::{Converted, Options, Profile, convert};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn read(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// The cases of one function.
fn cases(name: &str) -> Vec<(Value, Value)> {
    let all = read(&vectors().join("constants.json"));
    let cases = all[name].as_array().unwrap_or_else(|| panic!("no cases of {name}"));
    cases.iter().map(|case| (case["args"].clone(), case["result"].clone())).collect()
}

/// A real number, which the oracle writes as a decimal text.
fn real(value: &Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}

fn whole(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

#[test]
fn constants_agree() {
    for (args, result) in cases("dyadic") {
        let (m, shift) = constants::dyadic(real(&args["value"]), whole(&args["bits"]) as u32);
        assert_eq!(json!([m, shift]), result, "{args}");
    }
    for (args, result) in cases("norm_constants") {
        let n = whole(&args["n"]);
        let epsilon = constants::epsilon(n, real(&args["epsilon"]), whole(&args["F"]) as u32);
        let (root, shift) = constants::root(n);
        assert_eq!(json!([epsilon, root, shift]), result, "{args}");
    }
    for (args, result) in cases("gain_codes") {
        let gains: Vec<f32> = args["gains"].as_array().unwrap().iter().map(|gain| real(gain) as f32).collect();
        let (codes, shift) = constants::gains(&gains).unwrap();
        assert_eq!(json!([codes, shift]), result, "{args}");
    }
    let mut scores = 0;
    for (args, result) in cases("score_constants").into_iter().filter(|(args, _)| args["softcap"] == json!(false)) {
        let (scale, shift) = constants::score(whole(&args["head_dim"]), args["hadamard"] == json!(true));
        assert_eq!(json!([scale, shift]), result, "{args}");
        scores += 1;
    }
    assert!(scores > 0);
}

#[test]
fn rotation_tables_agree() {
    for (args, result) in cases("freq64") {
        let scaling = &args["scaling"];
        let scaling = match scaling["rope_type"].as_str() {
            None => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: real(&scaling["factor"]) },
            Some("llama3") => RopeScaling::Llama3 {
                factor: real(&scaling["factor"]),
                low: real(&scaling["low_freq_factor"]),
                high: real(&scaling["high_freq_factor"]),
                original_context: scaling["original_max_position_embeddings"].as_u64().unwrap(),
            },
            // The contract has it, the converter refuses it.
            Some("yarn") => continue,
            Some(other) => panic!("{other}"),
        };
        let table = constants::freq64(real(&args["theta"]), whole(&args["rot"]), &scaling);
        assert_eq!(json!(table), result, "{args}");
    }
}

/// The oracle's models of families that are converted.
const MODELS: [&str; 5] = ["llama", "llama3-rope", "mistral-window", "qwen2-bias", "qwen3-qknorm"];

/// A checkpoint of which a conversion must give the program of that directory: the gains are the directory's, and the
/// matrices, which no program depends on, are 0.
fn checkpoint(directory: &Path) -> (Checkpoint, Value) {
    let Value::Object(mut config) = read(&directory.join("config.json")) else { panic!("no object") };
    config.remove("quantization_config");
    let mut checkpoint = Checkpoint::bare(config);
    let model = read(&directory.join("intact.json"))["model"].take();
    for (name, matrix) in model["matrices"].as_object().unwrap() {
        let shape = [whole(&matrix["rows"]), whole(&matrix["columns"])];
        checkpoint.set(&format!("{name}.weight"), &shape, &vec![0.0; shape[0] * shape[1]]);
        if matrix["planes"].get("bias").is_some() {
            checkpoint.set(&format!("{name}.bias"), &shape[..1], &vec![0.0; shape[0]]);
        }
    }
    let file = fs::read(directory.join("model.safetensors")).unwrap();
    let planes = SafeTensors::deserialize(&file).unwrap();
    let ops = ["body", "head"].into_iter().flat_map(|part| model["program"][part].as_array().unwrap());
    for norm in ops.filter(|op| op["op"] == "rms_norm") {
        let gain = norm["gain"].as_str().unwrap();
        let unit = 1.0 / f64::from(1_u32 << whole(&norm["gain_shift"]));
        let codes = planes.tensor(gain).unwrap().data().to_vec();
        let codes = codes.as_chunks::<2>().0[..whole(&model["vectors"][gain]["length"])].iter();
        let values: Vec<f32> = codes.map(|code| (f64::from(i16::from_le_bytes(*code)) * unit) as f32).collect();
        checkpoint.set(&format!("{}.weight", gain.strip_suffix(".gain").unwrap()), &[values.len()], &values);
    }
    (checkpoint, model)
}

/// The oracle's model under the converter's names: a table's name is free, and so is which of its inputs a gated
/// activation overwrites.
fn renamed(model: &Value) -> Value {
    let mut model: Value =
        serde_json::from_str(&model.to_string().replace("model.rotary_emb.freq64", "rope.0.freq64")).unwrap();
    for op in model["program"]["body"].as_array_mut().unwrap() {
        if op["op"] == "gated_activation" {
            op["out"] = json!("gate");
        }
        if op["op"] == "linear" && op["in"] == "up" {
            op["in"] = json!("gate");
        }
    }
    model
}

#[test]
fn programs_agree() {
    for name in MODELS {
        for profile in Profile::ALL {
            let directory = vectors().join("models").join(format!("{name}-{}", profile.name()));
            let (checkpoint, model) = checkpoint(&directory);
            let expected = renamed(&model);
            let (_kept, source) = checkpoint.open();
            let Converted { model, .. } =
                convert(&source, &Options { profile, ..Options::default() }, &mut |_, _, _| true).unwrap();
            let loaded = Loaded::from_model(model, &source.path, &Pool::new(1)).unwrap();
            let found = serde_json::to_value(&loaded.manifest).unwrap()["model"].take();
            for part in ["body", "head"] {
                let pair = [&found, &expected].map(|model| model["program"][part].as_array().unwrap());
                for (index, (found, expected)) in pair[0].iter().zip(pair[1]).enumerate() {
                    assert_eq!(found, expected, "{name} {profile:?} {part}[{index}]");
                }
                assert_eq!(pair[0].len(), pair[1].len());
            }
            for key in ["contract", "fraction_bits", "vocabulary", "context", "vectors"] {
                assert_eq!(found[key], expected[key], "{name} {profile:?} {key}");
            }
            for (matrix, expected) in expected["matrices"].as_object().unwrap() {
                let found = &found["matrices"][matrix];
                for key in ["rows", "columns", "activation"] {
                    assert_eq!(found[key], expected[key], "{name} {profile:?} {matrix} {key}");
                }
                assert_eq!(found["planes"].get("bias").is_some(), expected["planes"].get("bias").is_some());
            }
        }
    }
}
