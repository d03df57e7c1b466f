//! What an attention keeps: pages of its cache, and scores while it runs.

use intact_core::program::Attention;

/// Positions that share a largest score, and those that share sums (shaders/parts/cache.wgsl).
pub(crate) const SCORE_BLOCK: u32 = 64;
pub(crate) const SUM_BLOCK: u32 = 256;

pub(crate) fn wide_keys(a: &Attention) -> bool {
    a.key_max > 127
}

pub(crate) fn value_words(a: &Attention) -> u32 {
    (a.head_width as u32).div_ceil(4)
}

/// A page of an attention's cache: entries for each KV head and position. On the device codes are padded to words
/// (shaders/parts/cache.wgsl); where pages are saved they are not.
pub(crate) struct PageShape {
    entries: usize,
    /// Bytes of keys, values and scales of an entry.
    parts: [usize; 3],
}

impl PageShape {
    pub(crate) fn new(a: &Attention, page: usize) -> Self {
        let key = if wide_keys(a) { 2 * a.head_width } else { a.head_width };
        Self { entries: a.kv_heads * page, parts: [key, a.head_width, 4] }
    }

    /// Words on the device.
    pub(crate) fn words(&self) -> u64 {
        (self.entries * self.parts.iter().map(|bytes| bytes.div_ceil(4)).sum::<usize>()) as u64
    }

    /// Bytes of a saved page.
    pub(crate) fn bytes(&self) -> usize {
        self.entries * self.parts.iter().sum::<usize>()
    }

    /// Appends the saved form of a page.
    pub(crate) fn unpack(&self, words: &[i32], out: &mut Vec<u8>) {
        let mut rest = words;
        for bytes in self.parts {
            let (now, later) = rest.split_at(self.entries * bytes.div_ceil(4));
            for entry in now.chunks_exact(bytes.div_ceil(4)) {
                out.extend(entry.iter().flat_map(|word| word.to_le_bytes()).take(bytes));
            }
            rest = later;
        }
    }

    /// The words of a page, from its saved form.
    pub(crate) fn pack(&self, saved: &[u8]) -> Vec<u8> {
        let (mut rest, mut out) = (saved, Vec::with_capacity(4 * self.words() as usize));
        for bytes in self.parts {
            let (now, later) = rest.split_at(self.entries * bytes);
            for entry in now.chunks_exact(bytes) {
                out.extend_from_slice(entry);
                out.resize(out.len().next_multiple_of(4), 0);
            }
            rest = later;
        }
        out
    }
}

/// Words of `scratch` for a token that sees at most `positions` in any attention.
pub(crate) fn score_words(attentions: &[Attention], positions: u64) -> u64 {
    let words = |a: &Attention| {
        let n = if a.window == 0 { positions } else { positions.min(u64::from(a.window)) };
        let blocks = n.div_ceil(u64::from(SCORE_BLOCK));
        let sums = n.div_ceil(u64::from(SUM_BLOCK)) * (2 * a.head_width as u64 + 1);
        a.heads as u64 * (n + 2 * blocks + sums)
    };
    attentions.iter().map(words).max().unwrap_or(0)
}
