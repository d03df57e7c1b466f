//! Contents for matrices and vectors: the extremes that the contract allows, and random ones from a seed.

use intact_core::activations::Activations;
use intact_core::bounds::Magnitudes;
use intact_core::formats::{Format, GROUP, N4_DEFAULT_TABLE, PayloadKind, ScaleMode, TILE};
use intact_core::matrix::{Activation, Matrix, PlaneSizes, Planes, RowScale};
use intact_core::storage::{AlignedBytes, Plane};

/// SplitMix64: the same numbers on every machine.
pub struct Rng(u64);

impl Rng {
    /// Numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// An integer of `least..=most`.
    pub fn between(&mut self, least: i64, most: i64) -> i64 {
        let offset = u128::from(self.bits()) % (i128::from(most) - i128::from(least) + 1) as u128;
        (i128::from(least) + offset as i128) as i64
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[(self.bits() % items.len() as u64) as usize]
    }

    /// An integer of `least..=most` whose magnitude is small as often as large.
    pub fn spread(&mut self, least: i64, most: i64) -> i64 {
        let bits = self.between(0, 62);
        (self.between(least, most) >> bits).clamp(least, most)
    }
}

/// How values are chosen within their range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The least value throughout.
    Least,
    /// The largest value throughout.
    Most,
    /// Least and largest in turn.
    Alternating,
    /// Least, largest, or what lies around zero.
    Edges,
    /// Anything.
    Random,
    /// Anything of the middle thirty-second, as most weights of real models are.
    Central,
}

impl Fill {
    /// Every fill of the suite's own cases.
    pub const ALL: [Self; 5] = [Self::Least, Self::Most, Self::Alternating, Self::Edges, Self::Random];

    /// Value number `i` within `least..=most`.
    pub fn value(self, i: usize, least: i64, most: i64, rng: &mut Rng) -> i64 {
        match self {
            Self::Least => least,
            Self::Most => most,
            Self::Alternating => [least, most][i % 2],
            Self::Edges => {
                let near = rng.between(-1, 1).clamp(least, most);
                rng.pick(&[least, most, near])
            }
            Self::Random => rng.between(least, most),
            Self::Central => {
                let (middle, reach) = ((least + most) / 2, (most - least) / 64);
                rng.between((middle - reach).max(least), (middle + reach + 1).min(most))
            }
        }
    }
}

/// A matrix within every rule of its format. Rows of padding and columns beyond the matrix hold random bytes.
/// `cap` of A8b is the largest that rule 2.3 allows.
pub fn matrix(
    format: Format, activation: Activation, [rows, columns]: [usize; 2], fill: Fill, rng: &mut Rng,
) -> Matrix {
    let sizes = PlaneSizes::of(&format, rows, columns).expect("a small matrix");
    let mut noise = |len: usize| {
        let mut bytes = AlignedBytes::zeroed(len.next_multiple_of(64));
        bytes.as_mut_slice()[..len].fill_with(|| rng.bits() as u8);
        bytes
    };
    let (mut payload, mut scale, mut sign, mut offset) =
        (noise(sizes.payload), noise(sizes.scale), noise(sizes.sign), noise(sizes.offset));
    let mut row_words = noise(sizes.row);
    let mut bias = AlignedBytes::zeroed((rows * 4).next_multiple_of(64));
    let mut table = N4_DEFAULT_TABLE;
    if format.payload.has_table() && fill != Fill::Random {
        for (i, level) in table.iter_mut().enumerate() {
            *level = fill.value(i, -127, 127, rng) as i8;
        }
    }
    for row in 0..rows {
        fill_codes(&format, payload.as_mut_slice(), [row, columns], fill, rng);
        fill_scales(
            &format,
            [scale.as_mut_slice(), sign.as_mut_slice(), offset.as_mut_slice()],
            [row, columns],
            fill,
            rng,
        );
        let constants = RowScale { m: rng.between(1 << 22, (1 << 23) - 1) as i32, shift: rng.between(0, 127) as i32 };
        row_words.as_mut_slice()[4 * row..][..4].copy_from_slice(&constants.word().to_le_bytes());
        let bias_word = rng.spread(i32::MIN.into(), i32::MAX.into()) as i32;
        bias.as_mut_slice()[4 * row..][..4].copy_from_slice(&bias_word.to_le_bytes());
    }
    let present = |mode: bool, bytes: AlignedBytes| mode.then(|| Plane::from(bytes));
    let mut matrix = Matrix {
        name: format!("{format} {rows}x{columns} {fill:?}"),
        rows,
        columns,
        format,
        table,
        activation,
        preshift: 0,
        planes: Planes {
            payload: payload.into(),
            scale: present(format.mode != ScaleMode::R, scale),
            sign: present(format.mode == ScaleMode::B8, sign),
            offset: present(format.mode == ScaleMode::Z8, offset),
            row: row_words.into(),
            bias: Some(bias.into()),
            embedding_row: None,
        },
    };
    let magnitudes = Magnitudes::measure(&matrix, 0..rows);
    if let Activation::A8b { .. } = activation {
        let cap = (1..=255).rev().find(|&cap| magnitudes.allows_cap(cap)).expect("127 · 128 · 32767 < 2^31");
        matrix.activation = Activation::A8b { cap };
    }
    matrix.preshift = magnitudes.preshift(matrix.activation);
    matrix
}

