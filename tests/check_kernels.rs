//! Every kernel set gives the integers of the reference, in every slot.
//!
//! `INTACT_TEST_FULL=1` runs every combination of shapes and contents of the dot slot instead of a sample,
//! `INTACT_TEST_SEED` chooses other random contents, and `INTACT_EXPECT_SETS=reference,avx2` fails where other sets
//! than these ran.

#[path = "common/fills.rs"]
mod fills;

use fills::{Fill, Rng, matrix, quantized, vectors};
use intact_core::activations::Activations;
use intact_core::formats::{Format, TILE};
use intact_core::kernels::{Kernels, RowConstants, SETS, reference};
use intact_core::matrix::{Activation, RowScale};
use intact_core::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use intact_core::ops::gated::Gate;
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::ops::softcap::Softcap;
use std::collections::BTreeSet;

const I32: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);

fn full() -> bool {
    std::env::var_os("INTACT_TEST_FULL").is_some_and(|value| value == "1")
}

/// Random numbers for one test; the seed is in the output of a test that fails.
fn random() -> Rng {
    let seed = std::env::var("INTACT_TEST_SEED").map_or(1, |seed| seed.parse().expect("INTACT_TEST_SEED is a u64"));
    println!("INTACT_TEST_SEED={seed}");
    Rng::new(seed)
}

/// The sets that this machine runs, the reference apart.
fn fast_sets() -> Vec<&'static Kernels> {
    let name = reference::KERNELS.name;
    Kernels::available().into_iter().filter(|kernels| kernels.name != name).collect()
}

fn random_vec(len: usize, fill: Fill, (least, most): (i64, i64), rng: &mut Rng) -> Vec<i32> {
    (0..len).map(|i| fill.value(i, least, most, rng) as i32).collect()
}

#[test]
fn sets_are_those_expected() {
    let ran: Vec<&str> = SETS.iter().filter(|set| (set.available)()).map(|set| set.kernels.name).collect();
    for set in SETS.iter().filter(|set| !(set.available)()) {
        println!("skipped: {}, which needs {}", set.kernels.name, set.needs);
    }
    println!("ran: {}", ran.join(","));
    let names: BTreeSet<&str> = SETS.iter().map(|set| set.kernels.name).collect();
    assert_eq!(names.len(), SETS.len(), "two sets share a name");
    if let Ok(expected) = std::env::var("INTACT_EXPECT_SETS") {
        assert_eq!(ran.join(","), expected, "INTACT_EXPECT_SETS");
    }
}

/// A shape and content of the dot slot.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    columns: usize,
    tokens: usize,
    weights: Fill,
    inputs: Fill,
}

const ROWS: [usize; 5] = [1, 15, 16, 17, 33];
const COLUMNS: [usize; 12] = [1, 15, 31, 32, 33, 63, 64, 96, 127, 576, 580, 1536];
const TOKENS: [usize; 8] = [1, 2, 3, 5, 8, 9, 17, 64];

/// All cases, or a sample in which every pair of rows and columns occurs, and every number of tokens and fill.
fn cases(offset: usize) -> Vec<Case> {
    let fills = Fill::ALL;
    if full() {
        let mut all = Vec::new();
        for rows in ROWS {
            for columns in COLUMNS {
                for tokens in TOKENS {
                    for weights in fills {
                        all.extend(fills.map(|inputs| Case { rows, columns, tokens, weights, inputs }));
                    }
                }
            }
        }
        return all;
    }
    (0..ROWS.len() * COLUMNS.len() * 2)
        .map(|i| Case {
            rows: ROWS[i % 5],
            columns: COLUMNS[i % 12],
            tokens: TOKENS[(i / 5 + i + offset) % 8],
            weights: fills[(i / 12 + offset) % 5],
            inputs: fills[(i / 3 + i + offset) % 5],
        })
        .collect()
}

#[test]
fn dot() {
    let mut rng = random();
    let sets = fast_sets();
    let mut reached = BTreeSet::new();
    for (number, format) in Format::all().enumerate() {
        for activation in [Activation::A8, Activation::A8b { cap: 1 }, Activation::A16] {
            for case in cases(number) {
                check_dot(format, activation, case, &sets, &mut rng);
                reached.extend(sets.iter().map(|set| (set.name, format.to_string(), activation.name())));
            }
        }
    }
    assert_eq!(reached.len(), sets.len() * Format::all().count() * 3, "a set, format or activation was not reached");
}

