//! A program as dispatches: which shader, with which constants, on which buffers.

use crate::device::{Device, Fault};
use crate::pages::{SCORE_BLOCK, SUM_BLOCK, value_words, wide_keys};
use crate::shaders::{Shader, Stage, THREADS, TOKEN_THREADS};
use crate::weights::{NONE, PIECES, Piece, Uploader};
use intact_core::certify::Certified;
use intact_core::formats::{GROUP, TILE};
use intact_core::matrix::{Activation, Matrix};
use intact_core::ops::gated::Gate;
use intact_core::ops::rope::Pairs;
use intact_core::program::{Attention, MatrixId, Op, Slot, Vector, VectorId};
use std::collections::BTreeMap;

/// Tokens of one submission at most, and at least where memory is short.
const CHUNK: usize = 256;
const SHORT: usize = 64;
/// Of them, one of so many may have its logits asked for.
const HEAD: usize = 4;
/// Bytes of the arena at most, where a token needs less.
const ARENA: u64 = 256 << 20;
/// The part of the weights that the arena may have, and scores as well.
const PART: u64 = 20;
/// Words of scores that tokens share before a batch is split, at least, where one needs less.
const SCORES: u64 = 1 << 20;

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

/// When a dispatch is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// No token sees more than [`SUM_BLOCK`] positions within the window, or some do.
    Few(u32),
    Many(u32),
}

