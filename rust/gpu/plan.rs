//! A program as dispatches: which shader, with which constants, on which buffers.

use crate::device::{Device, Fault};
use crate::shaders::{Shader, THREADS};
use crate::weights::{NONE, PIECES, Piece, Uploader};
use intact_core::certify::Certified;
use intact_core::formats::{GROUP, TILE};
use intact_core::matrix::{Activation, Matrix};
use intact_core::ops::gated::Gate;
use intact_core::ops::rope::Pairs;
use intact_core::program::{Attention, MatrixId, Op, Slot, Vector, VectorId};
use std::collections::BTreeMap;

/// Tokens of one submission at most.
const CHUNK: usize = 256;
/// Of them, those whose logits are asked for.
const HEAD: usize = 64;
/// Bytes of the arena at most, where a token needs less.
const ARENA: u64 = 256 << 20;

/// How many workgroups a dispatch has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grid {
    /// So many for each token.
    Tokens(u32),
    /// The tiles of so many pieces, for every so many tokens as the shader takes at once.
    Tiles([u32; PIECES]),
    /// One for so many positions that a token sees within a window, for each head.
    Positions { block: u32, heads: u32, window: u32 },
}

/// What a workgroup takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtOnce {
    pub(crate) tokens: u32,
    pub(crate) tiles: u32,
}

/// One dispatch.
pub(crate) struct Dispatch {
    /// Shaders by what they take at once, ascending.
    pub(crate) shaders: Vec<(AtOnce, Shader)>,
    pub(crate) params: Vec<u32>,
    /// Index of what it reads in [`Plan::data`].
    pub(crate) data: usize,
    /// Its cache.
    pub(crate) layer: usize,
    pub(crate) grid: Grid,
}

/// The dispatches of one op, and the slots that it writes.
pub(crate) struct Step {
    pub(crate) dispatches: Vec<Dispatch>,
    pub(crate) writes: Vec<Slot>,
}

/// Where an op runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Body,
    Head,
}

/// A model on a device.
pub(crate) struct Plan {
    pub(crate) body: Vec<Step>,
    pub(crate) head: Vec<Step>,
    /// Buffers that ops read; the first holds the vectors.
    pub(crate) data: Vec<wgpu::Buffer>,
    /// Words of the arena.
    pub(crate) arena: u64,
    /// Tokens of one submission at most.
    pub(crate) chunk: usize,
    /// Of them, those whose logits are asked for.
    pub(crate) head_tokens: usize,
    slots: Places,
}

/// Where slots begin in the arena, by part.
#[derive(Clone, Default)]
struct Places {
    body: Vec<u64>,
    head: Vec<u64>,
    codes: u64,
    queries: u64,
    angles: BTreeMap<VectorId, u64>,
    end: u64,
}

impl Plan {
    /// Word of the arena where a slot begins.
    pub(crate) fn slot(&self, part: Part, slot: Slot) -> u64 {
        match part {
            Part::Body => self.slots.body[slot],
            Part::Head => self.slots.head[slot],
        }
    }

    /// Uploads `model` and makes its dispatches, for cache pages of `page` positions.
    pub(crate) fn new(gpu: &Device, model: &Certified, page: usize) -> Result<Self, Fault> {
        let (mut chunk, mut head_tokens) = (CHUNK, HEAD);
        let mut slots = places(model, chunk, head_tokens);
        let most = ARENA.min(gpu.binding());
        while 4 * slots.end > most && chunk > 1 {
            chunk /= 2;
            head_tokens = head_tokens.min(chunk);
            slots = places(model, chunk, head_tokens);
        }
        let mut uploader = Uploader::new(gpu);
        let vectors = uploader.vectors(&model.model().vectors)?;
        let pieces = uploader.matrices(model.model())?;
        uploader.finish()?;
        let data = uploader.buffers;
        let step = tile_step(gpu);
        let mut builder = Builder { model, page, vectors: &vectors, pieces: &pieces, slots: &slots, step, layer: 0 };
        let mut turned = Vec::new();
        let body = model.model().body.iter().map(|op| builder.step(op, Part::Body, &mut turned)).collect();
        let mut head: Vec<Step> = vec![builder.gather()];
        turned.clear();
        head.extend(model.model().head.iter().map(|op| builder.step(op, Part::Head, &mut turned)));
        Ok(Self { body, head, data, arena: slots.end, chunk, head_tokens, slots })
    }
}

