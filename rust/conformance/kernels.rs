//! The slots of a kernel set on extreme and random input. Each kind of case makes its input from random numbers and
//! runs on any set; tests/check_kernels.rs runs many more of them against the reference.

use crate::fills::{Fill, Rng, matrix, quantized, vectors};
use crate::{Case, Line};
use intact_core::activations::Activations;
use intact_core::formats::{Format, TILE};
use intact_core::kernels::{Kernels, RowConstants};
use intact_core::matrix::{Activation, Matrix, RowScale};
use intact_core::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use intact_core::ops::gated::Gate;
use intact_core::ops::linear::code_value;
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::ops::softcap::Softcap;
use serde_json::json;
use std::ops::Range;

const I32: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);

/// `len` values of a fill.
pub fn random_vec(len: usize, fill: Fill, (least, most): (i64, i64), rng: &mut Rng) -> Vec<i32> {
    (0..len).map(|i| fill.value(i, least, most, rng) as i32).collect()
}

/// Runs the cases of a slot.
type Slot = fn(&Kernels) -> Vec<Line>;

/// The suite's own selection; its digests are those of the reference.
pub(crate) fn cases() -> Vec<Case> {
    let dot = Format::all().map(|format| {
        Case::new(format!("kernels/dot/{format}"), move |machine| {
            Ok(small_dots(format).map(|(at, dot)| Line::new(at, json!(dot.run(machine.kernels)))).collect())
        })
    });
    let others: [(&str, Slot); 5] = [
        ("finish", |kernels| {
            lines(600, |i, rng| {
                let case = Finish::random(i, rng);
                (format!("{case:?}"), case.run(kernels))
            })
        }),
        ("quantize", |kernels| {
            lines(400, |i, rng| {
                let columns = [1, 15, 16, 17, 31, 32, 33, 96, 128, 580][i / 2 % 10];
                let case = Quantize::random(QUANTIZE_ACTIVATIONS[i % 8], columns, i, rng);
                (format!("{case:?}"), case.run(kernels))
            })
        }),
        ("rms_norm", |kernels| {
            lines(200, |i, rng| {
                let case = Norm::random([1, 2, 15, 16, 17, 33, 64, 576][i % 8], i, rng);
                (format!("{case:?}"), case.run(kernels))
            })
        }),
        ("gated_activation", |kernels| {
            lines(300, |i, rng| {
                let case = Gated::random([Gate::Swiglu, Gate::Geglu, Gate::Relu2][i % 3], 8 + i as u32 % 13, i, rng);
                (format!("{case:?}"), case.run(kernels))
            })
        }),
        ("attention", |kernels| {
            lines(240, |i, rng| {
                let width = [1, 2, 15, 32, 40, 64, 65, 128][i % 8];
                let case = Attention::random(width, [1, 3, 5, 16, 17, 33, 100][i % 7], i, rng);
                (case.to_string(), case.run(kernels))
            })
        }),
    ];
    let others =
        others.map(|(name, run)| Case::new(format!("kernels/{name}"), move |machine| Ok(run(machine.kernels))));
    dot.chain(others).collect()
}

/// Lines of `count` cases from one stream of random numbers.
fn lines(count: usize, mut case: impl FnMut(usize, &mut Rng) -> (String, Vec<i32>)) -> Vec<Line> {
    let mut rng = Rng::new(1);
    let mut line = |i| {
        let (at, result) = case(i, &mut rng);
        Line::new(at, json!(result))
    };
    (0..count).map(&mut line).collect()
}

