//! T16: five ternary codes to a byte, twenty columns to a word.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode};

/// Columns of one word.
const COLUMNS: usize = 20;

/// Ternary codes of 1.6 bits, level = code − 1. Byte c of word g holds columns 20g + 4k + c, k = 0…4, as a fraction of
/// 256 in base 3, rounded up: multiplying it by 3 moves digit k into the bits above the byte. Every byte has digits.
pub(super) struct T16;

impl Payload for T16 {
    fn name(&self) -> &'static str {
        "T16"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::T16
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        Some(groups.checked_mul(GROUP)?.div_ceil(COLUMNS))
    }

    fn max_code(&self) -> i32 {
        2
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        for (column, code) in (group * GROUP..).zip(codes) {
            let bytes = row.word(column / COLUMNS).to_le_bytes();
            let mut rest = u32::from(bytes[column % 4]);
            for _ in 0..column % COLUMNS / 4 {
                rest = 3 * rest % 256;
            }
            *code = (3 * rest / 256) as i16;
        }
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        for (codes, word) in codes.chunks(COLUMNS).zip(words) {
            *word = u32::from_le_bytes(core::array::from_fn(|c| {
                let digit = |k: usize| codes.get(4 * k + c).map_or(1, |&code| code as u32);
                let number = (0..5).fold(0, |number, k| 3 * number + digit(k));
                (256 * number).div_ceil(243) as u8
            }));
        }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - 1
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R]
    }
}
