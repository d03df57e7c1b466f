//! Operations on vectors, on numbers up to both ends of i32 and with constants up to both ends of their ranges.

use super::Program;
use super::builder::Builder;
use crate::fills::{Fill, Rng};
use crate::kernels::QUANTIZE_ACTIVATIONS;
use intact_core::formats::Format;
use intact_core::matrix::Matrix;
use intact_core::ops::gated::Gate;
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::ops::rope::Pairs;
use intact_core::ops::softcap::Softcap;
use intact_core::program::{Op, Vector};

/// Makes a program of this F.
type Make = fn(String, u32) -> Program;

/// Those of no cache, by name.
pub(super) const ALL: [(&str, Make); 8] = [
    ("quantize", quantize),
    ("rms_norm", rms_norm),
    ("rope", rope),
    ("hadamard", hadamard),
    ("gated_activation", gated_activation),
    ("activation", activation),
    ("residual_add", residual_add),
    ("softcap", softcap),
];

const TOKENS: usize = 45;
const BATCHES: [usize; 4] = [1, 2, 3, 9];
/// Below, at and above the threads of a workgroup.
const WIDTHS: [usize; 7] = [1, 2, 31, 63, 64, 65, 580];

/// Codes of every mode and of caps at both ends, seen through random weights.
fn quantize(name: String, f: u32) -> Program {
    let mut b = Builder::new(f, TOKENS);
    for (i, activation) in QUANTIZE_ACTIVATIONS.into_iter().enumerate() {
        for columns in [1, 33, 64, 580] {
            let numbers = b.numbers(columns);
            let input = b.load(format!("x {i} {columns}"), &numbers);
            // Weights of at most 1 allow any cap.
            let format = Format::parse("T16r").expect("a format of this contract");
            let matrix = crate::fills::matrix(format, activation, [3, columns], Fill::Random, &mut b.rng);
            let matrix = b.matrix(Matrix { activation, ..matrix });
            let out = b.slot(format!("y {i} {columns}"));
            b.body(Op::Linear { input, outputs: vec![(matrix, out)] });
        }
    }
    b.finish(name, &BATCHES)
}

fn rms_norm(name: String, f: u32) -> Program {
    let mut b = Builder::new(f, TOKENS);
    for (i, n) in [1, 2, 15, 64, 65, 576, 1030].into_iter().enumerate() {
        for (runs, case) in [(1, 0), (3, 1), (1, 2)] {
            let numbers = b.numbers(n * runs);
            let input = b.load(format!("x {n} {case}"), &numbers);
            let rng = &mut b.rng;
            let gain = (0..n).map(|k| Fill::ALL[(i + case) % 5].value(k, -32768, 32767, rng) as i16).collect();
            let any = |least, most, rng: &mut Rng| rng.between(least, most) as i32;
            let norm = RmsNorm {
                gain_shift: [0, 14, any(0, 127, rng)][case],
                epsilon: [0, (1 << 44) - 1, rng.spread(0, (1 << 44) - 1) as u64][case],
                root: any(1 << 14, (1 << 15) - 1, rng),
                root_shift: [0, 12, any(0, 127, rng)][case],
            };
            let gain = b.vector(Vector::Gain(gain));
            let out = if case == 1 { input } else { b.slot(format!("y {n} {case}")) };
            b.body(Op::RmsNorm { input, out, gain, norm });
        }
    }
    b.finish(name, &BATCHES)
}

fn rope(name: String, f: u32) -> Program {
    let mut b = Builder::new(f, TOKENS);
    for (i, (head_width, count)) in [(2, 1), (16, 8), (64, 20), (80, 40), (7, 0), (160, 80)].into_iter().enumerate() {
        let frequencies = (0..count).map(|k| if k == 0 { u64::MAX } else { b.rng.bits() >> (k % 64) }).collect();
        let table = b.vector(Vector::Freq64(frequencies));
        for pairs in [Pairs::Half, Pairs::Interleaved] {
            for heads in [1, 3] {
                let numbers = b.numbers(heads * head_width);
                let slot = b.load(format!("{i} {pairs:?} {heads}"), &numbers);
                b.body(Op::Rope { slot, head_width, table, pairs });
            }
        }
    }
    b.finish(name, &BATCHES)
}

