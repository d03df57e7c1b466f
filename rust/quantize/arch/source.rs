//! The tensors of a checkpoint, each to be used once and all to be used.
use crate::convert::ConvertError;
use crate::error::quoted;
use crate::import::{Source, Tensor};
use std::collections::BTreeSet;

/// Buffers that checkpoints carry although they follow from the configuration.
const DERIVED: &str = "rotary_emb.inv_freq";

/// A source's tensors, with a record of those that were asked for.
pub(super) struct Tensors<'a> {
    source: &'a Source,
    used: BTreeSet<&'a str>,
}

impl<'a> Tensors<'a> {
    /// None of them used yet.
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, used: BTreeSet::new() }
    }

    /// Whether there is a tensor of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.source.tensors.contains_key(name)
    }

    /// The tensor of that name, which must have that shape.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<&'a Tensor, ConvertError> {
        let Some((key, tensor)) = self.source.tensors.get_key_value(name) else {
            let remedy = "the checkpoint is incomplete or its configuration belongs to another model";
            return Err(self.error(name, "it is missing".to_owned(), remedy));
        };
        if tensor.shape != shape {
            let problem = format!("its shape is {:?} where the configuration gives {shape:?}", tensor.shape);
            return Err(self.error(name, problem, "take weights and config.json from one model"));
        }
        self.used.insert(key);
        Ok(tensor)
    }

    /// The vector of that name, which must have `length` elements.
    pub(super) fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, ConvertError> {
        Ok(self.take(name, &[length])?.vector_f32()?)
    }

    /// Refuses a source with tensors that were not used: the model would not be the checkpoint's.
    pub(super) fn finish(self) -> Result<(), ConvertError> {
        let ignored = |name: &str| name.ends_with(DERIVED);
        match self.source.tensors.keys().find(|name| !self.used.contains(name.as_str()) && !ignored(name)) {
            None => Ok(()),
            Some(name) => {
                let problem = "its model type has no such tensor".to_owned();
                Err(self.error(
                    &quoted(name),
                    problem,
                    "convert a checkpoint of the plain model, without adapters or other parts",
                ))
            }
        }
    }

    /// An error that names a tensor.
    pub(super) fn error(&self, tensor: &str, problem: String, remedy: &'static str) -> ConvertError {
        ConvertError::Tensor { path: self.source.path.clone(), tensor: tensor.to_owned(), problem, remedy }
    }
}
