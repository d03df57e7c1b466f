//! The self-test of an executor: small programs, in which every operation, payload, scale mode and activation occurs and
//! values reach their extremes, give what the reference gives, in every slot after every operation.
//!
//! It is for a device that is used for the first time: a driver that computes something else is named, before a token
//! is wrong. It takes a second where the whole suite takes minutes.

use crate::Machine;
use crate::fills::{self, Fill, Rng};
use crate::models::load;
use intact_core::certify::{Certified, certify};
use intact_core::cpu::{Batch, Cpu, Pool, Token};
use intact_core::executor::{Executor, Probe};
use intact_core::formats::{DEFAULT_BLOCK, Format, PAYLOADS};
use intact_core::kernels::reference;
use intact_core::matrix::{Activation, Matrix, RowScale};
use intact_core::ops::attention::Scoring;
use intact_core::ops::gated::Gate;
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::ops::rope::Pairs;
use intact_core::ops::softcap::Softcap;
use intact_core::program::{Attention, LOGITS, MatrixId, Model, NamedVector, Op, Slot, Vector, VectorId};
use intact_core::storage::{AlignedBytes, Plane, heap};
use std::fmt;
use std::sync::Arc;

/// Makes the executor under test for a model and positions per page, or says why there is none.
pub type Make<'a> = &'a mut dyn FnMut(Arc<Certified>, usize) -> Result<Box<dyn Executor>, String>;

/// What an executor fails in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The program.
    pub case: String,
    /// The first difference, or what the device said.
    pub problem: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.problem)
    }
}

/// Tiny models of the vectors: of three profiles, with windows, softcaps, norms of heads, biases and rotations of parts.
const MODELS: [&str; 4] =
    ["gemma2-softcap-fastest", "qwen3-qknorm-fast", "mistral-window-default", "glm4-partial-default"];
/// Positions of a cache page.
const PAGE: usize = 8;
/// F of the programs made here.
const FRACTION_BITS: u32 = 12;
/// Tokens of the programs made here.
const VOCABULARY: usize = 64;
const CONTEXT: u32 = 128;

/// How much is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every operation at its extremes, and every payload in one mode.
    Brief,
    /// Every payload in every mode too, and the tiny models.
    Full,
}

/// Runs the self-test; returns how many programs were equal.
///
/// # Errors
/// The first program that differs.
pub fn run(depth: Depth, make: Make<'_>) -> Result<usize, Failure> {
    let pool = Arc::new(Pool::new(1));
    let machine = Machine { kernels: &reference::KERNELS, pool: Arc::clone(&pool) };
    let made = [("self-test/extremes", extremes()), ("self-test/formats", formats(depth))];
    let mut programs: Vec<(String, Result<Arc<Certified>, String>)> =
        made.into_iter().map(|(name, model)| (name.to_owned(), Ok(model))).collect();
    if depth == Depth::Full {
        let model = |name| (format!("models/{name}"), load(name, &machine).map(|loaded| loaded.certified));
        programs.extend(MODELS.map(model));
    }
    let count = programs.len();
    for (case, model) in programs {
        let fail = |problem: String| Failure { case: case.clone(), problem };
        compare(&model.map_err(fail)?, &pool, make).map_err(fail)?;
    }
    Ok(count)
}

/// Two sequences in three batches: a prompt in one piece, a token, and both sequences at once.
fn batches() -> [Vec<Token>; 3] {
    let token = |sequence: u32, position: u32| {
        let id = (position * position + 31 + 7 * sequence) % VOCABULARY as u32;
        Token { id, sequence, position, logits: !position.is_multiple_of(3) }
    };
    let first = (0..13).map(|position| token(0, position)).collect();
    let both = [token(0, 14)].into_iter().chain((0..5).map(|position| token(1, position))).collect();
    [first, vec![token(0, 13)], both]
}

/// Pages in any order.
const TABLES: [&[u32]; 2] = [&[2, 0], &[1]];

/// Slot writes in order.
type Writes = Vec<(String, Vec<i32>)>;

fn compare(model: &Arc<Certified>, pool: &Arc<Pool>, make: Make<'_>) -> Result<(), String> {
    let mut cpu = Cpu::new(Arc::clone(model), &reference::KERNELS, Arc::clone(pool), PAGE, heap);
    let mut other = make(Arc::clone(model), PAGE)?;
    let fault = |fault: intact_core::executor::Fault| fault.to_string();
    cpu.reserve(3).and_then(|()| other.reserve(3)).map_err(fault)?;
    for tokens in batches() {
        let batch = Batch { tokens: &tokens, tables: &TABLES };
        let run = |executor: &mut dyn Executor, logits: &mut Vec<i32>| {
            let mut writes = Writes::new();
            let mut see = |slot: &str, values: &[i32]| writes.push((slot.to_owned(), values.to_vec()));
            let probe: Probe<'_> = &mut see;
            executor.forward(&batch, logits, Some(probe)).map(|()| writes)
        };
        let (mut expected, mut found, mut at_once) = (Vec::new(), Vec::new(), Vec::new());
        let writes = run(&mut cpu, &mut expected).map_err(fault)?;
        let others = run(&mut *other, &mut found).map_err(fault)?;
        difference(model, &writes, &others)?;
        // Op by op for the probe, and in one piece as it is used.
        other.forward(&batch, &mut at_once, None).map_err(fault)?;
        if expected != found || expected != at_once {
            return Err("logits differ from the reference's".to_owned());
        }
    }
    Ok(())
}

