//! Quantized inputs of linear layers: the stored form of `dynquant` and `blockscale` for a batch of tokens.

use crate::cpu::Disjoint;
use crate::fixed::{amax, blockscale, dynquant_factor, dynscale, requant};
use crate::formats::GROUP;
use crate::matrix::Activation;
use crate::storage::AlignedBytes;
use alloc::vec::Vec;
use core::ops::Range;

/// Columns are padded to this, so that kernels may take blocks in pairs.
pub const PAD: usize = 64;
/// Bytes between the codes of one token and the next: without them, tokens of 4096 bytes, say, would all want the same
/// lines of a cache.
const SKEW: usize = 64;
/// Columns per partial sum, the shortest block of any weight format.
pub const RUN: usize = 16;

/// Quantized vectors of several tokens. Planes are i8: the codes (A8, A8b), or high and low halves (A16).
#[derive(Default)]
pub struct Activations {
    shape: Option<Shape>,
    tokens: usize,
    planes: AlignedBytes,
    wide: Vec<i16>,
    sums: Vec<i16>,
    scales: Vec<i32>,
    d: Vec<i32>,
    t: Vec<i32>,
}

/// What all tokens of a batch share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The mode.
    pub activation: Activation,
    /// Columns before padding.
    pub columns: usize,
}

impl Shape {
    /// Columns after padding with zeros.
    #[inline(always)]
    #[must_use]
    pub fn padded(self) -> usize {
        self.columns.next_multiple_of(PAD)
    }

    /// Codes per token in i16: those of A16.
    #[inline(always)]
    fn wide(self) -> usize {
        if self.activation == Activation::A16 { self.padded() } else { 0 }
    }

    /// i16 from one token's codes to the next's.
    #[inline(always)]
    fn wide_stride(self) -> usize {
        if self.activation == Activation::A16 { self.padded() + SKEW / 2 } else { 0 }
    }

    /// Bytes from one token's planes to the next's.
    #[inline(always)]
    fn stride(self) -> usize {
        self.planes() * self.padded() + SKEW
    }

    /// Planes per token: 2 in A16, else 1.
    #[inline(always)]
    #[must_use]
    pub fn planes(self) -> usize {
        if self.activation == Activation::A16 { 2 } else { 1 }
    }
}

/// One token's quantized vector.
#[derive(Clone, Copy)]
pub struct TokenCodes<'a> {
    /// Plane after plane, each padded: codes, or high then low halves.
    pub planes: &'a [i8],
    /// A16: the codes whole, as the halves are of them; else empty.
    pub wide: &'a [i16],
    /// Sums of 16 codes, plane after plane: at most 2^11, and two neighbours to a dword for kernels.
    pub sums: &'a [i16],
    /// A8b: the integer scale of each 32 columns.
    pub scales: &'a [i32],
    /// Scale d of `dynquant`.
    pub d: i32,
    /// Shift t of `dynquant`.
    pub t: i32,
}

/// Some columns of one plane of a token, as in [`TokenCodes`]; the codes are i8.
pub struct Section<'a> {
    /// Codes, i8.
    pub codes: &'a [u8],
    /// Sums of 16 codes.
    pub sums: &'a [i16],
    /// A8b: scales of 32 columns.
    pub scales: &'a [i32],
}

/// A [`TokenCodes`] to be filled in.
pub struct TokenCodesMut<'a> {
    /// As in [`TokenCodes`].
    pub planes: &'a mut [i8],
    /// As in [`TokenCodes`].
    pub wide: &'a mut [i16],
    /// As in [`TokenCodes`].
    pub sums: &'a mut [i16],
    /// As in [`TokenCodes`].
    pub scales: &'a mut [i32],
    /// As in [`TokenCodes`].
    pub d: &'a mut i32,
    /// As in [`TokenCodes`].
    pub t: &'a mut i32,
}

impl Activations {
    /// Makes room for `tokens` vectors; their content is stale until quantized.
    pub fn reset(&mut self, activation: Activation, columns: usize, tokens: usize) {
        let shape = Shape { activation, columns };
        let (padded, planes) = (shape.padded(), shape.planes());
        self.shape = Some(shape);
        self.tokens = tokens;
        self.planes.resize(tokens * shape.stride());
        self.wide.resize(tokens * shape.wide_stride(), 0);
        self.sums.resize(tokens * planes * padded / RUN, 0);
        self.scales.resize(tokens * padded / GROUP, 0);
        self.d.resize(tokens, 0);
        self.t.resize(tokens, 0);
    }

