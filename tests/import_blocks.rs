//! Every element type against values that the `gguf` package (numpy, 0.19) computes from the same bytes.
mod import_support;

use import_support::{F16, F32, singles, tiny};
use intact_quantize::error::Error;
use intact_quantize::import::{Blocks, DType, Levels, Shift, Source, Tensor};
use sha2::{Digest, Sha256};

/// Blocks in a row.
const BLOCKS: usize = 54;

/// Halves for block scales: ordinary, negative, subnormal, the largest, both zeros.
const HALVES: [u16; 9] = [0x2e66, 0xae66, 0x0003, 0x7bff, 0x8000, 0x8001, 0x0000, 0x3c00, 0x1234];

/// ggml's code, the type, bytes of a block, where its halves are, the bits of weights 0, 33, 70 and the last, and the
/// SHA-256 of the whole row as little-endian singles.
type KnownAnswer = (u32, DType, usize, &'static [usize], [u32; 4], &'static str);

#[rustfmt::skip]
const KNOWN: [KnownAnswer; 16] = [
    (2, DType::Q4_0, 18, &[0], [0xbf332800, 0xbe4cc000, 0x35a80000, 0xbbc68000], "1aa21a61927cd20d268f92939b65795ea9da3266882465d1b12766f13c606b02"),
    (3, DType::Q4_1, 20, &[0, 2], [0x3f8cc400, 0xbf199000, 0x35700000, 0x3ddab500], "68244ac18ebf39e595fdef21c034af57e7f6601ade0b70b2585a3cd36b7f9783"),
    (6, DType::Q5_0, 22, &[0], [0x3f199000, 0x3fccc000, 0x34c00000, 0xbc468000], "2611ba108b9c45ad9bd4e696b5444d9e4e6132fc6869a1e51b6dd4392600665a"),
    (7, DType::Q5_1, 24, &[0, 2], [0x3e999000, 0xc0332800, 0x36840000, 0x3dcfda00], "b89a3ec3539d95185416464690d8843c019236095e8c78b7278a7cda3cd50262"),
    (8, DType::Q8_0, 34, &[0], [0xc14b2680, 0x3e4cc000, 0x379f0000, 0xbce58400], "efdf0aa670ecdb9c4c880e630434012a8ab96b04d9c04eec8e49f8e3560b24ba"),
    (12, DType::Q4_K, 144, &[0, 2], [0x416cbe00, 0x4193f6c0, 0x40199000, 0xc0a94580], "b8c8f34ed418208d87f9bb2db9cd3ae4639d65a575707aa4730dce2bc787e2c4"),
    (13, DType::Q5_K, 176, &[0, 2], [0x410cc400, 0x42b4f4b0, 0x3f999000, 0xbf659600], "a6cd27e639106e70ab6e28335d365ba56559f87c2f65cc360f943dba93637b99"),
    (14, DType::Q6_K, 210, &[208], [0xc2e58b40, 0xc2418d80, 0xc387c450, 0xbf363780], "9e467202d49c574f8ae683035846418440e1d2dea27db5ae03e624808f2be154"),
    (20, DType::IQ4_NL, 18, &[0], [0xc1265c00, 0xc01ff600, 0x37a98000, 0xbdc4f300], "f86aa66c929bc679155219f2072fab5abd547b5ad8786d8ae83e99060f0f4f79"),
    (10, DType::Q2_K, 84, &[80, 82], [0x3e999000, 0x3f4cc000, 0x3f999000, 0xbe3a2400], "571b192a210e4dbf3b2e0d0200567bb0a5efd5bcdf87ee900ea0553a835488cd"),
    (11, DType::Q3_K, 110, &[108], [0x40065e00, 0x40598c00, 0x3fb32800, 0x00000000], "07b40c1568dfd79e74d51f1f136e8e6b7cb534f7446334de1ea25b458ddb04cc"),
    (23, DType::IQ4_XS, 136, &[0], [0x419cc300, 0x42dff200, 0xc3202930, 0x3f2c54a0], "5edd4129cd4c518f9f9e932d63fbefd9bf08e02823656f667577797f45f261b4"),
    (34, DType::TQ1_0, 54, &[52], [0xbdccc000, 0xbdccc000, 0x3dccc000, 0x3a468000], "f4c508328f5473b1e35208ccc1a0a575a1866193fa3d7c9a43d300d3fd961f27"),
    (35, DType::TQ2_0, 66, &[64], [0xbdccc000, 0x3e4cc000, 0xbdccc000, 0x3ac68000], "d7d59763643182fbec2a7b757bbff63e26519459a432e34fa83ff0fed8a7a87b"),
    (39, DType::MXFP4, 17, &[], [0x81000000, 0x00000000, 0x80800000, 0x00000000], "a7f2ea60e181bb5a50e46af6f438b27770378aee096757ebc080b47466840d91"),
    (40, DType::NVFP4, 36, &[], [0xc0400000, 0xbb000000, 0xc4700000, 0x3fe00000], "d9f2b4362610b4c4c0e2860cd86e849a99ba2525cae09a018223d510de648809"),
];

