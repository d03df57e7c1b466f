//! The conformance suite (docs/CONFORMANCE.md): every primitive, operation, weight format and tiny model, on every
//! back end that the machine has. A case computes results; its digest is SHA-256 over them, each as compact JSON and a
//! newline. Published digests are part of the program.

mod convert;
mod domains;
pub mod fills;
mod formats;
pub mod kernels;
mod models;
mod ops;
mod primitives;
pub mod programs;
pub mod receipts;
pub mod report;
pub mod self_test;
pub mod vectors;

use intact::model::sha256_hex;
use intact_core::cpu::Pool;
use intact_core::kernels::Kernels;
use serde_json::Value;
use std::sync::Arc;

/// Where a case runs.
#[derive(Clone)]
pub struct Machine {
    /// The back end.
    pub kernels: &'static Kernels,
    /// Threads for whole models and conversions.
    pub pool: Arc<Pool>,
}

/// One result.
pub struct Line {
    /// What it was computed from, for people.
    pub at: String,
    /// The result.
    pub result: Value,
    /// What the vectors give, where they give it in full.
    pub published: Option<Value>,
}

impl Line {
    /// A result of which only the digest of all is published.
    fn new(at: impl Into<String>, result: Value) -> Self {
        Self { at: at.into(), result, published: None }
    }

    /// A result with what it must be.
    fn with(at: impl Into<String>, result: Value, published: Value) -> Self {
        Self { at: at.into(), result, published: Some(published) }
    }
}

/// Results of a case, or why it cannot run here.
type Results = Result<Vec<Line>, String>;

/// A case of the suite.
pub struct Case {
    /// `family/name`.
    pub name: String,
    run: Box<dyn Fn(&Machine) -> Results + Send + Sync>,
}

impl Case {
    fn new(name: impl Into<String>, run: impl Fn(&Machine) -> Results + Send + Sync + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }

    /// Runs it and compares with what is published for it.
    #[must_use]
    pub fn check(&self, machine: &Machine, published: Option<&str>) -> Outcome {
        let lines = match (self.run)(machine) {
            Ok(lines) => lines,
            Err(reason) => return Outcome::Skipped(reason),
        };
        let text: String = lines.iter().map(|line| format!("{}\n", line.result)).collect();
        let digest = sha256_hex(text.as_bytes());
        let wrong =
            lines.iter().find(|line| line.published.as_ref().is_some_and(|published| *published != line.result));
        let problem = match (wrong, published) {
            (Some(Line { at, result, published: Some(published) }), _) => {
                Some(format!("{at}: {result}, published is {published}"))
            }
            (_, None) => Some("no digest is published".to_owned()),
            (_, Some(published)) if published != digest => Some(format!("its digest, published is {published}")),
            _ => None,
        };
        Outcome::Ran { digest, problem }
    }
}

/// What became of a case.
pub enum Outcome {
    /// It ran.
    Ran {
        /// Its digest.
        digest: String,
        /// What differs from what is published, if anything.
        problem: Option<String>,
    },
    /// It cannot run here, with the reason.
    Skipped(String),
}

/// Every case, in order of name.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = [
        primitives::cases(),
        ops::cases(),
        domains::cases(),
        formats::cases(),
        kernels::cases(),
        models::cases(),
        convert::cases(),
        receipts::cases(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// One case for each name of a file of calls: `compute` gives the result for a name and its arguments.
fn calls(family: &'static str, file: &'static str, compute: fn(&str, &Value, &Kernels) -> Value) -> Vec<Case> {
    let cases = vectors::object(file).into_iter().map(|(name, calls)| {
        Case::new(format!("{family}/{name}"), move |machine| {
            let line = |call: &Value| {
                let result = compute(&name, &call["args"], machine.kernels);
                Line::with(call["args"].to_string(), result, call["result"].clone())
            };
            Ok(vectors::list(&calls).iter().map(line).collect())
        })
    });
    cases.collect()
}