fn small_dots(format: Format) -> impl Iterator<Item = (String, Dot)> {
    let mut rng = Rng::new(1);
    let shapes = [(1, 1, 1), (17, 33, 2), (16, 64, 9), (33, 127, 5), (15, 580, 3), (16, 1536, 1), (5, 96, 17)];
    let all = [Activation::A8, Activation::A8b { cap: 1 }, Activation::A16].into_iter().enumerate();
    let each = all.flat_map(move |(mode, activation)| {
        shapes.into_iter().enumerate().map(move |(i, (rows, columns, tokens))| {
            let (weights, inputs) = (Fill::ALL[(i + mode) % 5], Fill::ALL[(i + 2 * mode + 1) % 5]);
            (activation, Shape { rows, columns, tokens, weights, inputs })
        })
    });
    each.map(move |(activation, shape)| {
        let dot = Dot::random(format, activation, shape, &mut rng);
        (format!("{format}, {}, {shape:?}", activation.name()), dot)
    })
}

/// Shape and content of a case of the dot slot.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Vectors.
    pub tokens: usize,
    /// Of the codes and scales.
    pub weights: Fill,
    /// Of the vectors.
    pub inputs: Fill,
}

/// A case of the dot slot.
pub struct Dot {
    matrix: Matrix,
    x: Activations,
    tokens: Range<usize>,
}

impl Dot {
    /// Makes the matrix and the vectors.
    #[must_use]
    pub fn random(format: Format, activation: Activation, shape: Shape, rng: &mut Rng) -> Self {
        let matrix = matrix(format, activation, [shape.rows, shape.columns], shape.weights, rng);
        let x = quantized(&matrix, &vectors(&matrix, shape.tokens, shape.inputs, rng));
        // Not every call begins at the first token.
        let tokens = usize::from(shape.tokens > 1 && shape.rows.is_multiple_of(2))..shape.tokens;
        Self { matrix, x, tokens }
    }

    /// The sums, tile by tile, token by token, row by row.
    #[must_use]
    pub fn run(&self, kernels: &Kernels) -> Vec<i64> {
        let mut all = Vec::new();
        let mut sums = vec![[-1; TILE]; self.tokens.len()];
        for tile in 0..self.matrix.tiles() {
            let rows = TILE.min(self.matrix.rows - tile * TILE);
            (kernels.dot)(&self.matrix, tile, &self.x, self.tokens.clone(), &mut sums);
            all.extend(sums.iter().flat_map(|sums| &sums[..rows]));
            sums.fill([-1; TILE]);
        }
        all
    }
}

/// A case of the finish slot.
#[derive(Debug)]
pub struct Finish {
    sums: [i64; TILE],
    rows: Vec<u8>,
    bias: Option<Vec<u8>>,
    preshift: u8,
    scale: (i32, i32),
    count: usize,
}

impl Finish {
    /// Case number `i`.
    #[must_use]
    pub fn random(i: usize, rng: &mut Rng) -> Self {
        let fill = Fill::ALL[i % 5];
        let bits = rng.between(0, 62);
        let sums: [i64; TILE] = std::array::from_fn(|r| fill.value(r, -(1 << bits), 1 << bits, rng));
        let word = |r| {
            let m = fill.value(r, 1 << 22, (1 << 23) - 1, rng) as i32;
            let shift = fill.value(r / 2, 0, 127, rng) as i32;
            let zero = rng.between(0, 7) == 0;
            if zero { [0; 4] } else { RowScale { m, shift }.word().to_le_bytes() }
        };
        let rows: Vec<u8> = (0..TILE).flat_map(word).collect();
        let count = rng.between(1, TILE as i64) as usize;
        let bias: Vec<u8> = random_vec(count, fill, I32, rng).into_iter().flat_map(i32::to_le_bytes).collect();
        let preshift = fill.value(i / 5, 0, 47, rng) as u8;
        let scale = (rng.between(128, 255) as i32, fill.value(i / 10, 0, 24, rng) as i32);
        Self { sums, rows, bias: (!i.is_multiple_of(3)).then_some(bias), preshift, scale, count }
    }

