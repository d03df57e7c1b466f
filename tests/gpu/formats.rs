//! Tiny models of every architecture in every weight format: the same logits from every kernel set and every adapter.

use super::adapters;
use super::models::{PAGE, gpu, load, models};
use intact::core::certify::{Certified, certify};
use intact::core::cpu::{Batch, Cpu, Pool, Token};
use intact::core::executor::Executor;
use intact::core::formats::Format;
use intact::core::kernels::Kernels;
use intact::core::matrix::{Matrix, RowScale};
use intact::core::storage::{AlignedBytes, Plane, heap};
use intact_conformance::fills::{Fill, Rng, matrix};
use intact_gpu::Adapter;
use std::path::Path;
use std::sync::Arc;

/// Models after which a device is opened anew: a software adapter keeps tens of megabytes of each shader.
const KEPT: usize = 8;

/// A model, and the logits of the reference.
struct Case {
    what: String,
    model: Arc<Certified>,
    expected: Vec<i32>,
}

/// `old` with random codes in another format, each row about as large as it was.
fn in_format(old: &Matrix, format: Format, seed: u64) -> Matrix {
    let mut new = matrix(format, old.activation, [old.rows, old.columns], Fill::Random, &mut Rng::new(seed));
    let size = |matrix: &Matrix, row: usize| {
        let mut weights = Vec::new();
        matrix.row_weights(row, &mut weights);
        weights.iter().map(|weight| u64::from(weight.unsigned_abs())).sum::<u64>().max(1).ilog2() as i32
    };
    let scaled = |plane: &Plane| {
        let mut words = AlignedBytes::zeroed(plane.bytes().len());
        for (row, word) in words.as_mut_slice().as_chunks_mut::<4>().0[..old.rows].iter_mut().enumerate() {
            let scale = RowScale::from_word(plane.u32(row));
            // A row of zeros stays one.
            if scale.m != 0 {
                let shift = (scale.shift + size(&new, row) - size(old, row)).clamp(0, 127);
                *word = RowScale { shift, ..scale }.word().to_le_bytes();
            }
        }
        Plane::from(words)
    };
    let (row, embedding_row) = (scaled(&old.planes.row), old.planes.embedding_row.as_ref().map(scaled));
    new.name.clone_from(&old.name);
    new.planes.bias.clone_from(&old.planes.bias);
    (new.planes.row, new.planes.embedding_row) = (row, embedding_row);
    new
}

/// The model at `path` with its matrices in formats number `first`, `first` + 1, … of `formats`.
fn case(path: &Path, formats: &[Format], first: usize) -> Case {
    let mut model = load(path).model_as_written();
    for (i, old) in model.matrices.iter_mut().enumerate() {
        *old = in_format(old, formats[(first + i) % formats.len()], (first + i) as u64);
    }
    let what = format!("{}, formats from {} on", path.display(), formats[first % formats.len()]);
    let model = Arc::new(certify(model, &Pool::new(1)).unwrap_or_else(|refusal| panic!("{what}: {refusal}")));
    let on = |kernels| logits(&mut Cpu::new(Arc::clone(&model), kernels, Arc::new(Pool::new(1)), PAGE, heap));
    let sets = Kernels::available();
    let expected = on(sets[0]);
    let (least, most) = (expected.iter().min(), expected.iter().max());
    assert!(least < most && least > Some(&i32::MIN) && most < Some(&i32::MAX), "{what}: logits tell nothing");
    for kernels in &sets[1..] {
        assert!(on(kernels) == expected, "{}, {what}: logits", kernels.name);
    }
    Case { what, model, expected }
}

/// The logits of all tokens of a sequence.
fn logits(executor: &mut dyn Executor) -> Vec<i32> {
    executor.reserve(3).expect("pages");
    let token = |i: u32| Token { id: (i * 7 + 3) % 90, sequence: 0, position: i, logits: true };
    let (tokens, mut logits): (Vec<Token>, _) = ((0..16).map(token).collect(), Vec::new());
    for tokens in tokens.chunks(11) {
        executor.forward(&Batch { tokens, tables: &[&[2, 0]] }, &mut logits, None).expect("runs");
    }
    logits
}

#[test]
fn every_architecture_in_every_format() {
    let full = std::env::var_os("INTACT_TEST_FULL").is_some();
    let formats: Vec<Format> = Format::all().collect();
    let architectures = models().into_iter().filter(|path| path.to_string_lossy().ends_with("-default"));
    let mut cases = Vec::new();
    for (number, path) in architectures.enumerate() {
        let matrices = load(&path).model().matrices.len();
        let turns = formats.len().div_ceil(matrices);
        // Software adapters take long to compile: where time is short, an architecture has some of the formats.
        let chosen = if full { 0..turns } else { number % turns..number % turns + 1 };
        cases.extend(chosen.map(|turn| case(&path, &formats, turn * matrices)));
    }
    assert!(cases.len() >= 10, "{} models: architectures are missing", cases.len());
    let on = |adapter: &Adapter| {
        for cases in cases.chunks(KEPT) {
            let device = adapter.open().expect("opens");
            for Case { what, model, expected } in cases {
                assert!(logits(&mut gpu(&device, model)) == *expected, "{}, {what}: logits", adapter.label());
            }
        }
        println!("{}: {} models of {} formats", adapter.label(), cases.len(), formats.len());
    };
    // Each adapter in a thread of its own: a compiler of shaders uses one.
    let adapters = adapters();
    std::thread::scope(|scope| {
        for adapter in &adapters {
            scope.spawn(|| on(adapter));
        }
    });
}