fn fill_codes(format: &Format, payload: &mut [u8], [row, columns]: [usize; 2], fill: Fill, rng: &mut Rng) {
    let stored = format.payload;
    let (tile, r, groups) = (row / TILE, row % TILE, columns.div_ceil(GROUP));
    let code = |column: usize| {
        let largest = i64::from(stored.max_stored(column));
        let least = match stored.kind() {
            PayloadKind::W16 => -largest,
            _ => i64::from(!stored.valid(0)),
        };
        if column >= columns {
            // Any bits that fit the room of a code.
            let room = (largest as u64 + 1).next_power_of_two().wrapping_sub(1) as i16;
            let code = rng.bits() as i16 & room;
            // Digits of a byte of T16 are no fields of bits.
            if stored.kind() == PayloadKind::T16 { code.min(2) } else { code }
        } else {
            fill.value(column % GROUP, least, largest, rng) as i16
        }
    };
    let codes: Vec<i16> = (0..groups * GROUP).map(code).collect();
    let mut words = vec![0; stored.row_words(groups).expect("a small matrix")];
    stored.pack(&codes, &mut words);
    for (i, word) in words.iter().enumerate() {
        let at = ((tile * words.len() + i) * TILE + r) * 4;
        payload[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
}

fn fill_scales(
    format: &Format, [scale, sign, offset]: [&mut [u8]; 3], [row, columns]: [usize; 2], fill: Fill, rng: &mut Rng,
) {
    let (tile, r, blocks) = (row / TILE, row % TILE, format.blocks(columns));
    for block in 0..blocks {
        let at = tile * blocks + block;
        match format.mode {
            ScaleMode::R => {}
            ScaleMode::B4 => {
                let s = fill.value(block, 0, 15, rng) as u8;
                let byte = &mut scale[(tile * blocks.div_ceil(2) + block / 2) * TILE + r];
                *byte = *byte & !(15 << (4 * (block % 2))) | s << (4 * (block % 2));
            }
            ScaleMode::B8 => {
                let s = fill.value(block, -255, 255, rng);
                scale[at * TILE + r] = s.unsigned_abs() as u8;
                let byte = &mut sign[at * 2 + r / 8];
                *byte = *byte & !(1 << (r % 8)) | u8::from(s < 0) << (r % 8);
            }
            ScaleMode::Z8 => {
                // The least fill is of the least weights: no scale, since codes are positive.
                let s = fill.value(block, 0, 255, rng);
                let z = fill.value(block, -32767, 32767 - s * i64::from(format.payload.max_code()), rng) as i16;
                scale[at * TILE + r] = s as u8;
                let at = ((tile * blocks.div_ceil(2) + block / 2) * TILE + r) * 4 + block % 2 * 2;
                offset[at..at + 2].copy_from_slice(&z.to_le_bytes());
            }
        }
    }
}

/// Vectors that quantize to the codes that `fill` chooses: `x` is in code units, so that `dynquant` keeps it.
pub fn vectors(matrix: &Matrix, tokens: usize, fill: Fill, rng: &mut Rng) -> Vec<Vec<i32>> {
    let most = i64::from(matrix.activation.xmax());
    // In A16 the low plane is at its own extremes where a code is 128 off a multiple of 256.
    let low_extreme = |rng: &mut Rng| rng.pick(&[128, -128, 127, -129, 32384, -32385, 32256 - 128, 256 * 100 + 127]);
    let value = |i: usize, rng: &mut Rng| match (matrix.activation, fill) {
        (Activation::A16, Fill::Edges) => low_extreme(rng),
        _ => fill.value(i, -most, most, rng),
    };
    (0..tokens).map(|_| (0..matrix.columns).map(|i| value(i, rng) as i32).collect()).collect()
}

/// The quantized form of `vectors` for `matrix`, by the reference.
pub fn quantized(matrix: &Matrix, vectors: &[Vec<i32>]) -> Activations {
    let mut x = Activations::default();
    x.reset(matrix.activation, matrix.columns, vectors.len());
    for (token, vector) in vectors.iter().enumerate() {
        x.quantize(token, vector);
    }
    x
}
