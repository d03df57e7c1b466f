//! ggml's block types: a row as integer codes and block scales.
//!
//! Every type stores `weight = scale · level(code) + offset`. With 11-bit scales, sub-scales of at most 8 bits and
//! codes of at most 8, each of the two terms is exact in f64, and so is their sum: all are multiples of 2^-24 below
//! 2^28. [`Blocks::weight`] is therefore the exact weight, and rounding it once to f32 gives what ggml's
//! `dequantize_row_*` gives, in which every operation but the last is exact too.
use super::tensor::DType;

/// The 16 levels of IQ4_NL.
pub const IQ4_NL_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What a code stands for, in units of its block's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// `code − zero`.
    Linear {
        /// The code of level 0: 0 where the type stores an offset, half the range where it does not.
        zero: u8,
    },
    /// `table[code]`.
    Table(&'static [i8; 16]),
}

impl Levels {
    /// The level of `code`, −128..=255.
    pub fn level(self, code: u8) -> i32 {
        match self {
            Self::Linear { zero } => i32::from(code) - i32::from(zero),
            Self::Table(table) => i32::from(table[usize::from(code & 15)]),
        }
    }
}

/// How a quantized type spends its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Columns that share a scale: 16 or 32.
    pub block: usize,
    /// Bits of a code: 4, 5, 6 or 8.
    pub bits: u32,
    /// What a code stands for.
    pub levels: Levels,
    /// Whether blocks have an offset.
    pub offset: bool,
}

/// One row in its source's own codes: `weight[k] = scale[b] · level(codes[k]) + offset[b]`, `b = k / grid.block`.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// The meaning of the codes.
    pub grid: Grid,
    /// One code per column, 0 .. 2^bits − 1.
    pub codes: Vec<u8>,
    /// One scale per block, of either sign, exact and finite.
    pub scale: Vec<f64>,
    /// One offset per block, exact and finite; empty where the grid has none.
    pub offset: Vec<f64>,
}

/// An empty row, to be filled by [`super::Tensor::row_blocks`].
impl Default for Blocks {
    fn default() -> Self {
        let grid = Grid { block: 32, bits: 4, levels: Levels::Linear { zero: 8 }, offset: false };
        Self { grid, codes: Vec::new(), scale: Vec::new(), offset: Vec::new() }
    }
}

impl Blocks {
    /// The exact weight of column `k`, which must be less than `codes.len()`.
    pub fn weight(&self, k: usize) -> f64 {
        let block = k / self.grid.block;
        let scaled = self.scale[block] * f64::from(self.grid.levels.level(self.codes[k]));
        // Without an offset nothing is added: a zero level under a negative scale stays −0, as in ggml.
        self.offset.get(block).map_or(scaled, |offset| scaled + offset)
    }

    /// Whether all scales and offsets are finite.
    pub(super) fn is_finite(&self) -> bool {
        self.scale.iter().chain(&self.offset).all(|value| value.is_finite())
    }

    /// Replaces codes, scales and offsets by those of a row of type `dtype`, whose grid is `self.grid`.
    pub(super) fn decode(&mut self, dtype: DType, row: &[u8]) {
        self.codes.clear();
        self.scale.clear();
        self.offset.clear();
        for block in row.chunks_exact(dtype.block_bytes()) {
            match dtype {
                DType::F32 | DType::F16 | DType::BF16 => {}
                DType::Q4_0 | DType::IQ4_NL => {
                    self.scale.push(half(block, 0));
                    self.nibbles(&block[2..18]);
                }
                DType::Q4_1 => {
                    self.scale.push(half(block, 0));
                    self.offset.push(half(block, 2));
                    self.nibbles(&block[4..20]);
                }
                DType::Q5_0 => {
                    self.scale.push(half(block, 0));
                    self.nibbles(&block[6..22]);
                    self.fifth_bits(&block[2..6]);
                }
                DType::Q5_1 => {
                    self.scale.push(half(block, 0));
                    self.offset.push(half(block, 2));
                    self.nibbles(&block[8..24]);
                    self.fifth_bits(&block[4..8]);
                }
                DType::Q8_0 => {
                    self.scale.push(half(block, 0));
                    self.codes.extend(block[2..34].iter().map(|&q| q ^ 0x80));
                }
                DType::Q4_K => {
                    self.sub_scales(block);
                    block[16..144].chunks_exact(32).for_each(|part| self.nibbles(part));
                }
                DType::Q5_K => {
                    self.sub_scales(block);
                    let begin = self.codes.len();
                    block[48..176].chunks_exact(32).for_each(|part| self.nibbles(part));
                    for (k, code) in self.codes[begin..].iter_mut().enumerate() {
                        *code |= (block[16 + k % 32] >> (k / 32) & 1) << 4;
                    }
                }
                DType::Q6_K => self.q6_k(block),
            }
        }
    }

    /// Two codes a byte: the low nibbles in order, then the high ones.
    fn nibbles(&mut self, bytes: &[u8]) {
        self.codes.extend(bytes.iter().map(|byte| byte & 15));
        self.codes.extend(bytes.iter().map(|byte| byte >> 4));
    }

    /// Bit k of the four bytes is bit 4 of code k of the last 32.
    fn fifth_bits(&mut self, bytes: &[u8]) {
        let begin = self.codes.len() - 32;
        for (k, code) in self.codes[begin..].iter_mut().enumerate() {
            *code |= (bytes[k / 8] >> (k % 8) & 1) << 4;
        }
    }

    /// The eight scales and offsets at the head of a Q4_K or Q5_K block: two halves, then 6-bit factors in 12 bytes.
    fn sub_scales(&mut self, block: &[u8]) {
        let (d, dmin, packed) = (half(block, 0), half(block, 2), &block[4..16]);
        for s in 0..8 {
            let (scale, min) = if s < 4 {
                (packed[s] & 63, packed[s + 4] & 63)
            } else {
                (packed[s + 4] & 15 | packed[s - 4] >> 6 << 4, packed[s + 4] >> 4 | packed[s] >> 6 << 4)
            };
            self.scale.push(d * f64::from(scale));
            self.offset.push(-(dmin * f64::from(min)));
        }
    }

    /// 256 codes of 6 bits: low nibbles in 128 bytes, high pairs in 64; 16 signed scales; one half.
    fn q6_k(&mut self, block: &[u8]) {
        let d = half(block, 208);
        self.scale.extend(block[192..208].iter().map(|&scale| d * f64::from(scale.cast_signed())));
        for (low, high) in block[..128].chunks_exact(64).zip(block[128..192].chunks_exact(32)) {
            self.codes.extend((0..128).map(|k| {
                let nibble = low[k % 64] >> (k / 64 * 4) & 15;
                let pair = high[k % 32] >> (k / 32 * 2) & 3;
                nibble | pair << 4
            }));
        }
    }
}

/// The IEEE half at byte `at`, exactly.
fn half(bytes: &[u8], at: usize) -> f64 {
    f64::from(f32_from_half(u16::from_le_bytes([bytes[at], bytes[at + 1]])))
}

/// An IEEE half as an f32, exactly; NaN stays NaN.
pub(super) fn f32_from_half(bits: u16) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 10 & 31), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        // No subnormal f32 takes part, so a host that flushes them changes nothing.
        0 => fraction as f32 * (1.0 / 16_777_216.0),
        31 => f32::from_bits(0x7f80_0000 | fraction << 13),
        _ => f32::from_bits((exponent + 127 - 15) << 23 | fraction << 13),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}
