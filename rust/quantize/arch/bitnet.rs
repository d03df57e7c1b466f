//! BitNet b1.58: Llama with squared ReLU and a norm before the output projection of each half of a layer.
use super::config::Config;
use super::decoder::{Shape, Traits};
use crate::convert::ConvertError;

/// Biases of the attention where the configuration says so; every layer sees all positions.
pub(super) fn traits(config: &Config<'_>, shape: &Shape) -> Result<Traits, ConvertError> {
    let bias = config.flag("attention_bias")?;
    Ok(Traits {
        query_key_value_bias: bias,
        output_bias: bias,
        mlp_bias: false,
        head_norms: false,
        sub_norms: true,
        windows: vec![0; shape.layers],
    })
}