fn check_dot(format: Format, activation: Activation, case: Case, sets: &[&Kernels], rng: &mut Rng) {
    let matrix = matrix(format, activation, [case.rows, case.columns], case.weights, rng);
    let x = quantized(&matrix, &vectors(&matrix, case.tokens, case.inputs, rng));
    // Not every call begins at the first token.
    let tokens = usize::from(case.tokens > 1 && case.rows.is_multiple_of(2))..case.tokens;
    let mut expected = vec![[0; TILE]; tokens.len()];
    let mut found = expected.clone();
    for tile in 0..matrix.tiles() {
        let rows = TILE.min(case.rows - tile * TILE);
        (reference::KERNELS.dot)(&matrix, tile, &x, tokens.clone(), &mut expected);
        for set in sets {
            found.fill([-1; TILE]);
            (set.dot)(&matrix, tile, &x, tokens.clone(), &mut found);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let at = (set.name, format, matrix.activation, case, tile, i);
                assert_eq!(found[..rows], expected[..rows], "set, format, activation, case, tile, token: {at:?}");
            }
        }
    }
}

#[test]
fn finish() {
    let mut rng = random();
    let sets = fast_sets();
    for i in 0..40_000 {
        let fill = Fill::ALL[i % 5];
        let bits = rng.between(0, 62);
        let sums: [i64; TILE] = std::array::from_fn(|r| fill.value(r, -(1 << bits), 1 << bits, &mut rng));
        let rows: Vec<u8> = (0..TILE)
            .flat_map(|r| {
                let m = fill.value(r, 1 << 22, (1 << 23) - 1, &mut rng) as i32;
                let shift = fill.value(r / 2, 0, 127, &mut rng) as i32;
                let zero = rng.between(0, 7) == 0;
                if zero { [0; 4] } else { RowScale { m, shift }.word().to_le_bytes() }
            })
            .collect();
        let count = rng.between(1, TILE as i64) as usize;
        let bias: Vec<u8> =
            random_vec(count, fill, I32, &mut rng).into_iter().flat_map(|bias| bias.to_le_bytes()).collect();
        let rows = RowConstants {
            rows: &rows,
            bias: (i % 3 > 0).then_some(&bias),
            preshift: fill.value(i / 5, 0, 47, &mut rng) as u8,
        };
        let (d, t) = (rng.between(128, 255) as i32, fill.value(i / 10, 0, 24, &mut rng) as i32);
        let (mut expected, mut found) = (vec![0; count], vec![0; count]);
        (reference::KERNELS.finish)(&sums, d, t, rows, &mut expected);
        for set in &sets {
            (set.finish)(&sums, d, t, rows, &mut found);
            assert_eq!(
                found, expected,
                "{}: {sums:?}, d = {d}, t = {t}, {:?}, a = {}",
                set.name, rows.rows, rows.preshift
            );
        }
    }
}

/// Everything that a token's quantized form consists of.
fn content(x: &Activations) -> (Vec<i8>, Vec<i32>, Vec<i32>, i32, i32) {
    let token = x.token(0);
    let sums = token.sums.iter().map(|&sum| i32::from(sum)).collect();
    (token.planes.to_vec(), sums, token.scales.to_vec(), token.d, token.t)
}

#[test]
fn quantize() {
    let mut rng = random();
    let sets = fast_sets();
    let caps = [1, 2, 31, 32, 254, 255].map(|cap| Activation::A8b { cap });
    let activations = [Activation::A8, Activation::A16].into_iter().chain(caps);
    for activation in activations {
        for columns in COLUMNS.into_iter().chain([16, 17, 128, 4097]) {
            for round in 0..40 {
                let (fill, most) = (Fill::ALL[round % 5], 1i64 << rng.between(0, 31));
                let (least, most) = if round < 5 { I32 } else { (-most, (most - 1).max(0)) };
                let x = random_vec(columns, fill, (least, most), &mut rng);
                let mut expected = Activations::default();
                expected.reset(activation, columns, 1);
                expected.quantize(0, &x);
                for set in &sets {
                    let mut found = Activations::default();
                    found.reset(activation, columns, 1);
                    // Stale content must not shine through.
                    found.quantize(0, &vec![i32::MAX; columns]);
                    found.quantize_with(set.quantize, 0, &x);
                    assert_eq!(content(&found), content(&expected), "{}: {activation:?} of {x:?}", set.name);
                }
            }
        }
    }
}

