//! U5: the words of U4 for the low four bits, and one word of high bits.

use super::{
    GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups, pack_bit, pack_nibbles, unpack_bit, unpack_nibbles,
};

/// 5-bit uniform codes, level = code − 16.
pub(super) struct U5;

impl Payload for U5 {
    fn name(&self) -> &'static str {
        "U5"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::U5
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        groups.checked_mul(5)
    }

    fn max_code(&self) -> i32 {
        31
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        let words = row.group::<5>(group);
        unpack_nibbles(&words[..4], codes);
        unpack_bit(words[4], 4, codes);
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        for (codes, words) in groups::<5>(codes, words) {
            pack_nibbles(codes, &mut words[..4]);
            words[4] = pack_bit(codes, 4);
        }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - 16
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B8, ScaleMode::Z8]
    }
}
