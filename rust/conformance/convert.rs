//! Conversion: the same source becomes the same model, by its digest, on every machine. Kernels have no part in it.

use crate::fills::Rng;
use crate::{Case, Line, Machine};
use intact::model::sha256_hex;
use intact::{Engine, Loaded, Options as EngineOptions};
use intact_core::formats::Format;
use intact_quantize::calibrate::{Calibration, Settings, Weighting};
use intact_quantize::convert::{Options, Profile, convert};
use intact_quantize::import::Source;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];
/// Formats of whole models: every payload and mode that real weights are quantized to but the trellis.
const FORMATS: [&str; 18] = [
    "U8r", "W16r", "U8b8", "U6b8", "U5b8", "U4b8", "U3b8", "U2b8/64", "N4b8", "U6z8", "U5z8", "U4z8", "U3z8", "U2z8",
    "T16r", "T20b4", "U4b8/16", "U4z8/128",
];
/// Formats of one matrix, a small one: searches of the trellis take long under emulation.
const TRELLIS: [&str; 7] = ["P10r", "P15b4/64", "P20b4", "P25b8", "P30b4", "P35b4/16", "P40b4"];
const MATRIX: &str = "model.layers.1.self_attn.k_proj";
/// Tokens of a window of calibration.
const WINDOW: usize = 24;
const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 160;
const VOCABULARY: usize = 97;
/// Wider than `HIDDEN`, so that heads are not its divisors.
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD: usize = 32;
/// Of a head whose key projection is the matrix for the trellis.
const SMALL_HEAD: usize = 8;

pub(crate) fn cases() -> Vec<Case> {
    let families = FAMILIES.map(|family| {
        Case::new(format!("convert/{family}"), move |machine| {
            let options = Profile::ALL.map(|profile| (profile.name(), Options { profile, ..Options::default() }));
            let options = options.map(|(name, options)| (name.to_owned(), options)).into_iter();
            digests(family, HEAD, options, machine)
        })
    });
    let formats = Case::new("convert/formats", |machine| {
        let options = FORMATS.into_iter().filter_map(Format::parse).map(|format| {
            (format.to_string(), Options { body: Some(format), head: Some(format), ..Options::default() })
        });
        digests("llama", HEAD, options, machine)
    });
    let trellis = Case::new("convert/trellis", |machine| {
        let options = TRELLIS.into_iter().filter_map(Format::parse).map(|format| {
            let formats = BTreeMap::from([(MATRIX.to_owned(), format)]);
            (format.to_string(), Options { formats, ..Options::default() })
        });
        digests("llama", SMALL_HEAD, options, machine)
    });
    let calibrated = Case::new("convert/calibrated", calibrated);
    families.into_iter().chain([formats, trellis, calibrated]).collect()
}

/// Digests of a model that is calibrated by itself, and of what is quantized by that calibration.
fn calibrated(machine: &Machine) -> Result<Vec<Line>, String> {
    let source = checkpoint("qwen2", SMALL_HEAD)?;
    let converted = convert(&source, &Options::default(), &mut |_, _, _| true).map_err(|error| error.to_string())?;
    let loaded = Loaded::from_model(converted.model, &source.path, &machine.pool).map_err(|e| e.to_string())?;
    let settings = Settings {
        model: loaded.manifest.digest.clone(),
        text: sha256_hex(b""),
        window: WINDOW,
        weighting: Weighting::Auto,
        full: true,
    };
    let mut calibration = Calibration::new(&loaded, settings).map_err(|error| error.to_string())?;
    let options = EngineOptions::new(machine.kernels, loaded.certified.model().context);
    let mut engine = Engine::new(&loaded, machine.pool.clone(), options);
    let mut random = Rng::new(7);
    for _ in 0..4 {
        let tokens: Vec<u32> = (0..WINDOW).map(|_| random.between(0, VOCABULARY as i64 - 1) as u32).collect();
        calibration.add(&mut engine, &machine.pool, &tokens, &BTreeMap::new()).map_err(|error| error.to_string())?;
    }
    let sums = calibration.sets.iter().flat_map(|set| set.moments().unwrap_or_default());
    let bytes: Vec<u8> = sums.flat_map(|sum| sum.to_le_bytes()).collect();
    let mut lines = vec![Line::new("sums", json!(sha256_hex(&bytes)))];
    let options = Options {
        body: Format::parse("N4b8"),
        head: Format::parse("U6b8"),
        formats: Format::parse("P30b4").map(|format| (MATRIX.to_owned(), format)).into_iter().collect(),
        calibration: Some(calibration.into()),
        ..Options::default()
    };
    lines.extend(digests("qwen2", SMALL_HEAD, std::iter::once(("calibrated".to_owned(), options)), machine)?);
    Ok(lines)
}