fn hadamard(name: String, f: u32) -> Program {
    let mut b = Builder::new(f, TOKENS);
    for head_width in (0..11).map(|bits| 1 << bits) {
        let numbers = b.numbers(head_width * if head_width > 100 { 1 } else { 3 });
        let slot = b.load(format!("{head_width}"), &numbers);
        b.body(Op::Hadamard { slot, head_width });
    }
    b.finish(name, &BATCHES)
}

fn gated_activation(name: String, f: u32) -> Program {
    let mut b = Builder::new(f, TOKENS);
    for kind in [Gate::Swiglu, Gate::Geglu, Gate::Relu2] {
        for width in WIDTHS {
            let (gates, ups) = (b.numbers(width), b.numbers(width));
            let gate = b.load(format!("{kind:?} g {width}"), &gates);
            let up = b.load(format!("{kind:?} u {width}"), &ups);
            let out = match width % 3 {
                0 => gate,
                1 => up,
                _ => b.slot(format!("{kind:?} y {width}")),
            };
            b.body(Op::GatedActivation { kind, gate, up, out });
        }
        // All of a 16-bit range around zero.
        let near: Vec<Vec<i32>> = (0..TOKENS as i32).map(|t| (0..580).map(|i| 580 * t + i - 13050).collect()).collect();
        let (gate, up) = (b.load(format!("{kind:?} g"), &near), b.load(format!("{kind:?} u"), &near));
        b.body(Op::GatedActivation { kind, gate, up, out: gate });
    }
    b.finish(name, &BATCHES)
}

fn activation(name: String, f: u32) -> Program {
    let mut b = Builder::new(f, TOKENS);
    for width in WIDTHS {
        let numbers = b.numbers(width);
        let slot = b.load(format!("{width}"), &numbers);
        b.body(Op::Relu2 { slot });
    }
    b.finish(name, &BATCHES)
}

fn residual_add(name: String, f: u32) -> Program {
    let mut b = Builder::new(f, TOKENS);
    for width in WIDTHS {
        let (a, c) = (b.numbers(width), b.numbers(width));
        let (into, from) = (b.load(format!("a {width}"), &a), b.load(format!("b {width}"), &c));
        b.body(Op::ResidualAdd { into, from });
    }
    b.finish(name, &BATCHES)
}

fn softcap(name: String, f: u32) -> Program {
    let mut b = Builder::new(f, TOKENS);
    for (i, width) in WIDTHS.into_iter().cycle().take(28).enumerate() {
        let numbers = b.numbers(width);
        let slot = b.load(format!("{i}"), &numbers);
        let rng = &mut b.rng;
        let shift = |rng: &mut Rng| if i < 8 { [-127, 127][i % 2] } else { rng.between(-10, 70) as i32 };
        let cap = Softcap {
            inverse: if i % 4 == 0 { i32::MAX } else { rng.spread(0, i32::MAX.into()) as i32 },
            inverse_shift: shift(rng),
            cap: if i % 4 == 1 { i32::MAX } else { rng.spread(0, i32::MAX.into()) as i32 },
            cap_shift: if i < 4 { shift(rng) } else { rng.between(-10, 70) as i32 },
        };
        b.body(Op::Softcap { slot, cap });
    }
    // What models have.
    let numbers = b.numbers(64);
    let slot = b.load("model", &numbers);
    let cap = Softcap { inverse: 1_145_324_612, inverse_shift: 34, cap: 31_457_280, cap_shift: 20 };
    b.body(Op::Softcap { slot, cap });
    b.finish(name, &BATCHES)
}
