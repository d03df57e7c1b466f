//! Qwen2 and Qwen2.5: biases on queries, keys and values; a window in the upper layers where it is switched on.
use super::config::{Config, shown};
use super::decoder::{LONGEST_CONTEXT, Shape, Traits};
use crate::convert::ConvertError;
use serde_json::Value;

/// The values that transformers assumes for absent keys.
const DEFAULT_WINDOW: usize = 4096;
const DEFAULT_FULL_LAYERS: usize = 28;

/// The biases are part of the family, not of the configuration.
pub(super) fn traits(config: &Config<'_>, shape: &Shape) -> Result<Traits, ConvertError> {
    Ok(Traits {
        query_key_value_bias: true,
        output_bias: false,
        mlp_bias: false,
        head_norms: false,
        sub_norms: false,
        windows: windows(config, shape.layers)?,
    })
}

/// The window of each layer, of Qwen3 too: those that `layer_types` names, else those from `max_window_layers` on.
pub(super) fn windows(config: &Config<'_>, layers: usize) -> Result<Vec<u32>, ConvertError> {
    let sliding = config.flag("use_sliding_window")?;
    let window = config.count("sliding_window", 1..=LONGEST_CONTEXT)?;
    let window = if sliding { window.unwrap_or(DEFAULT_WINDOW) as u32 } else { 0 };
    let key = "layer_types";
    let types = match config.get(key) {
        None => {
            let full = config.count("max_window_layers", 0..=usize::MAX)?.unwrap_or(DEFAULT_FULL_LAYERS);
            return Ok((0..layers).map(|layer| if layer >= full { window } else { 0 }).collect());
        }
        Some(Value::Array(types)) if types.len() == layers => types,
        Some(value) => {
            let problem = format!("it is {} other than one of {layers} texts", shown(value));
            return Err(config.error(key, problem, "take config.json from the model's publisher"));
        }
    };
    let layer = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(0),
        Some("sliding_attention") if sliding => Ok(window),
        Some("sliding_attention") => {
            Err(config.error(key, "a layer slides, but use_sliding_window is not true", "set use_sliding_window"))
        }
        _ => {
            let problem = format!("a layer is {}", shown(kind));
            Err(config.error(key, problem, "Intact implements full_attention and sliding_attention"))
        }
    };
    types.iter().map(layer).collect()
}
