//! Small programs for a whole executor: every weight format, every operation, on extreme and random input, against the
//! reference in every slot after every operation.
//!
//! The slots of a kernel set are tested one by one (`kernels.rs`); a device has no such slots, only a way to run
//! programs. Formats come from their registry, so that a new one is tested without a line here.

mod attention;
mod builder;
mod linear;
mod ops;
mod self_test;

pub(crate) use self_test::{extremes, formats};

use intact_core::certify::Certified;
use intact_core::cpu::{Batch, Cpu, Pool, Token};
use intact_core::executor::{Executor, Fault};
use intact_core::formats::Format;
use intact_core::kernels::reference;
use intact_core::matrix::Activation;
use intact_core::storage::heap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A program with the tokens that it runs on.
pub struct Program {
    /// `linear/FORMAT/ACTIVATION`, `ops/NAME` or `attention/NAME`.
    pub name: String,
    /// The program.
    pub model: Arc<Certified>,
    /// Positions of a cache page.
    pub page: usize,
    /// One after the other, the tokens that make a batch.
    batches: Vec<usize>,
    tokens: Vec<Token>,
    tables: Vec<Vec<u32>>,
}

/// Makes a program when its turn comes: all of them together are large.
pub type Make = Box<dyn Fn() -> Program>;

/// Every program by its name.
#[must_use]
pub fn programs() -> BTreeMap<String, Make> {
    let mut all: BTreeMap<String, Make> = BTreeMap::new();
    for format in Format::all() {
        for activation in [Activation::A8, Activation::A8b { cap: 1 }, Activation::A16] {
            let name = format!("linear/{format}/{}", activation.name());
            all.insert(name.clone(), Box::new(move || linear::program(name.clone(), format, activation)));
            if format.block == 128 {
                let name = format!("linear-long/{format}/{}", activation.name());
                all.insert(name.clone(), Box::new(move || linear::long(name.clone(), format, activation)));
            }
        }
    }
    for (name, make) in ops::ALL {
        for f in [8, 12, 20] {
            let name = format!("ops/{name}/F{f}");
            all.insert(name.clone(), Box::new(move || make(name.clone(), f)));
        }
    }
    for (name, shape) in attention::ALL {
        let name = format!("attention/{name}");
        all.insert(name.clone(), Box::new(move || attention::program(name.clone(), shape)));
    }
    all
}

/// A slot after an op: which op it was, the slot, and the values of all tokens so far.
struct Write {
    slot: String,
    values: Vec<i32>,
}

/// What a program gave: every slot write, and the logits.
#[derive(Default)]
struct Outcome {
    writes: Vec<Write>,
    logits: Vec<i32>,
}

impl Program {
    /// A model on two sequences in turns, whose tokens are any that it has.
    pub(crate) fn of_model(name: String, model: Arc<Certified>) -> Self {
        let vocabulary = model.model().vocabulary as u32;
        let token = |i: u32| Token {
            id: (i * i + 31) % vocabulary,
            sequence: i % 2,
            position: i / 2,
            logits: !i.is_multiple_of(3),
        };
        let (tokens, tables) = ((0..45).map(token).collect(), vec![vec![4, 1, 2], vec![0, 5, 3]]);
        Self { name, model, page: 8, batches: vec![1, 3, 7, 34], tokens, tables }
    }

    /// What `executor` computes otherwise than the reference, first with every op by itself and then with all of them
    /// at once: the first difference.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn difference(&self, executor: &mut dyn Executor) -> Result<Option<String>, Fault> {
        let pool = Arc::new(Pool::new(1));
        let mut cpu = Cpu::new(Arc::clone(&self.model), &reference::KERNELS, pool, self.page, heap);
        let expected = self.run(&mut cpu, &[self.tokens.len()], true)?;
        for batches in [&[self.tokens.len()], self.batches.as_slice()] {
            let found = self.run(executor, batches, true)?;
            if let Some(problem) = self.compare(&expected, &found) {
                return Ok(Some(format!("batches of {batches:?} tokens: {problem}")));
            }
            let found = self.run(executor, batches, false)?;
            if let Some(at) = differs(&expected.logits, &found.logits) {
                let logit = describe(at, self.model.model().vocabulary, &expected.logits, &found.logits);
                return Ok(Some(format!("batches of {batches:?} tokens, all ops at once: logits, {logit}")));
            }
        }
        Ok(None)
    }

    fn run(&self, executor: &mut dyn Executor, batches: &[usize], probed: bool) -> Result<Outcome, Fault> {
        executor.reserve(self.tables.iter().map(Vec::len).sum())?;
        let tables: Vec<&[u32]> = self.tables.iter().map(Vec::as_slice).collect();
        let (mut outcome, mut rest) = (Outcome::default(), self.tokens.as_slice());
        for &count in batches {
            let (tokens, later) = rest.split_at(count);
            let (batch, mut index) = (Batch { tokens, tables: &tables }, 0);
            let mut see = |slot: &str, values: &[i32]| {
                if index == outcome.writes.len() {
                    outcome.writes.push(Write { slot: slot.to_owned(), values: Vec::new() });
                }
                outcome.writes[index].values.extend_from_slice(values);
                index += 1;
            };
            executor.forward(&batch, &mut outcome.logits, if probed { Some(&mut see) } else { None })?;
            rest = later;
        }
        Ok(outcome)
    }

    fn compare(&self, expected: &Outcome, found: &Outcome) -> Option<String> {
        let model = self.model.model();
        let mut ops = model.body.iter().chain(&model.head).flat_map(|op| vec![op.name(); op.writes().len()]);
        for (i, write) in expected.writes.iter().enumerate() {
            let op = ops.next().unwrap_or("nothing");
            let values = found.writes.get(i).map_or(&[][..], |write| &write.values);
            if let Some(at) = differs(&write.values, values) {
                let width =
                    model.slots.iter().position(|name| *name == write.slot).map_or(1, |s| self.model.widths()[s]);
                let value = describe(at, width, &write.values, values);
                return Some(format!("{op} to {}, {value}", write.slot));
            }
        }
        differs(&expected.logits, &found.logits)
            .map(|at| format!("logits, {}", describe(at, model.vocabulary, &expected.logits, &found.logits)))
    }
}

fn differs(expected: &[i32], found: &[i32]) -> Option<usize> {
    let same = expected.iter().zip(found).position(|(expected, found)| expected != found);
    same.or_else(|| (expected.len() != found.len()).then(|| expected.len().min(found.len())))
}

fn describe(at: usize, width: usize, expected: &[i32], found: &[i32]) -> String {
    let value = |values: &[i32]| values.get(at).map_or("missing".to_owned(), i32::to_string);
    let width = width.max(1);
    let (found, expected) = (value(found), value(expected));
    format!("token {}, element {}: {found}, and {expected} is right", at / width, at % width)
}
