//! x86-64 sets.

#[macro_use]
mod compiled_reference;

mod avx2;
mod avx512_attention;
mod avx512_bytes;
mod avx512_math;
mod avx512_ops;
mod avx512_panel;
mod avx512_trellis;
mod avx512vnni;
mod avxvnni;
mod sse41;

use super::{KernelSet, reference};

/// Sets of this family, slowest first.
pub(super) const SETS: &[KernelSet] = &[reference::SET, sse41::SET, avx2::SET, avxvnni::SET, avx512vnni::SET];
