//! Checking a receipt: its tokens go through the model again, as a prompt does.

use super::chain::{self, Step};
use super::format::{Ending, OutputRecord, Receipt, Trace};
use super::hex::Hash;
use super::probe::writes;
use super::verdict::{Place, Tensor, Verdict, What};
use crate::engine::{Engine, choose};
use crate::error::RequestError;
use crate::replay::{Replay, Row};
use crate::request::Request;
use intact_core::CONTRACT_VERSION;
use intact_core::certify::Certified;
use intact_core::fixed::philox;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Which steps to compute again: not all of them, but some by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// How many; all where the receipt has no more.
    pub steps: usize,
    /// Decides which. Whoever made the receipt must not have known it.
    pub seed: u64,
}

impl Engine {
    /// Checks a receipt against the model: all steps, or those of `spot`. The planes are taken to be those of the
    /// model's digest; [`Loaded::verify`](crate::Loaded::verify) finds out whether they are.
    ///
    /// # Errors
    /// [`RequestError::CacheTooSmall`], [`RequestError::OutOfMemory`].
    pub fn verify(&mut self, receipt: &Receipt, spot: Option<Spot>) -> Result<Verdict, RequestError> {
        if receipt.sha256 != receipt.seal() {
            return Ok(Verdict::Different { place: None, what: What::Sha256 });
        }
        for (what, found, here) in [
            ("contract", receipt.contract.to_string(), CONTRACT_VERSION.to_string()),
            ("model", receipt.model.to_string(), self.digest.to_string()),
        ] {
            if found != here {
                return Ok(Verdict::Refused { reason: format!("{what}: the receipt is for {found}, this is {here}") });
            }
        }
        let context = self.context();
        let claim = Claim { request: receipt.request.request(), context, receipt, model: &self.model.clone() };
        if let Some((place, what)) = claim.fault() {
            return Ok(Verdict::Different { place, what });
        }
        claim.compare(&mut Replay::new(self), spot)
    }
}

/// A receipt with what its model says about it.
struct Claim<'a> {
    receipt: &'a Receipt,
    request: Request,
    model: &'a Certified,
    context: usize,
}

/// The first difference in an output.
type Fault = (usize, What);

