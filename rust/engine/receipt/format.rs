//! The receipt as data and as canonical JSON.
//!
//! Fields stand in alphabetical order, which is the order of their keys in canonical JSON.

use super::hex::{Hash, Hex};
use super::tensors::Tensors;
use crate::error::ReceiptError;
use crate::request::{Finish, MAX_SAMPLES, Request};
use intact_core::ops::sample::Sampling;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The version of the format.
pub const VERSION: u32 = 1;
/// The largest receipt in bytes.
pub const MAX_BYTES: usize = 64 << 20;

/// What a receipt says about every step besides its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trace {
    /// A hash of the logits.
    Logits,
    /// Also a digest of every slot that an op wrote at the step's position.
    Tensors,
}

/// Why an output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// A stop id.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The caller ended it: more tokens would have come.
    Cancelled,
}

impl From<Option<Finish>> for Ending {
    fn from(finish: Option<Finish>) -> Self {
        match finish {
            Some(Finish::Stop) => Self::Stop,
            Some(Finish::Length) => Self::Length,
            None => Self::Cancelled,
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        })
    }
}

/// The claim that a model answered a request with these tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Version of the numeric contract.
    pub contract: u32,
    /// The model digest.
    pub model: Hash,
    /// One for each continuation, in order.
    pub outputs: Vec<OutputRecord>,
    /// Version of the format.
    pub receipt: u32,
    /// What was asked.
    pub request: RequestRecord,
    /// Of the canonical JSON of everything else.
    pub sha256: Hash,
    /// What is known of every step.
    pub trace: Trace,
}

/// Everything about a request that decides its tokens, in the contract's integers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRecord {
    /// Tokens to generate at most, at least 1.
    pub max_tokens: u32,
    /// Q16, 0…65536.
    pub min_p: u32,
    /// Continuations, 1…1024.
    pub n: u32,
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Key of the random numbers.
    pub seed: u64,
    /// Ascending, each once.
    pub stop_ids: Vec<u32>,
    /// Q16; 0 chooses greedily.
    pub temperature: u32,
    /// 0 keeps all.
    pub top_k: u32,
    /// Q16, 0…65536.
    pub top_p: u32,
}

/// One continuation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputRecord {
    /// The chain after each token.
    pub chain: Vec<Hash>,
    /// Why it ended.
    pub finish: Ending,
    /// The generated tokens.
    pub ids: Vec<u32>,
    /// For each token, digests of what the ops wrote; with [`Trace::Tensors`] only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Tensors>,
}

/// What every chain begins with.
#[derive(Serialize)]
pub(crate) struct Head<'a> {
    contract: u32,
    model: &'a Hash,
    receipt: u32,
    request: &'a RequestRecord,
    trace: Trace,
}

/// What `sha256` is of.
#[derive(Serialize)]
struct Body<'a> {
    contract: u32,
    model: &'a Hash,
    outputs: &'a [OutputRecord],
    receipt: u32,
    request: &'a RequestRecord,
    trace: Trace,
}

impl Receipt {
    /// Reads a receipt. It is well formed then, and nothing else is known about it.
    ///
    /// # Errors
    /// [`ReceiptError`]: too large, another version, not canonical JSON, or a field out of its range.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        /// All that versions have in common.
        #[derive(Deserialize)]
        struct Version {
            receipt: u64,
        }
        if bytes.len() > MAX_BYTES {
            return Err(ReceiptError::TooLarge { most: MAX_BYTES });
        }
        let malformed = |error| ReceiptError::Malformed { problem: located(bytes, &error) };
        let version: Version = serde_json::from_slice(bytes).map_err(malformed)?;
        if version.receipt != u64::from(VERSION) {
            return Err(ReceiptError::Version { found: version.receipt, supported: VERSION });
        }
        let receipt: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        receipt.check_ranges().map_err(|problem| ReceiptError::Malformed { problem })?;
        let canonical = receipt.to_bytes();
        if bytes != canonical && bytes != &canonical[..canonical.len() - 1] {
            let problem = "it is not canonical JSON, with sorted keys and without white space".into();
            return Err(ReceiptError::Malformed { problem });
        }
        Ok(receipt)
    }

    fn check_ranges(&self) -> Result<(), String> {
        self.request.request().check_settings().map_err(|error| format!("request.{error}"))?;
        if self.request.prompt.is_empty() {
            return Err("request.prompt: it is empty".into());
        }
        if !self.request.stop_ids.is_sorted_by(|a, b| a < b) {
            return Err("request.stop_ids: they do not ascend".into());
        }
        let found = self.outputs.len();
        if found > MAX_SAMPLES as usize {
            return Err(format!("outputs: {found} are more than {MAX_SAMPLES}"));
        }
        Ok(())
    }

    /// The canonical JSON and a newline: the content of a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Keeps the first `steps` tokens of an output that has more, as if the caller had cancelled it there.
    pub fn cut(&mut self, stream: usize, steps: usize) {
        let Some(output) = self.outputs.get_mut(stream).filter(|output| steps < output.ids.len()) else { return };
        output.ids.truncate(steps);
        output.chain.truncate(steps);
        if let Some(tensors) = &mut output.tensors {
            tensors.truncate(steps);
        }
        output.finish = Ending::Cancelled;
        self.sha256 = self.seal();
    }

    /// What `sha256` has to be.
    #[must_use]
    pub fn seal(&self) -> Hash {
        let Self { contract, model, outputs, receipt, request, sha256: _, trace } = self;
        let body = Body { contract: *contract, model, outputs, receipt: *receipt, request, trace: *trace };
        Hex(Sha256::digest(serde_json::to_vec(&body).unwrap_or_default()).into())
    }

    pub(crate) fn head(&self) -> Head<'_> {
        let Self { contract, model, outputs: _, receipt, request, sha256: _, trace } = self;
        Head { contract: *contract, model, receipt: *receipt, request, trace: *trace }
    }
}

impl RequestRecord {
    pub(crate) fn new(request: &Request) -> Self {
        let Sampling { temperature, top_k, top_p, min_p, seed } = request.sampling;
        let mut stop_ids = request.stop_ids.clone();
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let (prompt, max_tokens, n) = (request.prompt.clone(), request.max_tokens, request.n);
        Self { max_tokens, min_p, n, prompt, seed, stop_ids, temperature, top_k, top_p }
    }

    pub(crate) fn request(&self) -> Request {
        let Self { max_tokens, min_p, n, ref prompt, seed, ref stop_ids, temperature, top_k, top_p } = *self;
        let sampling = Sampling { temperature, top_k, top_p, min_p, seed };
        Request {
            prompt: prompt.clone(),
            max_tokens,
            sampling,
            n,
            stop_ids: stop_ids.clone(),
            logprobs: None,
            first_step: 0,
        }
    }
}

/// The message of a JSON error, after the key that it follows.
fn located(bytes: &[u8], error: &serde_json::Error) -> String {
    let lines = bytes.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    let offset = lines.map(<[u8]>::len).sum::<usize>() + error.column();
    let before = &bytes[..offset.min(bytes.len())];
    let mut quotes = before.windows(2).rposition(|pair| pair == b"\":").into_iter();
    let key = quotes.next().and_then(|end| {
        let start = before[..end].iter().rposition(|&byte| byte == b'"')?;
        str::from_utf8(&before[start + 1..end]).ok()
    });
    match key {
        Some(key) => format!("{key}: {error}"),
        None => error.to_string(),
    }
}
