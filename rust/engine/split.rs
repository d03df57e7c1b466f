//! A program on two executors: the first layers on one, the last ones and the head on the CPU.

use crate::state::size;
use intact_core::certify::Certified;
use intact_core::cpu::{Batch, Cpu, Token};
use intact_core::executor::{Executor, Fault, Probe};
use intact_core::program::Slot;
use std::sync::Arc;

/// Both parts of a program, for a device that lacks the memory for all of it.
pub struct Split {
    first: Box<dyn Executor>,
    second: Cpu,
    /// What the second part goes on from.
    slot: Slot,
    /// Bytes of the first part's share of a saved page.
    share: usize,
    values: Vec<i32>,
}

impl Split {
    /// An executor of `parts`, as [`Certified::divide`] gives them: `first` runs the first, `second` the other one.
    ///
    /// # Panics
    /// When pages of the two differ in size.
    #[must_use]
    pub fn new(parts: &(Arc<Certified>, Arc<Certified>), first: Box<dyn Executor>, second: Cpu) -> Self {
        assert_eq!(first.page(), second.page(), "positions per page");
        let share = size(parts.0.attentions(), first.page());
        Self { first, second, slot: parts.0.logits(), share, values: Vec::new() }
    }
}

impl Executor for Split {
    fn page(&self) -> usize {
        self.first.page()
    }

    fn pages(&self) -> usize {
        self.first.pages().min(self.second.pages())
    }

    fn reserve(&mut self, pages: usize) -> Result<(), Fault> {
        self.first.reserve(pages)?;
        self.second.reserve(pages)
    }

    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<i32>, probe: Option<Probe<'_>>) -> Result<(), Fault> {
        let tokens: Vec<Token> = batch.tokens.iter().map(|token| Token { logits: true, ..*token }).collect();
        let all = Batch { tokens: &tokens, tables: batch.tables };
        self.values.clear();
        if let Some(probe) = probe {
            self.first.forward(&all, &mut self.values, Some(&mut *probe))?;
            self.second.set(self.slot, &self.values);
            return self.second.forward(batch, logits, Some(probe));
        }
        self.first.forward(&all, &mut self.values, None)?;
        self.second.set(self.slot, &self.values);
        self.second.forward(batch, logits, None)
    }

    fn save(&mut self, page: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.first.save(page, out)?;
        self.second.save(page, out)
    }

    fn restore(&mut self, page: u32, bytes: &[u8]) -> Result<(), Fault> {
        let (first, second) = bytes.split_at(self.share);
        self.first.restore(page, first)?;
        self.second.restore(page, second)
    }
}
