//! Properties of the encoders: what is decoded from the planes is what went in, as nearly as the format allows.
use super::row::padding_code;
use super::*;
use crate::import::{DType, FP4_LEVELS, Grid, IQ4_NL_LEVELS, Shift, WHOLE_ROW};
use intact_core::formats::{GROUP, ScaleMode};
use intact_core::matrix::{Activation, Matrix, PlaneSizes, RowScale};

/// A stream of pseudo-random numbers.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// In −1 … 1.
    pub(super) fn signed(&mut self) -> f64 {
        self.below(1 << 24) as f64 / f64::from(1 << 23) - 1.0
    }

    /// Roughly normal, with variance 4.
    pub(super) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.signed()).sum::<f64>() as f32
    }

    pub(super) fn row(&mut self, columns: usize) -> Vec<f32> {
        (0..columns).map(|_| self.normal() * 0.03).collect()
    }
}

/// Every format that real values are quantized to.
fn formats() -> Vec<Format> {
    let known = |format: &Format| QUANTIZED.contains(&Format { block: 32, ..*format }.to_string().as_str());
    Format::all().filter(known).collect()
}

/// A matrix of encoded rows.
pub(super) fn matrix(format: Format, table: [i8; 16], rows: &[Row], columns: usize) -> Matrix {
    let mut buffers = PlaneBuffers::new(format, rows.len(), columns);
    for (tile, rows) in buffers.tiles().iter_mut().zip(rows.chunks(TILE)) {
        rows.iter().enumerate().for_each(|(r, row)| tile.write(r, row));
    }
    let (name, activation, preshift) = ("m".to_owned(), Activation::A16, 0);
    Matrix { name, rows: rows.len(), columns, format, table, activation, preshift, planes: buffers.finish() }
}

/// Row `row` as real numbers.
pub(super) fn decoded(matrix: &Matrix, row: usize) -> Vec<f64> {
    let RowScale { m, shift } = matrix.row_scale(row);
    let unit = f64::from(m) / (0..shift).fold(1.0, |power, _| power * 2.0);
    let mut weights = Vec::new();
    matrix.row_weights(row, &mut weights);
    assert!(weights.iter().all(|w| w.abs() <= 32767));
    weights.iter().map(|&w| f64::from(w) * unit).collect()
}

fn quantized(format: Format, values: &[f32], row: &mut Row) -> Result<(), usize> {
    let guide = Guide::new(&Guidance::None, values.len(), &Pool::new(1));
    quantize(&format, &N4_DEFAULT_TABLE, &guide, &[values.to_vec()], std::slice::from_mut(row))
}

fn encoded(format: Format, values: &[f32]) -> Row {
    let mut row = Row::default();
    quantized(format, values, &mut row).unwrap();
    row
}

/// The sum of squared errors over the sum of squares.
fn error(format: Format, values: &[f32]) -> f64 {
    let matrix = matrix(format, N4_DEFAULT_TABLE, &[encoded(format, values)], values.len());
    let pairs = || values.iter().map(|&v| f64::from(v)).zip(decoded(&matrix, 0));
    pairs().map(|(v, d)| (v - d) * (v - d)).sum::<f64>() / pairs().map(|(v, _)| v * v).sum::<f64>()
}

#[test]
fn the_list_of_formats_is_one_of_formats() {
    for name in QUANTIZED {
        assert!(Format::parse(name).is_some(), "{name}");
    }
    assert_eq!(formats().len(), 2 + 2 + 7 + 4 * (1 + 5 + 1 + 5 + 2 + 14));
}

#[test]
fn random_rows_are_reconstructed() {
    let mut random = Random(1);
    for format in formats() {
        // What a uniform grid of k bits loses on normal blocks of 32, twice over for longer blocks and short rows.
        let most = match (format.payload.max_code(), format.mode) {
            (2 | 3 | 124, _) => 0.6,
            (7, _) => 0.08,
            (15, _) => 2e-2,
            (31, _) => 5e-3,
            (63, _) => 1.2e-3,
            (255, _) => 1e-4,
            _ => 1e-8,
        };
        for columns in [1, 31, 96, 200] {
            let values = random.row(columns);
            let error = error(format, &values);
            // The first steps of a trellis have few paths.
            let most =
                if columns == 1 && matches!(format.payload.kind(), PayloadKind::Trellis(_)) { 1.1 } else { most };
            assert!(error < most, "{format} {columns}: {error}");
        }
    }
}

