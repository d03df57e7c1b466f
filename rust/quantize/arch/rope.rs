//! Rotary position embeddings: from a configuration to a frequency table.
use super::config::{Config, shown};
use super::source::Tensors;
use crate::constants::{RopeScaling, freq64};
use crate::convert::ConvertError;
use serde_json::json;

/// The divisors of frequencies that a GGUF file holds (see [`crate::import::Source::tensors`]).
const FACTORS: &str = "rope_freqs";

/// What may be divided by, so that table entries keep a meaning.
const FACTOR_RANGE: std::ops::RangeInclusive<f64> = 1.0..=1e6;

/// Reads `rope_theta` (`default_theta` where it is absent), `rope_scaling` and their newer form `rope_parameters`; returns the table of all layers.
pub(super) fn read(
    config: &Config<'_>, tensors: &mut Tensors<'_>, head_width: usize, default_theta: f64,
) -> Result<Vec<u64>, ConvertError> {
    config.only("partial_rotary_factor", &json!(1))?;
    config.only("rope_interleaved", &json!(false))?;
    let parameters = match config.object("rope_parameters", "rope_parameters.")? {
        None => config.object("rope_scaling", "rope_scaling.")?,
        parameters => parameters,
    };
    let nested = parameters.as_ref().filter(|parameters| parameters.get("rope_theta").is_some());
    let theta = nested.unwrap_or(config).number("rope_theta", 1.0..=1e30)?.unwrap_or(default_theta);
    if theta <= 1.0 {
        return Err(nested.unwrap_or(config).error("rope_theta", "it is 1", "Intact needs a base above 1"));
    }
    let scaling = match &parameters {
        None => RopeScaling::None,
        Some(parameters) => scaling(parameters, tensors, head_width / 2)?,
    };
    Ok(freq64(theta, head_width, &scaling))
}

fn scaling(parameters: &Config<'_>, tensors: &mut Tensors<'_>, pairs: usize) -> Result<RopeScaling, ConvertError> {
    parameters.only("partial_rotary_factor", &json!(1))?;
    // `type` is the key's older name.
    let key = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = parameters.text(key)?.ok_or_else(|| parameters.missing("rope_type"))?;
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: parameters.required_number("factor", FACTOR_RANGE)? }),
        "llama3" => {
            let low = parameters.required_number("low_freq_factor", 1e-6..=1e6)?;
            let high = parameters.required_number("high_freq_factor", 1e-6..=1e6)?;
            if high <= low {
                let problem = format!("{high} is not more than low_freq_factor, {low}");
                return Err(parameters.error(
                    "high_freq_factor",
                    problem,
                    "take config.json from the model's publisher",
                ));
            }
            let key = "original_max_position_embeddings";
            let original_context = parameters.required_count(key, 1..=1 << 24)? as u64;
            let factor = parameters.required_number("factor", FACTOR_RANGE)?;
            Ok(RopeScaling::Llama3 { factor, low, high, original_context })
        }
        "llama3_factors" => {
            let factors = tensors.vector(FACTORS, pairs)?;
            match factors.iter().find(|&&factor| !FACTOR_RANGE.contains(&f64::from(factor))) {
                None => Ok(RopeScaling::Factors(factors)),
                Some(factor) => {
                    let remedy = "Intact needs divisors from 1 to 1e6: fetch or convert the file again";
                    Err(tensors.error(FACTORS, format!("it holds {factor}"), remedy))
                }
            }
        }
        _ => {
            let problem = format!("it is {}", shown(&json!(kind)));
            Err(parameters.error(key, problem, "Intact implements default, linear and llama3"))
        }
    }
}
