//! U5: the words of U4 for the low four bits, and one word of high bits.

use super::{GROUP, Payload, PayloadKind, ScaleMode, pack_bit, pack_nibbles, unpack_bit, unpack_nibbles};

/// 5-bit uniform codes, level = code − 16.
pub(super) struct U5;

impl Payload for U5 {
    fn name(&self) -> &'static str {
        "U5"
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::U5
    }

    fn words(&self) -> usize {
        5
    }

    fn max_code(&self) -> i32 {
        31
    }

    fn unpack(&self, words: &[u32], codes: &mut [i16; GROUP]) {
        unpack_nibbles(&words[..4], codes);
        unpack_bit(words[4], 4, codes);
    }

    fn pack(&self, codes: &[i16; GROUP], words: &mut [u32]) {
        pack_nibbles(codes, &mut words[..4]);
        words[4] = pack_bit(codes, 4);
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - 16
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B8, ScaleMode::Z8]
    }
}
