//! Weight formats (docs/FORMATS.md): a payload that stores codes, and a scale mode that gives them their size.
//!
//! A payload is one file here and one line in [`PAYLOADS`]; tests, fuzzing, benches and `intact kernels` take the
//! list from there.

mod n4;
mod t16;
mod t20;
mod trellis;
mod u2;
mod u3;
mod u4;
mod u5;
mod u6;
mod u8;
mod w16;

use crate::storage::read_u32;
use core::fmt;

pub use n4::DEFAULT_TABLE as N4_DEFAULT_TABLE;
pub use trellis::{TABLE as TRELLIS_TABLE, pair as trellis_pair};

/// Columns of one group: what kernels decode at a time, and what rows are padded to.
pub const GROUP: usize = 32;
/// Rows of one tile.
pub const TILE: usize = 16;

/// How codes lie in dwords, and what they mean.
pub trait Payload: Sync {
    /// The name that begins a format's name.
    fn name(&self) -> &'static str;
    /// Which payload this is, for kernels that decode it themselves.
    fn kind(&self) -> PayloadKind;
    /// Dwords of a row of `groups` groups; `None` where they exceed the address space.
    fn row_words(&self, groups: usize) -> Option<usize>;
    /// The largest unpacked code; the least is 0.
    fn max_code(&self) -> i32;
    /// The codes of one group of a row, in column order.
    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]);
    /// The words of a row from the stored codes of its groups: what [`Payload::unpack`] gives, except that a trellis
    /// stores one symbol per pair of columns, in the even one; the other is 0.
    fn pack(&self, codes: &[i16], words: &mut [u32]);
    /// The largest code that [`Payload::pack`] takes for a column.
    fn max_stored(&self, column: usize) -> i32 {
        let _ = column;
        self.max_code()
    }
    /// The level of a code: its weight in units of the block scale, for the modes without a stored offset.
    fn level(&self, code: i16, table: &[i8; 16]) -> i32;
    /// The scale modes that this payload takes.
    fn modes(&self) -> &'static [ScaleMode];
    /// Whether a file may contain this code.
    fn valid(&self, code: i16) -> bool {
        let _ = code;
        true
    }
    /// Whether every code of some payload bytes is valid, those of padding included.
    fn all_valid(&self, payload: &[u8]) -> bool {
        let _ = payload;
        true
    }
    /// Whether a code indexes the matrix's table.
    fn has_table(&self) -> bool {
        false
    }
}

/// The payload words of one row: a column of dwords in its tile.
#[derive(Clone, Copy)]
pub struct RowWords<'a> {
    tile: &'a [u8],
    row: usize,
}

impl<'a> RowWords<'a> {
    /// Row `row` < 16 of the tile whose payload is `tile`.
    #[must_use]
    pub fn new(tile: &'a [u8], row: usize) -> Self {
        Self { tile, row }
    }

    /// Word `i`.
    ///
    /// # Panics
    /// Beyond the end of the tile.
    #[must_use]
    pub fn word(self, i: usize) -> u32 {
        read_u32(self.tile, i * TILE + self.row)
    }

    /// The words of a group of payloads that have `N` for each.
    fn group<const N: usize>(self, group: usize) -> [u32; N] {
        core::array::from_fn(|i| self.word(group * N + i))
    }
}

/// The groups of a row with the `N` words of each.
fn groups<'a, const N: usize>(
    codes: &'a [i16], words: &'a mut [u32],
) -> impl Iterator<Item = (&'a [i16; GROUP], &'a mut [u32; N])> {
    codes.as_chunks().0.iter().zip(words.as_chunks_mut().0)
}

/// Every payload, by a name that code can match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Ternary codes, five to a byte.
    T16,
    /// Ternary codes of 2 bits.
    T20,
    /// A trellis of as many bits per pair of columns, 2…8.
    Trellis(u32),
    /// 2-bit uniform codes.
    U2,
    /// 3-bit uniform codes.
    U3,
    /// 4-bit uniform codes.
    U4,
    /// 5-bit uniform codes.
    U5,
    /// 6-bit uniform codes.
    U6,
    /// 8-bit uniform codes.
    U8,
    /// 4-bit indices into a table of levels.
    N4,
    /// 16-bit integers, scaled per row only.
    W16,
}

/// The registry of payloads.
pub static PAYLOADS: [&dyn Payload; 17] = [
    &t16::T16,
    &t20::T20,
    &u2::U2,
    &u3::U3,
    &u4::U4,
    &u5::U5,
    &u6::U6,
    &u8::U8,
    &n4::N4,
    &trellis::P10,
    &trellis::P15,
    &trellis::P20,
    &trellis::P25,
    &trellis::P30,
    &trellis::P35,
    &trellis::P40,
    &w16::W16,
];

/// How a block of codes is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleMode {
    /// Per row only: the block scale is 1.
    R,
    /// A scale of 0…15 per block.
    B4,
    /// A scale of -255…255 per block: magnitude byte and sign bit.
    B8,
    /// A scale of 0…255 and an i16 offset per block.
    Z8,
}

