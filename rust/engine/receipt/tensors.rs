//! Digests of slot writes, step by step.

use super::hex::Short;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::fmt;

/// For every step the digests of what the ops wrote, in order: the same number, not 0, for all steps. JSON has a list
/// for each step; here they are one list, so that a hostile file takes no more memory than it has bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tensors {
    per_step: usize,
    digests: Vec<Short>,
}

impl Tensors {
    /// Digests of each step; 0 without steps.
    #[must_use]
    pub fn per_step(&self) -> usize {
        self.per_step
    }

    /// Steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.digests.len() / self.per_step.max(1)
    }

    /// The digests of a step; none beyond the last.
    #[must_use]
    pub fn step(&self, index: usize) -> &[Short] {
        if index < self.steps() { &self.digests[index * self.per_step..][..self.per_step] } else { &[] }
    }

    pub(crate) fn push(&mut self, step: &[Short]) {
        self.per_step = step.len();
        self.digests.extend_from_slice(step);
    }

    pub(crate) fn truncate(&mut self, steps: usize) {
        self.digests.truncate(steps * self.per_step);
        if self.digests.is_empty() {
            self.per_step = 0;
        }
    }
}

impl Serialize for Tensors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.digests.chunks_exact(self.per_step.max(1)))
    }
}

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Steps)
    }
}

struct Steps;

impl<'de> Visitor<'de> for Steps {
    type Value = Tensors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of digests for each step")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut steps: A) -> Result<Tensors, A::Error> {
        let mut tensors = Tensors::default();
        while let Some(count) = steps.next_element_seed(Step(&mut tensors.digests))? {
            if count == 0 || count != tensors.per_step && tensors.per_step != 0 {
                return Err(A::Error::invalid_length(count, &"as many digests as in the step before, at least one"));
            }
            tensors.per_step = count;
        }
        Ok(tensors)
    }
}

/// Appends the digests of one step and gives their number.
struct Step<'a>(&'a mut Vec<Short>);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of digests")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut digests: A) -> Result<usize, A::Error> {
        let before = self.0.len();
        while let Some(digest) = digests.next_element()? {
            self.0.push(digest);
        }
        Ok(self.0.len() - before)
    }
}
