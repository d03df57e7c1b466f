//! Speed of every kernel set of this machine, slot by slot.
//!
//!     cargo bench --bench kernels [-- SET … SECTION …]
//!
//! SECTION is `dot`, `together`, `decode`, `slots` or `attention`.
//!
//! Figures are the best of several periods: other processes only take time away. What they are compared with is
//! measured in the same run: the peak of the int8 dot product of AVX-512 VNNI in registers, and reading the same bytes
//! from memory with as many threads.
#![allow(clippy::float_arithmetic, reason = "rates for people")]

#[path = "../rust/python/stream.rs"]
mod stream;

use intact_conformance::fills::{Fill, Rng, matrix, quantized, vectors};
use intact_core::activations::Activations;
use intact_core::formats::{Format, TILE};
use intact_core::kernels::{Kernels, RowConstants};
use intact_core::matrix::{Activation, Matrix};
use intact_core::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use intact_core::ops::gated::Gate;
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::storage::{AlignedBytes, Plane};
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(10);
const PERIODS: usize = 25;
/// Of any matrix that is not the point of a row.
const HIDDEN: usize = 2048;
/// Tokens of a batch, and those that the engine hands to the slots at once.
const TOKENS: usize = 512;
const BLOCK: usize = 128;
/// Sequences that decode together.
const SEQUENCES: usize = 8;
const SECTIONS: [&str; 5] = ["dot", "together", "decode", "slots", "attention"];
/// Rows and columns of a matrix that no cache holds.
const LARGE: usize = 16384;
const FRACTION_BITS: u32 = 16;
/// Formats for one token: a payload each.
const DECODED: [&str; 12] =
    ["T16r", "T20r", "U2b8", "U3b8", "U4b8", "U4z8", "U6b8", "U8r", "N4b8", "P20b4", "P30b4", "P40b4"];
const MODES: [Activation; 2] = [Activation::A16, Activation::A8b { cap: 1 }];

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let (sections, names): (Vec<_>, Vec<_>) = asked.into_iter().partition(|name| SECTIONS.contains(&name.as_str()));
    let sets: Vec<_> = Kernels::available()
        .into_iter()
        .filter(|set| names.is_empty() || names.iter().any(|name| name == set.name))
        .collect();
    let wanted = |section: &str| sections.is_empty() || sections.iter().any(|name| name == section);
    if wanted("dot") {
        many_tokens(&sets, TOKENS);
    }
    if wanted("together") {
        many_tokens(&sets, SEQUENCES);
    }
    if wanted("decode") {
        one_token(&sets);
    }
    if wanted("slots") {
        finish(&sets);
        vector_slots(&sets);
    }
    if wanted("attention") {
        attention(&sets);
    }
}

/// Units of work per second over all threads: the best of the periods. Each thread takes its own part of the units
/// in order, again and again, with a worker of its own from `start`.
fn rate<W: FnMut(usize)>(threads: usize, units: usize, start: impl Fn() -> W + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let measure = |thread: usize| {
        let (first, end) = (units * thread / threads, units * (thread + 1) / threads);
        let (mut work, mut unit) = (start(), first);
        let mut seconds = |count: usize| {
            let begin = Instant::now();
            for _ in 0..count {
                work(unit);
                unit = if unit + 1 == end { first } else { unit + 1 };
            }
            begin.elapsed().as_secs_f64()
        };
        // The tries are a warm-up as well.
        let (mut count, mut taken) = (1, seconds(1));
        while taken < PERIOD.as_secs_f64() / 2.0 {
            count *= 2;
            taken = seconds(count);
        }
        let count = (count as f64 * PERIOD.as_secs_f64() / taken).ceil() as usize;
        let periods = [(); PERIODS].map(|()| {
            barrier.wait();
            seconds(count)
        });
        (count, periods)
    };
    let each: Vec<(usize, [f64; PERIODS])> = thread::scope(|scope| {
        let measure = &measure;
        let started: Vec<_> = (0..threads).map(|thread| scope.spawn(move || measure(thread))).collect();
        started.into_iter().map(|thread| thread.join().expect("a kernel panicked")).collect()
    });
    let count: usize = each.iter().map(|(count, _)| count).sum();
    let longest = |period: usize| each.iter().map(|(_, seconds)| seconds[period]).fold(0.0, f64::max);
    count as f64 / (0..PERIODS).map(longest).fold(f64::INFINITY, f64::min)
}