/// Groups of a step of shaders/ops/linear_tile.wgsl: 4 take less than 32 KiB, 2 half as much.
fn tile_step(gpu: &Device) -> i64 {
    if gpu.limits.max_compute_workgroup_storage_size >= 32768 { 4 } else { 2 }
}

/// Words of a token's codes (shaders/parts/codes.wgsl).
fn codes_stride(columns: usize, activation: Activation) -> u64 {
    let planes = if activation == Activation::A16 { 2 } else { 1 };
    (columns.div_ceil(GROUP) * (8 * planes + 1) + 2) as u64
}

/// Slots of the body, then those that the head reads or writes, then what ops keep for themselves.
fn places(model: &Certified, chunk: usize, head_tokens: usize) -> Places {
    let program = model.model();
    let mut places = Places::default();
    let mut end = 0;
    let mut take = |words: u64| {
        let start = end;
        end += words.next_multiple_of(16);
        start
    };
    let used = |ops: &[Op], slot: Slot| ops.iter().any(|op| op.reads().contains(&slot) || op.writes().contains(&slot));
    for (slot, &width) in model.widths().iter().enumerate() {
        let tokens = |ops: &[Op], tokens: usize| if used(ops, slot) { (tokens * width) as u64 } else { 0 };
        places.body.push(take(tokens(&program.body, chunk)));
        // The first part of a divided program has a head of no ops, which takes over its result all the same.
        let taken = if model.head_inputs().contains(&slot) { (head_tokens * width) as u64 } else { 0 };
        places.head.push(take(taken.max(tokens(&program.head, head_tokens))));
    }
    let (mut codes, mut queries) = (0, 0);
    let parts = [(&program.body, chunk), (&program.head, head_tokens)];
    for (op, tokens) in parts.into_iter().flat_map(|(ops, tokens)| ops.iter().map(move |op| (op, tokens as u64))) {
        match op {
            Op::Linear { outputs, .. } => {
                let matrix = &program.matrices[outputs[0].0];
                codes = codes.max(tokens * codes_stride(matrix.columns, matrix.activation));
            }
            Op::Attention(a) => queries = queries.max(tokens * (a.heads * (a.head_width + 2)) as u64),
            Op::Rope { table, .. } if !places.angles.contains_key(table) => {
                if let Vector::Freq64(frequencies) = &program.vectors[*table].values {
                    places.angles.insert(*table, take((2 * chunk * frequencies.len()) as u64));
                }
            }
            _ => {}
        }
    }
    places.codes = take(codes);
    places.queries = take(queries);
    places.end = end;
    places
}

/// Makes the dispatches of ops.
struct Builder<'a> {
    model: &'a Certified,
    page: usize,
    vectors: &'a [u32],
    /// Of each matrix.
    pieces: &'a [Vec<Piece>],
    slots: &'a Places,
    /// Groups that a tile of many tokens has in memory at once.
    step: i64,
    /// Attentions so far.
    layer: usize,
}

/// Workgroups of 64 threads for so many elements.
fn elements(width: usize) -> Grid {
    Grid::Tokens((width as u32).div_ceil(64))
}

