//! The dot kernel of payloads up to 8 bits, written once for every payload, scale mode, activation and number of
//! tokens (docs/FORMATS.md, section 5).
//!
//! Every mode has one form. With `dot = sum u·q` over a block, `X` the sum of `q` over 16 columns and `z` the offset
//! (minus the zero level times the scale, where none is stored), a group adds `s·dot + z·X + z'·X'`.

use super::codes::{self, Codes};
use super::lanes::{Job, Lanes};
use super::scales::{B4, B8, GroupScale, Part, R, Scales, Z8, zero_level};
use super::staged::{Stage, Staged};
use super::tile::{Tile, Tokens};
use super::unrolled;
use super::wide::Wide;
use crate::activations::{Activations, RUN};
use crate::formats::{GROUP, PayloadKind, ScaleMode, TILE};
use crate::kernels::Sums;
use crate::matrix::{Activation, Matrix};
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::null;

/// Groups whose products fit an i32 accumulator in A8 and A16.
pub(in crate::kernels) const SECTION: usize = 512 / GROUP;

/// An activation mode.
pub(in crate::kernels) trait Input {
    /// i8 planes per token.
    const PLANES: usize;
    /// Whether each 32 columns have a scale.
    const SCALED: bool;
    /// Groups whose exact sum fits i32 (rule 2.3).
    const CHUNK: usize;
}

/// A8.
pub(super) struct A8;
/// A8b.
pub(super) struct A8b;
/// A16.
pub(super) struct A16;

impl Input for A8 {
    const PLANES: usize = 1;
    const SCALED: bool = false;
    const CHUNK: usize = SECTION;
}
impl Input for A8b {
    const PLANES: usize = 1;
    const SCALED: bool = true;
    const CHUNK: usize = 128 / GROUP;
}
impl Input for A16 {
    const PLANES: usize = 2;
    const SCALED: bool = false;
    const CHUNK: usize = SECTION;
}

/// A sum of i32 terms that may leave i32, in two parts: `low` wraps, `high` counts 2^16.
#[derive(Clone, Copy)]
struct Total<V> {
    low: V,
    high: V,
}

impl<V: Copy> Total<V> {
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn zero<L: Lanes<Line = V>>() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self { low: L::zero(), high: L::zero() } }
    }

    /// Adds `v`, fewer than 2^15 times.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn add<L: Lanes<Line = V>>(&mut self, v: V) {
        // SAFETY: the caller's promise.
        unsafe {
            self.low = L::add(self.low, v);
            self.high = L::add(self.high, L::sar::<16>(v));
        }
    }

    /// The sums, a row each.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn sums<L: Lanes<Line = V>>(self) -> [i64; TILE] {
        let (mut low, mut high, mut sums) = ([0; TILE], [0; TILE], [0; TILE]);
        // SAFETY: the caller's promise; a line has at most 16 lanes.
        unsafe {
            L::store(self.low, low.as_mut_ptr());
            L::store(self.high, high.as_mut_ptr());
        }
        for (i, sum) in sums[..L::ROWS].iter_mut().enumerate() {
            // What the terms have below 2^16 adds up to less than 2^31, so its low 32 bits are all of it.
            let rest = (low[i] as u32).wrapping_sub((high[i] as u32) << 16);
            *sum = (i64::from(high[i]) << 16) + i64::from(rest);
        }
        sums
    }
}

/// i32 sums of the planes of `T` tokens.
pub(in crate::kernels) type Accumulators<V, const T: usize> = [[V; 2]; T];

/// Sums of the planes of `T` tokens over all columns.
pub(in crate::kernels) struct Totals<V, const T: usize>([[Total<V>; 2]; T]);

