//! W16: the weights themselves as i16, two to a word.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups};

/// 16-bit integers, scaled per row only; −32768 is not used.
pub(super) struct W16;

impl Payload for W16 {
    fn name(&self) -> &'static str {
        "W16"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::W16
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        groups.checked_mul(16)
    }

    fn max_code(&self) -> i32 {
        32767
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        let words = row.group::<16>(group);
        for (codes, word) in codes.chunks_exact_mut(2).zip(words) {
            codes[0] = word as i16;
            codes[1] = (word >> 16) as i16;
        }
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        for (codes, words) in groups::<16>(codes, words) {
            for (codes, word) in codes.chunks_exact(2).zip(words) {
                *word = u32::from(codes[0] as u16) | u32::from(codes[1] as u16) << 16;
            }
        }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code)
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R]
    }

    fn valid(&self, code: i16) -> bool {
        code != i16::MIN
    }

    fn all_valid(&self, payload: &[u8]) -> bool {
        let codes = payload.as_chunks().0.iter().map(|&code| i16::from_le_bytes(code));
        codes.fold(true, |valid, code| valid & (code != i16::MIN))
    }
}