/// The SHA-256 of all finite halves, 0x0000 ..= 0xfbff, as little-endian singles.
const ALL_HALVES: &str = "cb34a8c3b8855f6ca5a3c91b264f3bf21176b2e1d85203a881efb0cabe2d5c80";

/// A row of pseudo-random blocks whose halves are set from [`HALVES`].
fn random_row(size: usize, halves: &[usize]) -> Vec<u8> {
    let mut state = 1_u32;
    let mut row: Vec<u8> = (0..BLOCKS * size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    for (index, block) in row.chunks_exact_mut(size).enumerate() {
        for (&at, half) in halves.iter().zip([index, index / 2 + 1]) {
            block[at..at + 2].copy_from_slice(&HALVES[half % HALVES.len()].to_le_bytes());
        }
        if size == DType::MXFP4.block_bytes() {
            // The smallest scales, then such as leave every weight finite.
            block[0] = if index < 3 { index as u8 } else { 96 | block[0] & 63 };
        }
    }
    row
}

const NAME: &str = "model.layers.0.mlp.gate_proj.weight";

/// The tensor [`NAME`] of a model file in which it has this content.
fn open(columns: usize, code: u32, data: Vec<u8>, rows: usize) -> Tensor {
    let name = "blk.0.ffn_gate.weight";
    let gguf = tiny("llama").without(name).tensor(name, &[columns as u64, rows as u64], code, data);
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), gguf.bytes()).unwrap();
    Source::open(file.path()).unwrap().tensors[NAME].clone()
}

fn row(tensor: &Tensor, row: usize) -> Result<Vec<f32>, Error> {
    let mut out = vec![0.0; tensor.columns()];
    tensor.row_f32(row, &mut out).map(|()| out)
}

fn sha256(values: &[f32]) -> String {
    Sha256::digest(singles(values.iter().copied())).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn quantized_rows_equal_ggml_s() {
    for (code, dtype, size, halves, samples, digest) in KNOWN {
        let columns = BLOCKS * dtype.block_columns();
        let tensor = open(columns, code, random_row(size, halves), 1);
        assert_eq!((tensor.dtype, &tensor.shape[..]), (dtype, &[1, columns][..]));
        let values = row(&tensor, 0).unwrap();
        assert_eq!([0, 33, 70, columns - 1].map(|k| values[k].to_bits()), samples, "{dtype:?}");
        assert_eq!(sha256(&values), digest, "{dtype:?}");
    }
}

#[test]
fn rows_of_codes_have_the_same_weights() {
    for (code, dtype, size, halves, _, _) in KNOWN {
        let columns = BLOCKS * dtype.block_columns();
        let mut data = random_row(size, halves);
        if dtype == DType::TQ2_0 {
            data.chunks_exact_mut(size).flat_map(|block| &mut block[..64]).for_each(|q| *q &= *q >> 1 & 0x55 ^ 0xff);
        }
        if dtype == DType::Q8_0 {
            data.chunks_exact_mut(size).flat_map(|block| &mut block[2..]).filter(|q| **q == 0x80).for_each(|q| *q = 0);
        }
        let tensor = open(columns, code, data, 1);
        let mut blocks = Blocks::default();
        tensor.row_blocks(0, &mut blocks).unwrap();
        let grid = dtype.grid().unwrap();
        assert_eq!(blocks.grid, grid);
        assert_eq!(blocks.codes.len(), columns);
        assert_eq!(blocks.scale.len(), columns / grid.block);
        assert_eq!(blocks.offset.len(), if grid.shift == Shift::Offset { columns / grid.block } else { 0 });
        assert!(blocks.codes.iter().all(|&code| u32::from(code) < 1 << grid.bits));
        let exact: Vec<u32> = (0..columns).map(|k| (blocks.weight(k) as f32).to_bits()).collect();
        let rounded: Vec<u32> = row(&tensor, 0).unwrap().iter().map(|value| value.to_bits()).collect();
        assert_eq!(exact, rounded, "{dtype:?}");
    }
}

#[test]
fn grids_name_their_zero_level() {
    let zero = |dtype: DType| dtype.grid().map(|grid| grid.levels);
    assert_eq!(zero(DType::Q4_0), Some(Levels::Linear { zero: 8 }));
    assert_eq!(zero(DType::Q5_0), Some(Levels::Linear { zero: 16 }));
    assert_eq!(zero(DType::Q6_K), Some(Levels::Linear { zero: 32 }));
    assert_eq!(zero(DType::Q8_0), Some(Levels::Linear { zero: 128 }));
    assert_eq!(zero(DType::Q3_K), Some(Levels::Linear { zero: 4 }));
    for dtype in [DType::TQ1_0, DType::TQ2_0] {
        assert_eq!(zero(dtype), Some(Levels::Linear { zero: 1 }));
    }
    for dtype in [DType::Q4_1, DType::Q5_1, DType::Q2_K, DType::Q4_K, DType::Q5_K] {
        assert_eq!(zero(dtype), Some(Levels::Linear { zero: 0 }));
    }
    assert_eq!(zero(DType::BF16), None);
}

#[test]
fn halves_are_widened_exactly() {
    let data: Vec<u8> = (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00).flat_map(u16::to_le_bytes).collect();
    let values = row(&open(data.len() / 2, F16, data, 1), 0).unwrap();
    assert_eq!(sha256(&values), ALL_HALVES);
}

#[test]
fn brain_floats_and_singles_keep_their_bits() {
    let values = row(&open(3, 30, vec![0x80, 0x3f, 0x01, 0x80, 0x7f, 0x7f], 1), 0).unwrap();
    assert_eq!(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), [0x3f80_0000, 0x8001_0000, 0x7f7f_0000]);
    let values = row(&open(2, F32, [0x8000_0001_u32, 0x7f7f_ffff].map(u32::to_le_bytes).concat(), 1), 0).unwrap();
    assert_eq!(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), [0x8000_0001, 0x7f7f_ffff]);
}

