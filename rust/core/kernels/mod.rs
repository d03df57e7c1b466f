//! Kernel sets: faster ways to the integers of the reference.
//!
//! A set fills the slots of [`Kernels`] that it has something for and takes the rest from the reference. A new
//! instruction set is one file and its line in the `SETS` of its CPU family; tests, benches and `intact kernels` take
//! the list from [`SETS`].

#[cfg(all(target_arch = "aarch64", feature = "std"))]
mod aarch64;
pub mod reference;
#[cfg(any(
    all(any(target_arch = "aarch64", target_arch = "x86_64"), feature = "std"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod simd;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm32;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

use crate::activations::{Activations, TokenCodesMut};
use crate::formats::TILE;
use crate::matrix::{Activation, Matrix};
use crate::ops::attention::{Query, Run, Scoring, Scratch};
use crate::ops::gated::Gate;
use crate::ops::rms_norm::RmsNorm;
use alloc::vec::Vec;
use core::ops::Range;

/// Exact sums of one tile for several tokens, one array of 16 rows per token.
pub type Sums = [[i64; TILE]];

/// One tile of a matrix with the tokens `tokens` of `x`: `sums[i]` belongs to token `tokens.start + i`.
pub type Dot = fn(matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums);

/// The per-row constants of a tile, as stored.
#[derive(Clone, Copy)]
pub struct RowConstants<'a> {
    /// 16 row words, 0 for the rows that the matrix does not have.
    pub rows: &'a [u8],
    /// Biases of the rows that it has, i32 each.
    pub bias: Option<&'a [u8]>,
    /// The contract's pre-shift.
    pub preshift: u8,
}

/// Outputs of several tokens from their sums of a tile and their d and t. Outputs of rows that the matrix does not have
/// mean nothing.
pub type Finish = fn(sums: &Sums, d: &[i32], t: &[i32], rows: RowConstants<'_>, out: &mut [[i32; TILE]]);

/// 3.3 for queries of one KV head, in three steps. Between them, [`Scratch::meet`] and [`Scratch::add`] join parts of
/// the positions that were taken by themselves.
#[derive(Clone, Copy)]
pub struct Attend {
    /// l, and the largest of what each query sees.
    pub scores: fn(&[Query<'_>], &[Run<'_>], &Scoring, fraction_bits: u32, &mut Scratch),
    /// The sums over positions, of the same queries and runs.
    pub sums: fn(&[Query<'_>], &[Run<'_>], &mut Scratch),
    /// Outputs, query after query.
    pub outputs: fn(&Scoring, &Scratch, out: &mut [i32]),
}

impl Attend {
    /// All of it, over positions in one part.
    pub fn run(
        &self, queries: &[Query<'_>], runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch,
        out: &mut [i32],
    ) {
        (self.scores)(queries, runs, scoring, fraction_bits, scratch);
        (self.sums)(queries, runs, scratch);
        (self.outputs)(scoring, scratch, out);
    }
}

/// Everything that an instruction set may do in its own way.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Name for masks, logs and tests.
    pub name: &'static str,
    /// Linear layers: exact sums.
    pub dot: Dot,
    /// Linear layers: outputs.
    pub finish: Finish,
    /// Linear layers: `dynquant` and the stored form of the mode.
    pub quantize: fn(x: &[i32], activation: Activation, out: TokenCodesMut<'_>),
    /// P4, in place.
    pub rms_norm: fn(x: &mut [i32], gain: &[i16], norm: &RmsNorm, fraction_bits: u32),
    /// 3.4, in place of `gate`.
    pub gated_activation: fn(kind: Gate, gate: &mut [i32], up: &[i32], fraction_bits: u32),
    /// Attention.
    pub attention: Attend,
}

/// A set with the test of whether this machine can run it.
pub struct KernelSet {
    /// The slots.
    pub kernels: Kernels,
    /// Whether this machine has the instructions.
    pub available: fn() -> bool,
    /// What it needs, for people.
    pub needs: &'static str,
}

/// Every set of this build, slowest first.
#[cfg(all(target_arch = "aarch64", feature = "std"))]
pub static SETS: &[KernelSet] = aarch64::SETS;
/// Every set of this build, slowest first.
#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub static SETS: &[KernelSet] = x86_64::SETS;
/// Every set of this build, slowest first.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub static SETS: &[KernelSet] = wasm32::SETS;
/// Every set of this build, slowest first.
#[cfg(not(any(
    all(any(target_arch = "aarch64", target_arch = "x86_64"), feature = "std"),
    all(target_arch = "wasm32", target_feature = "simd128")
)))]
pub static SETS: &[KernelSet] = &[reference::SET];

impl Kernels {
    /// The sets that this machine can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<&'static Kernels> {
        SETS.iter().filter(|set| (set.available)()).map(|set| &set.kernels).collect()
    }

    /// The fastest set that this machine can run, or the one called `name`; `None` where it cannot run that.
    #[must_use]
    pub fn choose(name: Option<&str>) -> Option<&'static Kernels> {
        Self::available().into_iter().rfind(|kernels| name.is_none_or(|name| kernels.name == name))
    }
}