/// The first value that differs, with the op that wrote it.
fn difference(model: &Certified, expected: &Writes, found: &Writes) -> Result<(), String> {
    let program = model.model();
    let ops = program.body.iter().chain(&program.head).enumerate();
    let mut ops = ops.flat_map(|(i, op)| op.writes().into_iter().map(move |_| (i, op.name())));
    for (index, (slot, values)) in expected.iter().enumerate() {
        let (op, kind) = ops.next().unwrap_or_default();
        let others = found.get(index).map(|(_, values)| values.as_slice()).unwrap_or_default();
        let differs = (0..values.len().max(others.len())).find(|&i| values.get(i) != others.get(i));
        if let Some(at) = differs {
            let width = model.widths()[program.slots.iter().position(|name| name == slot).unwrap_or(0)].max(1);
            let value = |values: &[i32]| values.get(at).map_or("missing".to_owned(), i32::to_string);
            let (found, expected) = (value(others), value(values));
            let place = format!("token {}, element {}", at / width, at % width);
            return Err(format!("op {op} ({kind}) writes {slot}: {place} is {found}, the reference's is {expected}"));
        }
    }
    Ok(())
}

/// A program on its way.
struct Builder {
    model: Model,
    rng: Rng,
}

impl Builder {
    fn new(seed: u64) -> Self {
        let model = Model {
            fraction_bits: FRACTION_BITS,
            vocabulary: VOCABULARY,
            context: CONTEXT,
            matrices: Vec::new(),
            vectors: Vec::new(),
            slots: Vec::new(),
            body: Vec::new(),
            head: Vec::new(),
        };
        Self { model, rng: Rng::new(seed) }
    }

    fn slot(&mut self, name: impl Into<String>) -> Slot {
        self.model.slots.push(name.into());
        self.model.slots.len() - 1
    }

    fn matrix(&mut self, matrix: Matrix) -> MatrixId {
        let id = self.model.matrices.len();
        self.model.matrices.push(Matrix { name: format!("{id} {}", matrix.name), ..matrix });
        id
    }

    fn vector(&mut self, values: Vector) -> VectorId {
        self.model.vectors.push(NamedVector { name: self.model.vectors.len().to_string(), values });
        self.model.vectors.len() - 1
    }

    fn body(&mut self, op: Op) {
        self.model.body.push(op);
    }

    /// A random matrix whose row constants give numbers of every size up to saturation.
    fn random(&mut self, format: &str, activation: Activation, shape: [usize; 2], fill: Fill) -> Matrix {
        let format = Format::parse(format).expect("a format of this build");
        let mut matrix = fills::matrix(format, activation, shape, fill, &mut self.rng);
        let mut rows = AlignedBytes::zeroed(matrix.planes.row.bytes().len());
        for row in rows.as_mut_slice().chunks_exact_mut(4).take(shape[0]) {
            let m = self.rng.between(1 << 22, (1 << 23) - 1) as i32;
            let shift = self.rng.between(12, 52) as i32;
            row.copy_from_slice(&RowScale { m, shift }.word().to_le_bytes());
        }
        matrix.planes.row = Plane::from(rows);
        matrix
    }

    /// A slot of `width` numbers that depend on the token: extremes, small ones and zeros.
    fn embedded(&mut self, name: &str, width: usize) -> Slot {
        let matrix = self.random("W16r", Activation::A16, [VOCABULARY, width], Fill::Edges);
        let (matrix, out) = (self.matrix(matrix), self.slot(name));
        self.body(Op::Embed { matrix, out });
        out
    }

    /// Ends the program with a head that reads `slot`.
    fn finish(mut self, slot: Slot, width: usize) -> Arc<Certified> {
        let matrix = self.random("U8b8", Activation::A16, [VOCABULARY, width], Fill::Random);
        let (matrix, logits) = (self.matrix(matrix), self.slot(LOGITS));
        self.model.head.push(Op::Linear { input: slot, outputs: vec![(matrix, logits)] });
        Arc::new(certify(self.model, &Pool::new(1)).expect("a program within the contract"))
    }
}

