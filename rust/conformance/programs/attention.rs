//! Attention over two sequences whose tokens arrive in turns: short and long heads, wide keys, windows, softcaps.

use super::Program;
use super::builder::Builder;
use crate::fills::{Fill, Rng};
use intact_core::cpu::Token;
use intact_core::ops::attention::Scoring;
use intact_core::ops::softcap::Softcap;
use intact_core::program::{Attention, Op};

/// What an attention is like.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    window: u32,
    wide_keys: bool,
    softcap: bool,
    tokens: usize,
}

const PLAIN: Shape =
    Shape { heads: 2, kv_heads: 1, head_width: 16, window: 0, wide_keys: false, softcap: false, tokens: 45 };

/// By name.
pub(super) const ALL: [(&str, Shape); 12] = [
    ("width 1", Shape { head_width: 1, ..PLAIN }),
    ("width 2, wide keys", Shape { head_width: 2, wide_keys: true, ..PLAIN }),
    ("width 15", Shape { head_width: 15, softcap: true, heads: 3, kv_heads: 3, ..PLAIN }),
    ("width 64", Shape { head_width: 64, heads: 4, kv_heads: 2, ..PLAIN }),
    ("width 65, wide keys", Shape { head_width: 65, wide_keys: true, softcap: true, ..PLAIN }),
    ("width 80, window", Shape { head_width: 80, window: 7, ..PLAIN }),
    ("width 128", Shape { head_width: 128, heads: 6, kv_heads: 2, ..PLAIN }),
    ("width 256, wide keys", Shape { head_width: 256, wide_keys: true, ..PLAIN }),
    ("width 300, window", Shape { head_width: 300, window: 1, softcap: true, ..PLAIN }),
    ("long", Shape { tokens: 700, ..PLAIN }),
    ("long, window", Shape { tokens: 700, window: 300, wide_keys: true, ..PLAIN }),
    ("long, softcap", Shape { tokens: 700, head_width: 9, kv_heads: 2, softcap: true, ..PLAIN }),
];

const PAGE: usize = 8;

pub(super) fn program(name: String, shape: Shape) -> Program {
    let mut b = Builder::new(12, shape.tokens);
    for case in 0..4 {
        let load = |b: &mut Builder, what: &str, width: usize| {
            let fill = |token: usize| Fill::ALL[if case == 3 { 4 } else { (token / 7 + case) % 5 }];
            // Numbers of one size in the last case: many positions share the weight.
            let size = |token: usize, rng: &mut Rng| if case == 3 { 12 } else { [31, rng.between(0, 31)][token % 2] };
            let mut rows = Vec::new();
            for token in 0..shape.tokens {
                let most = 1i64 << size(token, &mut b.rng);
                rows.push((0..width).map(|i| fill(token).value(i, -most, most - 1, &mut b.rng) as i32).collect());
            }
            b.load(format!("{what} {case}"), &rows)
        };
        let query = load(&mut b, "query", shape.heads * shape.head_width);
        let key = load(&mut b, "key", shape.kv_heads * shape.head_width);
        let value = load(&mut b, "value", shape.kv_heads * shape.head_width);
        let out = b.slot(format!("out {case}"));
        let score_max = i32::MAX as u64 / shape.head_width as u64;
        let key_max = if shape.wide_keys { score_max.isqrt().min(32_385) } else { 127 } as u32;
        let query_max = (score_max / u64::from(key_max)).min(32_385) as u32;
        let rng = &mut b.rng;
        let cap = Softcap {
            inverse: 1_145_324_612,
            inverse_shift: rng.between(20, 40) as i32,
            cap: rng.spread(0, i32::MAX.into()) as i32,
            cap_shift: rng.between(-10, 40) as i32,
        };
        let scoring = Scoring {
            scale: rng.between(1 << 14, (1 << 15) - 1) as i32,
            scale_shift: [-127, 127, rng.between(10, 60) as i32, 40][case],
            value_max: [127, 7, 127, 1][case],
            softcap: shape.softcap.then_some(cap),
        };
        b.body(Op::Attention(Attention {
            query,
            key,
            value,
            out,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_width: shape.head_width,
            window: shape.window,
            query_max,
            key_max,
            scoring,
        }));
    }
    // The second sequence has every fifth token.
    let mut positions = [0; 2];
    let token = |i: usize| {
        let sequence = u32::from(i % 5 == 2);
        let position = positions[sequence as usize];
        positions[sequence as usize] += 1;
        Token { id: i as u32, sequence, position, logits: i.is_multiple_of(11) }
    };
    let tokens: Vec<Token> = (0..shape.tokens).map(token).collect();
    let pages = positions.map(|positions| (positions as usize).div_ceil(PAGE));
    // Pages lie in any order, those of both sequences mixed.
    let mut first: Vec<u32> = (0..(pages[0] + pages[1]) as u32).collect();
    for i in (1..first.len()).rev() {
        first.swap(i, b.rng.between(0, i as i64) as usize);
    }
    let second = first.split_off(pages[0]);
    b.finish_with(name, PAGE, tokens, vec![first, second], &[1, 2, 30, 9])
}
