//! x86-64 sets.

mod avx2;
mod avx512_attention;
mod avx512_math;
mod avx512_ops;
mod avx512_panel;
mod avx512vnni;

use super::{KernelSet, reference};

/// Sets of this family, slowest first.
pub(super) const SETS: &[KernelSet] = &[reference::SET, avx2::SET, avx512vnni::SET];
