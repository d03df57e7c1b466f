//! Attention of a batch: writes its keys and values to the cache, then attends block by block.

use super::{Batch, Cpu, Disjoint, kv};
use crate::ops::attention::Query;
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
        let scratch = Disjoint::new(&mut self.scratch);
        let (kv, kernel, group_width) = (&self.kv, self.kernels.attention, group * a.head_width);
        self.pool.run(blocks.len() * a.kv_heads, &|thread, part| {
            let (block, kv_head) = (&blocks[part / a.kv_heads], part % a.kv_heads);
            let table = batch.tables[batch.tokens[block.start].sequence as usize];
            let position = |i: usize| batch.tokens[i].position as usize;
            let first = |i: usize| if a.window == 0 { 0 } else { (position(i) + 1).saturating_sub(a.window as usize) };
            let origin = first(block.start);
            let mut runs = Vec::new();
            kv.runs(layer, kv_head, table, origin, position(block.end - 1), &mut runs);
            // SAFETY: each thread has its own scratch, which outlives `run`.
            let scratch = &mut unsafe { scratch.part(thread, 1) }[0];
            scratch.codes.resize(block.len() * group_width, 0);
            let mut heads = Vec::with_capacity(block.len() * group);
            let mut codes = scratch.codes.as_mut_slice();
            for i in block.clone() {
                let query = &queries[i * width + kv_head * group_width..][..group_width];
                for x in query.chunks_exact(a.head_width) {
                    let (now, later) = codes.split_at_mut(a.head_width);
                    let (d, t) = kv::query_codes(x, a.query_max, now);
                    let visible = first(i) - origin..position(i) + 1 - origin;
                    heads.push(Query { codes: now, d: d.into(), t: t.into(), visible });
                    codes = later;
                }
            }
            scratch.attended.resize(block.len() * group_width, 0);
            kernel(&heads, &runs, &a.scoring, f, &mut scratch.attention, &mut scratch.attended);
            for (i, attended) in block.clone().zip(scratch.attended.chunks_exact(group_width)) {
                // SAFETY: heads of tokens have disjoint outputs, and the buffer outlives `run`.
                let out = unsafe { out.part(i * width + kv_head * group_width, group_width) };
                out.copy_from_slice(attended);
            }
        });
        self.slots[a.query] = queries;
    }
}
