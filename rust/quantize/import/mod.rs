//! Reading checkpoints: GGUF files and Hugging Face safetensors directories.
//!
//! Whatever the container, a [`Source`] speaks Hugging Face: its configuration, its tensor names, its row order.
mod bitnet;
mod blocks;
mod compressed;
mod derived;
mod ggml;
mod gguf;
mod gguf_config;
mod gguf_meta;
mod gguf_names;
mod gguf_source;
mod gptq;
mod packed;
mod quantized;
mod safetensors;
mod stored;
mod tensor;

pub use blocks::{Blocks, FP4_LEVELS, Grid, IQ4_NL_LEVELS, Levels, Scales, Shift, WHOLE_ROW};
pub use gguf::{Gguf, TensorInfo};
pub use gguf_meta::{Array, Meta, Scalars, Strings};
pub use tensor::{DType, Tensor};

use crate::error::Error;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A checkpoint opened for conversion.
///
/// Its files are mapped into memory and must not be changed while the source, or a tensor of it, is alive.
#[derive(Clone, Debug)]
pub struct Source {
    /// What was opened: a GGUF file (the first of a split set) or a directory.
    pub path: PathBuf,
    /// Hugging Face's `config.json`: the file itself, or the same facts from a GGUF header.
    pub config: Map<String, Value>,
    /// Tensors by Hugging Face name. `lm_head.weight` is present exactly where the head is not the embedding.
    ///
    /// One name is Intact's own: `rope_freqs`, the divisors of the rotation frequencies that a GGUF file holds in place
    /// of the parameters of Llama 3's scaling; the configuration then says `{"rope_type": "llama3_factors"}`.
    pub tensors: BTreeMap<String, Tensor>,
    /// Where the tokenizer is.
    pub tokenizer: TokenizerFiles,
    /// Whether embedding and head stand in a rotated basis ([`crate::convert::rotate`]).
    pub rotated: bool,
}

/// The tokenizer of a checkpoint, not yet interpreted.
#[derive(Clone, Debug)]
pub enum TokenizerFiles {
    /// Files of a Hugging Face directory by name; those of [`TOKENIZER_FILES`] that exist.
    HuggingFace(BTreeMap<String, PathBuf>),
    /// All metadata of a GGUF file; `tokenizer.*` are those that matter.
    Gguf(BTreeMap<String, Meta>),
}

/// The small files of a Hugging Face directory that concern text.
pub const TOKENIZER_FILES: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

impl Source {
    /// Opens a GGUF file (for a split model its first file), a Hugging Face directory with `config.json` and
    /// `model.safetensors` or `model.safetensors.index.json`, or a directory with one GGUF model.
    ///
    /// # Errors
    /// Every variant of [`Error`] but `NotFinite` and `Access`; tensor data are looked at only when they are read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let kind = fs::metadata(path).map_err(|cause| Error::Io { path: path.to_owned(), cause })?;
        if !kind.is_dir() {
            return gguf_source::open(path);
        }
        if safetensors::is_checkpoint(path) {
            return safetensors::open(path);
        }
        gguf_source::open(&only_gguf(path)?)
    }

    /// A Hugging Face checkpoint in memory: its configuration, and its tensors as the bytes of a safetensors file.
    /// `path` names it in messages; it has no tokenizer.
    ///
    /// # Errors
    /// As for [`Source::open`], but `Io`.
    pub fn from_bytes(path: &Path, config: Map<String, Value>, tensors: Vec<u8>) -> Result<Self, Error> {
        safetensors::from_bytes(path, config, tensors)
    }
}

/// The GGUF model of a directory: its single `.gguf` file, or the first one of a single split set.
fn only_gguf(directory: &Path) -> Result<PathBuf, Error> {
    let io = |cause| Error::Io { path: directory.to_owned(), cause };
    let mut models = Vec::new();
    for entry in fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
        if is_gguf && gguf_source::Part::of(&path).is_none_or(|part| part.number == 1) {
            models.push(path);
        }
    }
    let (problem, remedy) = match models.len() {
        1 => return Ok(models.remove(0)),
        0 => (
            "neither model.safetensors (or its index) nor a .gguf file is in this directory",
            "pass a GGUF file or a directory in Hugging Face's safetensors layout",
        ),
        _ => ("several GGUF models are in this directory", "pass the file that you mean"),
    };
    Err(Error::NotACheckpoint { path: directory.to_owned(), problem: problem.to_owned(), remedy })
}
