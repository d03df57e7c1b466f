//! Programs whose slots hold any numbers at all.

use super::Program;
use crate::fills::{Fill, Rng};
use crate::ops::w16;
use intact_core::certify::certify;
use intact_core::cpu::{Pool, Token};
use intact_core::matrix::{Activation, Matrix, RowScale};
use intact_core::program::{LOGITS, MatrixId, Model, NamedVector, Op, Slot, Vector, VectorId};
use std::sync::Arc;

/// A program on its way. Token number i has the id i, so that embeddings are input.
pub(super) struct Builder {
    pub(super) rng: Rng,
    model: Model,
    /// Room for the parts of numbers that are loaded, by width.
    parts: Vec<(usize, [Slot; 2])>,
}

impl Builder {
    pub(super) fn new(fraction_bits: u32, tokens: usize) -> Self {
        let model = Model {
            fraction_bits,
            vocabulary: tokens,
            context: 1 << 24,
            matrices: Vec::new(),
            vectors: Vec::new(),
            slots: Vec::new(),
            body: Vec::new(),
            head: Vec::new(),
        };
        Self { rng: Rng::new(1), model, parts: Vec::new() }
    }

    pub(super) fn tokens(&self) -> usize {
        self.model.vocabulary
    }

    pub(super) fn slot(&mut self, name: impl Into<String>) -> Slot {
        self.model.slots.push(name.into());
        self.model.slots.len() - 1
    }

    pub(super) fn matrix(&mut self, matrix: Matrix) -> MatrixId {
        let id = self.model.matrices.len();
        self.model.matrices.push(Matrix { name: format!("{id} {}", matrix.name), ..matrix });
        id
    }

    pub(super) fn vector(&mut self, values: Vector) -> VectorId {
        self.model.vectors.push(NamedVector { name: self.model.vectors.len().to_string(), values });
        self.model.vectors.len() - 1
    }

    pub(super) fn body(&mut self, op: Op) {
        self.model.body.push(op);
    }

    pub(super) fn head(&mut self, op: Op) {
        self.model.head.push(op);
    }

    /// A slot with these numbers, a row for each token: the saturating sum of three embeddings, in units of 2^16, 1 and
    /// 2.
    pub(super) fn load(&mut self, name: impl Into<String>, rows: &[Vec<i32>]) -> Slot {
        let slot = self.slot(name);
        self.load_into(slot, rows);
        slot
    }

    pub(super) fn load_into(&mut self, slot: Slot, rows: &[Vec<i32>]) {
        let width = rows[0].len();
        let known = self.parts.iter().find(|(w, _)| *w == width).map(|(_, parts)| *parts);
        let parts = known.unwrap_or_else(|| [self.slot(format!("low {width}")), self.slot(format!("rest {width}"))]);
        if known.is_none() {
            self.parts.push((width, parts));
        }
        let split: Vec<Vec<[i32; 3]>> = rows.iter().map(|row| row.iter().map(|&x| split(x)).collect()).collect();
        for (part, (out, shift)) in [(slot, 6), (parts[0], 22), (parts[1], 21)].into_iter().enumerate() {
            let codes: Vec<Vec<i32>> = split.iter().map(|row| row.iter().map(|x| x[part]).collect()).collect();
            let scale = RowScale { m: 1 << 22, shift: shift + self.model.fraction_bits as i32 };
            let matrix = self.matrix(w16(&codes, &vec![scale; codes.len()], None));
            self.body(Op::Embed { matrix, out });
        }
        for from in parts {
            self.body(Op::ResidualAdd { into: slot, from });
        }
    }

    /// Numbers of a fill for each token, the first rows of the whole range and later ones of any part of it.
    pub(super) fn numbers(&mut self, width: usize) -> Vec<Vec<i32>> {
        let row = |token: usize, rng: &mut Rng| {
            let bits = if token < 10 { 31 } else { rng.between(0, 31) };
            let (fill, (least, most)) = (Fill::ALL[token % 5], (-(1i64 << bits), (1i64 << bits) - 1));
            (0..width).map(|i| fill.value(i, least, most, rng) as i32).collect()
        };
        (0..self.tokens()).map(|token| row(token, &mut self.rng)).collect()
    }

    /// The program, with a head of its own where it has none, on one sequence without a cache.
    pub(super) fn finish(mut self, name: String, batches: &[usize]) -> Program {
        let tokens = self.tokens();
        // Positions are any that the one page has.
        let page = 1 << 20;
        let position = |i: usize, rng: &mut Rng| if i < 8 { i as u32 } else { rng.between(0, (1 << 20) - 1) as u32 };
        let token = |i: usize, rng: &mut Rng| Token {
            id: i as u32,
            sequence: 0,
            position: position(i, rng),
            logits: !i.is_multiple_of(3),
        };
        let list = (0..tokens).map(|i| token(i, &mut self.rng)).collect();
        self.finish_with(name, page, list, vec![vec![0]], batches)
    }

    pub(super) fn finish_with(
        mut self, name: String, page: usize, tokens: Vec<Token>, tables: Vec<Vec<u32>>, batches: &[usize],
    ) -> Program {
        if self.model.head.is_empty() {
            let one = self.load("one", &vec![vec![1]; self.tokens()]);
            let scale = RowScale { m: 1 << 22, shift: 22 };
            let rows: Vec<Vec<i32>> = (0..self.tokens()).map(|i| vec![i as i32]).collect();
            let matrix = Matrix { activation: Activation::A8, ..w16(&rows, &vec![scale; rows.len()], None) };
            let (matrix, logits) = (self.matrix(matrix), self.slot(LOGITS));
            self.head(Op::Linear { input: one, outputs: vec![(matrix, logits)] });
        }
        let left = tokens.len() - batches.iter().sum::<usize>();
        let batches = batches.iter().copied().chain((left > 0).then_some(left)).collect();
        let model = certify(self.model, &Pool::new(1)).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        Program { name, model: Arc::new(model), page, batches, tokens, tables }
    }
}

/// x = 2^16 a + b + 2 c, all within a W16.
fn split(x: i32) -> [i32; 3] {
    let a = ((i64::from(x) + (1 << 15)) >> 16).clamp(-32767, 32767);
    let rest = i64::from(x) - (a << 16);
    let c = if rest.abs() < 32768 { 0 } else { 16400 * rest.signum() };
    [a, rest - 2 * c, c].map(|part| part as i32)
}