impl<V: Copy, const T: usize> Totals<V, T> {
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    pub(in crate::kernels) unsafe fn zero<L: Lanes<Line = V>>() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self([[Total::zero::<L>(); 2]; T]) }
    }

    /// Adds the sums of one chunk.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    pub(in crate::kernels) unsafe fn add<L: Lanes<Line = V>, I: Input>(&mut self, chunk: &Accumulators<V, T>) {
        unrolled!(J < T, {
            let mut plane = 0;
            while plane < I::PLANES {
                // SAFETY: the caller's promise.
                unsafe { self.0[J][plane].add::<L>(chunk[J][plane]) };
                plane += 1;
            }
        });
    }

    /// Writes the sums of the line that begins with row `row`, for every token of `out`.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    pub(in crate::kernels) unsafe fn store<L: Lanes<Line = V>, I: Input>(&self, row: usize, out: &mut Sums) {
        for (out, planes) in out.iter_mut().zip(&self.0) {
            // SAFETY: the caller's promise.
            let (first, last) = unsafe { (planes[0].sums::<L>(), planes[I::PLANES - 1].sums::<L>()) };
            for (i, out) in out[row..row + L::ROWS].iter_mut().enumerate() {
                // Of two planes the first holds the high halves, of 256 each.
                *out = if I::PLANES == 2 { (first[i] << 8) + last[i] } else { first[i] };
            }
        }
    }
}

/// Where the codes, scales and sums of `T` tokens are; where there are fewer, the last stands in for the others.
struct Inputs<const T: usize> {
    padded: usize,
    codes: [*const i8; T],
    scales: [*const i32; T],
    sums: [*const i16; T],
}

impl<const T: usize> Inputs<T> {
    #[inline(always)]
    fn new(tokens: &Tokens<'_>, count: usize) -> Self {
        assert!(0 < count && count <= T);
        let (mut codes, mut scales, mut sums) = ([null(); T], [null(); T], [null(); T]);
        let mut j = 0;
        while j < T {
            let token = tokens.get(j.min(count - 1));
            (codes[j], scales[j], sums[j]) = (token.planes.as_ptr(), token.scales.as_ptr(), token.sums.as_ptr());
            j += 1;
        }
        Self { padded: tokens.padded(), codes, scales, sums }
    }
}

/// What a kernel for one tile is given: the tokens of `out` are its tokens.
pub(super) struct Call<'a> {
    pub(super) tile: &'a Tile<'a>,
    pub(super) tokens: Tokens<'a>,
    pub(super) out: &'a mut Sums,
}

/// The kernel of payload `P` in mode `S` with activations `I`, for at most `T` tokens, `T` of which it computes.
struct Narrow<'a, P, S, I, const T: usize>(Call<'a>, PhantomData<(P, S, I)>);

impl<P: Codes, S: Scales, I: Input, const T: usize> Job for Narrow<'_, P, S, I, T> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Call { tile, tokens, out } = self.0;
        let x = Inputs::<T>::new(&tokens, out.len());
        // SAFETY: the caller's promise; groups are below `tile.groups`.
        unsafe {
            let table = L::table(&tile.table_bytes(L::SIGNED));
            let mut stage = Stage::new();
            let mut row = 0;
            while row < TILE {
                let part = Part { tile, row };
                let mut totals = Totals::<L::Line, T>::zero::<L>();
                let mut group = 0;
                while group < tile.groups {
                    let end = tile.groups.min(group + I::CHUNK);
                    stage.fill::<L, P>(part, group..end);
                    let chunk = chunk_dot::<L, P, S, I, T>(part, group..end, &stage, table, &x);
                    totals.add::<L, I>(&chunk);
                    group = end;
                }
                totals.store::<L, I>(row, out);
                row += L::ROWS;
            }
        }
    }
}