/// [name, model digest] for each of the options.
fn digests(
    family: &str, head: usize, options: impl Iterator<Item = (String, Options)>, machine: &Machine,
) -> Result<Vec<Line>, String> {
    let source = checkpoint(family, head)?;
    let line = |(name, options): (String, Options)| {
        let options = Options { threads: machine.pool.threads(), ..options };
        let converted = convert(&source, &options, &mut |_, _, _| true).map_err(|error| error.to_string())?;
        let loaded = Loaded::from_model(converted.model, &source.path, &machine.pool).map_err(|e| e.to_string())?;
        Ok(Line::new(format!("{family}, {name}"), json!([name, loaded.manifest.digest])))
    };
    options.map(line).collect()
}

/// A Hugging Face checkpoint of random numbers with heads of `head` elements.
fn checkpoint(family: &str, head: usize) -> Result<Source, String> {
    let config = json!({
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": head,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "rope_scaling": rope_scaling(family),
        "tie_word_embeddings": family != "mistral",
    });
    let tensors = tensors(family, head);
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|error| error.to_string())?;
        Ok((name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, String>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|error| error.to_string())?;
    let config = config.as_object().cloned().unwrap_or_default();
    Source::from_bytes(Path::new(family), config, bytes).map_err(|error| error.to_string())
}

fn rope_scaling(family: &str) -> Value {
    if family != "llama" {
        return Value::Null;
    }
    json!({
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    })
}

/// Every tensor with its shape and its singles; a row in sixteen is zero, and one value in 32 is large.
fn tensors(family: &str, head: usize) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let (q, kv) = (HEADS * head, KV_HEADS * head);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    if family == "mistral" {
        shapes.push(("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]));
    }
    let biases: &[(&str, usize)] = match family {
        "qwen2" => &[("self_attn.q_proj.bias", q), ("self_attn.k_proj.bias", kv), ("self_attn.v_proj.bias", kv)],
        "qwen3" => &[("self_attn.q_norm.weight", head), ("self_attn.k_norm.weight", head)],
        _ => &[],
    };
    for layer in 0..2 {
        let matrices = [
            ("self_attn.q_proj", q, HIDDEN),
            ("self_attn.k_proj", kv, HIDDEN),
            ("self_attn.v_proj", kv, HIDDEN),
            ("self_attn.o_proj", HIDDEN, q),
            ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
            ("mlp.up_proj", INTERMEDIATE, HIDDEN),
            ("mlp.down_proj", HIDDEN, INTERMEDIATE),
        ];
        let norms = [("input_layernorm.weight", HIDDEN), ("post_attention_layernorm.weight", HIDDEN)];
        shapes.extend(
            matrices.map(|(name, rows, columns)| (format!("model.layers.{layer}.{name}.weight"), vec![rows, columns])),
        );
        let vectors = norms.iter().chain(biases);
        shapes.extend(vectors.map(|(name, length)| (format!("model.layers.{layer}.{name}"), vec![*length])));
    }
    let mut rng = Rng::new(1);
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let columns = shape[shape.len() - 1];
        let value = |i: usize| {
            let (bits, zero) = (rng.bits() as u32, shape.len() == 2 && (i / columns) % 16 == 7);
            // Sign and fraction at random; the exponent is that of 1/16, or of 1/2 in the large ones.
            let exponent = if bits >> 8 & 31 == 0 { 126 } else { 123 };
            if zero { [0; 4] } else { (bits & 0x807f_ffff | exponent << 23).to_le_bytes() }
        };
        let data = (0..shape.iter().product()).flat_map(value).collect();
        (name, shape, data)
    };
    shapes.into_iter().map(tensor).collect()
}