#[test]
fn what_is_not_finite_names_tensor_and_row() {
    let infinite_half = [&[0; 18][..], &[0x00, 0x7c], &[0; 16]].concat();
    let cases = [
        (2, F32, singles([1.0, 2.0, 3.0, f32::NAN])),
        (2, F16, [0, 0, 0, 0x7e01_u16].map(u16::to_le_bytes).concat()),
        (2, 30, [0, 0, 0xff80_u16, 0].map(u16::to_le_bytes).concat()),
        (32, 2, infinite_half),
    ];
    for (columns, code, data) in cases {
        let tensor = open(columns, code, data, 2);
        row(&tensor, 0).unwrap();
        let error = row(&tensor, 1).unwrap_err();
        assert!(matches!(&error, Error::NotFinite { tensor, row: 1, .. } if tensor == NAME), "{error}");
        assert!(error.to_string().contains("fetch it again"), "{error}");
        if tensor.dtype.grid().is_some() {
            assert!(matches!(tensor.row_blocks(1, &mut Blocks::default()), Err(Error::NotFinite { row: 1, .. })));
        }
    }
    let tensor = open(32, 39, [&[0xff][..], &[0; 16]].concat(), 1);
    assert!(matches!(row(&tensor, 0), Err(Error::NotFinite { row: 0, .. })));
    // An offset alone is enough.
    let tensor = open(32, 3, [&[0, 0x3c, 0x00, 0xfc][..], &[0; 16]].concat(), 1);
    assert!(matches!(row(&tensor, 0), Err(Error::NotFinite { row: 0, .. })));
}

#[test]
fn unused_codes_are_read_as_values_only() {
    let tensor = open(32, import_support::Q8_0, [&[0x00, 0x3c, 0x80][..], &[0; 31]].concat(), 1);
    assert_eq!(row(&tensor, 0).unwrap()[0].to_bits(), (-128.0_f32).to_bits());
    let error = tensor.row_blocks(0, &mut Blocks::default()).unwrap_err().to_string();
    assert!(error.contains(NAME) && error.contains("-128") && error.contains("quantize its real values"), "{error}");
    let tensor = open(256, 35, [&[0xff; 64][..], &[0x00, 0x3c]].concat(), 1);
    assert_eq!(row(&tensor, 0).unwrap()[0].to_bits(), 2.0_f32.to_bits());
    let error = tensor.row_blocks(0, &mut Blocks::default()).unwrap_err().to_string();
    assert!(error.contains(NAME) && error.contains("TQ2_0 code 3"), "{error}");
}

#[test]
fn wrong_questions_are_errors() {
    let tensor = open(2, F32, singles([1.0, 2.0, 3.0, 4.0]), 2);
    assert!(matches!(tensor.row_f32(2, &mut [0.0; 2]), Err(Error::Access { .. })));
    assert!(matches!(tensor.row_f32(0, &mut [0.0; 3]), Err(Error::Access { .. })));
    assert!(matches!(tensor.row_blocks(0, &mut Blocks::default()), Err(Error::Access { .. })));
    assert!(matches!(tensor.vector_f32(), Err(Error::Access { .. })));
}
