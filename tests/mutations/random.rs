//! The one source of chance: everything about a mutant follows from its seed.

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `count`, which is not 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.word() % count as u64) as usize
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        low.wrapping_add((self.word() % (high.wrapping_sub(low) as u64).wrapping_add(1).max(1)) as i64)
    }

    /// A range of `0..length`, often all of it, empty only where there is nothing.
    pub(crate) fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        if length == 0 || self.one_in(2) {
            return 0..length;
        }
        let start = self.below(length);
        start..start + 1 + self.below(length - start)
    }

    /// A number at which arithmetic or a check tends to break, or one beside `original`.
    pub(crate) fn integer(&mut self, original: i128) -> i128 {
        const EDGES: [u32; 9] = [0, 7, 8, 15, 16, 31, 32, 63, 64];
        match self.below(8) {
            0 => 0,
            1 => original + 1,
            2 => original - 1,
            3 => *self.pick(&[original * 2, original / 2, original + 64, -original]),
            4 => i128::from(self.word() >> self.below(64)),
            _ => {
                let edge = (1_i128 << self.pick(&EDGES)) + *self.pick(&[-1, 0, 1]);
                if self.one_in(8) { -edge } else { edge }
            }
        }
    }

    /// A single that arithmetic likes least.
    pub(crate) fn single(&mut self) -> f32 {
        const BITS: [u32; 12] = [
            0x7fc0_0000, // NaN
            0xff80_0001, // NaN that signals
            0x7f80_0000, // Infinity
            0xff80_0000,
            0x7f7f_ffff, // Largest
            0xff7f_ffff,
            0x0080_0000, // Smallest normal
            0x0000_0001, // Smallest
            0x807f_ffff,
            0x8000_0000,
            0x0000_0000,
            0x4b80_0001,
        ];
        f32::from_bits(if self.one_in(4) { self.word() as u32 } else { *self.pick(&BITS) })
    }

    /// A text that no name should be.
    pub(crate) fn text(&mut self, original: &str) -> String {
        match self.below(7) {
            0 => String::new(),
            1 => "x".repeat(201),
            2 => "\u{1b}[31m\u{202e}é".repeat(300),
            3 => format!("{original}\0"),
            4 => format!("../{original}"),
            5 => original.chars().rev().collect(),
            _ => format!("{original}x"),
        }
    }
}
