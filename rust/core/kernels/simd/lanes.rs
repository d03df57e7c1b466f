//! The vector operations that the dot kernels are written in.

use super::codes::Codes;
use super::dot::Input;
use super::scales::Scales;
use super::staged::Spread;
use super::tile::{Tile, Tokens};
use crate::kernels::Sums;

/// An instruction set. A line is a vector of 32-bit lanes, each of one row; what treats it as bytes or i16 says so.
///
/// # Safety
/// Every function needs the instructions of its set. Pointers are read for as many bytes as the function says.
pub(in crate::kernels) trait Lanes: Sized {
    /// A vector.
    type Line: Copy;
    /// Rows of one line: 16, or a divisor of it.
    const ROWS: usize;
    /// Whether [`Lanes::dot`] takes codes above 127 as signed bytes, code minus 128, instead of unsigned ones.
    const SIGNED: bool;

    /// All bits 0.
    unsafe fn zero() -> Self::Line;
    /// `v` in every lane.
    unsafe fn splat(v: i32) -> Self::Line;
    /// `v` in every i16.
    unsafe fn splat16(v: i16) -> Self::Line;
    /// `v` in every byte.
    unsafe fn splat8(v: u8) -> Self::Line;
    /// The line at `p`.
    unsafe fn load(p: *const u8) -> Self::Line;
    /// A byte per row from `p`, as i32.
    unsafe fn load_bytes(p: *const u8) -> Self::Line;
    /// The lanes, first row first, at `p`.
    unsafe fn store(v: Self::Line, p: *mut i32);
    /// Asks for the cache line at `p`, any address: where the set can say so for the second-level cache, which waits for
    /// more lines at once than the first does.
    unsafe fn prefetch(p: *const u8);

    /// Bitwise and.
    unsafe fn and(a: Self::Line, b: Self::Line) -> Self::Line;
    /// Bitwise or.
    unsafe fn or(a: Self::Line, b: Self::Line) -> Self::Line;
    /// Bitwise exclusive or.
    unsafe fn xor(a: Self::Line, b: Self::Line) -> Self::Line;
    /// i16 shifted left.
    unsafe fn shl16<const N: u32>(a: Self::Line) -> Self::Line;
    /// u16 shifted right.
    unsafe fn shr16<const N: u32>(a: Self::Line) -> Self::Line;
    /// i32 shifted left by `n` < 32.
    unsafe fn shl32(a: Self::Line, n: u32) -> Self::Line;
    /// u32 shifted right by `n` < 32.
    unsafe fn shr32(a: Self::Line, n: u32) -> Self::Line;
    /// Table lookup with byte indices below 16.
    unsafe fn lookup(table: Self::Line, index: Self::Line) -> Self::Line;
    /// A table for [`Lanes::lookup`].
    unsafe fn table(entries: &[u8; 16]) -> Self::Line;

    /// i32 sum, wrapping.
    unsafe fn add(a: Self::Line, b: Self::Line) -> Self::Line;
    /// i32 product, wrapping.
    unsafe fn mul(a: Self::Line, b: Self::Line) -> Self::Line;
    /// i32 shifted right, arithmetic.
    unsafe fn sar<const N: u32>(a: Self::Line) -> Self::Line;
    /// i16 sum, wrapping.
    unsafe fn add16(a: Self::Line, b: Self::Line) -> Self::Line;
    /// i16 product, wrapping.
    unsafe fn mul16(a: Self::Line, b: Self::Line) -> Self::Line;
    /// i16 product over 2^15, rounded half up, of factors of which one is not -2^15.
    unsafe fn mul_rounded16(a: Self::Line, b: Self::Line) -> Self::Line;
    /// The i32 lanes whose bit of `rows` is set, negated.
    unsafe fn negate(v: Self::Line, rows: u32) -> Self::Line;
    /// Each lane's low i16, in both halves.
    unsafe fn low_twice(v: Self::Line) -> Self::Line;
    /// Each lane's high i16, in both halves.
    unsafe fn high_twice(v: Self::Line) -> Self::Line;
    /// The low i16 of `low` and, above it, that of `high`.
    unsafe fn join(low: Self::Line, high: Self::Line) -> Self::Line;

    /// The low i16 of `low` and the high i16 of `high`.
    unsafe fn merge(low: Self::Line, high: Self::Line) -> Self::Line;

    /// `acc + a.low · b.low + a.high · b.high` in i16 halves, wrapping, for a `b` that is the same in every lane.
    unsafe fn pairs(acc: Self::Line, a: Self::Line, b: Self::Line) -> Self::Line;
    /// The products of the codes of steps `from..from + N` with the `4 · N` bytes at `x`, added up.
    unsafe fn dot<P: Codes, const N: usize>(codes: &[Self::Line; 8], from: usize, x: *const i8) -> Self::Line;

    /// The sums of many tokens by way of weights that are decoded once for all of them, where the set has a kernel for
    /// so many in this mode and these weights allow it; `false` where not, and `out` means nothing.
    unsafe fn panel<P: Codes, S: Scales, I: Input>(_tile: &Tile<'_>, _tokens: &Tokens<'_>, _out: &mut Sums) -> bool {
        false
    }

    /// [`Spread`], where the set has a way of its own for the payload; `false` where not.
    unsafe fn spread(_spread: &Spread<'_>) -> bool {
        false
    }

    /// Runs `job` with the instructions enabled.
    unsafe fn run<J: Job>(job: J);
}

/// Work that is written over lanes.
pub(in crate::kernels) trait Job {
    /// Does it; to be inlined where the instructions of `L` are enabled.
    ///
    /// # Safety
    /// As for [`Lanes`], and what the job asks for.
    unsafe fn run<L: Lanes>(self);
}