/// One dispatch.
#[derive(Clone)]
pub(crate) struct Dispatch {
    /// Shaders by what they take at once, ascending.
    pub(crate) shaders: Vec<(AtOnce, Shader)>,
    pub(crate) params: Vec<u32>,
    /// Index of what it reads in [`Plan::data`].
    pub(crate) data: usize,
    /// Its cache.
    pub(crate) layer: usize,
    pub(crate) grid: Grid,
    pub(crate) when: When,
    /// The slot that it changes run by run, and the width of a run, where that is all that it does.
    in_place: Option<(Slot, usize)>,
    /// An attention whose heads it quantizes.
    heads_of: Option<Attention>,
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
    /// Op by op, for whoever wants to see every slot.
    pub(crate) body: Vec<Step>,
    pub(crate) head: Vec<Step>,
    /// The same in fewer dispatches.
    pub(crate) fused_body: Vec<Dispatch>,
    pub(crate) fused_head: Vec<Dispatch>,
    /// Buffers that ops read; the first holds the vectors.
    pub(crate) data: Vec<wgpu::Buffer>,
    /// Words of the arena.
    pub(crate) arena: u64,
    /// Tokens of one submission at most.
    pub(crate) chunk: usize,
    /// Of them, those whose logits are asked for.
    pub(crate) head_tokens: usize,
    /// Words of scores that tokens of one submission share, where one needs less.
    pub(crate) scores: u64,
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
        let mut uploader = Uploader::new(gpu);
        let vectors = uploader.vectors(&model.model().vectors)?;
        let pieces = uploader.matrices(model.model())?;
        uploader.finish()?;
        let data = uploader.buffers;
        let weights: u64 = data.iter().map(wgpu::Buffer::size).sum();
        let most = ARENA.min(gpu.binding());
        let fits = |chunk: usize, end: u64| 4 * end <= most && (chunk <= SHORT || 4 * end <= weights / PART);
        let mut chunk = CHUNK;
        let mut slots = places(model, chunk, chunk / HEAD);
        while !fits(chunk, slots.end) && chunk > 1 {
            chunk /= 2;
            slots = places(model, chunk, chunk.div_ceil(HEAD));
        }
        let scores = (weights / PART / 4).clamp(SCORES, 4 * SCORES);
        let step = tile_step(gpu);
        let mut builder = Builder { model, page, vectors: &vectors, pieces: &pieces, slots: &slots, step, layer: 0 };
        let mut turned = Vec::new();
        let body: Vec<Step> = model.model().body.iter().map(|op| builder.step(op, Part::Body, &mut turned)).collect();
        let mut head: Vec<Step> = vec![builder.gather()];
        turned.clear();
        head.extend(model.model().head.iter().map(|op| builder.step(op, Part::Head, &mut turned)));
        let (fused_body, fused_head) = (fused(&body), fused(&head));
        Ok(Self {
            body,
            head,
            fused_body,
            fused_head,
            data,
            arena: slots.end,
            chunk,
            head_tokens: chunk.div_ceil(HEAD),
            scores,
            slots,
        })
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
        let shaders = vec![(AtOnce { tokens: 1, tiles: 1 }, shader)];
        Dispatch { shaders, params, data: 0, layer: 0, grid, when: When::Always, in_place: None, heads_of: None }
    }

    /// An op on whole vectors, for each of which it has a workgroup.
    fn on_tokens(&self, op: &'static str, constants: &[(&'static str, i64)], params: Vec<u32>) -> Dispatch {
        let constants = [constants, &[("THREADS", i64::from(TOKEN_THREADS))]].concat();
        let stage = Stage { op, base: 0, runs: 1 };
        let shader = Shader::stage(stage, self.model.model().fraction_bits, &constants);
        self.dispatch(shader, padded(params), Grid::Tokens(1))
    }

    /// An op in place on the runs of a slot, for each of which it has a workgroup.
    fn on_runs(&self, op: &'static str, slot: Slot, width: usize, params: Vec<u32>) -> Dispatch {
        let runs = self.width(slot) / width as u32;
        let shader = Shader::stage(Stage { op, base: 0, runs }, self.model.model().fraction_bits, &[]);
        Dispatch { in_place: Some((slot, width)), ..self.dispatch(shader, padded(params), Grid::Tokens(runs)) }
    }

    /// The dispatches of an op. `turned` are the tables of rotations whose angles are there.
    fn step(&mut self, op: &Op, part: Part, turned: &mut Vec<VectorId>) -> Step {
        let slot = |slot: Slot| self.slot(part, slot);
        let dispatches = match op {
            Op::Embed { matrix, out } => self.embed(*matrix, slot(*out)),
            Op::RmsNorm { input, out, gain, norm } => {
                let Vector::Gain(gains) = &self.model.model().vectors[*gain].values else { return Step::none() };
                let (n, width) = (gains.len(), self.width(*input));
                let mut params = vec![slot(*input), slot(*out), width, n as u32, self.vectors[*gain]];
                params.extend([norm.gain_shift as u32, norm.epsilon as u32, (norm.epsilon >> 32) as u32]);
                params.extend([norm.root as u32, norm.root_shift as u32]);
                if n as u32 == width {
                    vec![self.on_tokens("rms_norm", &[], params)]
                } else {
                    let runs = self.on_runs("rms_norm", *out, n, params);
                    vec![Dispatch { in_place: runs.in_place.filter(|_| input == out), ..runs }]
                }
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
                    let (head, width) = (*head_width as u32, self.width(*v));
                    let params = vec![slot(*v), width, head, count as u32, interleaved, angles];
                    dispatches.push(self.on_runs("rope", *v, *head_width, params));
                }
                dispatches
            }
            Op::Hadamard { slot: v, head_width } => {
                let params = vec![slot(*v), self.width(*v), *head_width as u32];
                vec![self.on_runs("hadamard", *v, *head_width, params)]
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
                let params = vec![slot(*gate), slot(*up), slot(*out), self.width(*gate)];
                vec![self.on_tokens("gated_activation", &[("KIND", kind)], params)]
            }
            Op::Relu2 { slot: v } => vec![self.on_tokens("activation", &[], vec![slot(*v), self.width(*v)])],
            Op::ResidualAdd { into, from } => {
                let params = vec![slot(*into), self.width(*into), slot(*from)];
                vec![self.on_tokens("residual_add", &[], params)]
            }
            Op::Softcap { slot: v, cap } => {
                let constants = [cap.inverse, cap.inverse_shift, cap.cap, cap.cap_shift].map(|c| c as u32);
                let params = [&[slot(*v), self.width(*v)], constants.as_slice()].concat();
                vec![self.on_tokens("softcap", &[], params)]
            }
        };
        Step { dispatches, writes: op.writes() }
    }

    /// What the head takes over.
    fn gather(&self) -> Step {
        let copy = |&slot: &Slot| {
            let params = vec![self.slot(Part::Body, slot), self.slot(Part::Head, slot), self.width(slot)];
            self.on_tokens("gather", &[], params)
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
        let params = vec![input, columns, groups, codes, activation.xmax()];
        let mut quantize = self.on_tokens("quantize", &[], params);
        quantize.shaders[0].1 = quantize.shaders[0].1.clone().activated(activation);
        let mut all = vec![quantize];
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
            let grid = Grid::Tiles(tiles);
            let plain = self.dispatch(shaders[0].1.clone(), params, grid);
            all.push(Dispatch { shaders, data: first.data, ..plain });
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
        let (heads, kv_heads, window) = (a.heads as u32, a.kv_heads as u32, a.window);
        let f = self.model.model().fraction_bits;
        let mut prologue = Shader::stage(Stage { op: "attention_query", base: 0, runs: heads }, f, &constants);
        prologue.stages.push(Stage { op: "attention_entry", base: heads, runs: kv_heads });
        let both = [padded(params.clone()), padded(params.clone())].concat();
        let prologue =
            Dispatch { layer, heads_of: Some(*a), ..self.dispatch(prologue, both, Grid::Tokens(heads + kv_heads)) };
        let pass = |op, block, when| Dispatch {
            layer,
            when,
            ..self.dispatch(self.shader(op, &constants), params.clone(), Grid::Positions { block, heads, window })
        };
        let outputs = self.on_tokens("attention_outputs", &constants, padded(params.clone()));
        vec![
            prologue,
            pass("attention_few", SUM_BLOCK, When::Few(window)),
            pass("attention_scores", SCORE_BLOCK, When::Many(window)),
            pass("attention_sums", SUM_BLOCK, When::Many(window)),
            Dispatch { layer, ..outputs },
        ]
    }
}

