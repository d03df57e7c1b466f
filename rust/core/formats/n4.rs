//! N4: the layout of U4 with codes that index sixteen levels.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode, groups, pack_nibbles, unpack_nibbles};

/// 4-bit codes into a table of levels −127…127, the matrix's own or [`DEFAULT_TABLE`].
pub(super) struct N4;

impl Payload for N4 {
    fn name(&self) -> &'static str {
        "N4"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::N4
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

    fn level(&self, code: i16, table: &[i8; 16]) -> i32 {
        i32::from(table[code as usize & 15])
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B8]
    }

    fn has_table(&self) -> bool {
        true
    }
}

/// Levels fitted to Gaussian blocks of 32 with a signed scale.
pub const DEFAULT_TABLE: [i8; 16] = [-127, -101, -79, -62, -47, -34, -21, -9, 2, 14, 25, 37, 50, 65, 83, 107];
