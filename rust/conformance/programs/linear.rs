//! A format in one mode of activations: matrices of odd shapes and contents, as linear layers in the body and in the
//! head, and as tables of embeddings.

use super::Program;
use super::builder::Builder;
use crate::fills::{Fill, matrix, vectors};
use intact_core::formats::Format;
use intact_core::matrix::Activation;
use intact_core::program::{LOGITS, Op};

/// Tokens: more than a tile of them.
const TOKENS: usize = 43;
/// One, fewer than four, two fours of which one is short, then a tile and more.
const BATCHES: [usize; 3] = [1, 3, 6];
/// Rows and columns: both sides of a tile, a group, the longest block, a piece of work.
const SHAPES: [[usize; 2]; 8] = [[1, 32], [15, 1], [31, 33], [33, 64], [17, 129], [5, 255], [64, 160], [80, 577]];

/// What all formats are tried with.
pub(super) fn program(name: String, format: Format, activation: Activation) -> Program {
    with_shapes(name, format, activation, &SHAPES)
}

/// Long rows, which many threads share.
pub(super) fn long(name: String, format: Format, activation: Activation) -> Program {
    with_shapes(name, format, activation, &[[5, 2080], [66, 4111]])
}

fn with_shapes(name: String, format: Format, activation: Activation, shapes: &[[usize; 2]]) -> Program {
    let mut b = Builder::new(12, TOKENS);
    for (i, shape) in shapes.iter().copied().enumerate() {
        let (weights, inputs) = (Fill::ALL[i % 5], Fill::ALL[(2 * i + 1) % 5]);
        let matrix = matrix(format, activation, shape, weights, &mut b.rng);
        let mut rows = vectors(&matrix, TOKENS, inputs, &mut b.rng);
        // Whatever the codes are: numbers of all sizes, which quantize to them by a scale of their own.
        let others = b.numbers(shape[1]);
        rows.iter_mut().zip(others).skip(24).for_each(|(row, other)| *row = other);
        let at = format!("{}x{}", shape[0], shape[1]);
        let input = b.load(format!("x {at}"), &rows);
        let id = b.matrix(matrix);
        let out = b.slot(format!("y {at}"));
        b.body(Op::Linear { input, outputs: vec![(id, out)] });
        if shape[0] >= TOKENS {
            let embedded = b.slot(format!("row {at}"));
            b.body(Op::Embed { matrix: id, out: embedded });
            let logits = b.slot(LOGITS);
            b.head(Op::Linear { input, outputs: vec![(id, logits)] });
        }
    }
    b.finish(name, &BATCHES)
}