    /// Mode and columns of the current content.
    #[inline(always)]
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape.unwrap_or(Shape { activation: Activation::A8, columns: 0 })
    }

    /// Tokens held.
    #[inline(always)]
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The vector of one token.
    #[inline(always)]
    #[must_use]
    pub fn token(&self, token: usize) -> TokenCodes<'_> {
        let shape = self.shape();
        let (padded, planes) = (shape.padded(), shape.planes());
        let bytes = &self.planes.as_slice()[token * shape.stride()..][..planes * padded];
        // SAFETY: i8 and u8 have the same size, alignment and valid values.
        let codes = unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast::<i8>(), bytes.len()) };
        TokenCodes {
            planes: codes,
            wide: &self.wide[token * shape.wide_stride()..][..shape.wide()],
            sums: &self.sums[token * planes * padded / RUN..][..planes * padded / RUN],
            scales: &self.scales[token * padded / GROUP..][..padded / GROUP],
            d: self.d[token],
            t: self.t[token],
        }
    }

    /// What `shape`, which is that of all tokens, has of plane `plane` of one in the columns of `groups`: less than
    /// [`Self::token`], for kernels that ask once for each tile.
    #[inline(always)]
    #[must_use]
    pub fn section(&self, shape: Shape, token: usize, plane: usize, groups: &Range<usize>) -> Section<'_> {
        let (first, count) = (groups.start, groups.len());
        let padded = shape.padded();
        Section {
            codes: &self.planes.as_slice()[token * shape.stride() + plane * padded + first * GROUP..][..count * GROUP],
            sums: &self.sums[((token * shape.planes() + plane) * padded + first * GROUP) / RUN..]
                [..count * (GROUP / RUN)],
            scales: &self.scales[token * padded / GROUP + first..][..count],
        }
    }

    /// The whole codes of one token in A16, in the columns of `groups`.
    #[inline(always)]
    #[must_use]
    pub fn wide_section(&self, shape: Shape, token: usize, groups: &Range<usize>) -> &[i16] {
        &self.wide[token * shape.wide_stride() + groups.start * GROUP..][..groups.len() * GROUP]
    }

    /// d and t of some tokens.
    #[inline(always)]
    #[must_use]
    pub fn scales(&self, tokens: Range<usize>) -> (&[i32], &[i32]) {
        (&self.d[tokens.clone()], &self.t[tokens])
    }

    /// Access to the vectors of all tokens, to be filled in from several threads.
    pub(crate) fn writer(&mut self) -> TokenWriter {
        let shape = self.shape();
        TokenWriter {
            shape,
            planes: Disjoint::new(self.planes.as_mut_slice()),
            wide: Disjoint::new(&mut self.wide),
            sums: Disjoint::new(&mut self.sums),
            scales: Disjoint::new(&mut self.scales),
            d: Disjoint::new(&mut self.d),
            t: Disjoint::new(&mut self.t),
        }
    }

    /// Quantizes token `token` with the reference.
    pub fn quantize(&mut self, token: usize, x: &[i32]) {
        self.quantize_with(quantize, token, x);
    }

    /// Quantizes token `token` with the quantize slot of a kernel set.
    pub fn quantize_with(&mut self, kernel: Quantize, token: usize, x: &[i32]) {
        let activation = self.shape().activation;
        let writer = self.writer();
        // SAFETY: `self` is borrowed exclusively for as long as the one writer lives.
        kernel(x, activation, unsafe { writer.token(token) });
    }
}

/// The type of the quantize slot.
pub type Quantize = fn(x: &[i32], activation: Activation, out: TokenCodesMut<'_>);

/// Hands out the vectors of single tokens.
pub(crate) struct TokenWriter {
    shape: Shape,
    planes: Disjoint<u8>,
    wide: Disjoint<i16>,
    sums: Disjoint<i16>,
    scales: Disjoint<i32>,
    d: Disjoint<i32>,
    t: Disjoint<i32>,
}

impl TokenWriter {
    /// The vector of one token.
    ///
    /// # Safety
    /// The activations outlive the use, and a token is handed out once at a time.
    pub(crate) unsafe fn token(&self, token: usize) -> TokenCodesMut<'_> {
        let (padded, planes) = (self.shape.padded(), self.shape.planes());
        // SAFETY: tokens have disjoint ranges in every buffer; i8 and u8 agree in size, alignment and valid values.
        unsafe {
            let bytes = self.planes.part(token * self.shape.stride(), planes * padded);
            TokenCodesMut {
                planes: core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()),
                wide: self.wide.part(token * self.shape.wide_stride(), self.shape.wide()),
                sums: self.sums.part(token * planes * padded / RUN, planes * padded / RUN),
                scales: self.scales.part(token * padded / GROUP, padded / GROUP),
                d: &mut self.d.part(token, 1)[0],
                t: &mut self.t.part(token, 1)[0],
            }
        }
    }
}

/// The reference of the quantize slot: `dynquant`, then the stored form of the mode.
#[inline(always)]
pub fn quantize(x: &[i32], activation: Activation, out: TokenCodesMut<'_>) {
    let (d, t) = dynscale(amax(x), activation.xmax());
    let (factor, shift) = (dynquant_factor(d), 24 + t as i32);
    *out.d = d as i32;
    *out.t = t as i32;
    let padded = out.scales.len() * GROUP;
    match activation {
        Activation::A8 => {
            for (code, &x) in out.planes.iter_mut().zip(x) {
                *code = requant(x, factor, shift) as i8;
            }
            out.planes[x.len()..].fill(0);
        }
        Activation::A8b { .. } => {
            out.planes.fill(0);
            out.scales.fill(1);
            let mut q = [0; GROUP];
            for ((x, codes), scale) in x.chunks(GROUP).zip(out.planes.chunks_exact_mut(GROUP)).zip(out.scales) {
                for (q, &x) in q.iter_mut().zip(x) {
                    *q = requant(x, factor, shift);
                }
                *scale = blockscale(&q[..x.len()], &mut codes[..x.len()]) as i32;
            }
        }
        Activation::A16 => {
            let (high, low) = out.planes.split_at_mut(padded);
            for (((&x, wide), high), low) in x.iter().zip(out.wide.iter_mut()).zip(high.iter_mut()).zip(low.iter_mut())
            {
                let q = requant(x, factor, shift);
                *wide = q as i16;
                *high = ((q + 128) >> 8) as i8;
                *low = (q as i16).wrapping_sub(i16::from(*high) << 8) as i8;
            }
            out.wide[x.len()..].fill(0);
            high[x.len()..].fill(0);
            low[x.len()..].fill(0);
        }
    }
    for (sum, run) in out.sums.iter_mut().zip(out.planes.chunks_exact(RUN)) {
        *sum = run.iter().map(|&c| i16::from(c)).sum();
    }
}