#[test]
fn values_on_the_grid_stay() {
    let mut random = Random(2);
    for name in ["U4b8", "U5b8", "U6b8", "N4b8", "U8r", "W16r", "U8b8"] {
        let format = Format::parse(name).unwrap();
        let level = |code: i16| format.payload.level(code, &N4_DEFAULT_TABLE) as f32;
        let (lowest, count) = match name {
            "U8r" | "U8b8" => (1, 255),
            "W16r" => (-32767, 65535),
            _ => (0, format.payload.max_code() as u64 + 1),
        };
        let mut values: Vec<f32> =
            (0..64).map(|_| level((lowest + random.below(count) as i32) as i16) / 1024.0).collect();
        // Each block holds the level that its scale is taken from.
        for block in values.chunks_mut(32) {
            block[7] = level(lowest as i16) / 1024.0;
        }
        assert!(error(format, &values) < 1e-12, "{name}");
    }
}

#[test]
fn rows_without_size_are_zero_rows() {
    for format in formats() {
        for values in [[0.0; 40], [f32::from_bits(1); 40], [-0.0; 40]] {
            let row = encoded(format, &values);
            assert_eq!(row.constants.word(), 0, "{format}");
            assert!(row.codes.iter().all(|&code| code == padding_code(&format)));
            assert!(row.scales.iter().chain(&row.offsets).all(|&value| value == 0));
            assert_eq!(row.codes.len(), 64);
        }
    }
}

#[test]
fn rows_beyond_the_constants_are_refused() {
    for format in formats() {
        let mut row = Row::default();
        let fault = quantized(format, &[f32::MAX, 1.0], &mut row);
        assert_eq!(fault, Err(0), "{format}");
    }
}

#[test]
fn extreme_rows_stay_in_range() {
    let mut random = Random(3);
    let mut far = random.row(128);
    far.iter_mut().for_each(|value| *value = 5.0 + *value * 1e-3);
    let mut outlier = random.row(128);
    outlier[70] = -1e6;
    let mixed: Vec<f32> = (0..128).map(|k| if k < 64 { 3.0 } else { random.normal() * 1e-20 }).collect();
    for format in formats() {
        for values in [&far, &outlier, &mixed] {
            let row = encoded(format, values);
            let matrix = matrix(format, N4_DEFAULT_TABLE, &[row], 128);
            let largest = values.iter().fold(0.0, |largest: f64, &v| largest.max(f64::from(v).abs()));
            let coarse = format.payload.max_code() < 15 || matches!(format.payload.kind(), PayloadKind::Trellis(_));
            let most = if coarse { 2.0 * largest } else { largest / 6.0 };
            for (value, decoded) in values.iter().zip(decoded(&matrix, 0)) {
                assert!((f64::from(*value) - decoded).abs() < most, "{format}: {value} {decoded}");
            }
        }
    }
}

#[test]
fn padding_is_what_the_format_says() {
    let mut random = Random(4);
    // A trellis has no padding code: what its padding decodes to depends on the columns before it.
    for format in formats().into_iter().filter(|format| !matches!(format.payload.kind(), PayloadKind::Trellis(_))) {
        let (rows, columns) = (17, 40);
        let encoded: Vec<Row> = (0..rows).map(|_| encoded(format, &random.row(columns))).collect();
        let matrix = matrix(format, N4_DEFAULT_TABLE, &encoded, columns);
        let mut codes = [0; GROUP];
        for (row, encoded) in encoded.iter().enumerate() {
            for group in 0..2 {
                matrix.group_codes(row, group, &mut codes);
                assert_eq!(codes, encoded.codes[GROUP * group..][..GROUP], "{format}");
            }
            assert!(codes[columns - GROUP..].iter().all(|&code| code == padding_code(&format)));
            for block in columns.div_ceil(format.block)..format.blocks(columns) {
                let scale = matrix.block_scale(row, block);
                assert!(format.mode == ScaleMode::R || (scale.s, scale.z) == (0, 0), "{format}");
            }
        }
        for row in rows..32 {
            for group in 0..2 {
                matrix.group_codes(row, group, &mut codes);
                assert_eq!(codes, [0; GROUP]);
            }
            for block in 0..if format.mode == ScaleMode::R { 0 } else { format.blocks(columns) } {
                let scale = matrix.block_scale(row, block);
                assert_eq!((scale.s, scale.z), (0, 0));
            }
            assert_eq!(matrix.row_scale(row).word(), 0);
        }
    }
}

