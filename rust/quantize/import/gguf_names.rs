//! ggml's tensor names as Hugging Face's, and the one reordering that a GGUF file holds.
use super::tensor::RowOrder;

/// The name of the divisors of the rotation frequencies, which Hugging Face's checkpoints do not have.
pub(super) const ROPE_FREQS: &str = "rope_freqs";

/// An architecture whose GGUF files are read. Mistral's models are stored as `llama`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    /// The architecture of `general.architecture`.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// ggml's name, which is the prefix of its metadata keys and Hugging Face's `model_type`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Hugging Face's name of a tensor; `None` for one that the architecture does not have.
pub(super) fn hugging_face_name(architecture: Architecture, layers: u64, name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        "rope_freqs.weight" if architecture == Architecture::Llama => return Some(ROPE_FREQS.to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let number: u64 = layer.parse().ok()?;
    // A second spelling of a number would give two tensors one name.
    if number >= layers || number.to_string() != layer {
        return None;
    }
    let (part, suffix) = part.split_once('.')?;
    let (module, biased) = match part {
        "attn_norm" => ("input_layernorm", false),
        "ffn_norm" => ("post_attention_layernorm", false),
        "attn_q" => ("self_attn.q_proj", true),
        "attn_k" => ("self_attn.k_proj", true),
        "attn_v" => ("self_attn.v_proj", true),
        "attn_output" => ("self_attn.o_proj", true),
        "attn_q_norm" if architecture == Architecture::Qwen3 => ("self_attn.q_norm", false),
        "attn_k_norm" if architecture == Architecture::Qwen3 => ("self_attn.k_norm", false),
        "ffn_gate" => ("mlp.gate_proj", true),
        "ffn_up" => ("mlp.up_proj", true),
        "ffn_down" => ("mlp.down_proj", true),
        _ => return None,
    };
    (suffix == "weight" || suffix == "bias" && biased).then(|| format!("model.layers.{number}.{module}.{suffix}"))
}

/// The order in which a file stores the rows of the tensor of that Hugging Face name.
///
/// Hugging Face rotates row i of a head with row i + head/2. ggml's `llama` rotates neighbours, so llama.cpp's
/// converter interleaves the two halves of every head of the query and key projections, biases included. The other
/// architectures are stored as they are.
pub(super) fn row_order(architecture: Architecture, head: usize, name: &str) -> RowOrder {
    let rotated = name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.");
    if architecture == Architecture::Llama && rotated { RowOrder::Interleaved { head } } else { RowOrder::Same }
}
