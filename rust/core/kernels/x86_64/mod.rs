//! x86-64 sets.

pub(super) mod avx2;
mod avx512_attention;
mod avx512_math;
mod avx512_ops;
pub(super) mod avx512vnni;
mod codes;
mod dot;
mod lanes;
mod scales;
mod tile;
mod wide;
