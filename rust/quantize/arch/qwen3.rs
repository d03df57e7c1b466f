//! Qwen3, the dense models: a norm for each query and key head in place of biases.
use super::config::Config;
use super::decoder::{Shape, Traits};
use super::qwen2;
use crate::convert::ConvertError;

/// Windows as in Qwen2; attention biases where the configuration says so.
pub(super) fn traits(config: &Config<'_>, shape: &Shape) -> Result<Traits, ConvertError> {
    let bias = config.flag("attention_bias")?;
    Ok(Traits {
        query_key_value_bias: bias,
        output_bias: bias,
        mlp_bias: false,
        head_norms: true,
        sub_norms: false,
        windows: qwen2::windows(config, shape.layers)?,
    })
}
