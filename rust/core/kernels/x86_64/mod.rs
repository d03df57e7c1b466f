//! x86-64 sets.

pub(super) mod avx2;
pub(super) mod avx512vnni;
mod codes;
mod dot;
mod lanes;
mod tile;
mod wide;
