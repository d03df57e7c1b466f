//! The hashes of a receipt: every step of an output is bound to the one before it, and to the request.

use super::format::Head;
use super::hex::{Hash, Hex, Short};
use sha2::{Digest, Sha256};

/// What is hashed; no label is the beginning of another, so no hash stands for two things.
mod label {
    pub(super) const HEAD: &str = "intact receipt head\n";
    pub(super) const STREAM: &str = "intact receipt stream\n";
    pub(super) const STEP: &str = "intact receipt step\n";
    pub(super) const LOGITS: &str = "intact receipt logits\n";
    pub(super) const TENSOR: &str = "intact receipt tensor\n";
}

/// One generated token.
pub(crate) struct Step<'a> {
    /// Counted from 0 in its output.
    pub(crate) index: u32,
    /// Of the token whose logits these are.
    pub(crate) position: u32,
    /// The token that was chosen.
    pub(crate) token: u32,
    /// Of the logits that it was chosen from.
    pub(crate) logits: Hash,
    /// Of what the ops wrote at this position, in order; empty where not asked for.
    pub(crate) tensors: &'a [Short],
}

/// The chain of one output before its first step.
pub(crate) fn origin(head: &Head<'_>, stream: u32) -> Hash {
    let head = hash(label::HEAD, &[&serde_json::to_vec(head).unwrap_or_default()]);
    hash(label::STREAM, &[&head.0, &stream.to_le_bytes()])
}

/// The chain after a step. `origin` is part of every link, so that one link alone stands for the whole request.
pub(crate) fn link(origin: &Hash, before: &Hash, step: &Step<'_>) -> Hash {
    let numbers = [step.index, step.position, step.token].map(u32::to_le_bytes);
    let tensors: Vec<u8> = step.tensors.iter().flat_map(|digest| digest.0).collect();
    hash(label::STEP, &[&origin.0, &before.0, numbers.as_flattened(), &step.logits.0, &tensors])
}

/// The digest of a step's logits, before a final softcap.
pub(crate) fn logits(values: &[i32]) -> Hash {
    integers(label::LOGITS, values)
}

/// The digest of what an op wrote at one position.
pub(crate) fn tensor(values: &[i32]) -> Short {
    let Hex(hash) = integers(label::TENSOR, values);
    Hex(*hash.first_chunk().unwrap_or(&[0; 8]))
}

fn hash(label: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new_with_prefix(label);
    parts.iter().for_each(|part| hasher.update(part));
    Hex(hasher.finalize().into())
}

fn integers(label: &str, values: &[i32]) -> Hash {
    const PIECE: usize = 256;
    let mut hasher = Sha256::new_with_prefix(label);
    let mut bytes = [[0; 4]; PIECE];
    for piece in values.chunks(PIECE) {
        bytes.iter_mut().zip(piece).for_each(|(bytes, value)| *bytes = value.to_le_bytes());
        hasher.update(bytes[..piece.len()].as_flattened());
    }
    Hex(hasher.finalize().into())
}
