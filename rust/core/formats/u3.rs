//! U3: the words of U2 for the low two bits, and one word of high bits.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups, pack_bit, pack_pairs, unpack_bit, unpack_pairs};

/// 3-bit uniform codes, level = code − 4.
pub(super) struct U3;

impl Payload for U3 {
    fn name(&self) -> &'static str {
        "U3"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::U3
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        groups.checked_mul(3)
    }

    fn max_code(&self) -> i32 {
        7
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        let words = row.group::<3>(group);
        codes.fill(0);
        unpack_pairs(&words[..2], 0, codes);
        unpack_bit(words[2], 2, codes);
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        for (codes, words) in groups::<3>(codes, words) {
            pack_pairs(codes, 0, &mut words[..2]);
            words[2] = pack_bit(codes, 2);
        }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - 4
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B8, ScaleMode::Z8]
    }
}