const QUANTIZED_TYPES: [DType; 16] = [
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_NL,
    DType::Q2_K,
    DType::Q3_K,
    DType::IQ4_XS,
    DType::TQ1_0,
    DType::TQ2_0,
    DType::MXFP4,
    DType::NVFP4,
];

/// What keeps the codes of one of ggml's types.
fn transcription(dtype: DType) -> Transcription {
    super::transcription(&dtype.grid().unwrap()).unwrap()
}

fn largest_code(grid: &Grid) -> u64 {
    if grid.is_ternary() { 2 } else { (1 << grid.bits) - 1 }
}

/// A row of a type with random codes; `scale` and `offset` make those of a block from a number in −1 … 1.
fn source_row(
    random: &mut Random, grid: Grid, columns: usize, scale: fn(f64) -> f64, offset: fn(f64) -> f64,
) -> Blocks {
    let lowest = u64::from(grid.bits == 8);
    let blocks = columns / grid.block;
    Blocks {
        grid,
        codes: (0..columns).map(|_| (lowest + random.below(largest_code(&grid) + 1 - lowest)) as u8).collect(),
        scale: (0..blocks).map(|_| scale(random.signed())).collect(),
        zero: Vec::new(),
        offset: (0..if grid.shift == Shift::Offset { blocks } else { 0 }).map(|_| offset(random.signed())).collect(),
    }
}

fn transcribed(kept: &Transcription, blocks: &Blocks) -> Matrix {
    let mut row = Row::default();
    transcribe(&kept.format, blocks, &mut row).unwrap();
    matrix(kept.format, kept.table, &[row], blocks.codes.len())
}

#[test]
fn codes_of_sources_are_kept() {
    let mut random = Random(5);
    let names = QUANTIZED_TYPES.map(|dtype| transcription(dtype).format.to_string());
    assert_eq!(
        names,
        [
            "U8b8",
            "U4b8",
            "U4z8",
            "U5b8",
            "U5z8",
            "U4z8",
            "U5z8",
            "U6b8/16",
            "N4b8",
            "U2z8/16",
            "U3b8/16",
            "N4b8",
            "T20b8/128",
            "T20b8/128",
            "N4b8",
            "N4b8/16"
        ]
    );
    assert_eq!(transcription(DType::IQ4_NL).table, IQ4_NL_LEVELS);
    assert_eq!(transcription(DType::NVFP4).table, FP4_LEVELS);
    for dtype in QUANTIZED_TYPES {
        let kept = transcription(dtype);
        let grid = dtype.grid().unwrap();
        let largest_code = (1 << grid.bits) - 1;
        // The second offset is so large that it, not the scales, decides the row unit.
        for offset in [|x: f64| x * 0.1, |x: f64| x * 300.0] {
            let blocks = source_row(&mut random, grid, 256, |x| x * 0.01, offset);
            let matrix = transcribed(&kept, &blocks);
            let unit = f64::from(matrix.row_scale(0).m) / (0..matrix.row_scale(0).shift).fold(1.0, |p, _| p * 2.0);
            let mut codes = [0; GROUP];
            for (k, real) in decoded(&matrix, 0).into_iter().enumerate() {
                matrix.group_codes(0, k / GROUP, &mut codes);
                let turned = grid.shift == Shift::Offset && blocks.scale[k / grid.block] < 0.0;
                let own = i16::from(blocks.codes[k]);
                assert_eq!(codes[k % GROUP], if turned { largest_code - own } else { own }, "{dtype:?} {k}");
                // Half a unit of the scale times the level, half a unit of the offset, and the 23 bits of the unit. An
                // offset takes off what the scale adds to the mean code.
                let level = match grid.shift {
                    Shift::Offset => {
                        let block = &blocks.codes[k / grid.block * grid.block..][..grid.block];
                        let mean = block.iter().map(|&code| f64::from(code)).sum::<f64>() / block.len() as f64;
                        (f64::from(own) - mean).abs()
                    }
                    _ => f64::from(grid.levels.level(blocks.codes[k])).abs(),
                };
                let most = unit * (0.5 * level + 0.51) + blocks.weight(k).abs() * 1e-6;
                let error = (real - blocks.weight(k)).abs();
                assert!(error <= most, "{dtype:?} {k}: {real} for {}, {error} > {most}", blocks.weight(k));
            }
        }
    }
}

