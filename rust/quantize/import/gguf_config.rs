//! A GGUF header's hyperparameters as Hugging Face's `config.json`.
use super::gguf::Gguf;
use super::gguf_meta::Meta;
use super::gguf_names::Architecture;
use crate::error::{Error, quoted};
use serde_json::{Map, Number, Value, json};
use std::path::Path;

/// The keys under an architecture's prefix that are understood or cannot change a result. Any other key might, so it
/// is refused.
const KEYS: [&str; 21] = [
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];

/// Early converters say so that they interleave the rows of the projections that are rotated; today's all do.
const LAYOUT: &str = "Meta AI original pth";

const USE_ORIGINAL: &str = "convert the original Hugging Face checkpoint";

/// What the other parts of the import need to know, and the configuration.
pub(super) struct Hyperparameters {
    pub(super) architecture: Architecture,
    pub(super) layers: u64,
    /// Width of a head, even.
    pub(super) head: usize,
    pub(super) config: Map<String, Value>,
}

/// What only the tensors say.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorFacts {
    /// Rows of `token_embd.weight`.
    pub(super) vocabulary: usize,
    /// Whether the head is the embedding.
    pub(super) tied: bool,
    /// Whether the query projections have biases.
    pub(super) attention_bias: bool,
    /// Whether the gates of the feed-forward networks have biases.
    pub(super) mlp_bias: bool,
    /// Whether `rope_freqs.weight` exists.
    pub(super) rope_factors: bool,
}

/// Reads the hyperparameters of the first (or only) file of a model.
pub(super) fn hyperparameters(path: &Path, gguf: &Gguf, facts: TensorFacts) -> Result<Hyperparameters, Error> {
    let keys = Keys::of(path, gguf)?;
    let architecture = keys.architecture;
    let layers = keys.positive("block_count")?;
    let hidden = keys.positive("embedding_length")?;
    let heads = keys.positive("attention.head_count")?;
    let kv_heads = keys.count("attention.head_count_kv")?.unwrap_or(heads);
    let head = match keys.count("attention.key_length")? {
        Some(head) => head,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(keys.malformed("attention.head_count", format!("{heads} heads do not divide {hidden}"))),
    };
    if head == 0 || head % 2 != 0 || head > 1 << 16 {
        return Err(keys.malformed("attention.key_length", format!("heads of width {head}")));
    }
    for key in ["attention.value_length", "rope.dimension_count"] {
        keys.must_be(key, keys.count(key)?.is_none_or(|value| value == head), "a width other than that of a head")?;
    }
    keys.must_be("expert_count", keys.count("expert_count")?.is_none_or(|count| count == 0), "a mixture of experts")?;
    let causal = keys.get("attention.causal").is_none_or(|value| *value == Meta::Bool(true));
    keys.must_be("attention.causal", causal, "attention to later tokens")?;
    let layout = keys.get("tensor_data_layout").is_none_or(|value| *value == Meta::String(LAYOUT.to_owned()));
    keys.must_be("tensor_data_layout", layout, "an order of rows other than llama.cpp's")?;
    let window = keys.count("attention.sliding_window")?;
    keys.must_be("attention.sliding_window", window.is_none() || architecture == Architecture::Llama, "a window here")?;

    let (model_type, class) = match (architecture, window) {
        (Architecture::Llama, None) => ("llama", "LlamaForCausalLM"),
        (Architecture::Llama, Some(_)) => ("mistral", "MistralForCausalLM"),
        (Architecture::Qwen2, _) => ("qwen2", "Qwen2ForCausalLM"),
        (Architecture::Qwen3, _) => ("qwen3", "Qwen3ForCausalLM"),
    };
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("architectures", json!([class]));
    set("model_type", json!(model_type));
    set("hidden_act", json!("silu"));
    set("hidden_size", json!(hidden));
    set("intermediate_size", json!(keys.positive("feed_forward_length")?));
    set("num_hidden_layers", json!(layers));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(kv_heads));
    set("head_dim", json!(head));
    set("vocab_size", json!(facts.vocabulary));
    set("max_position_embeddings", json!(keys.positive("context_length")?));
    set("rms_norm_eps", keys.float("attention.layer_norm_rms_epsilon", None)?);
    set("rope_theta", keys.float("rope.freq_base", Some(10_000.0))?);
    set("rope_scaling", keys.rope_scaling(facts.rope_factors)?);
    set("tie_word_embeddings", json!(facts.tied));
    if architecture != Architecture::Qwen2 {
        set("attention_bias", json!(facts.attention_bias));
    }
    if architecture == Architecture::Llama {
        set("mlp_bias", json!(facts.mlp_bias));
    }
    if let Some(window) = window {
        set("sliding_window", json!(window));
    }
    for (key, id) in [("bos_token_id", "tokenizer.ggml.bos_token_id"), ("eos_token_id", "tokenizer.ggml.eos_token_id")]
    {
        if let Some(id) = gguf.count(id) {
            set(key, json!(id));
        }
    }
    Ok(Hyperparameters { architecture, layers, head: head as usize, config })
}

