//! A model as data: integer operations over named slots (docs/MODEL.md).

use crate::matrix::Matrix;
use crate::ops::attention::Scoring;
use crate::ops::gated::Gate;
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::Pairs;
use crate::ops::softcap::Softcap;
use alloc::{string::String, vec::Vec};

/// Index into [`Model::slots`].
pub type Slot = usize;
/// Index into [`Model::matrices`].
pub type MatrixId = usize;
/// Index into [`Model::vectors`].
pub type VectorId = usize;

/// The slot that the head leaves its result in.
pub const LOGITS: &str = "logits";

/// Small constant arrays that ops refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vector {
    /// Gains of a norm.
    Gain(Vec<i16>),
    /// Turns per position of each rotated pair, in units of 2^-64.
    Freq64(Vec<u64>),
}

/// A named vector.
#[derive(Clone, Debug)]
pub struct NamedVector {
    /// The plane's name.
    pub name: String,
    /// The values.
    pub values: Vector,
}

/// Attention with its own KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Queries, heads · head_width.
    pub query: Slot,
    /// Keys, kv_heads · head_width.
    pub key: Slot,
    /// Values, kv_heads · head_width.
    pub value: Slot,
    /// Output, heads · head_width.
    pub out: Slot,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_width: usize,
    /// How many positions a query sees, itself included; 0 for all.
    pub window: u32,
    /// xq, the code range of queries.
    pub query_max: u32,
    /// xk, the code range of keys.
    pub key_max: u32,
    /// What all heads share.
    pub scoring: Scoring,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// 2.5.
    Embed {
        /// Table of token vectors.
        matrix: MatrixId,
        /// Written.
        out: Slot,
    },
    /// P4 over each run of `gain` elements.
    RmsNorm {
        /// Read.
        input: Slot,
        /// Written; may be `input`.
        out: Slot,
        /// Gains.
        gain: VectorId,
        /// Constants.
        norm: RmsNorm,
    },
    /// 2: several matrices read one quantized vector.
    Linear {
        /// Read.
        input: Slot,
        /// Each matrix with the slot that it writes.
        outputs: Vec<(MatrixId, Slot)>,
    },
    /// 3.1.
    Rope {
        /// Changed in place.
        slot: Slot,
        /// Elements per head.
        head_width: usize,
        /// Frequencies.
        table: VectorId,
        /// Which elements pair up.
        pairs: Pairs,
    },
    /// 3.2.
    Hadamard {
        /// Changed in place.
        slot: Slot,
        /// Elements per head, a power of two.
        head_width: usize,
    },
    /// 3.3.
    Attention(Attention),
    /// 3.4.
    GatedActivation {
        /// Which.
        kind: Gate,
        /// Read.
        gate: Slot,
        /// Read.
        up: Slot,
        /// Written; may be `gate` or `up`.
        out: Slot,
    },
    /// 3.4 without gate: ReLU².
    Relu2 {
        /// Changed in place.
        slot: Slot,
    },
    /// into = sat(into + from).
    ResidualAdd {
        /// Changed.
        into: Slot,
        /// Read.
        from: Slot,
    },
    /// 3.4.
    Softcap {
        /// Changed in place.
        slot: Slot,
        /// Constants.
        cap: Softcap,
    },
}

/// A whole model, as read from a directory or made by a converter; nothing about it is proved yet.
#[derive(Clone, Debug)]
pub struct Model {
    /// F of the contract.
    pub fraction_bits: u32,
    /// Tokens.
    pub vocabulary: usize,
    /// The longest sequence that the model was made for.
    pub context: u32,
    /// Matrices.
    pub matrices: Vec<Matrix>,
    /// Gains and rotation tables.
    pub vectors: Vec<NamedVector>,
    /// Slot names.
    pub slots: Vec<String>,
    /// Runs for every token.
    pub body: Vec<Op>,
    /// Runs for tokens whose logits are asked for.
    pub head: Vec<Op>,
}

impl Op {
    /// The slots that the op reads.
    #[must_use]
    pub fn reads(&self) -> Vec<Slot> {
        match self {
            Self::Embed { .. } => Vec::new(),
            Self::RmsNorm { input, .. } | Self::Linear { input, .. } => alloc::vec![*input],
            Self::Rope { slot, .. }
            | Self::Hadamard { slot, .. }
            | Self::Relu2 { slot }
            | Self::Softcap { slot, .. } => {
                alloc::vec![*slot]
            }
            Self::Attention(a) => alloc::vec![a.query, a.key, a.value],
            Self::GatedActivation { gate, up, .. } => alloc::vec![*gate, *up],
            Self::ResidualAdd { into, from } => alloc::vec![*into, *from],
        }
    }

    /// The slots that hold something new after the op.
    #[must_use]
    pub fn writes(&self) -> Vec<Slot> {
        match self {
            Self::Embed { out, .. } | Self::RmsNorm { out, .. } | Self::GatedActivation { out, .. } => {
                alloc::vec![*out]
            }
            Self::Linear { outputs, .. } => outputs.iter().map(|&(_, slot)| slot).collect(),
            Self::Attention(a) => alloc::vec![a.out],
            Self::Rope { slot, .. }
            | Self::Hadamard { slot, .. }
            | Self::Relu2 { slot }
            | Self::Softcap { slot, .. } => {
                alloc::vec![*slot]
            }
            Self::ResidualAdd { into, .. } => alloc::vec![*into],
        }
    }

    /// The name in files.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Linear { .. } => "linear",
            Self::Rope { .. } => "rope",
            Self::Hadamard { .. } => "hadamard",
            Self::Attention(_) => "attention",
            Self::GatedActivation { .. } => "gated_activation",
            Self::Relu2 { .. } => "activation",
            Self::ResidualAdd { .. } => "residual_add",
            Self::Softcap { .. } => "softcap",
        }
    }
}

impl Model {
    /// The model of some of its ops, with the matrices that these name.
    #[must_use]
    pub fn part(&self, body: &[Op], head: &[Op]) -> Self {
        let mut matrices = Vec::new();
        let mut places = alloc::vec![None; self.matrices.len()];
        let mut place = |id: MatrixId| {
            *places[id].get_or_insert_with(|| {
                matrices.push(self.matrices[id].clone());
                matrices.len() - 1
            })
        };
        let mut renamed = |ops: &[Op]| -> Vec<Op> {
            let op = |op: &Op| match op {
                Op::Embed { matrix, out } => Op::Embed { matrix: place(*matrix), out: *out },
                Op::Linear { input, outputs } => {
                    let outputs = outputs.iter().map(|&(id, slot)| (place(id), slot)).collect();
                    Op::Linear { input: *input, outputs }
                }
                other => other.clone(),
            };
            ops.iter().map(op).collect()
        };
        let (body, head) = (renamed(body), renamed(head));
        let (vectors, slots) = (self.vectors.clone(), self.slots.clone());
        let (fraction_bits, vocabulary, context) = (self.fraction_bits, self.vocabulary, self.context);
        Self { fraction_bits, vocabulary, context, matrices, vectors, slots, body, head }
    }
}
