//! x86-64 sets.

#[macro_use]
mod compiled_reference;

mod avx2;
mod avx512_attention;
mod avx512_bytes;
mod avx512_few;
mod avx512_math;
mod avx512_one;
mod avx512_ops;
mod avx512_panel;
mod avx512_trellis;
mod avx512vnni;
mod avxvnni;
mod sse41;

use super::{KernelSet, reference};

/// Sets of this family, slowest first.
pub(super) const SETS: &[KernelSet] = &[reference::SET, sse41::SET, avx2::SET, avxvnni::SET, avx512vnni::SET];

/// Asks for the cache line at `p`, any address, for the second-level cache.
///
/// # Safety
/// The machine has SSE.
#[inline(always)]
unsafe fn prefetch(p: *const u8) {
    use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch may name any address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
}