/// The keys under the architecture's prefix.
struct Keys<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
    architecture: Architecture,
}

impl<'a> Keys<'a> {
    /// Finds the architecture and refuses keys that are not in [`KEYS`].
    fn of(path: &'a Path, gguf: &'a Gguf) -> Result<Self, Error> {
        let unsupported = |field: &str, found: String| Error::Unsupported {
            path: path.to_owned(),
            field: field.to_owned(),
            found,
            remedy: USE_ORIGINAL,
        };
        match gguf.text("general.type") {
            None | Some("model") => {}
            Some(other) => return Err(unsupported("general.type", quoted(other))),
        }
        let name = gguf.text("general.architecture").ok_or_else(|| Error::Malformed {
            path: path.to_owned(),
            field: "general.architecture".to_owned(),
            problem: "the key is missing or no text".to_owned(),
        })?;
        let Some(architecture) = Architecture::of(name) else {
            let remedy = "Intact reads GGUF files of the architectures llama, qwen2 and qwen3";
            let field = "general.architecture".to_owned();
            return Err(Error::Unsupported { path: path.to_owned(), field, found: quoted(name), remedy });
        };
        for (key, value) in &gguf.meta {
            let rest = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
            if rest.is_some_and(|rest| !KEYS.contains(&rest)) {
                return Err(unsupported(&quoted(key), short(value)));
            }
        }
        Ok(Self { path, gguf, architecture })
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name())
    }

    fn get(&self, key: &str) -> Option<&'a Meta> {
        self.gguf.meta.get(&self.full(key))
    }

    fn malformed(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.to_owned(), field: self.full(key), problem: problem.into() }
    }

    fn unsupported(&self, key: &str, found: impl Into<String>) -> Error {
        let (path, field) = (self.path.to_owned(), self.full(key));
        Error::Unsupported { path, field, found: found.into(), remedy: USE_ORIGINAL }
    }

    fn must_be(&self, key: &str, holds: bool, otherwise: &str) -> Result<(), Error> {
        if holds { Ok(()) } else { Err(self.unsupported(key, otherwise)) }
    }

    /// A non-negative integer, one for all layers.
    fn count(&self, key: &str) -> Result<Option<u64>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Meta::Array(_)) => Err(self.unsupported(key, "a value per layer")),
            Some(_) => match self.gguf.count(&self.full(key)) {
                Some(value) => Ok(Some(value)),
                None => Err(self.malformed(key, "the value is no non-negative integer")),
            },
        }
    }

    fn positive(&self, key: &str) -> Result<u64, Error> {
        match self.count(key)? {
            Some(0) => Err(self.malformed(key, "the value is 0")),
            Some(value) => Ok(value),
            None => Err(self.malformed(key, "the key is missing")),
        }
    }

    /// A positive, finite float as JSON.
    fn float(&self, key: &str, default: Option<f64>) -> Result<Value, Error> {
        let value = match self.get(key) {
            Some(Meta::F64(value)) => *value,
            Some(_) => return Err(self.malformed(key, "the value is no float")),
            None => default.ok_or_else(|| self.malformed(key, "the key is missing"))?,
        };
        match Number::from_f64(value) {
            Some(number) if value > 0.0 => Ok(Value::Number(number)),
            _ => Err(self.malformed(key, format!("the value is {value}"))),
        }
    }

    /// Hugging Face's `rope_scaling`. As in llama.cpp a factor without a type is linear, and a factor of 0 is none.
    fn rope_scaling(&self, factors: bool) -> Result<Value, Error> {
        let key = ["rope.scaling.factor", "rope.scale_linear"].into_iter().find(|key| self.get(key).is_some());
        let linear = match self.get("rope.scaling.type") {
            Some(Meta::String(kind)) if kind == "none" => None,
            Some(Meta::String(kind)) if kind != "linear" => {
                return Err(self.unsupported("rope.scaling.type", quoted(kind)));
            }
            Some(Meta::String(_)) | None => key.filter(|key| self.get(key) != Some(&Meta::F64(0.0))),
            Some(_) => return Err(self.malformed("rope.scaling.type", "the value is no text")),
        };
        let linear = linear.map(|key| Ok((key, self.float(key, None)?))).transpose()?;
        match linear.filter(|(_, factor)| *factor != json!(1.0)) {
            Some((key, _)) if factors => Err(self.unsupported(key, "a factor beside rope_freqs.weight")),
            Some((_, factor)) => Ok(json!({"rope_type": "linear", "factor": factor})),
            None if factors => Ok(json!({"rope_type": "llama3_factors"})),
            None => Ok(Value::Null),
        }
    }
}

/// A value as a message shows it.
fn short(value: &Meta) -> String {
    match value {
        Meta::String(text) => quoted(text),
        Meta::Array(_) => "an array".to_owned(),
        Meta::U64(value) => value.to_string(),
        Meta::I64(value) => value.to_string(),
        Meta::F64(value) => value.to_string(),
        Meta::Bool(value) => value.to_string(),
    }
}
