//! The CPU executor: interprets a program on a pool of threads.

mod attention;
mod kv;
mod linear;
mod pool;

pub use kv::KvCache;
pub use pool::Pool;

use crate::activations::Activations;
use crate::certify::Certified;
use crate::executor::{Executor, Fault, Probe};
use crate::formats::TILE;
use crate::kernels::Kernels;
use crate::ops::attention::Scratch;
use crate::ops::{embed, gated, hadamard, residual, rope, softcap};
use crate::program::{Op, Slot, Vector, VectorId};
use crate::storage::Allocate;
use alloc::{string::ToString, sync::Arc, vec, vec::Vec};
pub(crate) use pool::Disjoint;

/// One token of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Token id, below the vocabulary.
    pub id: u32,
    /// Index into [`Batch::tables`].
    pub sequence: u32,
    /// Position in its sequence. Earlier positions are cached, or stand earlier in the batch.
    pub position: u32,
    /// Whether its logits are asked for.
    pub logits: bool,
}

/// Tokens of one or more sequences, in any mixture of prefill and decode.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The tokens.
    pub tokens: &'a [Token],
    /// The cache pages of each sequence, in order of position.
    pub tables: &'a [&'a [u32]],
}

/// Runs one model on the CPU. Its threads, scratch and caches are its own.
pub struct Cpu {
    model: Arc<Certified>,
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    kv: KvCache,
    slots: Vec<Vec<i32>>,
    activations: Activations,
    angles: Angles,
    scratch: Vec<ThreadScratch>,
    /// Positions that threads share among them at least, each.
    share: usize,
    /// Of attention's shares.
    shares: Vec<ThreadScratch>,
}

/// Rotations of every token of a batch: layers rotate by the same.
#[derive(Default)]
struct Angles {
    /// The table that they are of; none before the first rotation of a batch.
    table: Option<VectorId>,
    values: Vec<(i32, i32)>,
}

/// Fewer positions are through before another thread would have begun.
pub const SHARE: usize = 256;

/// Working memory of one thread.
#[derive(Default)]
struct ThreadScratch {
    sums: Vec<[i64; TILE]>,
    outputs: Vec<[i32; TILE]>,
    attention: Scratch,
    codes: Vec<i16>,
    attended: Vec<i32>,
}

impl Cpu {
    /// An executor on `pool` with `page` positions to a cache page, whose caches' memory comes from `allocate`.
    #[must_use]
    pub fn new(
        model: Arc<Certified>, kernels: &'static Kernels, pool: Arc<Pool>, page: usize, allocate: Allocate,
    ) -> Self {
        let scratch = (0..pool.threads()).map(|_| ThreadScratch::default()).collect();
        let slots = vec![Vec::new(); model.widths().len()];
        let kv = KvCache::new(&model, page, allocate);
        Self {
            model,
            kernels,
            pool,
            kv,
            slots,
            activations: Activations::default(),
            angles: Angles::default(),
            scratch,
            share: SHARE,
            shares: Vec::new(),
        }
    }

    /// Sets how many positions of a sequence a thread takes at least, where threads share the attention of one; at least
    /// 1, and [`SHARE`] if this is not called.
    pub fn set_share(&mut self, positions: usize) {
        self.share = positions.max(1);
    }

    /// The caches.
    #[must_use]
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// The caches, to make room in.
    pub fn kv_mut(&mut self) -> &mut KvCache {
        &mut self.kv
    }

    /// Puts `values`, a vector for each token of the batch that comes next, into a slot: what the second part of a divided
    /// program goes on from.
    pub fn set(&mut self, slot: Slot, values: &[i32]) {
        self.slots[slot].clear();
        self.slots[slot].extend_from_slice(values);
    }

    /// The threads that work for it.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Runs `batch` and appends the logits of the tokens that ask for them to `logits`, `vocabulary` each, in order.
    /// They are before a final softcap. `probe` sees every slot that an op has written.
    ///
    /// # Panics
    /// When a token id is not below the vocabulary, or a position has no page in its sequence's table: the caller's
    /// scheduler guarantees both.
    pub fn run(&mut self, batch: &Batch<'_>, logits: &mut Vec<i32>, probe: Probe<'_>) {
        let model = Arc::clone(&self.model);
        let vocabulary = model.model().vocabulary;
        assert!(batch.tokens.iter().all(|token| (token.id as usize) < vocabulary), "token id outside the vocabulary");
        self.angles.table = None;
        let mut layer = 0;
        for op in &model.model().body {
            self.step(op, batch, batch.tokens.len(), layer, probe);
            layer += usize::from(matches!(op, Op::Attention(_)));
        }
        let wanted: Vec<usize> = (0..batch.tokens.len()).filter(|&i| batch.tokens[i].logits).collect();
        if wanted.is_empty() {
            return;
        }
        for &slot in model.head_inputs() {
            let width = model.widths()[slot];
            for (to, &from) in wanted.iter().enumerate() {
                self.slots[slot].copy_within(from * width..(from + 1) * width, to * width);
            }
        }
        for op in &model.model().head {
            self.step(op, batch, wanted.len(), layer, probe);
        }
        let width = model.widths()[model.logits()];
        for row in self.slots[model.logits()].chunks_exact(width).take(wanted.len()) {
            logits.extend_from_slice(&row[..model.result_width()]);
        }
    }

