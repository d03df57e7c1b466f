//! Every kernel set gives the integers of the reference, in every slot, on more shapes and contents than the conformance
//! suite has.
//!
//! `INTACT_TEST_FULL=1` runs every combination of shapes and contents of the dot slot instead of a sample, and
//! `INTACT_TEST_SEED` chooses other random contents.

use intact_conformance::fills::{Fill, Rng};
use intact_conformance::kernels::{Attention, Dot, Finish, Gated, Norm, QUANTIZE_ACTIVATIONS, Quantize, Shape};
use intact_core::activations::Activations;
use intact_core::formats::Format;
use intact_core::kernels::{Kernels, SETS, reference};
use intact_core::matrix::Activation;
use intact_core::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use intact_core::ops::gated::Gate;
use std::collections::BTreeSet;

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

/// Runs a case on every set; `at` says what it is.
fn compare<T: PartialEq>(sets: &[&Kernels], at: impl std::fmt::Display, run: impl Fn(&Kernels) -> Vec<T>) {
    let expected = run(&reference::KERNELS);
    for set in sets {
        let found = run(set);
        assert_eq!(found.len(), expected.len(), "{}: {at}", set.name);
        if let Some(i) = (0..found.len()).find(|&i| found[i] != expected[i]) {
            panic!("{}: {at}: result {i}", set.name);
        }
    }
}

#[test]
fn sets_have_names_of_their_own() {
    let names: BTreeSet<&str> = SETS.iter().map(|set| set.kernels.name).collect();
    assert_eq!(names.len(), SETS.len());
}

const ROWS: [usize; 5] = [1, 15, 16, 17, 33];
const COLUMNS: [usize; 12] = [1, 15, 31, 32, 33, 63, 64, 96, 127, 576, 580, 1536];
const TOKENS: [usize; 8] = [1, 2, 3, 5, 8, 9, 17, 64];

/// All shapes, or a sample in which every pair of rows and columns occurs, and every number of tokens and fill.
fn shapes(offset: usize) -> Vec<Shape> {
    let [a, b, c, d, e] = Fill::ALL;
    let fills = [a, b, c, d, e, Fill::Central];
    if full() {
        let mut all = Vec::new();
        for rows in ROWS {
            for columns in COLUMNS {
                for tokens in TOKENS {
                    for weights in fills {
                        all.extend(fills.map(|inputs| Shape { rows, columns, tokens, weights, inputs }));
                    }
                }
            }
        }
        return all;
    }
    (0..ROWS.len() * COLUMNS.len() * 2)
        .map(|i| Shape {
            rows: ROWS[i % 5],
            columns: COLUMNS[i % 12],
            tokens: TOKENS[(i / 5 + i + offset) % 8],
            weights: fills[(i / 12 + offset) % 6],
            inputs: fills[(i / 3 + i + offset) % 6],
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
            for shape in shapes(number) {
                let case = Dot::random(format, activation, shape, &mut rng);
                compare(&sets, format!("{format}, {}, {shape:?}", activation.name()), |set| case.run(set));
                reached.extend(sets.iter().map(|set| (set.name, format.to_string(), activation.name())));
            }
        }
    }
    assert_eq!(reached.len(), sets.len() * Format::all().count() * 3, "a set, format or activation was not reached");
}

#[test]
fn finish() {
    let mut rng = random();
    let sets = fast_sets();
    for i in 0..40_000 {
        let case = Finish::random(i, &mut rng);
        compare(&sets, format_args!("{case:?}"), |set| case.run(set));
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
    for activation in QUANTIZE_ACTIVATIONS {
        for columns in COLUMNS.into_iter().chain([16, 17, 128, 4097]) {
            for round in 0..40 {
                let case = Quantize::random(activation, columns, round, &mut rng);
                compare(&sets, format_args!("{case:?}"), |set| vec![content(&case.quantized(set))]);
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
            let case = Norm::random(n, round, &mut rng);
            compare(&sets, format_args!("{case:?}"), |set| case.run(set));
        }
    }
}

#[test]
fn gated_activation() {
    let mut rng = random();
    let sets = fast_sets();
    let check = |case: &Gated| {
        let at = (case.kind, case.fraction_bits, case.gate.len());
        compare(&sets, format_args!("kind, F, values: {at:?}"), |set| case.run(set));
    };
    for kind in [Gate::Swiglu, Gate::Geglu, Gate::Relu2] {
        for fraction_bits in 8..=20 {
            for round in 0..50 {
                check(&Gated::random(kind, fraction_bits, round, &mut rng));
            }
            // All of the range in which the logistic function is neither 0 nor 1.
            let gate: Vec<i32> =
                (-(12 << fraction_bits)..12 << fraction_bits).step_by(1 << (fraction_bits - 8)).collect();
            check(&Gated { kind, up: vec![1 << fraction_bits; gate.len()], gate, fraction_bits });
        }
    }
    // In Q17 the exponent takes every value, and so does the divisor of the logistic function.
    let gate: Vec<i32> = (-(12 << 17)..12 << 17).collect();
    check(&Gated { kind: Gate::Swiglu, up: vec![1 << 29; gate.len()], gate, fraction_bits: 17 });
}

#[test]
fn attention() {
    let mut rng = random();
    let sets = fast_sets();
    let mut check = |width, positions, round| {
        let mut case = Attention::random(width, positions, round, &mut rng);
        for _ in 0..[0, 1, 2, 3, 7, 8, 15, 47][round % 8].min(200_000 / positions) {
            case.add_query(&mut rng);
        }
        compare(&sets, format_args!("{case}, round {round}"), |set| case.run(set));
        for set in sets.iter().copied().chain([&reference::KERNELS]) {
            assert!(case.run_shared(set) == case.run(set), "{}: {case}, round {round}, in parts", set.name);
        }
    };
    for width in [1, 2, 15, 32, 40, 64, 65, 80, 128, 256] {
        for positions in [1, 2, 3, 4, 5, 15, 16, 17, 33, 100, 257] {
            for round in 0..30 {
                check(width, positions, round);
            }
        }
    }
    // Longer than the partial sums of any set may grow.
    for (width, positions) in [(64, 9000), (3, 20_000), (1, 140_000)] {
        for round in 0..10 {
            check(width, positions, round);
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
        let query = [Query { codes: &[1], d: 128, t: 0, visible: 0..POSITIONS }];
        let (mut expected, mut found) = ([0], [0]);
        reference::KERNELS.attention.run(&query, &[run], &scoring, 12, &mut Scratch::default(), &mut expected);
        for set in fast_sets() {
            set.attention.run(&query, &[run], &scoring, 12, &mut Scratch::default(), &mut found);
            assert_eq!(found, expected, "{}: t = {t}", set.name);
        }
    }
}
