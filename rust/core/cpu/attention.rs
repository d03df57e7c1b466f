//! Attention of a batch: writes its keys and values to the cache, then attends block by block.

use super::{Batch, Cpu, Disjoint, KvCache, ThreadScratch, Token, kv};
use crate::ops::attention::{Query, Run, Scratch};
use crate::program::Attention;
use alloc::vec::Vec;
use core::ops::Range;

/// Tokens that read the cache together at most.
const BLOCK: usize = 16;
/// Scores that a block keeps at most, where it has more than one token: half a MiB.
const SCORES: usize = 1 << 17;

/// The parts of a batch that read the cache together: consecutive tokens of one sequence.
fn blocks(batch: &Batch<'_>, group: usize) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for (i, token) in batch.tokens.iter().enumerate() {
        if let Some(block) = blocks.last_mut() {
            let (last, count) = (&batch.tokens[i - 1], i - block.start);
            let scores = (count + 1) * group * (token.position as usize + 1);
            let next = last.sequence == token.sequence && last.position.checked_add(1) == Some(token.position);
            if next && count < BLOCK && scores <= SCORES {
                block.end = i + 1;
                continue;
            }
        }
        blocks.push(i..i + 1);
    }
    blocks
}

impl Cpu {
    pub(super) fn attention(&mut self, a: &Attention, layer: usize, batch: &Batch<'_>, f: u32) {
        let tokens = batch.tokens.len();
        let (width, kv_width) = (a.heads * a.head_width, a.kv_heads * a.head_width);
        let page = self.kv.page();
        let (keys, values) = (&self.slots[a.key], &self.slots[a.value]);
        let writer = self.kv.writer(layer);
        self.pool.run(tokens, &|_, i| {
            let token = &batch.tokens[i];
            let (index, offset) = (token.position as usize / page, token.position as usize % page);
            let page = batch.tables[token.sequence as usize][index];
            let range = i * kv_width..(i + 1) * kv_width;
            // SAFETY: a batch holds a position of a sequence once, and live sequences share no page that is written.
            unsafe { writer.write(page, offset, &keys[range.clone()], &values[range]) };
        });

        let group = a.heads / a.kv_heads;
        let blocks = blocks(batch, group);
        let queries = core::mem::take(&mut self.slots[a.query]);
        self.slots[a.out].resize(tokens * width, 0);
        let out = Disjoint::new(&mut self.slots[a.out]);
        let (kv, kernel, threads) = (&self.kv, self.kernels.attention, self.pool.threads());
        let reads = blocks.len() * a.kv_heads;
        let positions = batch.tokens.iter().map(|token| token.position as usize + 1).max().unwrap_or(0);
        let shares = shares(reads, threads, positions / self.share);
        let read = |number: usize, share: usize| {
            let (block, head) = (blocks[number / a.kv_heads].clone(), number % a.kv_heads);
            Read::new(a, batch, block, head, (share, shares))
        };
        let store = |number: usize, attended: &[i32]| {
            let (block, head) = (blocks[number / a.kv_heads].clone(), number % a.kv_heads);
            let group_width = group * a.head_width;
            for (i, attended) in block.zip(attended.chunks_exact(group_width)) {
                // SAFETY: heads of tokens have disjoint outputs, and the buffer outlives `run`.
                let out = unsafe { out.part(i * width + head * group_width, group_width) };
                out.copy_from_slice(attended);
            }
        };
        if shares == 1 {
            let scratch = Disjoint::new(&mut self.scratch);
            self.pool.run(reads, &|thread, number| {
                // SAFETY: each thread has its own scratch, which outlives `run`.
                let scratch = &mut unsafe { scratch.part(thread, 1) }[0];
                let read = read(number, 0);
                scratch.attended.resize(read.block.len() * group * a.head_width, 0);
                let (work, attended) = (&mut scratch.attention, scratch.attended.as_mut_slice());
                read.with(&queries, &mut scratch.codes, |queries| {
                    kernel.run(queries, &read.runs(kv, layer), &a.scoring, f, work, attended);
                });
                store(number, attended);
            });
        } else {
            // The shares of a read lie side by side, each with what it leaves for the next step.
            self.shares.resize_with(self.shares.len().max(reads * shares), ThreadScratch::default);
            let each = Disjoint::new(&mut self.shares);
            // SAFETY: every number of `run` has its own shares, which outlive it.
            let part = |start: usize, len: usize| unsafe { each.part(start, len) };
            self.pool.run(reads * shares, &|_, i| {
                let (read, scratch) = (read(i / shares, i % shares), &mut part(i, 1)[0]);
                let work = &mut scratch.attention;
                read.with(&queries, &mut scratch.codes, |queries| {
                    (kernel.scores)(queries, &read.runs(kv, layer), &a.scoring, f, work);
                });
            });
            (0..reads)
                .for_each(|i| Scratch::meet(part(i * shares, shares).iter_mut().map(|share| &mut share.attention)));
            self.pool.run(reads * shares, &|_, i| {
                let (read, scratch) = (read(i / shares, i % shares), &mut part(i, 1)[0]);
                let work = &mut scratch.attention;
                read.with(&queries, &mut scratch.codes, |queries| (kernel.sums)(queries, &read.runs(kv, layer), work));
            });
            self.pool.run(reads, &|_, i| {
                let [first, others @ ..] = part(i * shares, shares) else { return };
                others.iter().for_each(|other| first.attention.add(&other.attention));
                first.attended.resize(first.attention.seen.len() * a.head_width, 0);
                (kernel.outputs)(&a.scoring, &first.attention, &mut first.attended);
                store(i, &first.attended);
            });
        }
        self.slots[a.query] = queries;
    }
}

