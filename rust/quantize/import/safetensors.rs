//! A Hugging Face directory of safetensors files as a [`Source`].
use super::quantized;
use super::stored::{Parts, Stored};
use super::tensor::Mapped;
use super::{Source, TOKENIZER_FILES, TokenizerFiles};
use crate::error::{Error, tensor_field};
use ::safetensors::SafeTensors;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The longest JSON file that is read: an index of twenty thousand tensors. In memory it takes up to thirty times as
/// much.
const LONGEST_JSON: u64 = 2 << 20;

/// The longest header of a file of tensors that is read. In memory it takes up to ten times as much.
const LONGEST_HEADER: u64 = 8 << 20;

/// Whether the directory holds safetensors under the names that are read.
pub(super) fn is_checkpoint(directory: &Path) -> bool {
    [SINGLE, INDEX].iter().any(|name| directory.join(name).is_file())
}

/// Opens a directory for which [`is_checkpoint`] holds.
pub(super) fn open(directory: &Path) -> Result<Source, Error> {
    let config = json_object(&directory.join(CONFIG))?;
    let tensors = || {
        if directory.join(INDEX).is_file() {
            return indexed_tensors(directory);
        }
        file_tensors(Mapped::open(&directory.join(SINGLE))?)
    };
    let text_files = TOKENIZER_FILES.iter().map(|&name| (name.to_owned(), directory.join(name)));
    let text_files = text_files.filter(|(_, path)| path.is_file()).collect();
    source(directory, config, tensors, text_files)
}

/// A directory of which the configuration and the one file of tensors are in memory.
pub(super) fn from_bytes(directory: &Path, config: Map<String, Value>, tensors: Vec<u8>) -> Result<Source, Error> {
    let tensors = || file_tensors(Mapped::from_bytes(&directory.join(SINGLE), tensors));
    source(directory, config, tensors, BTreeMap::new())
}

fn source(
    directory: &Path, config: Map<String, Value>, tensors: impl FnOnce() -> Result<BTreeMap<String, Stored>, Error>,
    text_files: BTreeMap<String, PathBuf>,
) -> Result<Source, Error> {
    let config_path = directory.join(CONFIG);
    let parts = Parts::new(tensors()?);
    let mut tensors = match config.get("quantization_config").filter(|value| !value.is_null()) {
        None => parts.floats()?,
        Some(quantization) => quantized::tensors(&config_path, quantization, parts)?,
    };
    match config.get("tie_word_embeddings") {
        // Some checkpoints hold the tied matrix twice; the configuration decides.
        Some(Value::Bool(true)) => drop(tensors.remove("lm_head.weight")),
        Some(Value::Bool(false)) if !tensors.contains_key("lm_head.weight") => {
            return Err(Error::Malformed {
                path: config_path,
                field: "tie_word_embeddings".to_owned(),
                problem: "it is false, but there is no tensor lm_head.weight".to_owned(),
            });
        }
        _ => {}
    }
    Ok(Source {
        path: directory.to_owned(),
        config,
        tensors,
        tokenizer: TokenizerFiles::HuggingFace(text_files),
        rotated: false,
    })
}

/// The tensors of all files that the index names; index and files must agree exactly.
fn indexed_tensors(directory: &Path) -> Result<BTreeMap<String, Stored>, Error> {
    let path = directory.join(INDEX);
    let malformed = |name: &str, problem: &str| {
        let field = format!("weight_map, {}", tensor_field(name));
        Err(Error::Malformed { path: path.clone(), field, problem: problem.to_owned() })
    };
    let index = json_object(&path)?;
    let Some(Value::Object(weight_map)) = index.get("weight_map") else {
        let (field, problem) = ("weight_map".to_owned(), "the object is missing".to_owned());
        return Err(Error::Malformed { path, field, problem });
    };
    let mut files = BTreeSet::new();
    for (name, file) in weight_map {
        match file.as_str() {
            // A plain name: the index must not reach out of its directory.
            Some(file) if file.ends_with(".safetensors") && is_plain(file) => files.insert(file),
            _ => return malformed(name, "the file is no plain .safetensors name"),
        };
    }
    let mut tensors = BTreeMap::new();
    for file in files {
        for (name, tensor) in file_tensors(Mapped::open(&directory.join(file))?)? {
            if weight_map.get(&name).and_then(Value::as_str) != Some(file) {
                let problem = format!("{file} holds the tensor, but the index does not say so");
                return malformed(&name, &problem);
            }
            tensors.insert(name, tensor);
        }
    }
    match weight_map.keys().find(|&name| !tensors.contains_key(name)) {
        Some(name) => malformed(name, "its file does not hold the tensor"),
        None => Ok(tensors),
    }
}

fn is_plain(file: &str) -> bool {
    file.len() <= 255 && !file.contains(|char: char| char.is_control() || ['/', '\\', ':'].contains(&char))
}

/// The tensors of one file.
fn file_tensors(file: Mapped) -> Result<BTreeMap<String, Stored>, Error> {
    let file = Arc::new(file);
    let path = &file.path;
    let malformed = |problem: String| {
        let field = "safetensors header".to_owned();
        Error::Malformed { path: path.to_owned(), field, problem }
    };
    let announced = file.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if announced > LONGEST_HEADER {
        return Err(malformed(format!("header too large: {announced} bytes are more than {LONGEST_HEADER}")));
    }
    let (header, metadata) = SafeTensors::read_metadata(&file).map_err(|error| malformed(error.to_string()))?;
    let data = 8 + header;
    let mut tensors = BTreeMap::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let stored = Stored {
            name: name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            file: Arc::clone(&file),
            // `read_metadata` has proved that the range lies in the file and has the size of shape and type.
            range: data + info.data_offsets.0..data + info.data_offsets.1,
        };
        tensors.insert(name, stored);
    }
    Ok(tensors)
}

fn json_object(path: &Path) -> Result<Map<String, Value>, Error> {
    let io = |cause| Error::Io { path: path.to_owned(), cause };
    let malformed = |problem: String| Error::Malformed { path: path.to_owned(), field: "JSON".to_owned(), problem };
    let mut text = Vec::new();
    File::open(path).map_err(io)?.take(LONGEST_JSON + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > LONGEST_JSON {
        return Err(malformed(format!("it is longer than {LONGEST_JSON} bytes")));
    }
    match serde_json::from_slice(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(malformed("it is no object".to_owned())),
        Err(error) => Err(malformed(error.to_string())),
    }
}
