//! U8: one code to a byte, in column order.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups};

/// 8-bit uniform codes, level = code − 128; code 0 is not used, so that every level fits ±127.
pub(super) struct U8;

impl Payload for U8 {
    fn name(&self) -> &'static str {
        "U8"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::U8
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        groups.checked_mul(8)
    }

    fn max_code(&self) -> i32 {
        255
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        let words = row.group::<8>(group);
        for (codes, word) in codes.chunks_exact_mut(4).zip(words) {
            for (code, byte) in codes.iter_mut().zip(word.to_le_bytes()) {
                *code = i16::from(byte);
            }
        }
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        for (codes, words) in groups::<8>(codes, words) {
            for (codes, word) in codes.chunks_exact(4).zip(words) {
                *word = u32::from_le_bytes(core::array::from_fn(|c| codes[c] as u8));
            }
        }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - 128
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B8, ScaleMode::Z8]
    }

    fn valid(&self, code: i16) -> bool {
        code != 0
    }

    fn all_valid(&self, payload: &[u8]) -> bool {
        payload.iter().fold(true, |valid, &code| valid & (code != 0))
    }
}
