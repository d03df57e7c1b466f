//! What the ops of a program write, named and hashed.

use super::chain;
use super::hex::Short;
use intact_core::certify::Certified;
use intact_core::cpu::Token;
use intact_core::executor;
use intact_core::program::{LOGITS, Model, Op, Slot};

/// One slot that an op writes.
pub(crate) struct Write<'a> {
    /// "body" or "head".
    pub(crate) part: &'static str,
    /// Index of the op in its part.
    pub(crate) index: usize,
    pub(crate) op: &'a Op,
    pub(crate) slot: Slot,
}

/// Every slot write of a program in order, as a probe of the executor sees them.
pub(crate) fn writes(model: &Model) -> impl Iterator<Item = Write<'_>> {
    let parts = [("body", &model.body), ("head", &model.head)];
    parts.into_iter().flat_map(|(part, ops)| {
        ops.iter()
            .enumerate()
            .flat_map(move |(index, op)| op.writes().into_iter().map(move |slot| Write { part, index, op, slot }))
    })
}

/// Hashes what a batch writes for some of its tokens.
pub(crate) struct Probe {
    rows: Vec<Row>,
    /// Writes of the body, each for all tokens; those of the head are for the tokens whose logits are asked for.
    body: usize,
    seen: usize,
    tokens: usize,
    wanted: usize,
    vocabulary: usize,
}

/// A token that is hashed, by its place in the batch and among those whose logits are asked for.
struct Row {
    body: usize,
    head: usize,
    digests: Vec<Short>,
}

impl Probe {
    /// A probe for those tokens of a batch whose logits are asked for and whose sequence is `traced`.
    pub(crate) fn new(model: &Certified, tokens: &[Token], traced: impl Fn(u32) -> bool) -> Self {
        let wanted = tokens.iter().enumerate().filter(|(_, token)| token.logits);
        let rows = wanted.clone().enumerate().filter(|(_, (_, token))| traced(token.sequence));
        let rows: Vec<Row> = rows.map(|(head, (body, _))| Row { body, head, digests: Vec::new() }).collect();
        let body = if rows.is_empty() { 0 } else { writes(model.model()).filter(|write| write.part == "body").count() };
        let vocabulary = model.model().vocabulary;
        Self { rows, body, seen: 0, tokens: tokens.len(), wanted: wanted.count(), vocabulary }
    }

    /// Lends `run` what it needs to see; nothing where no token is traced, which devices other than the CPU like better.
    pub(crate) fn watch<T>(&mut self, run: impl FnOnce(Option<executor::Probe<'_>>) -> T) -> T {
        if self.rows.is_empty() { run(None) } else { run(Some(&mut |slot, values: &[i32]| self.see(slot, values))) }
    }

    /// Takes what an op wrote into `slot` for every token.
    fn see(&mut self, slot: &str, values: &[i32]) {
        let in_body = self.seen < self.body;
        let width = values.len() / if in_body { self.tokens } else { self.wanted };
        let used = if slot == LOGITS { width.min(self.vocabulary) } else { width };
        for row in &mut self.rows {
            let start = width * if in_body { row.body } else { row.head };
            row.digests.push(chain::tensor(&values[start..start + used]));
        }
        self.seen += 1;
    }

    /// The digests of the token whose logits came as number `head`; none where it is not traced.
    pub(crate) fn digests(&self, head: usize) -> &[Short] {
        let row = self.rows.binary_search_by_key(&head, |row| row.head);
        row.map_or(&[], |index| &self.rows[index].digests)
    }
}