    fn step(&mut self, op: &Op, batch: &Batch<'_>, tokens: usize, layer: usize, probe: &mut dyn FnMut(&str, &[i32])) {
        let model = Arc::clone(&self.model);
        let f = model.model().fraction_bits;
        match op {
            Op::Embed { matrix, out } => {
                let matrix = &model.model().matrices[*matrix];
                self.rows(*out, tokens, |row, i| embed::embed(matrix, batch.tokens[i].id as usize, f, row));
            }
            Op::RmsNorm { input, out, gain, norm } => {
                let Vector::Gain(gain) = &model.model().vectors[*gain].values else { return };
                self.copy(*input, *out, tokens);
                let rms_norm = self.kernels.rms_norm;
                self.rows(*out, tokens, |row, _| {
                    row.chunks_exact_mut(gain.len()).for_each(|run| rms_norm(run, gain, norm, f));
                });
            }
            Op::Linear { input, outputs } => self.linear(*input, outputs, tokens),
            Op::Rope { slot, head_width, table, pairs } => {
                let Vector::Freq64(frequencies) = &model.model().vectors[*table].values else { return };
                let mut angles = core::mem::take(&mut self.angles);
                if angles.table != Some(*table) {
                    let all = batch.tokens.iter().flat_map(|token| rope::angles(frequencies, token.position));
                    angles.values.clear();
                    angles.values.extend(all);
                    angles.table = Some(*table);
                }
                self.rows(*slot, tokens, |row, i| {
                    let angles = &angles.values[i * frequencies.len()..(i + 1) * frequencies.len()];
                    row.chunks_exact_mut(*head_width).for_each(|head| rope::rope(head, angles, *pairs));
                });
                self.angles = angles;
            }
            Op::Hadamard { slot, head_width } => {
                self.rows(*slot, tokens, |row, _| row.chunks_exact_mut(*head_width).for_each(hadamard::hadamard));
            }
            Op::Attention(attention) => self.attention(attention, layer, batch, f),
            Op::GatedActivation { kind, gate, up, out } => {
                let kernel = self.kernels.gated_activation;
                let up_values = core::mem::take(&mut self.slots[*up]);
                let width = model.widths()[*up];
                if up == gate {
                    self.slots[*gate].clone_from(&up_values);
                }
                self.copy(*gate, *out, tokens);
                self.rows(*out, tokens, |row, i| kernel(*kind, row, &up_values[i * width..(i + 1) * width], f));
                if out != up {
                    self.slots[*up] = up_values;
                }
            }
            Op::Relu2 { slot } => {
                self.rows(*slot, tokens, |row, _| row.iter_mut().for_each(|x| *x = gated::relu2(*x, f)));
            }
            Op::ResidualAdd { into, from } => {
                let added = core::mem::take(&mut self.slots[*from]);
                let width = model.widths()[*from];
                self.rows(*into, tokens, |row, i| residual::residual_add(row, &added[i * width..(i + 1) * width]));
                self.slots[*from] = added;
            }
            Op::Softcap { slot, cap } => {
                self.rows(*slot, tokens, |row, _| row.iter_mut().for_each(|x| *x = softcap::softcap(*x, cap, f)));
            }
        }
        for slot in op.writes() {
            probe(&model.model().slots[slot], &self.slots[slot][..tokens * model.widths()[slot]]);
        }
    }

    /// Makes a slot hold `tokens` vectors and changes each with `work(vector, token)`.
    fn rows(&mut self, slot: Slot, tokens: usize, work: impl Fn(&mut [i32], usize) + Sync) {
        let width = self.model.widths()[slot];
        let buffer = &mut self.slots[slot];
        buffer.resize(tokens * width, 0);
        let parts = Disjoint::new(buffer);
        self.pool.run(tokens, &|_, i| {
            // SAFETY: tokens have disjoint vectors, and the buffer outlives `run`.
            work(unsafe { parts.part(i * width, width) }, i);
        });
    }

    fn copy(&mut self, from: Slot, to: Slot, tokens: usize) {
        if from != to {
            let len = tokens * self.model.widths()[from];
            let source = core::mem::take(&mut self.slots[from]);
            let target = &mut self.slots[to];
            target.clear();
            target.extend_from_slice(&source[..len]);
            self.slots[from] = source;
        }
    }
}

impl Executor for Cpu {
    fn page(&self) -> usize {
        self.kv.page()
    }

    fn pages(&self) -> usize {
        self.kv.pages()
    }

    fn reserve(&mut self, pages: usize) -> Result<(), Fault> {
        self.kv.reserve(pages).map_err(|bytes| Fault::OutOfMemory { what: "KV cache".to_string(), bytes })
    }

    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<i32>, probe: Option<Probe<'_>>) -> Result<(), Fault> {
        self.run(batch, logits, probe.unwrap_or(&mut |_, _| ()));
        Ok(())
    }

    fn save(&mut self, page: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.kv.save(page, out);
        Ok(())
    }

    fn restore(&mut self, page: u32, bytes: &[u8]) -> Result<(), Fault> {
        self.kv.restore(page, bytes);
        Ok(())
    }
}