fn percent(part: f64, whole: Option<f64>) -> String {
    whole.map_or_else(|| "-".into(), |whole| format!("{:.0} %", 100.0 * part / whole))
}

fn format(name: &str) -> Format {
    Format::parse(name).expect("a format of this version")
}

/// A matrix of random weights whose rows repeat: content does not change speed, and making it takes time.
fn random_matrix(name: &str, activation: Activation, [rows, columns]: [usize; 2]) -> Matrix {
    let part = matrix(format(name), activation, [64, columns], Fill::Central, &mut Rng::new(1));
    let repeated = |plane: &Plane| {
        let mut bytes = AlignedBytes::zeroed(plane.bytes().len() * rows / part.rows);
        bytes.as_mut_slice().chunks_exact_mut(plane.bytes().len()).for_each(|out| out.copy_from_slice(plane.bytes()));
        Plane::from(bytes)
    };
    let mut whole = part.clone();
    whole.rows = rows;
    whole.planes.payload = repeated(&part.planes.payload);
    whole.planes.row = repeated(&part.planes.row);
    let planes = [&mut whole.planes.scale, &mut whole.planes.sign, &mut whole.planes.offset, &mut whole.planes.bias];
    for plane in planes.into_iter().flatten() {
        *plane = repeated(plane);
    }
    whole
}

fn random_tokens(matrix: &Matrix, tokens: usize) -> Activations {
    quantized(matrix, &vectors(matrix, tokens, Fill::Random, &mut Rng::new(2)))
}

