//! Known tokens through the model: the logits of any of their positions, by prefill in chunks.

use crate::engine::Engine;
use crate::error::RequestError;
use crate::receipt::probe::Probe;
use crate::receipt::{Short, Trace};
use intact_core::cpu::{Batch, Token};
use std::ops::ControlFlow;

/// Runs sequences one after another on cache pages of its own; what one has in common with the one before it is not
/// computed again.
pub(crate) struct Replay<'a> {
    engine: &'a mut Engine,
    table: Vec<u32>,
    /// The tokens whose keys and values are cached.
    cached: Vec<u32>,
}

/// What the model says about one position.
pub(crate) struct Row<'a> {
    pub(crate) position: usize,
    /// Before a final softcap.
    pub(crate) logits: &'a mut [i32],
    /// Digests of what the ops wrote, with [`Trace::Tensors`].
    pub(crate) tensors: &'a [Short],
}

impl<'a> Replay<'a> {
    pub(crate) fn new(engine: &'a mut Engine) -> Self {
        Self { engine, table: Vec::new(), cached: Vec::new() }
    }

    /// Runs `tokens` and gives the rows of the `wanted` positions, which ascend, to `each` until it breaks.
    ///
    /// # Errors
    /// The cache cannot hold so many tokens now.
    ///
    /// # Panics
    /// When a token id is not below the vocabulary.
    pub(crate) fn run(
        &mut self, tokens: &[u32], wanted: &[usize], trace: Trace, each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), RequestError> {
        let Some(&first) = wanted.first() else { return Ok(()) };
        let common = self.cached.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let from = common.min(first);
        self.cached.truncate(from);
        self.reserve(tokens.len())?;
        let (model, chunk) = (self.engine.model.clone(), self.engine.options.chunk);
        let mut wanted = wanted.iter().copied().peekable();
        let mut logits = std::mem::take(&mut self.engine.logits);
        'sequence: for (ids, start) in tokens[from..].chunks(chunk).zip((from..).step_by(chunk)) {
            let mut asked = Vec::new();
            let run = ids.iter().zip(start..).map(|(&id, position)| {
                let logits = wanted.next_if_eq(&position).is_some();
                asked.extend(logits.then_some(position));
                Token { id, sequence: 0, position: position as u32, logits }
            });
            let run: Vec<Token> = run.collect();
            logits.clear();
            let mut probe = Probe::new(&model, &run, |_| trace == Trace::Tensors);
            let batch = Batch { tokens: &run, tables: &[&self.table] };
            probe.watch(|see| self.engine.executor.forward(&batch, &mut logits, see))?;
            self.cached.extend_from_slice(ids);
            let rows = logits.chunks_exact_mut(model.model().vocabulary);
            for (i, (logits, position)) in rows.zip(asked).enumerate() {
                if each(Row { position, logits, tensors: probe.digests(i) }).is_break() {
                    break 'sequence;
                }
            }
        }
        self.engine.logits = logits;
        Ok(())
    }

    /// Runs `tokens` in one batch with all logits and gives `see` every slot that an op has written.
    ///
    /// # Errors
    /// The cache cannot hold so many tokens now.
    ///
    /// # Panics
    /// When a token id is not below the vocabulary.
    pub(crate) fn observe(&mut self, tokens: &[u32], see: &mut dyn FnMut(&[i32])) -> Result<(), RequestError> {
        self.cached.clear();
        self.reserve(tokens.len())?;
        let run = tokens.iter().zip(0..).map(|(&id, position)| Token { id, sequence: 0, position, logits: true });
        let run: Vec<Token> = run.collect();
        let mut logits = std::mem::take(&mut self.engine.logits);
        logits.clear();
        let batch = Batch { tokens: &run, tables: &[&self.table] };
        self.engine.executor.forward(&batch, &mut logits, Some(&mut |_, values: &[i32]| see(values)))?;
        self.engine.logits = logits;
        Ok(())
    }

    fn reserve(&mut self, tokens: usize) -> Result<(), RequestError> {
        let page = self.engine.options.page;
        let pages = &mut self.engine.scheduler.pages;
        if !pages.extend(&mut self.table, tokens.div_ceil(page)) {
            let capacity = pages.most * page;
            return Err(RequestError::CacheTooSmall { tokens, capacity });
        }
        self.engine.reserve()
    }
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        self.engine.scheduler.pages.release(&mut self.table);
    }
}
