//! What a check of a receipt finds.

use super::format::Ending;
use super::probe::writes;
use crate::error::RequestError;
use intact_core::program::{Model, Op};
use std::fmt;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was computed again is as the receipt says.
    Equal {
        /// Steps that were computed.
        checked: usize,
        /// Steps of the receipt.
        steps: usize,
    },
    /// The receipt says something that is not so.
    Different {
        /// Where the first difference is; `None` where it concerns the whole receipt.
        place: Option<Place>,
        /// What differs.
        what: What,
    },
    /// The receipt is about another model or contract, and nothing was compared.
    Refused {
        /// What it is about, and what would be needed.
        reason: String,
    },
}

/// A generated token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the output.
    pub stream: u32,
    /// Index of the token in the output.
    pub step: u32,
    /// Position whose logits it was chosen from.
    pub position: u32,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// `sha256` is not that of the rest: the file has changed since it was written.
    Sha256,
    /// The model cannot take such a request.
    Request(RequestError),
    /// The number of outputs is not `n`.
    Outputs {
        /// In the receipt.
        found: usize,
        /// Asked for.
        n: u32,
    },
    /// There are not as many chain entries as tokens, or the entry is not what follows from equal tensors.
    Chain,
    /// Tensor digests are missing, or there are some that do not belong there.
    Tensors,
    /// The output ends here otherwise than the receipt says, or does not end here; `None` goes on.
    Finish {
        /// In the receipt.
        claimed: Option<Ending>,
        /// By the request and the tokens.
        computed: Option<Ending>,
    },
    /// The token does not follow from the logits.
    Token {
        /// In the receipt.
        claimed: u32,
        /// By the logits; `None` where the model does not have the claimed token at all.
        computed: Option<u32>,
    },
    /// The token is right, but the chain entry does not follow from these logits.
    Logits,
    /// The first tensor that differs.
    Tensor(Tensor),
}

/// A slot that an op writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Index in the list of the step.
    pub index: usize,
    /// "body" or "head".
    pub part: &'static str,
    /// Index of the op in its part.
    pub op: usize,
    /// The op's name in docs/MODEL.md.
    pub kind: &'static str,
    /// The slot.
    pub slot: String,
    /// The matrix or gain that the op reads, or else the one that an op before it read last: it tells the layer.
    pub near: String,
}

impl Tensor {
    /// Describes write number `index` of a step.
    pub(crate) fn new(model: &Model, index: usize) -> Option<Self> {
        let write = writes(model).nth(index)?;
        let last = writes(model).take(index + 1).filter_map(|write| parameter(model, write.op, write.slot)).last();
        Some(Self {
            index,
            part: write.part,
            op: write.index,
            kind: write.op.name(),
            slot: model.slots[write.slot].clone(),
            near: last.unwrap_or_default().to_owned(),
        })
    }
}

/// The name of the matrix or gain with which an op writes a slot.
fn parameter<'a>(model: &'a Model, op: &Op, slot: usize) -> Option<&'a str> {
    match op {
        Op::Embed { matrix, .. } => Some(&model.matrices[*matrix].name),
        Op::RmsNorm { gain, .. } => Some(&model.vectors[*gain].name),
        Op::Linear { outputs, .. } => {
            let (matrix, _) = outputs.iter().find(|(_, out)| *out == slot)?;
            Some(&model.matrices[*matrix].name)
        }
        _ => None,
    }
}

impl Verdict {
    /// "equal", "different" or "refused".
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self {
            Self::Equal { .. } => "equal",
            Self::Different { .. } => "different",
            Self::Refused { .. } => "refused",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.status())?;
        match self {
            Self::Equal { checked, steps } => write!(f, "{checked} of {steps} steps checked"),
            Self::Different { place: Some(Place { stream, step, position }), what } => {
                write!(f, "output {stream}, step {step}, position {position}: {what}")
            }
            Self::Different { place: None, what } => write!(f, "{what}"),
            Self::Refused { reason } => f.write_str(reason),
        }
    }
}

impl What {
    /// One word: "sha256", "request", "outputs", "chain", "tensors", "finish", "token", "logits" or "tensor".
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Request(_) => "request",
            Self::Outputs { .. } => "outputs",
            Self::Chain => "chain",
            Self::Tensors => "tensors",
            Self::Finish { .. } => "finish",
            Self::Token { .. } => "token",
            Self::Logits => "logits",
            Self::Tensor(_) => "tensor",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = |ending: &Option<Ending>| {
            ending.map_or("that it goes on".into(), |ending| format!("{:?}", ending.to_string()))
        };
        match self {
            Self::Sha256 => f.write_str("sha256 is not that of the content: the file has changed since it was written"),
            Self::Request(error) => write!(f, "request: the model cannot take it: {error}"),
            Self::Outputs { found, n } => write!(f, "outputs: {found}, n is {n}"),
            Self::Chain => f.write_str("chain: the entry is missing, superfluous or wrong"),
            Self::Tensors => f.write_str("tensors: digests are missing or superfluous"),
            Self::Finish { claimed, computed } => {
                write!(f, "finish: the receipt says {}, the tokens say {}", ending(claimed), ending(computed))
            }
            Self::Token { claimed, computed: Some(computed) } => {
                write!(f, "token: the receipt says {claimed}, the logits say {computed}")
            }
            Self::Token { claimed, computed: None } => write!(f, "token: {claimed} is not below the vocabulary"),
            Self::Logits => f.write_str("logits: the chain entry does not follow from those computed here"),
            Self::Tensor(Tensor { part, op, kind, slot, near, .. }) => {
                write!(f, "tensor: slot {slot:?} of {part} op {op}, {kind}, at or after {near}")
            }
        }
    }
}