/// Sums over the groups `groups`, whose codes are in `stage` where `P` is staged.
///
/// # Safety
/// As for [`Job::run`].
#[inline(always)]
unsafe fn chunk_dot<L: Lanes, P: Codes, S: Scales, I: Input, const T: usize>(
    part: Part<'_>, groups: Range<usize>, stage: &Stage<L::Line>, table: L::Line, x: &Inputs<T>,
) -> Accumulators<L::Line, T> {
    // SAFETY: the caller's promise; columns of a group are below `x.padded`.
    unsafe {
        let mut acc = [[L::zero(); 2]; T];
        let mut group = groups.start;
        let mut asked = part.asked_from(group);
        while group < groups.end {
            if group == asked {
                asked += part.tile.passes;
                part.prefetch::<L, P, S>(group);
            }
            let codes = P::steps::<L>(stage.words::<P>(part, group), table);
            let scale = S::group::<L, P>(part, group);
            unrolled!(J < T, {
                let mut plane = 0;
                while plane < I::PLANES {
                    let q = x.codes[J].add(plane * x.padded + group * GROUP);
                    let sums = x.sums[J].add((plane * x.padded + group * GROUP) / RUN);
                    let sum = L::splat(sums.cast::<i32>().read_unaligned());
                    let a = acc[J][plane];
                    acc[J][plane] = if I::SCALED {
                        let v = add_group::<L, P, S>(L::zero(), &codes, &scale, sum, q);
                        L::add(a, L::mul(v, L::splat(*x.scales[J].add(group))))
                    } else {
                        add_group::<L, P, S>(a, &codes, &scale, sum, q)
                    };
                    plane += 1;
                }
            });
            group += 1;
        }
        acc
    }
}

/// `acc` plus what one group contributes for the codes at `q`, whose sums of 16 columns are the halves of `sum`.
///
/// # Safety
/// As for [`Lanes`]; 32 codes are readable at `q`.
#[inline(always)]
unsafe fn add_group<L: Lanes, P: Codes, S: Scales>(
    acc: L::Line, codes: &[L::Line; 8], scale: &GroupScale<L::Line>, sum: L::Line, q: *const i8,
) -> L::Line {
    // SAFETY: the caller's promise.
    unsafe {
        let acc = if S::OFFSET || zero_level::<L, P>() != 0 { L::pairs(acc, scale.z, sum) } else { acc };
        if S::HALVES {
            let first = L::dot::<P, 4>(codes, 0, q);
            let second = L::dot::<P, 4>(codes, 4, q.add(RUN));
            L::add(L::add(acc, L::mul(scale.s[0], first)), L::mul(scale.s[1], second))
        } else if S::SCALED {
            L::add(acc, L::mul(scale.s[0], L::dot::<P, 8>(codes, 0, q)))
        } else {
            // A sum of its own, so that the next group need not wait for the end of this one.
            L::add(acc, L::dot::<P, 8>(codes, 0, q))
        }
    }
}

/// The dot slot.
///
/// # Safety
/// As for [`Lanes`].
pub(in crate::kernels) unsafe fn dot<L: Lanes>(
    matrix: &Matrix, tile: usize, x: &Activations, tokens: Range<usize>, sums: &mut Sums,
) {
    let mode = (matrix.format.mode, matrix.format.block < GROUP);
    let sums = &mut sums[..tokens.len()];
    let call = Call { tile: &Tile::new(matrix, tile), tokens: Tokens::new(matrix, x, tokens), out: sums };
    // SAFETY: the caller's promise; the tile and its input have just been checked.
    unsafe {
        match matrix.format.payload.kind() {
            PayloadKind::T20 => by_mode::<L, codes::T20>(call, mode),
            PayloadKind::U4 => by_mode::<L, codes::U4>(call, mode),
            PayloadKind::U5 => by_mode::<L, codes::U5>(call, mode),
            PayloadKind::U6 => by_mode::<L, codes::U6>(call, mode),
            PayloadKind::U8 => by_mode::<L, codes::U8>(call, mode),
            PayloadKind::N4 => by_mode::<L, codes::N4>(call, mode),
            PayloadKind::T16 | PayloadKind::U2 | PayloadKind::U3 | PayloadKind::Trellis(_) => {
                by_mode::<L, Staged>(call, mode);
            }
            PayloadKind::W16 => match call.tokens.activation() {
                Activation::A8 => run(call, [wide::<L, A8, 1>, wide::<L, A8, BLOCK>]),
                Activation::A8b { .. } => run(call, [wide::<L, A8b, 1>, wide::<L, A8b, BLOCK>]),
                Activation::A16 => run(call, [wide::<L, A16, 1>, wide::<L, A16, BLOCK>]),
            },
        }
    }
}