/// The dot slot as prefill calls it, or sequences that decode together.
fn many_tokens(sets: &[&'static Kernels], tokens: usize) {
    let peak = int8_peak();
    let text = peak.map_or_else(|| "not known here".into(), |peak| format!("{:.0} GMAC/s", peak / 1e9));
    println!("dot, {HIDDEN} x {HIDDEN}, {tokens} tokens, one thread; int8 peak {text}");
    println!("{:<14}{:<8}{:<6}{:>10}{:>10}{:>12}", "set", "format", "mode", "GMAC/s", "of peak", "of half");
    for name in ["U4z8", "U4b8", "N4b8", "U6b8", "U8r", "U8b8", "P30b4"] {
        for mode in MODES {
            let matrix = random_matrix(name, mode, [HIDDEN, HIDDEN]);
            let x = random_tokens(&matrix, tokens);
            for set in sets {
                let tiles = rate(1, matrix.tiles(), || {
                    let mut sums = vec![[0; TILE]; BLOCK];
                    let (matrix, x) = (&matrix, &x);
                    move |tile| {
                        for first in (0..tokens).step_by(BLOCK) {
                            let block = first..tokens.min(first + BLOCK);
                            (set.dot)(matrix, tile, x, block, black_box(&mut sums));
                        }
                    }
                });
                let macs = tiles * (TILE * HIDDEN * tokens) as f64;
                // Codes of 16 bits: half as many products in an instruction.
                let half = peak.filter(|_| mode == Activation::A16).map(|peak| peak / 2.0);
                println!(
                    "{:<14}{name:<8}{:<6}{:>10.1}{:>10}{:>12}",
                    set.name,
                    mode.name(),
                    macs / 1e9,
                    percent(macs, peak),
                    percent(macs, half),
                );
            }
        }
    }
}

/// The dot slot as decode calls it, on a matrix that comes from memory.
fn one_token(sets: &[&'static Kernels]) {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    println!("\ndot, {LARGE} x {LARGE}, 1 token: weights from memory");
    println!(
        "{:<14}{:<8}{:<6}{:>8}{:>8}{:>10}{:>12}",
        "set", "format", "mode", "threads", "GB/s", "of a read", "weights/ns"
    );
    for name in DECODED {
        for mode in MODES {
            let matrix = random_matrix(name, mode, [LARGE, LARGE]);
            let x = random_tokens(&matrix, 1);
            let planes = &matrix.planes;
            let others = [&planes.scale, &planes.sign, &planes.offset];
            let codes = planes.payload.bytes();
            let bytes = codes.len() + others.into_iter().flatten().map(|plane| plane.bytes().len()).sum::<usize>();
            // SAFETY: any eight bytes are a u64.
            let (_, words, _) = unsafe { codes.align_to::<u64>() };
            for threads in [1, 2].into_iter().filter(|&threads| threads <= cpus) {
                let read = stream::bandwidth(words, threads) as f64;
                println!("{:<14}{name:<8}{:<6}{threads:>8}{:>8.1}", "(read)", "", read / 1e9);
                for set in sets {
                    let tiles = rate(threads, matrix.tiles(), || {
                        let mut sums = [[0; TILE]];
                        let (matrix, x) = (&matrix, &x);
                        move |tile| (set.dot)(matrix, tile, x, 0..1, black_box(&mut sums))
                    });
                    let found = tiles * bytes as f64 / matrix.tiles() as f64;
                    let of_read = percent(found, Some(read));
                    println!(
                        "{:<14}{name:<8}{:<6}{threads:>8}{:>8.1}{of_read:>10}{:>12.1}",
                        set.name,
                        mode.name(),
                        found / 1e9,
                        tiles * (TILE * LARGE) as f64 / 1e9,
                    );
                }
            }
        }
    }
}

/// Prints a row: nanoseconds per element of one thread, where `work` does `elements` at once.
fn row<W: FnMut()>(set: &Kernels, what: &str, elements: usize, start: impl Fn() -> W + Sync) {
    let calls = rate(1, 1, || {
        let mut work = start();
        move |_| work()
    });
    println!("{:<14}{what:<44}{:>10.3}", set.name, 1e9 / (calls * elements as f64));
}

fn heading(element: &str) {
    println!("\n{:<14}{:<44}{:>10}  per {element}", "set", "slot", "ns");
}

fn finish(sets: &[&'static Kernels]) {
    heading("output");
    let matrix = random_matrix("U8r", Activation::A16, [64, HIDDEN]);
    let x = random_tokens(&matrix, BLOCK);
    let (d, t) = x.scales(0..BLOCK);
    let mut rng = Rng::new(3);
    let sums: Vec<[i64; TILE]> =
        (0..BLOCK).map(|_| std::array::from_fn(|_| rng.between(-(1 << 40), 1 << 40))).collect();
    for tokens in [1, BLOCK] {
        for set in sets {
            row(set, &format!("finish, {tokens} x {TILE}"), tokens * TILE, || {
                let mut out = vec![[0; TILE]; tokens];
                let (sums, d, t) = (&sums[..tokens], &d[..tokens], &t[..tokens]);
                let rows = RowConstants {
                    rows: &matrix.planes.row.bytes()[..4 * TILE],
                    bias: None,
                    preshift: matrix.preshift,
                };
                move || (set.finish)(sums, d, t, rows, black_box(&mut out))
            });
        }
    }
}

fn vector_slots(sets: &[&'static Kernels]) {
    heading("element");
    let mut rng = Rng::new(4);
    // Activations of models: some units in QF.
    let mut values =
        |count: usize| -> Vec<i32> { (0..count).map(|_| rng.between(-(4 << 16), 4 << 16) as i32).collect() };
    let (x, gate, up) = (values(HIDDEN), values(4 * HIDDEN), values(4 * HIDDEN));
    for mode in [Activation::A8, Activation::A8b { cap: 31 }, Activation::A16] {
        for set in sets {
            row(set, &format!("quantize, {HIDDEN} to {}", mode.name()), HIDDEN, || {
                let (x, mut out) = (&x, Activations::default());
                out.reset(mode, HIDDEN, 1);
                move || out.quantize_with(set.quantize, 0, black_box(x))
            });
        }
    }
    let gain = vec![1 << 14; HIDDEN];
    let norm = RmsNorm { gain_shift: 14, epsilon: 1 << 30, root: 23_170, root_shift: 9 };
    for set in sets {
        row(set, &format!("rms_norm, {HIDDEN}"), HIDDEN, || {
            let (x, gain, norm, mut out) = (&x, &gain, &norm, x.clone());
            move || {
                out.copy_from_slice(x);
                (set.rms_norm)(black_box(&mut out), gain, norm, FRACTION_BITS);
            }
        });
    }
    for (kind, name) in [(Gate::Swiglu, "swiglu"), (Gate::Geglu, "geglu")] {
        for set in sets {
            row(set, &format!("gated_activation, {} {name}", gate.len()), gate.len(), || {
                let (gate, up, mut out) = (&gate, &up, gate.clone());
                move || {
                    out.copy_from_slice(gate);
                    (set.gated_activation)(kind, black_box(&mut out), up, FRACTION_BITS);
                }
            });
        }
    }
}

/// Four query heads to a KV head of 64 columns, for one token and for as many as the engine takes together.
fn attention(sets: &[&'static Kernels]) {
    const WIDTH: usize = 64;
    const GROUP: usize = 4;
    heading("query and position");
    let mut rng = Rng::new(5);
    let mut codes =
        |count: usize, most: i64| -> Vec<i16> { (0..count).map(|_| rng.between(-most, most) as i16).collect() };
    for positions in [512, LARGE] {
        let keys = codes(positions * WIDTH, 1000);
        let narrow: Vec<i8> = keys.iter().map(|&key| (key / 8) as i8).collect();
        let (values, t) = (narrow.as_slice(), vec![20; positions]);
        let d = vec![200; positions];
        for (kind, keys) in [("i8", Keys::I8(&narrow)), ("i16", Keys::I16(&keys))] {
            let run = Run { keys, key_d: &d, key_t: &t, values, value_d: &d, value_t: &t };
            let scoring = Scoring { scale: 23_637, scale_shift: 40, value_max: 127, softcap: None };
            // The engine takes as many tokens together as keep the scores in a cache.
            let block = ((1 << 17) / (GROUP * positions)).clamp(1, 16);
            for tokens in [1, block] {
                let queries = codes(tokens * GROUP * WIDTH, 1000);
                let queries: Vec<Query<'_>> = queries
                    .chunks_exact(WIDTH)
                    .map(|codes| Query { codes, d: 200, t: 10, visible: 0..positions })
                    .collect();
                for set in sets {
                    let what = format!("attention, {positions} positions, {kind} keys, {} queries", queries.len());
                    row(set, &what, queries.len() * positions, || {
                        let (queries, run, scoring) = (&queries, &run, &scoring);
                        let (mut scratch, mut out) = (Scratch::default(), vec![0; queries.len() * WIDTH]);
                        move || {
                            let runs = std::slice::from_ref(run);
                            set.attention.run(queries, runs, scoring, FRACTION_BITS, &mut scratch, black_box(&mut out));
                        }
                    });
                }
            }
        }
    }
}

/// Multiply-adds per second of one thread that only multiplies int8 in registers, where AVX-512 VNNI is there.
#[cfg(target_arch = "x86_64")]
fn int8_peak() -> Option<f64> {
    use std::arch::x86_64::_mm512_setzero_si512;
    use std::arch::x86_64::{_mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8};

    /// More sums than a dot product takes cycles on any CPU, times its throughput.
    const SUMS: usize = 12;
    const STEPS: usize = 1000;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn dots() -> i32 {
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        _mm512_reduce_add_epi32(sums.into_iter().reduce(|a, b| _mm512_add_epi32(a, b)).unwrap_or(a))
    }

    let there = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni");
    there.then(|| {
        let calls = rate(1, 1, || {
            |_| {
                // SAFETY: the CPU has the features.
                black_box(unsafe { dots() });
            }
        });
        calls * (SUMS * STEPS * 64) as f64
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_peak() -> Option<f64> {
    None
}