/// Shares that the positions of each of `reads` are cut into, up to `most`: one where threads have as much to do as each
/// other.
fn shares(reads: usize, threads: usize, most: usize) -> usize {
    let even = reads.is_multiple_of(threads) || reads >= 8 * threads;
    if even { 1 } else { threads.min(most).max(1) }
}

/// What a block of tokens reads of one KV head: a share of the positions that it sees.
struct Read<'a> {
    attention: &'a Attention,
    batch: &'a Batch<'a>,
    block: Range<usize>,
    head: usize,
    /// The positions.
    positions: Range<usize>,
}

impl<'a> Read<'a> {
    /// Share `share.0` of `share.1`.
    fn new(
        attention: &'a Attention, batch: &'a Batch<'a>, block: Range<usize>, head: usize, share: (usize, usize),
    ) -> Self {
        let start = visible(attention, &batch.tokens[block.start]).start;
        let end = batch.tokens[block.end - 1].position as usize + 1;
        let len = (end - start).div_ceil(share.1).next_multiple_of(16);
        let positions = (start + share.0 * len).min(end)..(start + (share.0 + 1) * len).min(end);
        Self { attention, batch, block, head, positions }
    }

    /// Where its positions lie.
    fn runs<'b>(&self, kv: &'b KvCache, layer: usize) -> Vec<Run<'b>> {
        let mut runs = Vec::new();
        if !self.positions.is_empty() {
            let table = self.batch.tables[self.batch.tokens[self.block.start].sequence as usize];
            kv.runs(layer, self.head, table, self.positions.start, self.positions.end - 1, &mut runs);
        }
        runs
    }

    /// Calls `attend` with the query heads of all its tokens, whose codes go to `codes`.
    fn with(&self, queries: &[i32], codes: &mut Vec<i16>, attend: impl FnOnce(&[Query<'_>])) {
        let a = self.attention;
        let group_width = a.heads / a.kv_heads * a.head_width;
        codes.resize(self.block.len() * group_width, 0);
        let mut heads = Vec::with_capacity(codes.len() / a.head_width);
        let mut codes = codes.as_mut_slice();
        for i in self.block.clone() {
            let seen = visible(a, &self.batch.tokens[i]);
            let relative =
                |position: usize| position.clamp(self.positions.start, self.positions.end) - self.positions.start;
            let visible = relative(seen.start)..relative(seen.end);
            let query = &queries[i * a.heads * a.head_width + self.head * group_width..][..group_width];
            for x in query.chunks_exact(a.head_width) {
                let (now, later) = codes.split_at_mut(a.head_width);
                let (d, t) = kv::query_codes(x, a.query_max, now);
                heads.push(Query { codes: now, d: d.into(), t: t.into(), visible: visible.clone() });
                codes = later;
            }
        }
        attend(&heads);
    }
}

/// The positions that a token sees.
fn visible(a: &Attention, token: &Token) -> Range<usize> {
    let end = token.position as usize + 1;
    let start = if a.window == 0 { 0 } else { end.saturating_sub(a.window as usize) };
    start..end
}
