//! T20: the layout of U2 with the three codes of ternary weights.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups, pack_pairs, unpack_pairs};

/// Ternary codes of 2 bits, level = code − 1; code 3 is not used.
pub(super) struct T20;

impl Payload for T20 {
    fn name(&self) -> &'static str {
        "T20"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::T20
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        groups.checked_mul(2)
    }

    fn max_code(&self) -> i32 {
        2
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
        i32::from(code) - 1
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B4, ScaleMode::B8]
    }

    fn valid(&self, code: i16) -> bool {
        code != 3
    }

    fn all_valid(&self, payload: &[u8]) -> bool {
        payload.iter().fold(true, |valid, &byte| valid & (byte & byte >> 1 & 0x55 == 0))
    }
}