/// Every operation on numbers up to both ends of i32.
fn extremes() -> Arc<Certified> {
    const WIDTH: usize = 64;
    const HEAD: usize = 16;
    let mut b = Builder::new(1);
    let (x, y) = (b.embedded("x", WIDTH), b.embedded("y", WIDTH));
    for (kind, name) in [(Gate::Swiglu, "swiglu"), (Gate::Geglu, "geglu"), (Gate::Relu2, "relu2")] {
        let out = b.slot(name);
        b.body(Op::GatedActivation { kind, gate: x, up: y, out });
    }
    let slot = b.embedded("activation", WIDTH);
    b.body(Op::Relu2 { slot });
    let slot = b.embedded("softcap", WIDTH);
    let cap = Softcap { inverse: 1_145_324_612, inverse_shift: 34, cap: 31_457_280, cap_shift: 20 };
    b.body(Op::Softcap { slot, cap });
    let into = b.embedded("residual", WIDTH);
    b.body(Op::ResidualAdd { into, from: y });
    for gains in [WIDTH, HEAD] {
        let gain = (0..gains).map(|i| Fill::Edges.value(i, -32767, 32767, &mut b.rng) as i16).collect();
        let (gain, out) = (b.vector(Vector::Gain(gain)), b.slot(format!("normed {gains}")));
        let norm = RmsNorm {
            gain_shift: 14,
            epsilon: 2814 * gains as u64,
            root: 1 << 14,
            root_shift: 14 - gains.ilog2() as i32 / 2,
        };
        b.body(Op::RmsNorm { input: x, out, gain, norm });
    }
    let frequencies = (0..HEAD / 2).map(|i| u64::MAX >> (3 * i + 2)).collect();
    let table = b.vector(Vector::Freq64(frequencies));
    for pairs in [Pairs::Half, Pairs::Interleaved] {
        let slot = b.embedded(&format!("rope {pairs:?}"), WIDTH);
        b.body(Op::Rope { slot, head_width: HEAD, table, pairs });
    }
    let slot = b.embedded("hadamard", WIDTH);
    b.body(Op::Hadamard { slot, head_width: HEAD });
    for (i, (window, key_max, softcap)) in [(0, 127, None), (5, 5792, Some(cap))].into_iter().enumerate() {
        let name = |what: &str| format!("{what} {i}");
        let (query, key) = (b.embedded(&name("query"), WIDTH), b.embedded(&name("key"), WIDTH / 2));
        let (value, out) = (b.embedded(&name("value"), WIDTH / 2), b.slot(name("attended")));
        let scoring = Scoring { scale: 23_637, scale_shift: 28, value_max: 127, softcap };
        let (heads, kv_heads, head_width) = (WIDTH / HEAD, WIDTH / HEAD / 2, HEAD);
        let attention = Attention {
            query,
            key,
            value,
            out,
            heads,
            kv_heads,
            head_width,
            window,
            query_max: 5792,
            key_max,
            scoring,
        };
        b.body(Op::Attention(attention));
    }
    b.finish(x, WIDTH)
}

/// Every payload, in every scale mode or in turns, on columns that end within a group and rows that end within a tile.
fn formats(depth: Depth) -> Arc<Certified> {
    const WIDTH: usize = 72;
    const ROWS: usize = 19;
    let mut b = Builder::new(2);
    let x = b.embedded("x", WIDTH);
    let all: Vec<Format> = Format::all().filter(|format| format.block == DEFAULT_BLOCK).collect();
    let chosen = PAYLOADS.iter().enumerate().flat_map(|(turn, payload)| {
        let modes: Vec<Format> = all.iter().filter(|f| f.payload.name() == payload.name()).copied().collect();
        let one = modes.get(turn % modes.len().max(1)).copied();
        if depth == Depth::Full { modes } else { one.into_iter().collect() }
    });
    let formats: Vec<Format> = chosen.collect();
    let activations = [Activation::A16, Activation::A8, Activation::A8b { cap: 1 }];
    for (turn, activation) in activations.into_iter().enumerate() {
        let mine = formats.iter().skip(turn).step_by(activations.len());
        let matrices: Vec<Matrix> =
            mine.map(|format| b.random(&format.to_string(), activation, [ROWS, WIDTH], Fill::Random)).collect();
        // Matrices of one input share its cap.
        let cap =
            matrices.iter().map(|matrix| if let Activation::A8b { cap } = matrix.activation { cap } else { 0 }).min();
        let mut outputs = Vec::new();
        for mut matrix in matrices {
            if let (Activation::A8b { .. }, Some(cap)) = (matrix.activation, cap) {
                matrix.activation = Activation::A8b { cap };
                matrix.preshift = intact_core::certify::magnitudes(&matrix, &Pool::new(1)).preshift(matrix.activation);
            }
            let slot = b.slot(format!("{} {}", matrix.format, matrix.activation.name()));
            outputs.push((b.matrix(matrix), slot));
        }
        b.body(Op::Linear { input: x, outputs });
    }
    b.finish(x, WIDTH)
}
