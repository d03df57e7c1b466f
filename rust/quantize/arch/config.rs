//! Typed, checked reading of a Hugging Face `config.json`.
use crate::convert::ConvertError;
use crate::error::quoted;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::path::Path;

/// An object of a configuration. A key that is null is absent.
pub(super) struct Config<'a> {
    path: &'a Path,
    /// What precedes a key in messages: empty, or `rope_scaling.`.
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    /// The configuration of the checkpoint at `path`.
    pub(super) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix: "", map }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there and null, for the few keys where that is not the same as absent.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// The object under a key, whose own keys messages show as `prefix` and the key.
    pub(super) fn object(&self, key: &str, prefix: &'static str) -> Result<Option<Self>, ConvertError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { path: self.path, prefix, map })),
            Some(value) => Err(self.error(key, format!("it is {}", shown(value)), "Intact needs an object or null")),
        }
    }

    /// A whole number in `range`.
    pub(super) fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, ConvertError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let remedy = format!("Intact needs a whole number from {} to {}", range.start(), range.end());
                Err(self.error(key, format!("it is {}", shown(value)), remedy))
            }
        }
    }

    /// A whole number in `range` that must be there.
    pub(super) fn required_count(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize, ConvertError> {
        self.count(key, range)?.ok_or_else(|| self.missing(key))
    }

    /// A number in `range`.
    pub(super) fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ConvertError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let remedy = format!("Intact needs a number from {:e} to {:e}", range.start(), range.end());
                Err(self.error(key, format!("it is {}", shown(value)), remedy))
            }
        }
    }

    /// A number in `range` that must be there.
    pub(super) fn required_number(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64, ConvertError> {
        self.number(key, range)?.ok_or_else(|| self.missing(key))
    }

    /// A truth value, false where it is absent.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ConvertError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(self.error(key, format!("it is {}", shown(value)), "Intact needs true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ConvertError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.error(key, format!("it is {}", shown(value)), "Intact needs a text")),
        }
    }

    /// Refuses a key that has another value than the one that is implemented.
    pub(super) fn only(&self, key: &str, implemented: &Value) -> Result<(), ConvertError> {
        match self.get(key) {
            Some(value) if !same(value, implemented) => {
                Err(self.error(key, format!("it is {}", shown(value)), format!("Intact implements {implemented} only")))
            }
            _ => Ok(()),
        }
    }

    /// The error for a key that must be there.
    pub(super) fn missing(&self, key: &str) -> ConvertError {
        self.error(key, "it is missing", "take config.json from the checkpoint's publisher")
    }

    /// An error that names a key.
    pub(super) fn error(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) -> ConvertError {
        ConvertError::Config {
            path: self.path.to_owned(),
            field: format!("{}{key}", self.prefix),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// Equality in which 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A value as a message shows it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        _ => value.to_string(),
    }
}
