//! U2: four codes to a byte.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups, pack_pairs, unpack_pairs};

/// 2-bit uniform codes, level = code − 2.
pub(super) struct U2;

impl Payload for U2 {
    fn name(&self) -> &'static str {
        "U2"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::U2
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        groups.checked_mul(2)
    }

    fn max_code(&self) -> i32 {
        3
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        codes.fill(0);
        unpack_pairs(&row.group::<2>(group), 0, codes);
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        for (codes, words) in groups::<2>(codes, words) {
            pack_pairs(codes, 0, words);
        }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - 2
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B8, ScaleMode::Z8]
    }
}