#[test]
fn scales_that_are_multiples_of_the_unit_are_exact() {
    // Scales that are whole multiples of a 255th of the largest are kept exactly, up to the 23 bits of the unit.
    let grid = DType::Q4_0.grid().unwrap();
    let mut blocks = source_row(&mut Random(6), grid, 128, |x| x, |x| x);
    blocks.scale = vec![2.55, -1.0, 0.37, 0.0];
    let matrix = transcribed(&transcription(DType::Q4_0), &blocks);
    let scales: Vec<i32> = (0..4).map(|block| matrix.block_scale(0, block).s).collect();
    assert_eq!(scales, [255, -100, 37, 0]);
}

#[test]
fn sources_without_size_are_zero_rows() {
    for dtype in QUANTIZED_TYPES {
        let grid = dtype.grid().unwrap();
        for size in [|_: f64| 0.0, |x: f64| x * 1e-40] {
            let blocks = source_row(&mut Random(7), grid, 256, size, size);
            let matrix = transcribed(&transcription(dtype), &blocks);
            assert_eq!(matrix.row_scale(0).word(), 0);
            assert!(matrix.planes.scale.as_ref().unwrap().bytes().iter().all(|&byte| byte == 0));
            let mut row = Row::default();
            transcribe(&transcription(dtype).format, &blocks, &mut row).unwrap();
            assert!(row.codes.iter().all(|&code| code == padding_code(&transcription(dtype).format)));
        }
    }
}

#[test]
fn constant_blocks_are_kept_by_their_offsets() {
    for dtype in [DType::Q4_1, DType::Q5_1, DType::Q4_K, DType::Q5_K] {
        let grid = dtype.grid().unwrap();
        let blocks = source_row(&mut Random(8), grid, 256, |_| 0.0, |x| x);
        let matrix = transcribed(&transcription(dtype), &blocks);
        for (k, real) in decoded(&matrix, 0).into_iter().enumerate() {
            assert!((real - blocks.weight(k)).abs() < 1e-4, "{dtype:?}");
        }
    }
}

#[test]
fn scales_of_few_bits_stay_exact() {
    // Powers of two that span 2^7, and floats of 4 bits whose least bit is at 2^-7 of the largest power.
    for (dtype, scales) in [(DType::MXFP4, [0.25, 32.0, 0.5, 0.0]), (DType::NVFP4, [7.5, 0.4375, 4.0, 0.03125])] {
        let grid = dtype.grid().unwrap();
        let mut blocks = source_row(&mut Random(9), grid, 4 * grid.block, |x| x, |x| x);
        blocks.scale = scales.to_vec();
        let matrix = transcribed(&transcription(dtype), &blocks);
        for (k, real) in decoded(&matrix, 0).into_iter().enumerate() {
            assert_eq!(real.to_bits(), (blocks.weight(k) + 0.0).to_bits(), "{dtype:?} {k}");
        }
    }
}

