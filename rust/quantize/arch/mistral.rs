//! Mistral 7B and its relatives: Llama with a sliding window in every layer.
use super::config::Config;
use super::decoder::{LONGEST_CONTEXT, Shape, Traits};
use crate::convert::ConvertError;

/// The window that transformers assumes where the key is absent. A null switches it off.
const DEFAULT_WINDOW: usize = 4096;

/// One window for all layers, no biases.
pub(super) fn traits(config: &Config<'_>, shape: &Shape) -> Result<Traits, ConvertError> {
    let window = match config.count("sliding_window", 1..=LONGEST_CONTEXT)? {
        Some(window) => window,
        None if config.is_null("sliding_window") => 0,
        None => DEFAULT_WINDOW,
    };
    Ok(Traits {
        query_key_value_bias: false,
        output_bias: false,
        mlp_bias: false,
        head_norms: false,
        sub_norms: false,
        windows: vec![window as u32; shape.layers],
    })
}
