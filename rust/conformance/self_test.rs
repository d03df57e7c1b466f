//! The self-test of an executor: small programs, in which every operation, payload, scale mode and activation occurs and
//! values reach their extremes, give what the reference gives, in every slot after every operation.
//!
//! It is for a device that is used for the first time: a driver that computes something else is named, before a token
//! is wrong. It takes seconds where all programs of the suite take minutes.

use crate::Machine;
use crate::models::load;
use crate::programs::{self, Program};
use intact_core::certify::Certified;
use intact_core::cpu::Pool;
use intact_core::executor::Executor;
use intact_core::kernels::reference;
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

/// How much is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every operation at its extremes, and every payload in one mode.
    Brief,
    /// Every payload in every mode too, and some tiny models.
    Full,
}

/// Runs the self-test; returns how many programs were equal.
///
/// # Errors
/// The first program that differs.
pub fn run(depth: Depth, make: Make<'_>) -> Result<usize, Failure> {
    let machine = Machine { kernels: &reference::KERNELS, pool: Arc::new(Pool::new(1)) };
    let mut all = vec![programs::extremes(), programs::formats(depth)];
    if depth == Depth::Full {
        for name in MODELS {
            let case = format!("models/{name}");
            let loaded = load(name, &machine).map_err(|problem| Failure { case: case.clone(), problem })?;
            all.push(Program::of_model(case, loaded.certified));
        }
    }
    for program in &all {
        let fail = |problem: String| Failure { case: program.name.clone(), problem };
        let mut executor = make(Arc::clone(&program.model), program.page).map_err(fail)?;
        let difference = program.difference(&mut *executor).map_err(|fault| fail(fault.to_string()))?;
        difference.map_or(Ok(()), |problem| Err(fail(problem)))?;
    }
    Ok(all.len())
}