/// # Safety
/// As for [`dot`].
unsafe fn by_mode<L: Lanes, P: Codes>(call: Call<'_>, mode: (ScaleMode, bool)) {
    // SAFETY: the caller's promise.
    unsafe {
        match mode {
            (ScaleMode::R, _) => by_activation::<L, P, R>(call),
            (ScaleMode::B4, false) if P::NIBBLES => by_activation::<L, P, B4<false>>(call),
            (ScaleMode::B4, true) if P::NIBBLES => by_activation::<L, P, B4<true>>(call),
            (ScaleMode::B8, false) => by_activation::<L, P, B8<false>>(call),
            (ScaleMode::B8, true) => by_activation::<L, P, B8<true>>(call),
            (ScaleMode::Z8, false) if P::OFFSET => by_activation::<L, P, Z8<false>>(call),
            (ScaleMode::Z8, true) if P::OFFSET => by_activation::<L, P, Z8<true>>(call),
            (ScaleMode::B4 | ScaleMode::Z8, _) => panic!("a payload without mode {}", mode.0.name()),
        }
    }
}

/// # Safety
/// As for [`dot`].
unsafe fn by_activation<L: Lanes, P: Codes, S: Scales>(call: Call<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match call.tokens.activation() {
            Activation::A8 => by_tokens::<L, P, S, A8>(call),
            Activation::A8b { .. } => by_tokens::<L, P, S, A8b>(call),
            Activation::A16 => by_tokens::<L, P, S, A16>(call),
        }
    }
}

/// # Safety
/// As for [`dot`].
unsafe fn by_tokens<L: Lanes, P: Codes, S: Scales, I: Input>(call: Call<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        if !L::panel::<P, S, I>(call.tile, &call.tokens, call.out) {
            run(call, [narrow::<L, P, S, I, 1>, narrow::<L, P, S, I, BLOCK>]);
        }
    }
}

/// # Safety
/// As for [`dot`].
unsafe fn narrow<L: Lanes, P: Codes, S: Scales, I: Input, const T: usize>(call: Call<'_>) {
    // SAFETY: the caller's promise.
    unsafe { L::run(Narrow::<P, S, I, T>(call, PhantomData)) }
}

/// The dot slot for one token and a payload that [`dot`] would spread to a stage first.
///
/// # Safety
/// As for [`Lanes::panel`], and the tile's payload is `P`.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "AVX-512 alone decodes such payloads for one token"))]
pub(in crate::kernels) unsafe fn unstaged<L: Lanes, P: Codes, S: Scales, I: Input>(
    tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut Sums,
) {
    // SAFETY: the caller's promise.
    unsafe { narrow::<L, P, S, I, 1>(Call { tile, tokens, out }) }
}

/// # Safety
/// As for [`dot`].
unsafe fn wide<L: Lanes, I: Input, const T: usize>(call: Call<'_>) {
    // SAFETY: the caller's promise.
    unsafe { L::run(Wide::<I, T>(call, PhantomData)) }
}

/// Tokens that share the decoding of a group; the sums of both planes of more do not fit the registers of any set.
const BLOCK: usize = 4;

/// Runs `one` on a single token, `block` on more, [`BLOCK`] at a time.
///
/// # Safety
/// As for [`dot`].
unsafe fn run(call: Call<'_>, [one, block]: [unsafe fn(Call<'_>); 2]) {
    let passes = call.out.len().div_ceil(BLOCK);
    for (pass, out) in call.out.chunks_mut(BLOCK).enumerate() {
        let kernel = if out.len() == 1 { one } else { block };
        let tile = &call.tile.in_passes(pass, passes);
        // SAFETY: the caller's promise.
        unsafe { kernel(Call { tile, tokens: call.tokens.skip(pass * BLOCK), out }) }
    }
}
