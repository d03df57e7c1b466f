//! A row of a quantized source as integer codes and block scales.
//!
//! Every source stores `weight = scale · level(code) + offset` or `weight = scale · (code − zero)`. Scales have at most
//! 24 bits and codes at most 8, and where there is an offset the two terms are multiples of 2^-24 below 2^28, so
//! [`Blocks::weight`] is the exact weight in f64.

/// The 16 levels of IQ4_NL.
pub const IQ4_NL_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The 16 levels of MXFP4 and NVFP4: twice the values of the 4-bit float E2M1.
pub const FP4_LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The length of a block that is its whole row.
pub const WHOLE_ROW: usize = usize::MAX;

/// What a code stands for, in units of its block's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// `code − zero`.
    Linear {
        /// The code of level 0: 0 where blocks have offsets or zero points, otherwise the middle of the range.
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

/// What a block has beside its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Nothing.
    None,
    /// A real offset, which is added.
    Offset,
    /// The integer code of weight 0.
    ZeroPoint,
}

/// How fine scales are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// Reals of 11 or more bits.
    Real,
    /// Floats of at most 4 significant bits.
    Minifloat,
}

/// How a quantized source spends its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Columns that share a scale, or [`WHOLE_ROW`].
    pub block: usize,
    /// Bits of a code, 2..=8.
    pub bits: u32,
    /// What a code stands for.
    pub levels: Levels,
    /// What a block has beside its scale.
    pub shift: Shift,
    /// How fine the scales are.
    pub scales: Scales,
}

impl Grid {
    /// Codes of levels around the code `zero` under real scales alone.
    #[must_use]
    pub fn symmetric(block: usize, bits: u32, zero: u8) -> Self {
        Self { block, bits, levels: Levels::Linear { zero }, shift: Shift::None, scales: Scales::Real }
    }

    /// Whether codes are −1, 0 and 1.
    #[must_use]
    pub fn is_ternary(&self) -> bool {
        self.bits == 2 && self.levels == Levels::Linear { zero: 1 }
    }
}

/// One row in its source's own codes: `weight[k] = scale[b] · level(codes[k]) + offset[b]`, or
/// `scale[b] · (codes[k] − zero[b])` where blocks have zero points; `b = k / grid.block`.
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
    /// One zero point per block, 0 ..= 2^bits; empty where the grid has none.
    pub zero: Vec<i16>,
}

/// An empty row, to be filled by [`super::Tensor::row_blocks`].
impl Default for Blocks {
    fn default() -> Self {
        let grid = Grid::symmetric(32, 4, 8);
        Self { grid, codes: Vec::new(), scale: Vec::new(), offset: Vec::new(), zero: Vec::new() }
    }
}

impl Blocks {
    /// The exact weight of column `k`, which must be less than `codes.len()`.
    pub fn weight(&self, k: usize) -> f64 {
        let block = k / self.grid.block;
        if let Some(&zero) = self.zero.get(block) {
            return self.scale[block] * f64::from(i16::from(self.codes[k]) - zero);
        }
        let scaled = self.scale[block] * f64::from(self.grid.levels.level(self.codes[k]));
        // Without an offset nothing is added: a zero level under a negative scale stays −0, as in ggml.
        self.offset.get(block).map_or(scaled, |offset| scaled + offset)
    }

    /// Empties the row.
    pub(super) fn clear(&mut self) {
        self.codes.clear();
        self.scale.clear();
        self.offset.clear();
        self.zero.clear();
    }

    /// Whether all scales and offsets are finite.
    pub(super) fn is_finite(&self) -> bool {
        self.scale.iter().chain(&self.offset).all(|value| value.is_finite())
    }
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