    /// The outputs.
    #[must_use]
    pub fn run(&self, kernels: &Kernels) -> Vec<i32> {
        let rows = RowConstants { rows: &self.rows, bias: self.bias.as_deref(), preshift: self.preshift };
        // The case is the second of two tokens.
        let (sums, (d, t), mut out) = ([[1; TILE], self.sums], self.scale, [[0; TILE]; 2]);
        (kernels.finish)(&sums, &[128, d], &[0, t], rows, &mut out);
        out[1][..self.count].to_vec()
    }
}

/// Modes and caps of the quantize slot.
pub const QUANTIZE_ACTIVATIONS: [Activation; 8] = [
    Activation::A8,
    Activation::A16,
    Activation::A8b { cap: 1 },
    Activation::A8b { cap: 2 },
    Activation::A8b { cap: 31 },
    Activation::A8b { cap: 32 },
    Activation::A8b { cap: 254 },
    Activation::A8b { cap: 255 },
];

/// A case of the quantize slot.
#[derive(Debug)]
pub struct Quantize {
    /// The mode.
    pub activation: Activation,
    /// The vector in QF.
    pub x: Vec<i32>,
}

impl Quantize {
    /// Case number `round`.
    #[must_use]
    pub fn random(activation: Activation, columns: usize, round: usize, rng: &mut Rng) -> Self {
        let (fill, most) = (Fill::ALL[round % 5], 1i64 << rng.between(0, 31));
        let range = if round < 5 { I32 } else { (-most, (most - 1).max(0)) };
        Self { activation, x: random_vec(columns, fill, range, rng) }
    }

    /// The vector in the form that kernels read.
    #[must_use]
    pub fn quantized(&self, kernels: &Kernels) -> Activations {
        let mut found = Activations::default();
        found.reset(self.activation, self.x.len(), 1);
        // Stale content must not shine through.
        found.quantize(0, &vec![i32::MAX; self.x.len()]);
        found.quantize_with(kernels.quantize, 0, &self.x);
        found
    }

    /// The code of every column, then d and t.
    #[must_use]
    pub fn run(&self, kernels: &Kernels) -> Vec<i32> {
        let found = self.quantized(kernels);
        let token = found.token(0);
        let codes = (0..self.x.len()).map(|column| code_value(&token, self.activation, column));
        codes.chain([token.d, token.t]).collect()
    }
}

/// A case of the rms_norm slot.
#[derive(Debug)]
pub struct Norm {
    x: Vec<i32>,
    gain: Vec<i16>,
    norm: RmsNorm,
    fraction_bits: u32,
}

impl Norm {
    /// Case number `round`, of `n` values.
    #[must_use]
    pub fn random(n: usize, round: usize, rng: &mut Rng) -> Self {
        let fill = Fill::ALL[round % 5];
        let most = 1i64 << rng.between(0, 31);
        let range = if round < 10 { I32 } else { (-most, (most - 1).max(0)) };
        let x = random_vec(n, fill, range, rng);
        let gain = (0..n).map(|i| fill.value(i / 2, -32768, 32767, rng) as i16).collect();
        let norm = RmsNorm {
            gain_shift: rng.between(-40, 70) as i32,
            epsilon: rng.spread(0, (1 << 44) - 1) as u64,
            root: rng.between(1 << 14, (1 << 15) - 1) as i32,
            root_shift: rng.between(-10, 20) as i32,
        };
        Self { x, gain, norm, fraction_bits: rng.between(8, 20) as u32 }
    }

    /// The normalised vector.
    #[must_use]
    pub fn run(&self, kernels: &Kernels) -> Vec<i32> {
        let mut x = self.x.clone();
        (kernels.rms_norm)(&mut x, &self.gain, &self.norm, self.fraction_bits);
        x
    }
}

/// A case of the gated_activation slot.
#[derive(Debug)]
pub struct Gated {
    /// Which.
    pub kind: Gate,
    /// g in QF.
    pub gate: Vec<i32>,
    /// u in QF, as many.
    pub up: Vec<i32>,
    /// F.
    pub fraction_bits: u32,
}

