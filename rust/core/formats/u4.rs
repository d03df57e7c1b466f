//! U4: two codes to a byte.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups, pack_nibbles, unpack_nibbles};

/// 4-bit uniform codes, level = code − 8.
pub(super) struct U4;

impl Payload for U4 {
    fn name(&self) -> &'static str {
        "U4"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::U4
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        groups.checked_mul(4)
    }

    fn max_code(&self) -> i32 {
        15
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        let words = row.group::<4>(group);
        unpack_nibbles(&words, codes);
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        for (codes, words) in groups::<4>(codes, words) {
            pack_nibbles(codes, words);
        }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - 8
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B8, ScaleMode::Z8]
    }
}