/// Params of a stage: the next one's begin at a multiple of 16 bytes.
fn padded(mut params: Vec<u32>) -> Vec<u32> {
    params.resize(params.len().next_multiple_of(4), 0);
    params
}

/// Dispatches in fewer: consecutive ops of whole vectors are stages of one, and what is done to heads before an
/// attention quantizes them happens in that dispatch.
fn fused(steps: &[Step]) -> Vec<Dispatch> {
    let mut all: Vec<Dispatch> = Vec::new();
    for dispatch in steps.iter().flat_map(|step| &step.dispatches) {
        if let Some(attention) = &dispatch.heads_of {
            let mut whole = dispatch.clone();
            while let Some(joined) = all.last().and_then(|before| before.before_heads(&whole, attention)) {
                all.pop();
                whole = joined;
            }
            all.push(whole);
        } else if let Some(joined) = all.last().and_then(|before| before.then(dispatch)) {
            all.pop();
            all.push(joined);
        } else {
            all.push(dispatch.clone());
        }
    }
    all
}

impl Dispatch {
    fn stages(&self) -> &Shader {
        &self.shaders[0].1
    }

    /// Both as one, whose first stages are `self`'s.
    fn joined(&self, next: &Self) -> Option<Self> {
        let fits = self.params.len() + next.params.len() <= PARAM_WORDS;
        let shader = self.stages().then(next.stages()).filter(|_| fits)?;
        let params = [self.params.as_slice(), &next.params].concat();
        let shaders = vec![(self.shaders[0].0, shader)];
        Some(Self { shaders, params, layer: self.layer.max(next.layer), in_place: None, ..next.clone() })
    }

    /// Both as one, where they work on whole vectors of a token.
    fn then(&self, next: &Self) -> Option<Self> {
        let whole = |dispatch: &Self| dispatch.stages().constants["THREADS"] == i64::from(TOKEN_THREADS);
        if whole(self) && whole(next) { self.joined(next) } else { None }
    }

    /// `self`, where it changes heads of the attention in place, as a part of `heads`, which quantizes them.
    fn before_heads(&self, heads: &Self, a: &Attention) -> Option<Self> {
        let (slot, width) = self.in_place?;
        if width != a.head_width || [a.key, a.value].contains(&a.query) {
            return None;
        }
        let base = match slot {
            slot if slot == a.query => 0,
            slot if slot == a.key || slot == a.value => a.heads as u32,
            _ => return None,
        };
        let mut moved = self.clone();
        moved.shaders[0].1.stages.iter_mut().for_each(|stage| stage.base = base);
        moved.joined(heads)
    }
}

impl Step {
    fn none() -> Self {
        Self { dispatches: Vec::new(), writes: Vec::new() }
    }
}

/// Words of params of a dispatch at most.
pub(crate) const PARAM_WORDS: usize = 128;
/// Where the params of a piece have the place of its row constants.
const ROW_PLACE: usize = 10;

/// Rows of a tile fill a workgroup's rows.
const _: () = assert!(TILE == 16);
