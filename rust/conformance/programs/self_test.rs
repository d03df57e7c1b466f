//! Two programs for a first look at a device: every operation at its extremes, and every weight format in turns.

use super::Program;
use super::builder::Builder;
use crate::fills::{Fill, matrix};
use crate::self_test::Depth;
use intact_core::certify::magnitudes;
use intact_core::cpu::{Pool, Token};
use intact_core::formats::{DEFAULT_BLOCK, Format, PAYLOADS};
use intact_core::matrix::{Activation, Matrix};
use intact_core::ops::attention::Scoring;
use intact_core::ops::gated::Gate;
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::ops::rope::Pairs;
use intact_core::ops::softcap::Softcap;
use intact_core::program::{Attention, Op, Vector};

/// Tokens: more than linear layers take at once.
const TOKENS: usize = 45;
/// Few and several of them; the rest is a batch of its own.
const BATCHES: [usize; 3] = [1, 3, 7];
const PAGE: usize = 8;

/// Every operation on numbers up to both ends of i32.
pub(crate) fn extremes() -> Program {
    const WIDTH: usize = 64;
    const HEAD: usize = 16;
    let mut b = Builder::new(12, TOKENS);
    let load = |b: &mut Builder, name: &str, width: usize| {
        let numbers = b.numbers(width);
        b.load(name, &numbers)
    };
    let (x, y) = (load(&mut b, "x", WIDTH), load(&mut b, "y", WIDTH));
    for kind in [Gate::Swiglu, Gate::Geglu, Gate::Relu2] {
        let out = b.slot(format!("{kind:?}"));
        b.body(Op::GatedActivation { kind, gate: x, up: y, out });
    }
    let slot = load(&mut b, "activation", WIDTH);
    b.body(Op::Relu2 { slot });
    let slot = load(&mut b, "softcap", WIDTH);
    let cap = Softcap { inverse: 1_145_324_612, inverse_shift: 34, cap: 31_457_280, cap_shift: 20 };
    b.body(Op::Softcap { slot, cap });
    for gains in [WIDTH, HEAD] {
        let gain = (0..gains).map(|i| Fill::Edges.value(i, -32767, 32767, &mut b.rng) as i16).collect();
        let (gain, out) = (b.vector(Vector::Gain(gain)), b.slot(format!("normed {gains}")));
        let root_shift = 14 - gains.ilog2() as i32 / 2;
        let norm = RmsNorm { gain_shift: 14, epsilon: 2814 * gains as u64, root: 1 << 14, root_shift };
        b.body(Op::RmsNorm { input: x, out, gain, norm });
    }
    let frequencies = (0..HEAD / 2).map(|i| u64::MAX >> (3 * i + 2)).collect();
    let table = b.vector(Vector::Freq64(frequencies));
    for pairs in [Pairs::Half, Pairs::Interleaved] {
        let slot = load(&mut b, &format!("{pairs:?}"), WIDTH);
        b.body(Op::Rope { slot, head_width: HEAD, table, pairs });
    }
    let slot = load(&mut b, "hadamard", WIDTH);
    b.body(Op::Hadamard { slot, head_width: HEAD });
    for (window, key_max, softcap) in [(0, 127, None), (5, 5792, Some(cap))] {
        let query = load(&mut b, &format!("query {window}"), WIDTH);
        let key = load(&mut b, &format!("key {window}"), WIDTH / 2);
        let value = load(&mut b, &format!("value {window}"), WIDTH / 2);
        let out = b.slot(format!("attended {window}"));
        let scoring = Scoring { scale: 23_637, scale_shift: 28, value_max: 127, softcap };
        let (heads, kv_heads, head_width) = (WIDTH / HEAD, WIDTH / HEAD / 2, HEAD);
        let (query_max, key_max) = (5792, key_max);
        b.body(Op::Attention(Attention {
            query,
            key,
            value,
            out,
            heads,
            kv_heads,
            head_width,
            window,
            query_max,
            key_max,
            scoring,
        }));
    }
    // Two sequences in turns, on pages in any order.
    let token = |i: usize| Token {
        id: i as u32,
        sequence: (i % 2) as u32,
        position: i as u32 / 2,
        logits: !i.is_multiple_of(3),
    };
    let tokens = (0..TOKENS).map(token).collect();
    b.finish_with("self-test/extremes".to_owned(), PAGE, tokens, vec![vec![4, 1, 2], vec![0, 5, 3]], &BATCHES)
}

/// Every payload, in every scale mode or in one of them, with activations in turns; columns end within a group, and
/// rows within a tile.
pub(crate) fn formats(depth: Depth) -> Program {
    const SHAPE: [usize; 2] = [19, 72];
    let mut b = Builder::new(12, TOKENS);
    let all: Vec<Format> = Format::all().filter(|format| format.block == DEFAULT_BLOCK).collect();
    let chosen = PAYLOADS.iter().enumerate().flat_map(|(turn, payload)| {
        let modes: Vec<Format> = all.iter().filter(|f| f.payload.name() == payload.name()).copied().collect();
        let one = modes.get(turn % modes.len().max(1)).copied();
        if depth == Depth::Full { modes } else { one.into_iter().collect() }
    });
    let formats: Vec<Format> = chosen.collect();
    let numbers = b.numbers(SHAPE[1]);
    let input = b.load("x", &numbers);
    let activations = [Activation::A16, Activation::A8, Activation::A8b { cap: 1 }];
    for (turn, activation) in activations.into_iter().enumerate() {
        let mine = formats.iter().skip(turn).step_by(activations.len());
        let matrices: Vec<Matrix> =
            mine.map(|format| matrix(*format, activation, SHAPE, Fill::Random, &mut b.rng)).collect();
        // Matrices of one input share its cap.
        let caps = matrices.iter().map(|m| if let Activation::A8b { cap } = m.activation { cap } else { 0 });
        let cap = caps.min().unwrap_or(0);
        let mut outputs = Vec::new();
        for mut matrix in matrices {
            if let Activation::A8b { .. } = matrix.activation {
                matrix.activation = Activation::A8b { cap };
                matrix.preshift = magnitudes(&matrix, &Pool::new(1)).preshift(matrix.activation);
            }
            let slot = b.slot(format!("{} {}", matrix.format, matrix.activation.name()));
            outputs.push((b.matrix(matrix), slot));
        }
        b.body(Op::Linear { input, outputs });
    }
    b.finish("self-test/formats".to_owned(), &BATCHES)
}