impl Builder<'_> {
    fn slot(&self, part: Part, slot: Slot) -> u32 {
        let places = if part == Part::Body { &self.slots.body } else { &self.slots.head };
        places[slot] as u32
    }

    fn width(&self, slot: Slot) -> u32 {
        self.model.widths()[slot] as u32
    }

    fn shader(&self, op: &'static str, constants: &[(&'static str, i64)]) -> Shader {
        Shader::new(op, self.model.model().fraction_bits, constants)
    }

    fn dispatch(&self, shader: Shader, params: Vec<u32>, grid: Grid) -> Dispatch {
        Dispatch { shaders: vec![(AtOnce { tokens: 1, tiles: 1 }, shader)], params, data: 0, layer: 0, grid }
    }

    /// The dispatches of an op. `turned` are the tables of rotations whose angles are there.
    fn step(&mut self, op: &Op, part: Part, turned: &mut Vec<VectorId>) -> Step {
        let slot = |slot: Slot| self.slot(part, slot);
        let dispatches = match op {
            Op::Embed { matrix, out } => self.embed(*matrix, slot(*out)),
            Op::RmsNorm { input, out, gain, norm } => {
                let Vector::Gain(gains) = &self.model.model().vectors[*gain].values else { return Step::none() };
                let n = gains.len() as u32;
                let params = vec![
                    slot(*input),
                    slot(*out),
                    n,
                    self.vectors[*gain],
                    norm.gain_shift as u32,
                    norm.epsilon as u32,
                    (norm.epsilon >> 32) as u32,
                    norm.root as u32,
                    norm.root_shift as u32,
                ];
                vec![self.dispatch(self.shader("rms_norm", &[]), params, Grid::Tokens(self.width(*input) / n))]
            }
            Op::Linear { input, outputs } => self.linear(slot(*input), self.width(*input), outputs, part),
            Op::Rope { slot: v, head_width, table, pairs } => {
                let Vector::Freq64(frequencies) = &self.model.model().vectors[*table].values else {
                    return Step::none();
                };
                let count = frequencies.len();
                let angles = self.slots.angles[table] as u32;
                let mut dispatches = Vec::new();
                if count > 0 {
                    if !turned.contains(table) {
                        turned.push(*table);
                        let params = vec![self.vectors[*table], count as u32, angles];
                        dispatches.push(self.dispatch(self.shader("angles", &[]), params, elements(count)));
                    }
                    let interleaved = u32::from(*pairs == Pairs::Interleaved);
                    let width = self.width(*v);
                    let params = vec![slot(*v), width, *head_width as u32, count as u32, interleaved, angles];
                    let all = width as usize / head_width * count;
                    dispatches.push(self.dispatch(self.shader("rope", &[]), params, elements(all)));
                }
                dispatches
            }
            Op::Hadamard { slot: v, head_width } => {
                let shader = self.shader("hadamard", &[("HEAD_WIDTH", *head_width as i64)]);
                let width = self.width(*v);
                vec![self.dispatch(shader, vec![slot(*v), width], Grid::Tokens(width / *head_width as u32))]
            }
            Op::Attention(attention) => {
                self.layer += 1;
                self.attention(attention, self.layer - 1)
            }
            Op::GatedActivation { kind, gate, up, out } => {
                let kind = match kind {
                    Gate::Swiglu => 0,
                    Gate::Geglu => 1,
                    Gate::Relu2 => 2,
                };
                let width = self.width(*gate);
                let params = vec![slot(*gate), slot(*up), slot(*out), width];
                let shader = self.shader("gated_activation", &[("KIND", kind)]);
                vec![self.dispatch(shader, params, elements(width as usize))]
            }
            Op::Relu2 { slot: v } => {
                let width = self.width(*v);
                vec![self.dispatch(self.shader("activation", &[]), vec![slot(*v), width], elements(width as usize))]
            }
            Op::ResidualAdd { into, from } => {
                let width = self.width(*into);
                let params = vec![slot(*into), width, slot(*from)];
                vec![self.dispatch(self.shader("residual_add", &[]), params, elements(width as usize))]
            }
            Op::Softcap { slot: v, cap } => {
                let width = self.width(*v);
                let constants = [cap.inverse, cap.inverse_shift, cap.cap, cap.cap_shift].map(|c| c as u32);
                let params = [&[slot(*v), width], constants.as_slice()].concat();
                vec![self.dispatch(self.shader("softcap", &[]), params, elements(width as usize))]
            }
        };
        Step { dispatches, writes: op.writes() }
    }

    /// What the head takes over.
    fn gather(&self) -> Step {
        let copy = |&slot: &Slot| {
            let width = self.width(slot);
            let params = vec![self.slot(Part::Body, slot), self.slot(Part::Head, slot), width];
            self.dispatch(self.shader("gather", &[]), params, elements(width as usize))
        };
        Step { dispatches: self.model.head_inputs().iter().map(copy).collect(), writes: Vec::new() }
    }

    fn embed(&self, id: MatrixId, out: u32) -> Vec<Dispatch> {
        let matrix = &self.model.model().matrices[id];
        let shader = self.shader("embed", &[]).reading(&matrix.format);
        let dispatch = |piece: &Piece| {
            let mut params = self.piece(matrix, piece, out, matrix.columns as u32);
            if piece.embedding_row != NONE {
                params[ROW_PLACE] = piece.embedding_row;
            }
            let grid = elements(matrix.columns.div_ceil(GROUP));
            Dispatch { data: piece.data, ..self.dispatch(shader.clone(), params, grid) }
        };
        self.pieces[id].iter().map(dispatch).collect()
    }

    /// A piece as shaders see it (shaders/parts/matrix.wgsl), with the slot that it writes and its width.
    fn piece(&self, matrix: &Matrix, piece: &Piece, out: u32, width: u32) -> Vec<u32> {
        let (first, preshift) = (piece.rows.start as u32, u32::from(matrix.preshift));
        let own = [first, matrix.rows as u32, piece.tiles as u32, preshift, out, width, 0, 0];
        piece.params.into_iter().chain(own).collect()
    }

    fn linear(&self, input: u32, columns: u32, outputs: &[(MatrixId, Slot)], part: Part) -> Vec<Dispatch> {
        let program = self.model.model();
        let activation = program.matrices[outputs[0].0].activation;
        let groups = columns.div_ceil(GROUP as u32);
        let codes = self.slots.codes as u32;
        let shader = self.shader("quantize", &[]).activated(activation);
        let params = vec![input, columns, groups, codes, activation.xmax()];
        let mut all = vec![self.dispatch(shader, params, Grid::Tokens(1))];
        // 64 or 256 threads, as far as there is work for them.
        let splits = if groups < 64 { 16 } else { 64 };
        let count = u32::from(part == Part::Head);
        let pieces = |&(id, slot): &(MatrixId, Slot)| self.pieces[id].iter().map(move |piece| (id, slot, piece));
        let pieces: Vec<(MatrixId, Slot, &Piece)> = outputs.iter().flat_map(pieces).collect();
        let together = |a: &(MatrixId, Slot, &Piece), b: &(MatrixId, Slot, &Piece)| {
            a.2.data == b.2.data && program.matrices[a.0].format == program.matrices[b.0].format
        };
        for pieces in pieces.chunk_by(together).flat_map(|pieces| pieces.chunks(PIECES)) {
            let (id, _, first) = pieces[0];
            let shader = |op, constants: &[(&'static str, i64)]| {
                self.shader(op, constants).reading(&program.matrices[id].format).activated(activation)
            };
            let few = |tokens: u32| {
                let constants = [("TOKENS", i64::from(tokens)), ("SPLITS", splits)];
                (AtOnce { tokens, tiles: 1 }, shader("linear", &constants))
            };
            let many = (AtOnce { tokens: 32, tiles: 4 }, shader("linear_tile", &[("STEP", self.step)]));
            let mut params = vec![groups, codes, count, pieces.len() as u32];
            let mut tiles = [0; PIECES];
            for (&(id, slot, piece), tiles) in pieces.iter().zip(&mut tiles) {
                params.extend(self.piece(&program.matrices[id], piece, self.slot(part, slot), self.width(slot)));
                *tiles = piece.tiles as u32;
            }
            let shaders = vec![few(1), few(4), many];
            all.push(Dispatch { shaders, params, data: first.data, layer: 0, grid: Grid::Tiles(tiles) });
        }
        all
    }

    fn attention(&self, a: &Attention, layer: usize) -> Vec<Dispatch> {
        let slot = |slot: Slot| self.slot(Part::Body, slot);
        let cap = a.scoring.softcap.as_ref();
        let cap_constants = cap.map_or([0; 4], |cap| [cap.inverse, cap.inverse_shift, cap.cap, cap.cap_shift]);
        let mut params =
            vec![slot(a.query), slot(a.key), slot(a.value), slot(a.out), self.slots.queries as u32, a.window];
        params.extend([a.scoring.scale, a.scoring.scale_shift].map(|c| c as u32));
        params.extend(cap_constants.map(|c| c as u32));
        let constants = [
            ("HEAD_WIDTH", a.head_width as i64),
            ("HEADS", a.heads as i64),
            ("KV_HEADS", a.kv_heads as i64),
            ("PAGE", self.page as i64),
            ("WIDE_KEYS", i64::from(wide_keys(a))),
            ("QUERY_MAX", i64::from(a.query_max)),
            ("KEY_MAX", i64::from(a.key_max)),
            ("VALUE_MAX", i64::from(a.scoring.value_max)),
            ("SOFTCAP", i64::from(cap.is_some())),
            ("COLUMN_THREADS", i64::from(value_words(a).next_power_of_two().min(THREADS))),
        ];
        let (heads, window) = (a.heads as u32, a.window);
        let steps = [
            ("attention_quantize", Grid::Tokens((a.heads + a.kv_heads) as u32)),
            ("attention_scores", Grid::Positions { block: SCORE_BLOCK, heads, window }),
            ("attention_sums", Grid::Positions { block: SUM_BLOCK, heads, window }),
            ("attention_outputs", elements(a.heads * a.head_width)),
        ];
        let dispatch =
            |(op, grid)| Dispatch { layer, ..self.dispatch(self.shader(op, &constants), params.clone(), grid) };
        steps.into_iter().map(dispatch).collect()
    }
}

