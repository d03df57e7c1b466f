//! Families of models: from a checkpoint's configuration to a program of integer operations.
//!
//! A family is one file here and one line in `FAMILIES`. Its function says how its decoder differs from the plain one
//! that `decoder` lowers.
mod bitnet;
mod config;
mod decoder;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;
mod source;

use crate::convert::ConvertError;
use crate::import::Source;
use config::Config;
use decoder::{Shape, Traits};
use intact_core::ops::gated::Gate;
use intact_core::program::{NamedVector, Op};
use source::Tensors;

/// A family of models.
struct Family {
    /// The configuration's `model_type`.
    name: &'static str,
    /// How its decoder differs from the plain one.
    traits: fn(&Config<'_>, &Shape) -> Result<Traits, ConvertError>,
    /// The feed-forward network's activation.
    gate: Gate,
    /// The base of the rotation that transformers assumes.
    theta: f64,
}

impl Family {
    const fn plain(name: &'static str, traits: fn(&Config<'_>, &Shape) -> Result<Traits, ConvertError>) -> Self {
        Self { name, traits, gate: Gate::Swiglu, theta: 10_000.0 }
    }
}

/// Every family.
const FAMILIES: [Family; 5] = [
    Family::plain("llama", llama::traits),
    Family::plain("mistral", mistral::traits),
    Family::plain("qwen2", qwen2::traits),
    Family::plain("qwen3", qwen3::traits),
    Family { name: "bitnet", traits: bitnet::traits, gate: Gate::Relu2, theta: 500_000.0 },
];

/// What a matrix of the model is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Token vectors, and nothing else.
    Embedding,
    /// Logits; the token vectors too, where the two are tied.
    Head,
    /// A layer.
    Body,
}

/// A matrix to be made of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixPlan {
    /// The name in the model: the tensor's without `.weight`. The name of a bias is this and `.bias`.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// What it is used for.
    pub role: Role,
    /// Whether the tensor `NAME.bias` is added to its outputs.
    pub bias: bool,
}

/// A model but for its matrices, which ops refer to by their place in `matrices`.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Tokens.
    pub vocabulary: usize,
    /// The longest sequence that the model was made for.
    pub context: u32,
    /// The matrices to make. Each tensor exists in the source and has that shape.
    pub matrices: Vec<MatrixPlan>,
    /// Gains and rotation tables.
    pub vectors: Vec<NamedVector>,
    /// Slot names.
    pub slots: Vec<String>,
    /// Runs for every token.
    pub body: Vec<Op>,
    /// Runs for tokens whose logits are asked for.
    pub head: Vec<Op>,
}

/// How keys are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCache {
    /// 16 bits.
    Wide,
    /// 8 bits, after a Hadamard transform of queries and keys where the width of a head is a power of two.
    Narrow,
}

/// Lowers a checkpoint.
///
/// # Errors
/// [`ConvertError::Config`] for a configuration that is incomplete, contradictory or asks for something that Intact
/// does not implement, and [`ConvertError::Tensor`] for a tensor that is missing, unknown or of another shape.
pub fn lower(source: &Source, fraction_bits: u32, keys: KeyCache) -> Result<Lowered, ConvertError> {
    let config = Config::new(&source.path, &source.config);
    let name = config.text("model_type")?.ok_or_else(|| config.missing("model_type"))?;
    let Some(family) = FAMILIES.iter().find(|family| family.name == name) else {
        let known = FAMILIES.map(|family| family.name).join(", ");
        let problem = format!("it is {}", crate::error::quoted(name));
        return Err(config.error("model_type", problem, format!("Intact converts the families {known}")));
    };
    let shape = Shape::read(&config, family.gate)?;
    let traits = (family.traits)(&config, &shape)?;
    let mut tensors = Tensors::new(source);
    let rope = rope::read(&config, &mut tensors, shape.head_width, family.theta)?;
    let lowered = decoder::lower(&mut tensors, &shape, &traits, &rope, decoder::Numerics { fraction_bits, keys })?;
    tensors.finish()?;
    Ok(lowered)
}
