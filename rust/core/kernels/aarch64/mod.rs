//! AArch64 sets.

mod neon;
mod neon_attention;
mod neon_dotprod;
mod neon_i8mm;
mod neon_math;
mod neon_ops;

use super::{KernelSet, reference};

/// Sets of this family, slowest first.
pub(super) const SETS: &[KernelSet] = &[reference::SET, neon::SET, neon_dotprod::SET, neon_i8mm::SET];