impl Step {
    fn none() -> Self {
        Self { dispatches: Vec::new(), writes: Vec::new() }
    }
}

/// Where the params of a piece have the place of its row constants.
const ROW_PLACE: usize = 10;

/// Positions that share a largest score, and those that share sums (shaders/parts/cache.wgsl).
const SCORE_BLOCK: u32 = 64;
const SUM_BLOCK: u32 = 256;

fn wide_keys(a: &Attention) -> bool {
    a.key_max > 127
}

fn value_words(a: &Attention) -> u32 {
    (a.head_width as u32).div_ceil(4)
}

/// A page of an attention's cache: entries for each KV head and position. On the device codes are padded to words
/// (shaders/parts/cache.wgsl); where pages are saved they are not.
pub(crate) struct PageShape {
    entries: usize,
    /// Bytes of keys, values and scales of an entry.
    parts: [usize; 3],
}

impl PageShape {
    pub(crate) fn new(a: &Attention, page: usize) -> Self {
        let key = if wide_keys(a) { 2 * a.head_width } else { a.head_width };
        Self { entries: a.kv_heads * page, parts: [key, a.head_width, 4] }
    }

    /// Words on the device.
    pub(crate) fn words(&self) -> u64 {
        (self.entries * self.parts.iter().map(|bytes| bytes.div_ceil(4)).sum::<usize>()) as u64
    }

