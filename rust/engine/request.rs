//! What is asked of the engine, and what comes back.

use crate::error::RequestError;
use intact_core::ops::sample::Sampling;

/// The largest number of alternatives that a step reports.
pub const MAX_LOGPROBS: u32 = 1024;
/// The largest number of continuations of one prompt.
pub const MAX_SAMPLES: u32 = 1024;

/// A prompt and how to continue it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_tokens: u32,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Continuations; the n-th draws from stream n.
    pub n: u32,
    /// Tokens that end a continuation.
    pub stop_ids: Vec<u32>,
    /// Alternatives to report per token, or `None` for no log-probabilities.
    pub logprobs: Option<u32>,
    /// Number of the first token to generate, from which the random words count: how many an earlier request has
    /// generated that this one goes on from, with them at the end of its prompt.
    pub first_step: u32,
}

/// Names a request within its engine.
pub type RequestId = u64;

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop id.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
}

/// A token with its log-probability (Q16, base 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogProb {
    /// The token.
    pub token: u32,
    /// At most 0.
    pub logprob: i32,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which request.
    pub request: RequestId,
    /// Which of its continuations.
    pub stream: u32,
    /// The token.
    pub token: u32,
    /// Its log-probability, where asked for.
    pub logprob: Option<i32>,
    /// The most likely tokens, most likely first, as many as asked for.
    pub top: Vec<LogProb>,
    /// Set with the last token.
    pub finish: Option<Finish>,
}

impl Request {
    /// Checks everything that does not depend on the engine's load.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn check(&self, vocabulary: usize, context: usize) -> Result<(), RequestError> {
        check_tokens(&self.prompt, vocabulary, context)?;
        self.check_settings()
    }

    /// Checks everything that does not depend on the model.
    pub(crate) fn check_settings(&self) -> Result<(), RequestError> {
        let s = &self.sampling;
        let ranges = [
            ("max_tokens", u64::from(self.max_tokens), 1, u64::from(u32::MAX), "1…2^32-1"),
            ("n", u64::from(self.n), 1, u64::from(MAX_SAMPLES), "1…1024"),
            ("logprobs", u64::from(self.logprobs.unwrap_or(0)), 0, u64::from(MAX_LOGPROBS), "0…1024"),
            ("top_p", u64::from(s.top_p), 0, 65536, "0…65536 (Q16)"),
            ("min_p", u64::from(s.min_p), 0, 65536, "0…65536 (Q16)"),
        ];
        for (field, found, low, high, range) in ranges {
            if !(low..=high).contains(&found) {
                return Err(RequestError::OutOfRange { field, found, range });
            }
        }
        Ok(())
    }

    /// Tokens that each continuation has at most.
    pub(crate) fn most_tokens(&self, context: usize) -> usize {
        // The last token need not fit the context, since it is not run.
        (self.max_tokens as usize).min((context + 1).saturating_sub(self.prompt.len()))
    }

    /// Why a continuation ends with its token number `count`, counted from 1; `None` where it goes on. The stop ids
    /// ascend.
    pub(crate) fn finish(&self, token: u32, count: usize, context: usize) -> Option<Finish> {
        match (self.stop_ids.binary_search(&token).is_ok(), count >= self.most_tokens(context)) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        }
    }
}

/// Checks token ids and their number.
///
/// # Errors
/// An empty list, an id that the model does not have, or more tokens than the context.
pub fn check_tokens(tokens: &[u32], vocabulary: usize, context: usize) -> Result<(), RequestError> {
    if tokens.is_empty() {
        return Err(RequestError::EmptyPrompt);
    }
    if tokens.len() > context {
        return Err(RequestError::PromptTooLong { tokens: tokens.len(), context });
    }
    match tokens.iter().position(|&id| id as usize >= vocabulary) {
        Some(index) => Err(RequestError::TokenOutOfRange { index, id: tokens[index], vocabulary }),
        None => Ok(()),
    }
}
