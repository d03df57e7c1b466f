//! The program as JSON, with names in place of indices.

use intact_core::ops::attention::Scoring;
use intact_core::ops::gated::Gate;
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::ops::rope::Pairs;
use intact_core::ops::softcap::Softcap;
use intact_core::program::{Attention, Model, Op};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Both lists of operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramRecord {
    /// For every token.
    pub body: Vec<OpRecord>,
    /// For tokens whose logits are asked for.
    pub head: Vec<OpRecord>,
}

/// One operation; docs/MODEL.md explains the keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum OpRecord {
    Embed {
        matrix: String,
        out: String,
    },
    RmsNorm {
        r#in: String,
        out: String,
        gain: String,
        gain_shift: i32,
        epsilon: u64,
        root: i32,
        root_shift: i32,
    },
    Linear {
        r#in: String,
        matrices: Vec<String>,
        out: Vec<String>,
    },
    Rope {
        slot: String,
        head_width: usize,
        table: String,
        interleaved: bool,
    },
    Hadamard {
        slot: String,
        head_width: usize,
    },
    Attention {
        query: String,
        key: String,
        value: String,
        out: String,
        heads: usize,
        kv_heads: usize,
        head_width: usize,
        window: u32,
        query_max: u32,
        key_max: u32,
        value_max: u32,
        scale: i32,
        scale_shift: i32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        softcap: Option<SoftcapRecord>,
    },
    GatedActivation {
        kind: GateRecord,
        gate: String,
        up: String,
        out: String,
    },
    Activation {
        kind: GateRecord,
        slot: String,
    },
    ResidualAdd {
        into: String,
        from: String,
    },
    Softcap {
        slot: String,
        inverse: i32,
        inverse_shift: i32,
        cap: i32,
        cap_shift: i32,
    },
}

/// Constants of a softcap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SoftcapRecord {
    pub inverse: i32,
    pub inverse_shift: i32,
    pub cap: i32,
    pub cap_shift: i32,
}

/// Which activation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum GateRecord {
    Swiglu,
    Geglu,
    Relu2,
}

impl From<SoftcapRecord> for Softcap {
    fn from(r: SoftcapRecord) -> Self {
        Self { inverse: r.inverse, inverse_shift: r.inverse_shift, cap: r.cap, cap_shift: r.cap_shift }
    }
}

impl From<Softcap> for SoftcapRecord {
    fn from(s: Softcap) -> Self {
        Self { inverse: s.inverse, inverse_shift: s.inverse_shift, cap: s.cap, cap_shift: s.cap_shift }
    }
}

impl From<GateRecord> for Gate {
    fn from(kind: GateRecord) -> Self {
        match kind {
            GateRecord::Swiglu => Self::Swiglu,
            GateRecord::Geglu => Self::Geglu,
            GateRecord::Relu2 => Self::Relu2,
        }
    }
}

impl From<Gate> for GateRecord {
    fn from(kind: Gate) -> Self {
        match kind {
            Gate::Swiglu => Self::Swiglu,
            Gate::Geglu => Self::Geglu,
            Gate::Relu2 => Self::Relu2,
        }
    }
}

/// Turns names into indices; slots come into being as they are named.
pub(super) struct Names<'a> {
    pub(super) matrices: &'a dyn Fn(&str) -> Option<usize>,
    pub(super) vectors: &'a dyn Fn(&str) -> Option<usize>,
    pub(super) slots: BTreeMap<String, usize>,
}

