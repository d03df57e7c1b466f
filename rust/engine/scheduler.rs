//! Which tokens run next: cache pages, prefill in chunks, decode together, eviction when pages run out.
//!
//! Nothing here can change a bit: every sequence computes the same integers in whatever company.

use crate::request::{Request, RequestId};
use intact_core::cpu::Token;
use std::collections::BTreeMap;
use std::ops::Range;

/// A continuation on its way.
pub(crate) struct Sequence {
    pub(crate) request: RequestId,
    pub(crate) stream: u32,
    /// Prompt, then generated tokens.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt: usize,
    /// Tokens whose keys and values are cached.
    pub(crate) computed: usize,
    pages: Vec<u32>,
}

impl Sequence {
    pub(crate) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    fn release(&mut self, pages: &mut Pages) {
        pages.release(&mut self.pages);
        self.computed = 0;
    }
}

/// Reference counts of cache pages: full pages of a prompt are shared by its continuations.
#[derive(Default)]
pub(crate) struct Pages {
    references: Vec<u32>,
    free: Vec<u32>,
    pub(crate) most: usize,
}

impl Pages {
    /// A free page, or `None` when all that may exist are taken.
    fn take(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.references.len() < self.most => {
                self.references.push(0);
                self.references.len() as u32 - 1
            }
            None => return None,
        };
        self.references[page as usize] = 1;
        Some(page)
    }

    fn share(&mut self, pages: &[u32]) -> Vec<u32> {
        pages.iter().for_each(|&page| self.references[page as usize] += 1);
        pages.to_vec()
    }

    pub(crate) fn release(&mut self, pages: &mut Vec<u32>) {
        for page in pages.drain(..).rev() {
            self.references[page as usize] -= 1;
            if self.references[page as usize] == 0 {
                self.free.push(page);
            }
        }
    }

    /// The pages that sequences hold.
    pub(crate) fn taken(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.references).filter(|(_, references)| **references > 0).map(|(page, _)| page)
    }

    /// The most pages that were ever taken: what the cache has to hold.
    pub(crate) fn high_water(&self) -> usize {
        self.references.len()
    }

    /// Extends `table` to `count` pages, or leaves it as it was.
    pub(crate) fn extend(&mut self, table: &mut Vec<u32>, count: usize) -> bool {
        let before = table.len();
        while table.len() < count {
            match self.take() {
                Some(page) => table.push(page),
                None => {
                    let mut added = table.split_off(before);
                    self.release(&mut added);
                    return false;
                }
            }
        }
        true
    }
}

/// All sequences of an engine.
#[derive(Default)]
pub(crate) struct Scheduler {
    /// In order of arrival, which is the order of priority.
    sequences: BTreeMap<u64, Sequence>,
    next: u64,
    pub(crate) pages: Pages,
}

/// What one step runs.
pub(crate) struct Plan {
    pub(crate) tokens: Vec<Token>,
    /// The sequence of each page table, and where its tokens end.
    pub(crate) runs: Vec<(u64, usize)>,
}

impl Scheduler {
    /// Queues the continuations of a request under consecutive keys; returns them.
    pub(crate) fn add(&mut self, id: RequestId, request: &Request) -> Range<u64> {
        let first = self.next;
        for stream in 0..request.n {
            let tokens = request.prompt.clone();
            let prompt = tokens.len();
            let sequence = Sequence { request: id, stream, tokens, prompt, computed: 0, pages: Vec::new() };
            self.sequences.insert(self.next, sequence);
            self.next += 1;
        }
        first..self.next
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    pub(crate) fn get(&self, key: u64) -> Option<&Sequence> {
        self.sequences.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut Sequence> {
        self.sequences.get_mut(&key)
    }

    pub(crate) fn table(&self, key: u64) -> &[u32] {
        self.sequences.get(&key).map_or(&[], |sequence| &sequence.pages)
    }

    /// Ends a sequence; false where it had ended before.
    pub(crate) fn remove(&mut self, key: u64) -> bool {
        let Some(mut sequence) = self.sequences.remove(&key) else { return false };
        sequence.release(&mut self.pages);
        true
    }

    /// Forgets the cached part of all sequences; it is computed again later.
    pub(crate) fn forget(&mut self) {
        self.sequences.values_mut().for_each(|sequence| sequence.release(&mut self.pages));
    }

    /// Gives a sequence of which nothing is cached the pages of its first `computed` tokens.
    pub(crate) fn adopt(&mut self, key: u64, pages: Vec<u32>, computed: usize) {
        if let Some(sequence) = self.sequences.get_mut(&key) {
            (sequence.pages, sequence.computed) = (pages, computed);
        }
    }

    /// Forgets the cached part of the youngest sequence after `key`; it is computed again later.
    fn evict_after(&mut self, key: u64) -> bool {
        let victim = self.sequences.range_mut(key + 1..).rfind(|(_, s)| !s.pages.is_empty());
        match victim {
            Some((_, sequence)) => {
                sequence.release(&mut self.pages);
                true
            }
            None => false,
        }
    }

    /// Chooses at most `budget` tokens of at most `most` sequences, oldest first, and gives them pages of `page`
    /// positions. The oldest sequence always advances, so that a step always makes progress.
    pub(crate) fn plan(&mut self, budget: usize, most: usize, page: usize) -> Plan {
        let mut plan = Plan { tokens: Vec::new(), runs: Vec::new() };
        let keys: Vec<u64> = self.sequences.keys().copied().collect();
        for key in keys {
            if plan.tokens.len() >= budget || plan.runs.len() >= most {
                break;
            }
            if !self.share_prompt(key, page) {
                continue;
            }
            let Some(sequence) = self.sequences.get(&key) else { continue };
            let from = sequence.computed;
            let to = sequence.tokens.len().min(from + budget - plan.tokens.len());
            if !self.give_pages(key, to.div_ceil(page)) {
                break;
            }
            let Some(sequence) = self.sequences.get(&key) else { continue };
            let index = plan.runs.len() as u32;
            plan.tokens.extend((from..to).map(|i| Token {
                id: sequence.tokens[i],
                sequence: index,
                position: i as u32,
                logits: i + 1 == sequence.tokens.len(),
            }));
            plan.runs.push((key, plan.tokens.len()));
        }
        plan
    }

    fn give_pages(&mut self, key: u64, count: usize) -> bool {
        loop {
            let Some(sequence) = self.sequences.get_mut(&key) else { return false };
            if self.pages.extend(&mut sequence.pages, count) {
                return true;
            }
            if !self.evict_after(key) {
                return false;
            }
        }
    }

    /// Lets a later continuation take over the full pages of its prompt from an earlier one. False while that one is
    /// still computing them.
    fn share_prompt(&mut self, key: u64, page: usize) -> bool {
        let Some(sequence) = self.sequences.get(&key) else { return false };
        if sequence.computed > 0 || !sequence.pages.is_empty() {
            return true;
        }
        let (request, prompt) = (sequence.request, sequence.prompt);
        let Some((_, donor)) = self.sequences.range(..key).find(|(_, donor)| donor.request == request) else {
            return true;
        };
        // The last token of the prompt is always run, because its logits are needed.
        let full = (prompt - 1) / page;
        if full == 0 {
            return true;
        }
        if donor.computed < full * page {
            return false;
        }
        let shared = donor.pages[..full].to_vec();
        let pages = self.pages.share(&shared);
        if let Some(sequence) = self.sequences.get_mut(&key) {
            sequence.pages = pages;
            sequence.computed = full * page;
        }
        true
    }
}
