//! A GGUF model, in one file or split over several, as a [`Source`].
use super::gguf::{Gguf, TensorInfo};
use super::gguf_config::{Hyperparameters, TensorFacts, hyperparameters};
use super::gguf_names::{ROPE_FREQS, hugging_face_name, row_order};
use super::tensor::{Mapped, RowOrder, Tensor};
use super::{Source, TokenizerFiles};
use crate::error::{Error, tensor_field};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The place of a file in a split model, from its name `PREFIX-00001-of-00003.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    prefix: String,
    /// 1 ..= count.
    pub(super) number: u64,
    count: u64,
}

impl Part {
    /// `None` for a name that does not follow the pattern.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let part = Self { prefix: prefix.to_owned(), number: number.parse().ok()?, count: count.parse().ok()? };
        ((1..=part.count).contains(&part.number) && path.ends_with(part.name(part.number))).then_some(part)
    }

    /// The name of part `number` of the same model.
    fn name(&self, number: u64) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// One mapped file of the model and its header.
struct File {
    mapped: Arc<Mapped>,
    header: Gguf,
}

impl File {
    fn open(path: &Path) -> Result<Self, Error> {
        let mapped = Arc::new(Mapped::open(path)?);
        let header = Gguf::parse(path, &mapped)?;
        Ok(Self { mapped, header })
    }

    fn malformed(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::Malformed { path: self.mapped.path.clone(), field: field.to_owned(), problem: problem.into() }
    }
}

/// Opens the model of which `path` is the only or the first file.
pub(super) fn open(path: &Path) -> Result<Source, Error> {
    let files = files(path)?;
    let infos = || files.iter().flat_map(|file| &file.header.tensors);
    let first = &files[0];
    let facts = tensor_facts(infos()).ok_or_else(|| first.malformed("token_embd.weight", "there is no such matrix"))?;
    let hyperparameters = hyperparameters(path, &first.header, facts)?;
    let mut tensors = BTreeMap::new();
    for file in &files {
        for info in &file.header.tensors {
            let tensor = tensor(file, info, &hyperparameters)?;
            if tensors.insert(tensor.name.clone(), tensor).is_some() {
                return Err(file.malformed(&tensor_field(&info.name), "the tensor is in two files of the model"));
            }
        }
    }
    let config = hyperparameters.config;
    let tokenizer = TokenizerFiles::Gguf(files.into_iter().next().map(|file| file.header.meta).unwrap_or_default());
    Ok(Source { path: path.to_owned(), config, tensors, tokenizer, rotated: false })
}

/// All files of the model, in order; never empty.
fn files(path: &Path) -> Result<Vec<File>, Error> {
    let first = File::open(path)?;
    let count = first.header.count("split.count").unwrap_or(1);
    if count <= 1 {
        return Ok(vec![first]);
    }
    if first.header.count("split.no") != Some(0) {
        let problem = format!("this is not the first of the model's {count} files");
        let remedy = "pass the file whose name ends in -00001-of-…";
        return Err(Error::NotACheckpoint { path: path.to_owned(), problem, remedy });
    }
    let part = Part::of(path).filter(|part| (part.number, part.count) == (1, count)).ok_or_else(|| {
        let problem =
            format!("it is the first of {count} files, but its name does not end in -00001-of-{count:05}.gguf");
        Error::NotACheckpoint { path: path.to_owned(), problem, remedy: "restore the names that the files had" }
    })?;
    let mut files = vec![first];
    for number in 2..=count {
        let file = File::open(&path.with_file_name(part.name(number)))?;
        if file.header.count("split.no") != Some(number - 1) || file.header.count("split.count") != Some(count) {
            return Err(file.malformed("split.no", format!("the header does not say part {number} of {count}")));
        }
        files.push(file);
    }
    let tensors: usize = files.iter().map(|file| file.header.tensors.len()).sum();
    match files[0].header.count("split.tensors.count") {
        Some(stated) if stated != tensors as u64 => {
            let problem = format!("{stated} tensors are announced, the files hold {tensors}");
            Err(files[0].malformed("split.tensors.count", problem))
        }
        _ => Ok(files),
    }
}

/// `None` where the embedding matrix is missing.
fn tensor_facts<'a>(infos: impl Iterator<Item = &'a TensorInfo>) -> Option<TensorFacts> {
    let mut vocabulary = None;
    let mut facts =
        TensorFacts { vocabulary: 0, tied: true, attention_bias: false, mlp_bias: false, rope_factors: false };
    for info in infos {
        match info.name.as_str() {
            "token_embd.weight" if info.shape.len() == 2 => vocabulary = Some(info.shape[0]),
            "output.weight" => facts.tied = false,
            "rope_freqs.weight" => facts.rope_factors = true,
            name if name.ends_with(".attn_q.bias") => facts.attention_bias = true,
            name if name.ends_with(".ffn_gate.bias") => facts.mlp_bias = true,
            _ => {}
        }
    }
    facts.vocabulary = vocabulary?;
    Some(facts)
}

fn tensor(file: &File, info: &TensorInfo, parameters: &Hyperparameters) -> Result<Tensor, Error> {
    let architecture = parameters.architecture;
    let name = hugging_face_name(architecture, parameters.layers, &info.name).ok_or_else(|| Error::Unsupported {
        path: file.mapped.path.clone(),
        field: tensor_field(&info.name),
        found: format!("a tensor that architecture {} does not have", architecture.name()),
        remedy: "convert the original Hugging Face checkpoint",
    })?;
    if name == ROPE_FREQS && info.shape != [parameters.head / 2] {
        let problem = format!("shape {:?} is not one divisor per rotated pair", info.shape);
        return Err(file.malformed(&tensor_field(&info.name), problem));
    }
    let order = row_order(architecture, parameters.head, &name);
    if order != RowOrder::Same && !info.shape[0].is_multiple_of(parameters.head) {
        let problem = format!("shape {:?} is no whole number of heads of {}", info.shape, parameters.head);
        return Err(file.malformed(&tensor_field(&info.name), problem));
    }
    Ok(Tensor {
        shape: info.shape.clone(),
        dtype: info.dtype,
        name,
        file: Arc::clone(&file.mapped),
        range: info.range.clone(),
        order,
        derived: None,
    })
}
