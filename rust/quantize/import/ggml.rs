//! ggml's block types.
//!
//! Scales of 11 bits, sub-scales of at most 8 and codes of at most 8 make each term of a weight exact in f64, and their
//! sum too. Rounding it once to f32 gives what ggml's `dequantize_row_*` gives, in which every operation but the last
//! is exact as well.
use super::blocks::{Blocks, f32_from_half};
use super::tensor::DType;

impl Blocks {
    /// Replaces codes, scales and offsets by those of a row of type `dtype`, whose grid is `self.grid`.
    pub(super) fn decode(&mut self, dtype: DType, row: &[u8]) {
        self.clear();
        for block in row.chunks_exact(dtype.block_bytes()) {
            match dtype {
                DType::F32 | DType::F16 | DType::BF16 | DType::Packed => {}
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
                DType::Q2_K => self.q2_k(block),
                DType::Q3_K => self.q3_k(block),
                DType::IQ4_XS => self.iq4_xs(block),
                DType::TQ1_0 => self.tq1_0(block),
                DType::TQ2_0 => {
                    self.scale.push(half(block, 64));
                    self.pairs(&block[..64]);
                }
                DType::MXFP4 => {
                    self.scale.push(half_of_e8m0(block[0]));
                    self.nibbles(&block[1..17]);
                }
                DType::NVFP4 => {
                    self.scale.extend(block[..4].iter().map(|&scale| half_of_ue4m3(scale)));
                    block[4..36].chunks_exact(8).for_each(|part| self.nibbles(part));
                }
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

    /// Codes of 2 bits: of every 32 bytes first all lowest pairs of bits, then the next.
    fn pairs(&mut self, bytes: &[u8]) {
        for part in bytes.chunks_exact(32) {
            self.codes.extend((0..128).map(|k| part[k % 32] >> (k / 32 * 2) & 3));
        }
    }

    /// 16 bytes of 4-bit scale and 4-bit offset factors, 256 codes of 2 bits, two halves.
    fn q2_k(&mut self, block: &[u8]) {
        let (d, dmin) = (half(block, 80), half(block, 82));
        for factors in &block[..16] {
            self.scale.push(d * f64::from(factors & 15));
            self.offset.push(-(dmin * f64::from(factors >> 4)));
        }
        self.pairs(&block[16..80]);
    }

    /// The third bits of 256 codes in 32 bytes, their low bits in 64, 16 scales of 6 bits in 12 bytes, one half.
    fn q3_k(&mut self, block: &[u8]) {
        let (low, high, d) = (&block[96..104], &block[104..108], half(block, 108));
        self.scale.extend((0..16).map(|s| {
            let factor = low[s % 8] >> (s / 8 * 4) & 15 | (high[s % 4] >> (s / 4 * 2) & 3) << 4;
            d * f64::from(i16::from(factor) - 32)
        }));
        let begin = self.codes.len();
        self.pairs(&block[32..96]);
        for (k, code) in self.codes[begin..].iter_mut().enumerate() {
            *code |= (block[k % 32] >> (k / 32) & 1) << 2;
        }
    }

    /// One half, 8 scales of 6 bits (high pairs in 2 bytes, low nibbles in 4), 256 codes of 4 bits.
    fn iq4_xs(&mut self, block: &[u8]) {
        let (d, high) = (half(block, 0), u16::from_le_bytes([block[2], block[3]]));
        self.scale.extend((0..8).map(|s| {
            let factor = block[4 + s / 2] >> (s % 2 * 4) & 15 | ((high >> (2 * s) & 3) as u8) << 4;
            d * f64::from(i16::from(factor) - 32)
        }));
        block[8..136].chunks_exact(16).for_each(|part| self.nibbles(part));
    }

    /// 256 ternary digits: five a byte in 48 bytes, four a byte in 4; one half. A byte is a fraction of 256 whose digits
    /// to the base 3 are the codes.
    fn tq1_0(&mut self, block: &[u8]) {
        for (part, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
            let mut power = 1_u8;
            for _ in 0..digits {
                self.codes.extend(part.iter().map(|byte| ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8));
                power = power.wrapping_mul(3);
            }
        }
        self.scale.push(half(block, 52));
    }
}

/// Half of the power of two 2^(code − 127), since the levels of FP4 are doubled; NaN for the code that means it.
fn half_of_e8m0(code: u8) -> f64 {
    match code {
        0xff => f64::NAN,
        _ => f64::from_bits((u64::from(code) + 1023 - 128) << 52),
    }
}

/// Half of an unsigned float of 4 exponent and 3 fraction bits, whose top bit is ignored; ggml reads 0x7f as 0.
fn half_of_ue4m3(code: u8) -> f64 {
    let (exponent, fraction) = (u32::from(code >> 3 & 15), f64::from(code & 7));
    match (code, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => fraction / 1024.0,
        _ => (8.0 + fraction) * f64::from(1_u32 << exponent) / 2048.0,
    }
}

/// The IEEE half at byte `at`, exactly.
fn half(bytes: &[u8], at: usize) -> f64 {
    f64::from(f32_from_half(u16::from_le_bytes([bytes[at], bytes[at + 1]])))
}