impl Gated {
    /// Case number `round`.
    #[must_use]
    pub fn random(kind: Gate, fraction_bits: u32, round: usize, rng: &mut Rng) -> Self {
        let (fill, bits) = (Fill::ALL[round % 5], rng.between(0, 31));
        let len = rng.between(1, 100) as usize;
        let range = if round < 10 { I32 } else { (-(1 << bits), (1i64 << bits) - 1) };
        let gate = random_vec(len, fill, range, rng);
        Self { kind, gate, up: random_vec(len, Fill::ALL[round / 5 % 5], I32, rng), fraction_bits }
    }

    /// The activations.
    #[must_use]
    pub fn run(&self, kernels: &Kernels) -> Vec<i32> {
        let mut gate = self.gate.clone();
        (kernels.gated_activation)(self.kind, &mut gate, &self.up, self.fraction_bits);
        gate
    }
}

/// A case of the attention slot: queries and their cache entries in runs, with codes in the ranges that the loader's
/// check allows.
pub struct Attention {
    at: String,
    /// Codes, d, t and what each sees.
    queries: Vec<(Vec<i16>, i32, i32, Range<usize>)>,
    query_max: i64,
    narrow: bool,
    keys_i8: Vec<i8>,
    keys_i16: Vec<i16>,
    values: Vec<i8>,
    /// d and t of the keys, then of the values.
    scales: [Vec<u8>; 4],
    /// Ends of the runs.
    ends: Vec<usize>,
    scoring: Scoring,
    fraction_bits: u32,
}

impl std::fmt::Display for Attention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.at)
    }
}

impl Attention {
    /// Case number `round`, over `positions` entries of `width` values.
    #[must_use]
    pub fn random(width: usize, positions: usize, round: usize, rng: &mut Rng) -> Self {
        let fill = Fill::ALL[round % 5];
        let narrow = round.is_multiple_of(2);
        let score_max = i64::from(i32::MAX) / width as i64;
        let key_max = if narrow { 127 } else { score_max.isqrt().min(32_385) };
        let query_max = (score_max / key_max).min(32_385);
        let value_max = if round.is_multiple_of(3) { 7 } else { 127 };
        let keys_i16: Vec<i16> = (0..positions * width).map(|i| fill.value(i, -key_max, key_max, rng) as i16).collect();
        let values = (0..positions * width).map(|i| fill.value(i / 2, -value_max, value_max, rng) as i8).collect();
        let mut scale =
            |least, most| -> Vec<u8> { (0..positions).map(|i| fill.value(i, least, most, rng) as u8).collect() };
        let mut scales = [scale(128, 255), scale(0, 24), scale(128, 255), scale(0, 24)];
        let mut ends = vec![positions];
        for _ in 0..rng.between(0, 3) {
            ends.push(rng.between(0, positions as i64) as usize);
        }
        ends.sort_unstable();
        if round.is_multiple_of(4) {
            // Small scores: many positions share the weight, and one may dominate.
            scales[1].fill(0);
            let sink = rng.between(0, positions as i64 - 1) as usize;
            scales[1][sink] = rng.between(0, 24) as u8;
        }
        let codes = (0..width).map(|i| fill.value(i / 3, -query_max, query_max, rng) as i16).collect();
        let queries = vec![(codes, rng.between(128, 255) as i32, fill.value(round, 0, 24, rng) as i32, 0..positions)];
        let scoring = Scoring {
            scale: rng.between(1 << 14, (1 << 15) - 1) as i32,
            scale_shift: if round < 10 { rng.between(-127, 127) } else { rng.between(10, 60) } as i32,
            value_max: value_max as u32,
            softcap: (round % 7 == 3).then(|| Softcap {
                inverse: rng.spread(0, I32.1) as i32,
                inverse_shift: rng.between(-10, 40) as i32,
                cap: rng.spread(0, I32.1) as i32,
                cap_shift: rng.between(-10, 40) as i32,
            }),
        };
        let fraction_bits = rng.between(8, 20) as u32;
        let at = format!("width {width}, {positions} positions, {fill:?}, {scoring:?}, F = {fraction_bits}");
        let keys_i8 = keys_i16.iter().map(|&key| key as i8).collect();
        Self { at, queries, query_max, narrow, keys_i8, keys_i16, values, scales, ends, scoring, fraction_bits }
    }

