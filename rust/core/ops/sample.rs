//! 4, sampling and log-probabilities.

use crate::fixed::{LOG2_E_Q30, bit_length, exp2, ilog2, philox, requant, sat};
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Sampling settings in the contract's integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Temperature in Q16; 0 chooses greedily.
    pub temperature: u32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the shortest prefix with this share of the probability, in Q16, 0…65536.
    pub top_p: u32,
    /// Keep tokens with at least this share of the largest probability, in Q16, 0…65536.
    pub min_p: u32,
    /// Key of the random numbers.
    pub seed: u64,
}

/// The lowest id among the largest logits.
#[must_use]
pub fn greedy(logits: &[i32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The random word for generated token `step` of continuation `stream`.
#[must_use]
pub fn random_word(seed: u64, stream: u32, step: u32) -> u32 {
    philox([step, stream, 0, 0], [seed as u32, (seed >> 32) as u32])[0]
}

/// Tokens by rank (logit descending, id ascending), put in order only as far as they are looked at.
struct Ranked {
    /// Logit, id and weight.
    tokens: Vec<(Reverse<i32>, u32, u32)>,
    sorted: usize,
}

impl Ranked {
    /// Tokens put in order at first; later pieces are four times as long as what came before.
    const FIRST: usize = 128;

    fn weight(&mut self, rank: usize) -> u32 {
        while rank >= self.sorted {
            let rest = &mut self.tokens[self.sorted..];
            let piece = Self::FIRST.max(4 * self.sorted);
            if piece < rest.len() {
                rest.select_nth_unstable(piece);
            }
            let end = piece.min(rest.len());
            rest[..end].sort_unstable();
            self.sorted += end;
        }
        self.tokens[rank].2
    }

    /// How many of the first tokens have a sum of weights for which `enough` holds, and that sum. The sum of all does.
    fn shortest(&mut self, enough: impl Fn(u64) -> bool) -> (usize, u64) {
        let (mut count, mut sum) = (0, 0);
        loop {
            sum += u64::from(self.weight(count));
            count += 1;
            if enough(sum) || count == self.tokens.len() {
                return (count, sum);
            }
        }
    }

    fn total(&self) -> u64 {
        self.tokens.iter().map(|token| u64::from(token.2)).sum()
    }
}

/// Draws a token from `logits` (in QF, at least one) with the random word `random`; `temperature` is at least 1.
#[must_use]
pub fn draw(logits: &[i32], fraction_bits: u32, sampling: &Sampling, random: u32) -> u32 {
    let factor = ((LOG2_E_Q30 as u64) << 16) / u64::from(sampling.temperature);
    let c = bit_length(factor).saturating_sub(31);
    let (factor, shift) = ((factor >> c) as i32, 30 - c as i32 + fraction_bits as i32 - 16);
    let largest = i64::from(logits.iter().copied().max().unwrap_or(0));
    let weight = |logit: i32| exp2(requant(sat(i64::from(logit) - largest), factor, shift), 24);
    // Weights fall with the rank. So tokens of weight 0, which are never drawn, and those below min_p end the order:
    // leaving them out first keeps what top_k, then min_p, would keep. The first token has weight 2^24.
    let floor = (sampling.min_p << 8).max(1);
    let tokens = (0..).zip(logits).map(|(id, &logit)| (Reverse(logit), id, weight(logit)));
    let mut ranked = Ranked { tokens: tokens.filter(|token| token.2 >= floor).collect(), sorted: 0 };
    let top_k = sampling.top_k as usize;
    if top_k > 0 && top_k < ranked.tokens.len() {
        ranked.tokens.select_nth_unstable(top_k);
        ranked.tokens.truncate(top_k);
    }
    let mut total = ranked.total();
    if sampling.top_p < 65536 {
        let enough = total * u64::from(sampling.top_p);
        (_, total) = ranked.shortest(|sum| sum << 16 >= enough);
    }
    let x = (total >> 32) * u64::from(random) + (((total & 0xFFFF_FFFF) * u64::from(random)) >> 32);
    let (count, _) = ranked.shortest(|sum| sum > x);
    ranked.tokens[count - 1].1
}

/// Base-2 logarithms of probabilities at temperature 1, in Q16, for any tokens of one step.
pub struct LogProbs<'a> {
    logits: &'a [i32],
    largest: i64,
    shift: i32,
    normaliser: i64,
}

impl<'a> LogProbs<'a> {
    /// Prepares the distribution of `logits` (not empty, in QF).
    #[must_use]
    pub fn new(logits: &'a [i32], fraction_bits: u32) -> Self {
        let largest = i64::from(logits.iter().copied().max().unwrap_or(0));
        let mut out = Self { logits, largest, shift: fraction_bits as i32 + 14, normaliser: 0 };
        let z: u64 = (0..logits.len()).map(|id| u64::from(exp2(out.exponent(id), 24))).sum();
        out.normaliser = ilog2(z) - (24 << 16);
        out
    }

    fn exponent(&self, id: usize) -> i32 {
        requant(sat(i64::from(self.logits[id]) - self.largest), LOG2_E_Q30, self.shift)
    }

    /// The log-probability of token `id`.
    #[must_use]
    pub fn of(&self, id: u32) -> i32 {
        sat(i64::from(self.exponent(id as usize)) - self.normaliser)
    }

    /// The `k` most likely tokens in rank order.
    #[must_use]
    pub fn top(&self, k: usize) -> Vec<u32> {
        let by_rank = |&id: &u32| (Reverse(self.logits[id as usize]), id);
        let mut order: Vec<u32> = (0..self.logits.len() as u32).collect();
        if k > 0 && k < order.len() {
            order.select_nth_unstable_by_key(k - 1, by_rank);
        }
        order.truncate(k);
        order.sort_unstable_by_key(by_rank);
        order
    }
}