    /// Bytes of a saved page.
    pub(crate) fn bytes(&self) -> usize {
        self.entries * self.parts.iter().sum::<usize>()
    }

    /// Appends the saved form of a page.
    pub(crate) fn unpack(&self, words: &[i32], out: &mut Vec<u8>) {
        let mut rest = words;
        for bytes in self.parts {
            let (now, later) = rest.split_at(self.entries * bytes.div_ceil(4));
            for entry in now.chunks_exact(bytes.div_ceil(4)) {
                out.extend(entry.iter().flat_map(|word| word.to_le_bytes()).take(bytes));
            }
            rest = later;
        }
    }

    /// The words of a page, from its saved form.
    pub(crate) fn pack(&self, saved: &[u8]) -> Vec<u8> {
        let (mut rest, mut out) = (saved, Vec::with_capacity(4 * self.words() as usize));
        for bytes in self.parts {
            let (now, later) = rest.split_at(self.entries * bytes);
            for entry in now.chunks_exact(bytes) {
                out.extend_from_slice(entry);
                out.resize(out.len().next_multiple_of(4), 0);
            }
            rest = later;
        }
        out
    }
}

/// Words of `scratch` for a token that sees at most `positions` in any attention.
pub(crate) fn score_words(attentions: &[Attention], positions: u64) -> u64 {
    let words = |a: &Attention| {
        let n = if a.window == 0 { positions } else { positions.min(u64::from(a.window)) };
        let blocks = n.div_ceil(u64::from(SCORE_BLOCK));
        let sums = n.div_ceil(u64::from(SUM_BLOCK)) * (2 * a.head_width as u64 + 1);
        a.heads as u64 * (n + 2 * blocks + sums)
    };
    attentions.iter().map(words).max().unwrap_or(0)
}

/// Rows of a tile fill a workgroup's rows.
const _: () = assert!(TILE == 16);
