//! U6: the words of U4 for the low four bits, and two words of high pairs.

use super::{
    GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups, pack_nibbles, pack_pairs, unpack_nibbles, unpack_pairs,
};

/// 6-bit uniform codes, level = code − 32.
pub(super) struct U6;

impl Payload for U6 {
    fn name(&self) -> &'static str {
        "U6"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::U6
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        groups.checked_mul(6)
    }

    fn max_code(&self) -> i32 {
        63
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        let words = row.group::<6>(group);
        unpack_nibbles(&words[..4], codes);
        unpack_pairs(&words[4..], 4, codes);
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        for (codes, words) in groups::<6>(codes, words) {
            pack_nibbles(codes, &mut words[..4]);
            pack_pairs(codes, 4, &mut words[4..]);
        }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - 32
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B8, ScaleMode::Z8]
    }
}
