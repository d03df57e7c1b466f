//! A writer of small Hugging Face checkpoints, honest and otherwise.
#![allow(dead_code, reason = "each test crate uses a part")]

use intact_core::program::Model;
use intact_quantize::convert::{ConvertError, Converted, Options, convert};
use intact_quantize::import::Source;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tempfile::TempDir;

/// A Hugging Face checkpoint that can be spoilt before it is written.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

pub(crate) const LAYERS: usize = 2;
pub(crate) const HIDDEN: usize = 48;
pub(crate) const INTERMEDIATE: usize = 80;
pub(crate) const VOCABULARY: usize = 50;

impl Checkpoint {
    /// A configuration without tensors.
    pub(crate) fn bare(config: Map<String, Value>) -> Self {
        Self { config, tensors: BTreeMap::new() }
    }

    /// A model of a family with 4 heads of 16 over 2 key-value heads, tied and without biases.
    pub(crate) fn of(family: &str) -> Self {
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
        let mut checkpoint = Self::bare(config);
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
            "bitnet" => checkpoint
                .with("hidden_act", json!("relu2"))
                .layers("self_attn", &[("attn_sub_norm.weight", 64)])
                .layers("mlp", &[("ffn_sub_norm.weight", INTERMEDIATE)]),
            "qwen3" => checkpoint.layers("self_attn", &[("q_norm.weight", 16), ("k_norm.weight", 16)]),
            _ => checkpoint,
        }
    }

    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    /// Adds vectors to a part of every layer.
    pub(crate) fn layers(mut self, part: &str, vectors: &[(&str, usize)]) -> Self {
        for layer in 0..LAYERS {
            for (name, length) in vectors {
                self.random(&format!("model.layers.{layer}.{part}.{name}"), &[*length]);
            }
        }
        self
    }

    /// A tensor of pseudo-random singles between −1/4 and 1/4, a function of its name.
    pub(crate) fn random(&mut self, name: &str, shape: &[usize]) {
        let mut state = name.bytes().fold(7_u32, |state, byte| state.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Sign and fraction from the state, the exponent of 1/8.
            f32::from_bits(state & 0x8000_0000 | 0x3e00_0000 | state >> 9 & 0x007f_ffff)
        });
        self.set(name, shape, &values.collect::<Vec<_>>());
    }

    pub(crate) fn set(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.tensors
            .insert(name.to_owned(), (shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect()));
    }

    /// Writes and opens it. The directory must outlive the source.
    pub(crate) fn open(&self) -> (TempDir, Source) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), Value::Object(self.config.clone()).to_string()).unwrap();
        let view = |(shape, data): &'_ (Vec<usize>, Vec<u8>)| (shape.clone(), data.clone());
        let owned: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name.clone(), view(tensor))).collect();
        let views = owned
            .iter()
            .map(|(name, (shape, data))| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
        safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
        let source = Source::open(directory.path()).unwrap();
        (directory, source)
    }

    pub(crate) fn convert(&self, options: &Options) -> Result<Converted, ConvertError> {
        let (_directory, source) = self.open();
        convert(&source, options, &mut |_, _, _| true)
    }

    pub(crate) fn model(&self, options: &Options) -> Model {
        self.convert(options).unwrap().model
    }

    /// The message of the refusal.
    pub(crate) fn refusal(&self) -> String {
        self.convert(&Options::default()).unwrap_err().to_string()
    }
}