#[test]
fn rms_norm() {
    let mut rng = random();
    let sets = fast_sets();
    for n in [1, 2, 15, 16, 17, 31, 33, 64, 576, 1536, 16_384] {
        for round in 0..60 {
            let fill = Fill::ALL[round % 5];
            let most = 1i64 << rng.between(0, 31);
            let range = if round < 10 { I32 } else { (-most, (most - 1).max(0)) };
            let x = random_vec(n, fill, range, &mut rng);
            let gain: Vec<i16> = (0..n).map(|i| fill.value(i / 2, -32768, 32767, &mut rng) as i16).collect();
            let norm = RmsNorm {
                gain_shift: rng.between(-40, 70) as i32,
                epsilon: rng.spread(0, (1 << 44) - 1) as u64,
                root: rng.between(1 << 14, (1 << 15) - 1) as i32,
                root_shift: rng.between(-10, 20) as i32,
            };
            let fraction_bits = rng.between(8, 20) as u32;
            let mut expected = x.clone();
            (reference::KERNELS.rms_norm)(&mut expected, &gain, &norm, fraction_bits);
            for set in &sets {
                let mut found = x.clone();
                (set.rms_norm)(&mut found, &gain, &norm, fraction_bits);
                assert_eq!(found, expected, "{}: {norm:?}, F = {fraction_bits}, {x:?}", set.name);
            }
        }
    }
}

#[test]
fn gated_activation() {
    let mut rng = random();
    let sets = fast_sets();
    let check = |kind: Gate, gate: &[i32], up: &[i32], fraction_bits: u32| {
        let mut expected = gate.to_vec();
        (reference::KERNELS.gated_activation)(kind, &mut expected, up, fraction_bits);
        for set in &sets {
            let mut found = gate.to_vec();
            (set.gated_activation)(kind, &mut found, up, fraction_bits);
            if let Some(i) = (0..found.len()).find(|&i| found[i] != expected[i]) {
                let at = (set.name, kind, fraction_bits, gate[i], up[i]);
                panic!("set, kind, F, gate, up: {at:?}: {} for {}", found[i], expected[i]);
            }
        }
    };
    for kind in [Gate::Swiglu, Gate::Geglu, Gate::Relu2] {
        for fraction_bits in 8..=20 {
            for round in 0..50 {
                let (fill, bits) = (Fill::ALL[round % 5], rng.between(0, 31));
                let len = rng.between(1, 100) as usize;
                let range = if round < 10 { I32 } else { (-(1 << bits), (1i64 << bits) - 1) };
                let gate = random_vec(len, fill, range, &mut rng);
                let up = random_vec(len, Fill::ALL[round / 5 % 5], I32, &mut rng);
                check(kind, &gate, &up, fraction_bits);
            }
            // All of the range in which the logistic function is neither 0 nor 1.
            let gate: Vec<i32> =
                (-(12 << fraction_bits)..12 << fraction_bits).step_by(1 << (fraction_bits - 8)).collect();
            check(kind, &gate, &vec![1 << fraction_bits; gate.len()], fraction_bits);
        }
    }
    // In Q17 the exponent takes every value, and so does the divisor of the logistic function.
    let gate: Vec<i32> = (-(12 << 17)..12 << 17).collect();
    check(Gate::Swiglu, &gate, &vec![1 << 29; gate.len()], 17);
}

/// One head's cache entries: positions in runs, with codes in the ranges that the loader's check allows.
struct Cache {
    keys_i8: Vec<i8>,
    keys_i16: Vec<i16>,
    values: Vec<i8>,
    scales: [Vec<u8>; 4],
    ends: Vec<usize>,
}

impl Cache {
    fn new(width: usize, positions: usize, key_max: i64, value_max: i64, fill: Fill, rng: &mut Rng) -> Self {
        let keys_i16: Vec<i16> = (0..positions * width).map(|i| fill.value(i, -key_max, key_max, rng) as i16).collect();
        let values = (0..positions * width).map(|i| fill.value(i / 2, -value_max, value_max, rng) as i8).collect();
        let mut scales =
            |least, most| -> Vec<u8> { (0..positions).map(|i| fill.value(i, least, most, rng) as u8).collect() };
        let scales = [scales(128, 255), scales(0, 24), scales(128, 255), scales(0, 24)];
        let mut ends = vec![positions];
        for _ in 0..rng.between(0, 3) {
            ends.push(rng.between(0, positions as i64) as usize);
        }
        ends.sort_unstable();
        Self { keys_i8: keys_i16.iter().map(|&key| key as i8).collect(), keys_i16, values, scales, ends }
    }