impl Names<'_> {
    fn slot(&mut self, name: String) -> usize {
        let next = self.slots.len();
        *self.slots.entry(name).or_insert(next)
    }

    /// The names of the slots, by index.
    pub(super) fn into_slots(self) -> Vec<String> {
        let mut slots = vec![String::new(); self.slots.len()];
        self.slots.into_iter().for_each(|(name, index)| slots[index] = name);
        slots
    }

    fn matrix(&self, name: &str) -> Result<usize, String> {
        (self.matrices)(name).ok_or_else(|| format!("model.program: there is no matrix {name:?}"))
    }

    fn vector(&self, name: &str) -> Result<usize, String> {
        (self.vectors)(name).ok_or_else(|| format!("model.program: there is no vector {name:?}"))
    }

    /// The operation of a record, or what it names that does not exist.
    pub(super) fn resolve(&mut self, record: OpRecord) -> Result<Op, String> {
        Ok(match record {
            OpRecord::Embed { matrix, out } => Op::Embed { matrix: self.matrix(&matrix)?, out: self.slot(out) },
            OpRecord::RmsNorm { r#in, out, gain, gain_shift, epsilon, root, root_shift } => Op::RmsNorm {
                input: self.slot(r#in),
                out: self.slot(out),
                gain: self.vector(&gain)?,
                norm: RmsNorm { gain_shift, epsilon, root, root_shift },
            },
            OpRecord::Linear { r#in, matrices, out } => {
                if matrices.len() != out.len() {
                    return Err(format!(
                        "model.program: linear has {} matrices for {} outputs",
                        matrices.len(),
                        out.len()
                    ));
                }
                let input = self.slot(r#in);
                let mut outputs = Vec::with_capacity(out.len());
                for (matrix, out) in matrices.iter().zip(out) {
                    outputs.push((self.matrix(matrix)?, self.slot(out)));
                }
                Op::Linear { input, outputs }
            }
            OpRecord::Rope { slot, head_width, table, interleaved } => Op::Rope {
                slot: self.slot(slot),
                head_width,
                table: self.vector(&table)?,
                pairs: if interleaved { Pairs::Interleaved } else { Pairs::Half },
            },
            OpRecord::Hadamard { slot, head_width } => Op::Hadamard { slot: self.slot(slot), head_width },
            OpRecord::Attention {
                query,
                key,
                value,
                out,
                heads,
                kv_heads,
                head_width,
                window,
                query_max,
                key_max,
                value_max,
                scale,
                scale_shift,
                softcap,
            } => Op::Attention(Attention {
                query: self.slot(query),
                key: self.slot(key),
                value: self.slot(value),
                out: self.slot(out),
                heads,
                kv_heads,
                head_width,
                window,
                query_max,
                key_max,
                scoring: Scoring { scale, scale_shift, value_max, softcap: softcap.map(Into::into) },
            }),
            OpRecord::GatedActivation { kind, gate, up, out } => {
                Op::GatedActivation { kind: kind.into(), gate: self.slot(gate), up: self.slot(up), out: self.slot(out) }
            }
            OpRecord::Activation { kind: GateRecord::Relu2, slot } => Op::Relu2 { slot: self.slot(slot) },
            OpRecord::Activation { kind, .. } => {
                return Err(format!("model.program: no activation {kind:?} without gate"));
            }
            OpRecord::ResidualAdd { into, from } => Op::ResidualAdd { into: self.slot(into), from: self.slot(from) },
            OpRecord::Softcap { slot, inverse, inverse_shift, cap, cap_shift } => {
                Op::Softcap { slot: self.slot(slot), cap: Softcap { inverse, inverse_shift, cap, cap_shift } }
            }
        })
    }
}

/// The record of an operation of `model`.
pub(super) fn record(model: &Model, op: &Op) -> OpRecord {
    let slot = |slot: usize| model.slots[slot].clone();
    let vector = |id: usize| model.vectors[id].name.clone();
    match op {
        Op::Embed { matrix, out } => OpRecord::Embed { matrix: model.matrices[*matrix].name.clone(), out: slot(*out) },
        Op::RmsNorm { input, out, gain, norm } => OpRecord::RmsNorm {
            r#in: slot(*input),
            out: slot(*out),
            gain: vector(*gain),
            gain_shift: norm.gain_shift,
            epsilon: norm.epsilon,
            root: norm.root,
            root_shift: norm.root_shift,
        },
        Op::Linear { input, outputs } => OpRecord::Linear {
            r#in: slot(*input),
            matrices: outputs.iter().map(|&(matrix, _)| model.matrices[matrix].name.clone()).collect(),
            out: outputs.iter().map(|&(_, out)| slot(out)).collect(),
        },
        Op::Rope { slot: target, head_width, table, pairs } => OpRecord::Rope {
            slot: slot(*target),
            head_width: *head_width,
            table: vector(*table),
            interleaved: *pairs == Pairs::Interleaved,
        },
        Op::Hadamard { slot: target, head_width } => {
            OpRecord::Hadamard { slot: slot(*target), head_width: *head_width }
        }
        Op::Attention(a) => OpRecord::Attention {
            query: slot(a.query),
            key: slot(a.key),
            value: slot(a.value),
            out: slot(a.out),
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_width: a.head_width,
            window: a.window,
            query_max: a.query_max,
            key_max: a.key_max,
            value_max: a.scoring.value_max,
            scale: a.scoring.scale,
            scale_shift: a.scoring.scale_shift,
            softcap: a.scoring.softcap.map(Into::into),
        },
        Op::GatedActivation { kind, gate, up, out } => {
            OpRecord::GatedActivation { kind: (*kind).into(), gate: slot(*gate), up: slot(*up), out: slot(*out) }
        }
        Op::Relu2 { slot: target } => OpRecord::Activation { kind: GateRecord::Relu2, slot: slot(*target) },
        Op::ResidualAdd { into, from } => OpRecord::ResidualAdd { into: slot(*into), from: slot(*from) },
        Op::Softcap { slot: target, cap } => OpRecord::Softcap {
            slot: slot(*target),
            inverse: cap.inverse,
            inverse_shift: cap.inverse_shift,
            cap: cap.cap,
            cap_shift: cap.cap_shift,
        },
    }
}
