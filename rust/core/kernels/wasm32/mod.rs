//! WebAssembly sets: what a program was compiled for, since it cannot ask what it runs on.

mod simd128;

use super::{KernelSet, reference};

/// Sets of this family, slowest first.
pub(super) const SETS: &[KernelSet] = &[reference::SET, simd128::SET];
