//! Follows a program while it runs: what every linear layer reads, and how much each token of it counts.
use super::weights::{self, Seen};
use super::{Error, Gradient, Set, Weighting, moments};
use intact_core::cpu::Pool;
use intact_core::program::{Attention, MatrixId, Model, Op, Slot};
use std::collections::BTreeMap;

/// Which estimate weighs the inputs of a set of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// The query projection.
    Query,
    /// The key projection.
    Key,
    /// The value projection.
    Value,
    /// Any other: all tokens count the same.
    Even,
    /// A matrix whose weights are given.
    Given(MatrixId),
}

/// Matrices that share inputs and weights.
pub(super) struct Plan {
    pub(super) matrices: Vec<MatrixId>,
    pub(super) site: Site,
    /// Index of the linear op among all ops, body first.
    op: usize,
}

/// The sets of a model, in the order in which they are met.
pub(super) fn plan(model: &Model, weighting: Weighting) -> Vec<Plan> {
    let mut plans: Vec<Plan> = Vec::new();
    for (index, op) in model.body.iter().chain(&model.head).enumerate() {
        let Op::Linear { outputs, .. } = op else { continue };
        let start = plans.len();
        for &(matrix, slot) in outputs {
            let site = match weighting {
                Weighting::Gradient => Site::Given(matrix),
                Weighting::Auto if index < model.body.len() => site(&model.body[index + 1..], slot),
                _ => Site::Even,
            };
            match plans[start..].iter_mut().find(|plan| plan.site == site) {
                Some(plan) => plan.matrices.push(matrix),
                None => plans.push(Plan { matrices: vec![matrix], site, op: index }),
            }
        }
    }
    plans
}

/// What becomes of `slot` in the ops that follow its matrix.
fn site(later: &[Op], slot: Slot) -> Site {
    for op in later {
        match op {
            Op::Attention(a) if a.query == slot => return Site::Query,
            Op::Attention(a) if a.key == slot => return Site::Key,
            Op::Attention(a) if a.value == slot => return Site::Value,
            op if op.reads().contains(&slot) && op.writes() != [slot] => break,
            _ => {}
        }
    }
    Site::Even
}

/// Adds one window to the sets.
pub(super) struct Observer<'a> {
    model: &'a Model,
    pool: &'a Pool,
    plans: &'a [Plan],
    sets: &'a mut [Set],
    tokens: usize,
    gradients: &'a BTreeMap<String, Gradient>,
    /// Every write to come: op, and slot.
    writes: std::vec::IntoIter<(usize, Slot)>,
    /// The latest content of each slot.
    slots: Vec<Vec<i32>>,
    /// Inputs whose weights are not known before the attention has run.
    pending: Vec<(usize, Vec<i32>)>,
}

impl<'a> Observer<'a> {
    pub(super) fn new(
        model: &'a Model, pool: &'a Pool, plans: &'a [Plan], sets: &'a mut [Set], tokens: usize,
        gradients: &'a BTreeMap<String, Gradient>,
    ) -> Self {
        let ops = model.body.iter().chain(&model.head).enumerate();
        let writes: Vec<_> = ops.flat_map(|(i, op)| op.writes().into_iter().map(move |slot| (i, slot))).collect();
        let slots = vec![Vec::new(); model.slots.len()];
        let writes = writes.into_iter();
        Self { model, pool, plans, sets, tokens, gradients, writes, slots, pending: Vec::new() }
    }

    /// Takes what an op wrote, in the order of the program.
    pub(super) fn see(&mut self, values: &[i32]) {
        let Some((index, slot)) = self.writes.next() else { return };
        let op = self.model.body.get(index).unwrap_or_else(|| &self.model.head[index - self.model.body.len()]);
        if let Op::Linear { input, outputs } = op
            && outputs.first().is_some_and(|&(_, first)| first == slot)
        {
            for set in 0..self.plans.len() {
                if self.plans[set].op == index {
                    self.read(set, *input);
                }
            }
        }
        if index >= self.model.body.len() && matches!(op, Op::Linear { .. }) {
            return; // logits, which nothing reads here
        }
        self.slots[slot].clear();
        self.slots[slot].extend_from_slice(values);
        if let Op::Attention(attention) = op {
            self.resolve(attention);
        }
    }

    fn read(&mut self, set: usize, input: Slot) {
        let even = |vectors| vec![1 << moments::GAIN_BITS; vectors];
        match self.plans[set].site {
            Site::Even => self.sets[set].add(&self.slots[input], &even(self.tokens), self.pool),
            Site::Given(matrix) => {
                // Whoever gives gradients gives those of every set.
                let Some(gradient) = self.gradients.get(&self.model.matrices[matrix].name) else { return };
                self.sets[set].add(&self.slots[input], &gains(&gradient.weights), self.pool);
                if !gradient.rows.is_empty() {
                    let vectors = gradient.rows.len() / self.sets[set].columns;
                    self.sets[set].add(&gradient.rows, &even(vectors), self.pool);
                }
            }
            _ => self.pending.push((set, self.slots[input].clone())),
        }
    }

    /// Weighs what waits for this attention.
    fn resolve(&mut self, a: &Attention) {
        if self.pending.is_empty() {
            return;
        }
        let (queries, keys, values) = (&self.slots[a.query], &self.slots[a.key], &self.slots[a.value]);
        let seen = Seen { queries, keys, values, attended: &self.slots[a.out] };
        let weights = weights::attention(a, self.model.fraction_bits, &seen, self.tokens, self.pool);
        for (set, x) in std::mem::take(&mut self.pending) {
            let weights = match self.plans[set].site {
                Site::Query => &weights.query,
                Site::Key => &weights.key,
                _ => &weights.value,
            };
            self.sets[set].add(&x, &gains(weights), self.pool);
        }
    }

    /// The end of a window.
    ///
    /// # Errors
    /// [`Error::Program`] for a program of which not every layer was resolved.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        match (self.writes.next(), self.pending.is_empty()) {
            (None, true) => Ok(()),
            _ => Err(Error::Program),
        }
    }
}

/// Square roots of weights relative to their mean, in units of 2^-[`moments::GAIN_BITS`], at least 1.
fn gains(weights: &[f64]) -> Vec<u32> {
    let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
    let mean = if sum > 0.0 { sum / weights.len() as f64 } else { 1.0 };
    let one = f64::from(1u32 << moments::GAIN_BITS);
    weights
        .iter()
        .map(|weight| ((weight / mean).sqrt() * one).clamp(1.0, f64::from(moments::GAIN_MAX)) as u32)
        .collect()
}
