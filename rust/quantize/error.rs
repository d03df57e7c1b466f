//! What can go wrong while a checkpoint is read and converted.
use intact::error::printable;
use std::path::PathBuf;

/// Every failure names the file, the field in it, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a read or a mapping.
    #[error("{}: cannot be read: {cause}; check that it exists and is readable", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// The path holds nothing that can be converted, or more than one candidate.
    #[error("{}: {problem}; {remedy}", path.display())]
    NotACheckpoint {
        /// The path that was to be opened.
        path: PathBuf,
        /// What was found there.
        problem: String,
        /// What to pass instead.
        remedy: &'static str,
    },
    /// The file contradicts its format's specification or itself.
    #[error("{}: {field}: {}; the file is damaged or badly written: fetch or convert it again", path.display(), printable(problem))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The header field, key or tensor.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is sound but uses something that Intact does not implement.
    #[error("{}: {field}: {} is not supported; {remedy}", path.display(), printable(found))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The header field, key or tensor.
        field: String,
        /// What it asks for.
        found: String,
        /// What to use instead.
        remedy: &'static str,
    },
    /// A Hugging Face checkpoint whose weights are packed by a quantizer that is not known.
    #[error("{}: quantization_config: already quantized with {method}; convert the unquantized checkpoint", path.display())]
    AlreadyQuantized {
        /// The `config.json`.
        path: PathBuf,
        /// Its `quant_method`.
        method: String,
    },
    /// A weight or a block scale is NaN or infinite.
    #[error("{}: tensor {}, row {row}: a value is NaN or infinite; the checkpoint is damaged: fetch it again", path.display(), printable(tensor))]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor, under its Hugging Face name.
        tensor: String,
        /// The row, in Hugging Face's order.
        row: usize,
    },
    /// A tensor was asked for something that it does not have.
    #[error("{}: tensor {}: {}; {remedy}", path.display(), printable(tensor), printable(problem))]
    Access {
        /// The file.
        path: PathBuf,
        /// The tensor, under its Hugging Face name.
        tensor: String,
        /// What was asked, and what there is.
        problem: String,
        /// What to call instead.
        remedy: &'static str,
    },
}

/// `text` quoted and cut to a length fit for a message: names in a file are untrusted.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// The field of a message about the tensor of that name in a file.
pub(crate) fn tensor_field(name: &str) -> String {
    format!("tensor {}", quoted(name))
}
