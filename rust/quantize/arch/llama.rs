//! Llama 1 to 3, and every checkpoint that calls itself `llama` (SmolLM, TinyLlama, …).
use super::config::Config;
use super::decoder::{Shape, Traits};
use crate::convert::ConvertError;

/// Biases where the configuration says so; every layer sees all positions.
pub(super) fn traits(config: &Config<'_>, shape: &Shape) -> Result<Traits, ConvertError> {
    let bias = config.flag("attention_bias")?;
    Ok(Traits {
        query_key_value_bias: bias,
        output_bias: bias,
        mlp_bias: config.flag("mlp_bias")?,
        head_norms: false,
        sub_norms: false,
        windows: vec![0; shape.layers],
    })
}