    /// Adds a query that sees some of the positions.
    pub fn add_query(&mut self, rng: &mut Rng) {
        let (width, positions) = (self.queries[0].0.len(), self.scales[0].len() as i64);
        let codes = (0..width).map(|_| rng.between(-self.query_max, self.query_max) as i16).collect();
        let end = rng.between(1, positions);
        // Most see all that is before them, as without a window.
        let start = if rng.between(0, 2) == 0 { rng.between(0, end - 1) } else { 0 };
        let scale = (rng.between(128, 255) as i32, rng.between(0, 24) as i32);
        self.queries.push((codes, scale.0, scale.1, start as usize..end as usize));
    }

    fn runs(&self) -> Vec<Run<'_>> {
        let (width, [key_d, key_t, value_d, value_t]) = (self.queries[0].0.len(), &self.scales);
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let run = |(start, &end): (usize, &usize)| {
            let (codes, entries) = (start * width..end * width, start..end);
            let keys = if self.narrow {
                Keys::I8(&self.keys_i8[codes.clone()])
            } else {
                Keys::I16(&self.keys_i16[codes.clone()])
            };
            Run {
                keys,
                key_d: &key_d[entries.clone()],
                key_t: &key_t[entries.clone()],
                values: &self.values[codes],
                value_d: &value_d[entries.clone()],
                value_t: &value_t[entries],
            }
        };
        starts.zip(&self.ends).map(run).collect()
    }

    /// The same with each run of positions by itself, as threads share them.
    #[must_use]
    pub fn run_shared(&self, kernels: &Kernels) -> Vec<i32> {
        let mut start = 0;
        let mut parts = Vec::new();
        for run in self.runs() {
            let end = start + run.key_d.len();
            let place = |position: usize| position.clamp(start, end) - start;
            let each = self.queries.iter();
            let queries: Vec<Query<'_>> = each
                .map(|(codes, d, t, v)| Query { codes, d: *d, t: *t, visible: place(v.start)..place(v.end) })
                .collect();
            let mut scratch = Scratch::default();
            (kernels.attention.scores)(&queries, &[run], &self.scoring, self.fraction_bits, &mut scratch);
            parts.push((queries, run, scratch));
            start = end;
        }
        Scratch::meet(parts.iter_mut().map(|(_, _, scratch)| scratch));
        let mut whole = Scratch::default();
        for (i, (queries, run, mut scratch)) in parts.into_iter().enumerate() {
            (kernels.attention.sums)(&queries, &[run], &mut scratch);
            if i == 0 { whole = scratch } else { whole.add(&scratch) }
        }
        let mut out = vec![0; self.queries.len() * self.queries[0].0.len()];
        (kernels.attention.outputs)(&self.scoring, &whole, &mut out);
        out
    }

    /// The weighted sums of the values, query after query.
    #[must_use]
    pub fn run(&self, kernels: &Kernels) -> Vec<i32> {
        let each = self.queries.iter();
        let queries: Vec<Query<'_>> =
            each.map(|(codes, d, t, visible)| Query { codes, d: *d, t: *t, visible: visible.clone() }).collect();
        let mut out = vec![0; queries.len() * self.queries[0].0.len()];
        kernels.attention.run(
            &queries,
            &self.runs(),
            &self.scoring,
            self.fraction_bits,
            &mut Scratch::default(),
            &mut out,
        );
        out
    }
}