#[test]
fn one_scale_is_the_row_s() {
    let grid = Grid { block: WHOLE_ROW, ..DType::TQ2_0.grid().unwrap() };
    let kept = super::transcription(&grid).unwrap();
    assert_eq!(kept.format.to_string(), "T20r");
    let smallest = kept.in_format(Format::parse("T16r").unwrap()).unwrap();
    for other in ["T20b8/128", "U8r", "U4b8"] {
        assert_eq!(kept.in_format(Format::parse(other).unwrap()), None);
    }
    // Blocks of 256 of one magnitude, one of them negative, one without size.
    let mut blocks = source_row(&mut Random(10), DType::TQ2_0.grid().unwrap(), 768, |x| x, |x| x);
    blocks.scale = vec![0.75, -0.75, 0.0];
    for kept in [kept, smallest] {
        let matrix = transcribed(&kept, &blocks);
        for (k, real) in decoded(&matrix, 0).into_iter().enumerate() {
            assert_eq!(real.to_bits(), (blocks.weight(k) + 0.0).to_bits(), "{} {k}", kept.format);
        }
    }
}

#[test]
fn zero_points_stay_zero() {
    let mut random = Random(11);
    for (bits, block, name) in [(4, 128, "U4z8/128"), (4, 32, "U4z8"), (2, 64, "U2z8/64"), (8, 128, "U8z8/128")] {
        let grid = Grid { shift: Shift::ZeroPoint, ..Grid::symmetric(block, bits, 0) };
        let kept = super::transcription(&grid).unwrap();
        assert_eq!(kept.format.to_string(), name);
        let mut blocks = source_row(&mut random, grid, 4 * block, |x| x.abs() * 0.01 + 0.001, |x| x);
        blocks.zero = (0..4).map(|_| random.below((1 << bits) + 1) as i16).collect();
        for k in (0..4 * block).step_by(3) {
            blocks.codes[k] = blocks.zero[k / block].clamp(i16::from(bits == 8), (1 << bits) - 1) as u8;
        }
        let matrix = transcribed(&kept, &blocks);
        for (k, real) in decoded(&matrix, 0).into_iter().enumerate() {
            let weight = blocks.weight(k);
            assert!((real - weight).abs() <= weight.abs() * 0.04, "{name} {k}: {real} for {weight}");
        }
    }
}

#[test]
fn grids_without_a_format_are_requantized() {
    for grid in [Grid::symmetric(24, 4, 8), Grid::symmetric(32, 7, 64)] {
        assert_eq!(super::transcription(&grid), None);
    }
    let name = |block, bits| super::transcription(&Grid::symmetric(block, bits, 1 << (bits - 1))).unwrap().format;
    assert_eq!(name(48, 4).to_string(), "U4b8/16");
    assert_eq!(name(1024, 4).to_string(), "U4b8/128");
    assert_eq!(name(WHOLE_ROW, 8).to_string(), "U8r");
    assert_eq!(name(WHOLE_ROW, 4).to_string(), "U4r");
}

/// Error over power of unit Gaussians, as docs/FORMATS.md tells it for every format in blocks of 32.
#[test]
#[allow(clippy::disallowed_methods, reason = "figures for people, of three digits")]
fn distortion_of_a_gaussian() {
    let mut random = Random(14);
    let mut uniform = || (random.below(1 << 31) as f64 + 0.5) / f64::from(1u32 << 31);
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let rows: Vec<Vec<f32>> = (0..8).map(|_| (0..4096).map(|_| normal() as f32).collect()).collect();
    let power = |row: &[f32]| row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
    let all: f64 = rows.iter().map(|row| power(row)).sum();
    let line = |name: &str| {
        let format = Format::parse(name).unwrap();
        let lost = rows.iter().map(|row| error(format, row) * power(row)).sum::<f64>() / all;
        let bytes = PlaneSizes::of(&format, TILE, 4096).and_then(|sizes| sizes.stored()).unwrap();
        let bits = bytes as f64 / 8192.0;
        format!("| {name} | {bits:.2} | {lost:.2e} | {:.2} |", 10.0 * lost.log10() + 20.0 * bits * 2f64.log10())
    };
    let found: Vec<String> = QUANTIZED.iter().map(|name| line(name)).collect();
    let told = include_str!("../../../docs/FORMATS.md");
    let missing: Vec<&str> = found.iter().map(String::as_str).filter(|line| !told.contains(line)).collect();
    assert!(missing.is_empty(), "docs/FORMATS.md lacks\n{}", missing.join("\n"));
}
