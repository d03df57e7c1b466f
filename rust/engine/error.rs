//! What can go wrong, one variant per cause.

use intact_core::certify::Refusal;
use intact_core::executor::Fault;
use std::path::PathBuf;

/// `text` as a message shows it. Parts of it come out of a file, so it is cut to a readable length and what would
/// command a terminal is escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 500;
    let mut out = String::new();
    for (index, char) in text.chars().enumerate() {
        match char {
            _ if index == LONGEST => {
                out.push('…');
                break;
            }
            '"' | '\'' | '\\' => out.push(char),
            _ => out.extend(char.escape_debug()),
        }
    }
    out
}

/// A model directory that cannot be read, written or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `intact.json` is not what docs/MODEL.md describes.
    #[error("{}: {}; convert the model again with `intact quantize`", path.display(), printable(problem))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the field.
        problem: String,
    },
    /// The model follows a version of the contract or of the directory that this build does not know.
    #[error("{}: {what} version {found} is not {supported}; use a release of Intact that knows it, or convert again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Which version.
        what: &'static str,
        /// In the file.
        found: u32,
        /// In this build.
        supported: u32,
    },
    /// `model.safetensors` does not hold the planes that `intact.json` names.
    #[error("{}: {}; the file is damaged or belongs to another intact.json: convert the model again", path.display(), printable(problem))]
    Planes {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the plane.
        problem: String,
    },
    /// A hash differs from the content.
    #[error("{}: SHA-256 of {what} is {found}, recorded is {}; the file has changed since it was written", path.display(), printable(recorded))]
    Hash {
        /// The file.
        path: PathBuf,
        /// The plane, file or digest.
        what: String,
        /// Of the content.
        found: String,
        /// In `intact.json`.
        recorded: String,
    },
    /// A bound of the contract does not hold.
    #[error("{}: {}; this model cannot be run exactly", path.display(), printable(&refusal.to_string()))]
    Refused {
        /// The directory or source.
        path: PathBuf,
        /// The bound.
        refusal: Refusal,
    },
    /// The target of a conversion exists.
    #[error("{}: already exists; choose another directory or allow overwriting", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
}

/// A request that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No tokens.
    #[error("prompt: it is empty; give at least one token")]
    EmptyPrompt,
    /// A token id that the model does not have.
    #[error("prompt[{index}]: token id {id} is not below the vocabulary of {vocabulary}")]
    TokenOutOfRange {
        /// Where.
        index: usize,
        /// The id.
        id: u32,
        /// Tokens of the model.
        vocabulary: usize,
    },
    /// More tokens than the model's context.
    #[error("prompt: {tokens} tokens do not fit the context of {context}; shorten the prompt")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The model's longest sequence.
        context: usize,
    },
    /// More positions than the cache may hold.
    #[error(
        "prompt: {tokens} tokens and their continuation need more cache than the {capacity} positions allowed; raise kv_tokens or lower max_tokens"
    )]
    CacheTooSmall {
        /// Tokens of prompt and continuation.
        tokens: usize,
        /// Positions of the cache.
        capacity: usize,
    },
    /// A setting out of its range.
    #[error("{field}: {found} is not within {range}")]
    OutOfRange {
        /// The setting.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What is allowed.
        range: &'static str,
    },
    /// A receipt that nobody could read.
    #[error(
        "receipt: it could grow to {bytes} bytes, more than {most}; lower max_tokens or n, or trace logits instead of tensors"
    )]
    ReceiptTooLarge {
        /// Bytes at most.
        bytes: usize,
        /// The largest receipt that is read.
        most: usize,
    },
    /// The cache could not grow.
    #[error("{what}: {bytes} more bytes are not to be had; lower kv_tokens or run fewer sequences at once")]
    OutOfMemory {
        /// For what.
        what: String,
        /// Bytes asked for.
        bytes: usize,
    },
    /// The device failed.
    #[error("{message}")]
    Device {
        /// With the device and the remedy.
        message: String,
    },
}

impl From<Fault> for RequestError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::OutOfMemory { what, bytes } => Self::OutOfMemory { what, bytes },
            Fault::Device(message) => Self::Device { message },
        }
    }
}

/// A receipt that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// More bytes than any receipt has.
    #[error("more than {most} bytes, which no receipt has")]
    TooLarge {
        /// The largest receipt that is read.
        most: usize,
    },
    /// A version of the format that this build does not know.
    #[error("receipt: version {found} is not {supported}; use a release of Intact that knows it")]
    Version {
        /// In the file.
        found: u64,
        /// In this build.
        supported: u32,
    },
    /// Not what docs/RECEIPTS.md describes.
    #[error("{}; the file is damaged or is no receipt", printable(problem))]
    Malformed {
        /// What is wrong, with the field.
        problem: String,
    },
}

/// A saved state that cannot be written, read or gone on from.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused the file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A version of the layout or the contract that this build does not know.
    #[error("{}: {what} version {found} is not {supported}; use a release of Intact that knows it, or compute the state again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Which version.
        what: &'static str,
        /// In the file.
        found: u32,
        /// In this build.
        supported: u32,
    },
    /// Not what docs/STATE.md describes.
    #[error("{}: {problem}; the file is damaged or is no state: compute it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Of another model.
    #[error("state: it is of model {found}, not of {expected}; open that model, or compute the state again")]
    Model {
        /// Its model.
        found: String,
        /// The engine's model.
        expected: String,
    },
    /// Of this model, as it says, but nothing that this model computes.
    #[error("state: {problem}; the file is damaged: compute it again")]
    Content {
        /// What is wrong.
        problem: String,
    },
    /// What is asked for cannot be run.
    #[error(transparent)]
    Request(#[from] RequestError),
}