impl ScaleMode {
    /// The name within a format's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::R => "r",
            Self::B4 => "b4",
            Self::B8 => "b8",
            Self::Z8 => "z8",
        }
    }
}

/// A weight format: payload, scale mode and block length.
#[derive(Clone, Copy)]
pub struct Format {
    /// How codes are stored.
    pub payload: &'static dyn Payload,
    /// How blocks are scaled.
    pub mode: ScaleMode,
    /// Columns per scale: 16, 32, 64 or 128 (32 where the mode has no block scales).
    pub block: usize,
}

/// The block length that a format's name leaves out.
pub const DEFAULT_BLOCK: usize = 32;

impl Format {
    /// Every combination of payload, mode and block length that exists.
    pub fn all() -> impl Iterator<Item = Self> {
        PAYLOADS.iter().flat_map(|&payload| {
            payload.modes().iter().flat_map(move |&mode| {
                let blocks: &[usize] = if mode == ScaleMode::R { &[DEFAULT_BLOCK] } else { &[16, 32, 64, 128] };
                blocks.iter().map(move |&block| Self { payload, mode, block })
            })
        })
    }

    /// The format of that name, such as `U4z8` or `U6b8/16`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut buffer = NameBuffer::default();
        Self::all().find(|format| buffer.render(format) == name)
    }

    /// Blocks per row for `columns` columns.
    #[must_use]
    pub fn blocks(&self, columns: usize) -> usize {
        (columns.div_ceil(GROUP) * GROUP).div_ceil(self.block)
    }

    /// Bytes of the scale plane of one tile of so many blocks per row.
    #[must_use]
    pub fn tile_scales(&self, blocks: usize) -> usize {
        match self.mode {
            ScaleMode::R => 0,
            ScaleMode::B4 => blocks.div_ceil(2) * TILE,
            ScaleMode::B8 | ScaleMode::Z8 => blocks * TILE,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.payload.name())?;
        f.write_str(self.mode.name())?;
        if self.block != DEFAULT_BLOCK {
            write!(f, "/{}", self.block)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.payload.kind() == other.payload.kind() && self.mode == other.mode && self.block == other.block
    }
}

/// Room for a format's name, so that parsing allocates nothing.
#[derive(Default)]
struct NameBuffer {
    bytes: [u8; 16],
    len: usize,
}

impl NameBuffer {
    fn render(&mut self, format: &Format) -> &str {
        self.len = 0;
        // A name that did not fit would be cut and match nothing; the longest is `P10b4/128`.
        let _ = fmt::write(self, format_args!("{format}"));
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl fmt::Write for NameBuffer {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// The bits of 32 codes that lie in the nibbles of four words: word i, byte c, low nibble is column 4i + c, high
/// nibble column 16 + 4i + c.
fn unpack_nibbles(words: &[u32], codes: &mut [i16; GROUP]) {
    for (i, word) in words.iter().enumerate() {
        for (c, byte) in word.to_le_bytes().into_iter().enumerate() {
            codes[4 * i + c] = i16::from(byte & 15);
            codes[16 + 4 * i + c] = i16::from(byte >> 4);
        }
    }
}

fn pack_nibbles(codes: &[i16; GROUP], words: &mut [u32]) {
    for (i, word) in words.iter_mut().enumerate() {
        *word = u32::from_le_bytes(core::array::from_fn(|c| {
            (codes[4 * i + c] & 15) as u8 | ((codes[16 + 4 * i + c] & 15) as u8) << 4
        }));
    }
}

/// One bit of 32 codes: byte c, bit j is column 4j + c.
fn unpack_bit(word: u32, bit: u32, codes: &mut [i16; GROUP]) {
    for (column, code) in codes.iter_mut().enumerate() {
        *code |= (((word >> (8 * (column % 4) + column / 4)) & 1) << bit) as i16;
    }
}

fn pack_bit(codes: &[i16; GROUP], bit: u32) -> u32 {
    codes
        .iter()
        .enumerate()
        .fold(0, |word, (column, &code)| word | ((code as u32 >> bit) & 1) << (8 * (column % 4) + column / 4))
}

/// Two bits of 32 codes in two words: word i, byte c, bits 2p and 2p + 1 are column 8p + 4i + c.
fn unpack_pairs(words: &[u32], bit: u32, codes: &mut [i16; GROUP]) {
    for (column, code) in codes.iter_mut().enumerate() {
        let (p, i, c) = (column / 8, column / 4 % 2, column % 4);
        *code |= (((words[i] >> (8 * c + 2 * p)) & 3) << bit) as i16;
    }
}

fn pack_pairs(codes: &[i16; GROUP], bit: u32, words: &mut [u32]) {
    words.fill(0);
    for (column, &code) in codes.iter().enumerate() {
        let (p, i, c) = (column / 8, column / 4 % 2, column % 4);
        words[i] |= ((code as u32 >> bit) & 3) << (8 * c + 2 * p);
    }
}