impl Claim<'_> {
    fn place(&self, stream: usize, step: usize) -> Place {
        let position = (self.request.prompt.len() + step - 1) as u32;
        Place { stream: stream as u32, step: step as u32, position }
    }

    /// What is wrong without a look at the logits.
    fn fault(&self) -> Option<(Option<Place>, What)> {
        if let Err(error) = self.request.check(self.model.model().vocabulary, self.context) {
            return Some((None, What::Request(error)));
        }
        let (found, n) = (self.receipt.outputs.len(), self.request.n);
        if found != n as usize {
            return Some((None, What::Outputs { found, n }));
        }
        let digests = writes(self.model.model()).count();
        let faults = self.receipt.outputs.iter().enumerate();
        let mut faults = faults.filter_map(|(stream, output)| Some((stream, self.output_fault(output, digests)?)));
        faults.next().map(|(stream, (step, what))| (Some(self.place(stream, step)), what))
    }

    fn output_fault(&self, output: &OutputRecord, digests: usize) -> Option<Fault> {
        let OutputRecord { chain, finish, ids, tensors } = output;
        let vocabulary = self.model.model().vocabulary;
        if let Some(step) = ids.iter().position(|&id| id as usize >= vocabulary) {
            return Some((step, What::Token { claimed: ids[step], computed: None }));
        }
        let ends = ids.iter().zip(1..).map(|(&id, count)| self.request.finish(id, count, self.context));
        let first_end = ends.enumerate().find_map(|(step, finish)| Some((step, Ending::from(Some(finish?)))));
        let last = ids.len().saturating_sub(1);
        let claimed = Some(*finish);
        match first_end {
            Some((step, ending)) if step < last => {
                return Some((step, What::Finish { claimed: None, computed: Some(ending) }));
            }
            Some((step, ending)) if ending != *finish => {
                return Some((step, What::Finish { claimed, computed: Some(ending) }));
            }
            None if *finish != Ending::Cancelled => return Some((last, What::Finish { claimed, computed: None })),
            _ => {}
        }
        if chain.len() != ids.len() {
            return Some((chain.len().min(ids.len()), What::Chain));
        }
        let complete = match (self.receipt.trace, tensors) {
            (Trace::Logits, tensors) => tensors.is_none(),
            (Trace::Tensors, None) => false,
            (Trace::Tensors, Some(tensors)) => {
                tensors.steps() == ids.len() && (ids.is_empty() || tensors.per_step() == digests)
            }
        };
        (!complete).then_some((0, What::Tensors))
    }

    /// Computes steps again, until one differs.
    fn compare(&self, replay: &mut Replay<'_>, spot: Option<Spot>) -> Result<Verdict, RequestError> {
        let (outputs, prompt) = (&self.receipt.outputs, &self.request.prompt);
        let total = outputs.iter().map(|output| output.ids.len()).sum();
        let chosen = choose_steps(total, spot);
        let (head, mut before) = (self.receipt.head(), 0);
        for (stream, output) in outputs.iter().enumerate() {
            let wanted = chosen.range(before..before + output.ids.len());
            let wanted: Vec<usize> = wanted.map(|step| step - before + prompt.len() - 1).collect();
            before += output.ids.len();
            let Some(&last) = wanted.last() else { continue };
            let tokens = [prompt.as_slice(), &output.ids[..last + 1 - prompt.len()]].concat();
            let origin = chain::origin(&head, stream as u32);
            let mut difference = None;
            replay.run(&tokens, &wanted, self.receipt.trace, &mut |row| {
                let step = row.position + 1 - prompt.len();
                difference = self.step_fault(stream, step, &origin, row).map(|what| (step, what));
                if difference.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if let Some((step, what)) = difference {
                return Ok(Verdict::Different { place: Some(self.place(stream, step)), what });
            }
        }
        Ok(Verdict::Equal { checked: chosen.len(), steps: total })
    }

    fn step_fault(&self, stream: usize, step: usize, origin: &Hash, row: Row<'_>) -> Option<What> {
        let OutputRecord { chain, ids, tensors, .. } = &self.receipt.outputs[stream];
        let claimed = tensors.as_ref().map_or(&[][..], |tensors| tensors.step(step));
        if let Some(index) = claimed.iter().zip(row.tensors).position(|(claimed, computed)| claimed != computed) {
            return Tensor::new(self.model.model(), index).map(What::Tensor);
        }
        let logits = chain::logits(row.logits);
        let (token, ..) = choose(row.logits, self.model, &self.request, stream as u32, step as u32);
        if token != ids[step] {
            return Some(What::Token { claimed: ids[step], computed: Some(token) });
        }
        let before = if step == 0 { origin } else { &chain[step - 1] };
        let (index, position) = (step as u32, row.position as u32);
        let link = chain::link(origin, before, &Step { index, position, token, logits, tensors: row.tensors });
        let same = link == chain[step];
        // Equal tensors have equal logits among them.
        (!same).then_some(if claimed.is_empty() { What::Logits } else { What::Chain })
    }
}

/// Chooses among `total` steps (Floyd's sampling), with philox under a counter that sampling does not use.
fn choose_steps(total: usize, spot: Option<Spot>) -> BTreeSet<usize> {
    let Some(Spot { steps, seed }) = spot.filter(|spot| spot.steps < total) else { return (0..total).collect() };
    let mut chosen = BTreeSet::new();
    for most in total - steps..total {
        let [low, high, ..] = philox([most as u32, 0, 0, 1], [seed as u32, (seed >> 32) as u32]);
        let random = u128::from(high) << 32 | u128::from(low);
        let step = ((random * (most as u128 + 1)) >> 64) as usize;
        if !chosen.insert(step) {
            chosen.insert(most);
        }
    }
    chosen
}