    fn runs(&self, width: usize, narrow: bool) -> Vec<Run<'_>> {
        let mut start = 0;
        let mut runs = Vec::new();
        for &end in &self.ends {
            let (codes, entries) = (start * width..end * width, start..end);
            let [key_d, key_t, value_d, value_t] = &self.scales;
            runs.push(Run {
                keys: if narrow {
                    Keys::I8(&self.keys_i8[codes.clone()])
                } else {
                    Keys::I16(&self.keys_i16[codes.clone()])
                },
                key_d: &key_d[entries.clone()],
                key_t: &key_t[entries.clone()],
                values: &self.values[codes],
                value_d: &value_d[entries.clone()],
                value_t: &value_t[entries],
            });
            start = end;
        }
        runs
    }
}

fn check_attention(width: usize, positions: usize, round: usize, sets: &[&Kernels], rng: &mut Rng) {
    let fill = Fill::ALL[round % 5];
    let narrow = round.is_multiple_of(2);
    let score_max = i64::from(i32::MAX) / width as i64;
    let key_max = if narrow { 127 } else { score_max.isqrt().min(32_385) };
    let query_max = (score_max / key_max).min(32_385);
    let value_max = if round.is_multiple_of(3) { 7 } else { 127 };
    let mut cache = Cache::new(width, positions, key_max, value_max, fill, rng);
    if round.is_multiple_of(4) {
        // Small scores: many positions share the weight, and one may dominate.
        cache.scales[1].fill(0);
        let sink = rng.between(0, positions as i64 - 1) as usize;
        cache.scales[1][sink] = rng.between(0, 24) as u8;
    }
    let codes: Vec<i16> = (0..width).map(|i| fill.value(i / 3, -query_max, query_max, rng) as i16).collect();
    let query = Query { codes: &codes, d: rng.between(128, 255) as i32, t: fill.value(round, 0, 24, rng) as i32 };
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
    let runs = cache.runs(width, narrow);
    let (mut expected, mut found) = (vec![0; width], vec![0; width]);
    (reference::KERNELS.attention)(query, &runs, &scoring, fraction_bits, &mut Scratch::default(), &mut expected);
    for set in sets {
        (set.attention)(query, &runs, &scoring, fraction_bits, &mut Scratch::default(), &mut found);
        let at = (set.name, width, positions, fill, &scoring, fraction_bits, round);
        assert_eq!(found, expected, "set, width, positions, fill, scoring, F, round: {at:?}");
    }
}

#[test]
fn attention() {
    let mut rng = random();
    let sets = fast_sets();
    for width in [1, 2, 15, 32, 40, 64, 65, 80, 128, 256] {
        for positions in [1, 2, 3, 4, 5, 15, 16, 17, 33, 100, 257] {
            for round in 0..30 {
                check_attention(width, positions, round, &sets, &mut rng);
            }
        }
    }
    // Longer than the partial sums of any set may grow.
    for (width, positions) in [(64, 9000), (3, 20_000), (1, 140_000)] {
        for round in 0..10 {
            check_attention(width, positions, round, &sets, &mut rng);
        }
    }
}

/// Equal positions by the hundred thousand, so that parts of w add up to as much as they can.
#[test]
fn attention_to_equal_positions() {
    const POSITIONS: usize = 140_000;
    let (keys, values) = (vec![0i8; POSITIONS], vec![127i8; POSITIONS]);
    let (d, key_t) = (vec![255u8; POSITIONS], vec![0u8; POSITIONS]);
    let scoring = Scoring { scale: 1 << 14, scale_shift: 14, value_max: 127, softcap: None };
    for t in 0..=16 {
        // One coarse value shifts the weights of the others by `t` bits.
        let mut value_t = vec![0; POSITIONS];
        value_t[POSITIONS / 2] = t;
        let run =
            Run { keys: Keys::I8(&keys), key_d: &d, key_t: &key_t, values: &values, value_d: &d, value_t: &value_t };
        let query = Query { codes: &[1], d: 128, t: 0 };
        let (mut expected, mut found) = ([0], [0]);
        (reference::KERNELS.attention)(query, &[run], &scoring, 12, &mut Scratch::default(), &mut expected);
        for set in fast_sets() {
            (set.attention)(query, &[run], &scoring, 12, &mut Scratch::default(), &mut found);
            assert_eq!(found, expected, "{}: t = {t}", set.name);
        }
    }
}
