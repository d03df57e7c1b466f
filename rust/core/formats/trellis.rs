//! P: a pair trellis. A row is one little-endian bit stream with B bits per step, and a step is two columns.

use super::{GROUP, Payload, PayloadKind, RowWords, ScaleMode};

/// The largest level.
const LARGEST: i32 = 62;

/// The levels of a pair are sums of two of these.
pub const TABLE: [i8; 16] = [-31, -21, -16, -12, -9, -6, -4, -1, 1, 4, 6, 9, 12, 16, 21, 31];

/// The levels −62…62 of the two columns of a step whose window of the stream is `window`.
#[must_use]
pub fn pair(window: u16) -> [i8; 2] {
    let rounded = (i32::from(window as i16) * 13793 + 0x4000) >> 15;
    let hash = window.wrapping_mul(2767).wrapping_add(rounded as u16);
    let [low, high] = hash.to_le_bytes();
    [low, high].map(|byte| TABLE[usize::from(byte & 15)] + TABLE[usize::from(byte >> 4)])
}

/// The trellis of `bits` bits per step; code = level + 62.
pub(super) struct Trellis {
    bits: u32,
    name: &'static str,
}

/// 1 bit per column.
pub(super) static P10: Trellis = Trellis { bits: 2, name: "P10" };
/// 1.5 bits per column.
pub(super) static P15: Trellis = Trellis { bits: 3, name: "P15" };
/// 2 bits per column.
pub(super) static P20: Trellis = Trellis { bits: 4, name: "P20" };
/// 2.5 bits per column.
pub(super) static P25: Trellis = Trellis { bits: 5, name: "P25" };
/// 3 bits per column.
pub(super) static P30: Trellis = Trellis { bits: 6, name: "P30" };
/// 3.5 bits per column.
pub(super) static P35: Trellis = Trellis { bits: 7, name: "P35" };
/// 4 bits per column.
pub(super) static P40: Trellis = Trellis { bits: 8, name: "P40" };

/// Steps of one group.
const STEPS: usize = GROUP / 2;

impl Payload for Trellis {
    fn name(&self) -> &'static str {
        self.name
    }

    fn kind(&self) -> PayloadKind {
        PayloadKind::Trellis(self.bits)
    }

    fn row_words(&self, groups: usize) -> Option<usize> {
        Some(groups.checked_mul(STEPS * self.bits as usize)?.div_ceil(32))
    }

    fn max_code(&self) -> i32 {
        2 * LARGEST
    }

    fn unpack(&self, row: RowWords<'_>, group: usize, codes: &mut [i16; GROUP]) {
        for (step, codes) in (group * STEPS..).zip(codes.as_chunks_mut::<2>().0) {
            // The window ends with the step's own bits; before the stream there are zeros.
            let end = (step + 1) * self.bits as usize;
            let last = (end - 1) / 32;
            let before = if last > 0 { row.word(last - 1) } else { 0 };
            let both = u64::from(row.word(last)) << 32 | u64::from(before);
            let levels = pair((both >> (32 + end - 32 * last - 16)) as u16);
            *codes = levels.map(|level| i16::from(level) + LARGEST as i16);
        }
    }

    fn pack(&self, codes: &[i16], words: &mut [u32]) {
        words.fill(0);
        for (step, codes) in codes.as_chunks::<2>().0.iter().enumerate() {
            let at = step * self.bits as usize;
            let symbol = (codes[0] as u64 & ((1 << self.bits) - 1)) << (at % 32);
            words[at / 32] |= symbol as u32;
            if let Some(word) = words.get_mut(at / 32 + 1) {
                *word |= (symbol >> 32) as u32;
            }
        }
    }

    fn max_stored(&self, column: usize) -> i32 {
        if column.is_multiple_of(2) { (1 << self.bits) - 1 } else { 0 }
    }

    fn level(&self, code: i16, _table: &[i8; 16]) -> i32 {
        i32::from(code) - LARGEST
    }

    fn modes(&self) -> &'static [ScaleMode] {
        &[ScaleMode::R, ScaleMode::B4, ScaleMode::B8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_the_document_has_its_weights() {
        let stream = [0x7a55_300b_u32, 0x0ee9_c49f];
        let expected = [
            [-52, -22, -18, 5, -5, 2, -15, 25],
            [0, 13, -5, 2, -5, -10, 10, 17],
            [-18, 5, -15, 25, 10, 17, 0, 3],
            [-22, 7, -3, 15, 0, 5, 0, 19],
            [-5, 2, 10, 17, 16, 10, 18, 15],
            [-21, 4, 5, -62, -22, 27, 15, 6],
            [-15, 25, 0, 3, 18, 15, -8, -32],
        ];
        for (trellis, expected) in [&P10, &P15, &P20, &P25, &P30, &P35, &P40].into_iter().zip(expected) {
            let mut tile = [0; 512];
            for (i, word) in stream.iter().enumerate() {
                tile[64 * i + 12..][..4].copy_from_slice(&word.to_le_bytes());
            }
            let mut codes = [0; GROUP];
            trellis.unpack(RowWords::new(&tile, 3), 0, &mut codes);
            let levels = codes.map(|code| trellis.level(code, &[0; 16]));
            assert_eq!(levels[..8], expected, "{}", trellis.name);
        }
    }
}
