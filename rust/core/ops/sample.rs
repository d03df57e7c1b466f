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

/// Draws a token from `logits` (in QF) with the random word `random`; `temperature` is at least 1.
#[must_use]
pub fn draw(logits: &[i32], fraction_bits: u32, sampling: &Sampling, random: u32) -> u32 {
    let by_rank = |&id: &u32| (Reverse(logits[id as usize]), id);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let keep = sampling.top_k as usize;
    if keep > 0 && keep < order.len() {
        order.select_nth_unstable_by_key(keep - 1, by_rank);
        order.truncate(keep);
    }
    order.sort_unstable_by_key(by_rank);

    let factor = ((LOG2_E_Q30 as u64) << 16) / u64::from(sampling.temperature);
    let c = bit_length(factor).saturating_sub(31);
    let (factor, shift) = ((factor >> c) as i32, 30 - c as i32 + fraction_bits as i32 - 16);
    let largest = i64::from(logits[order[0] as usize]);
    let weight = |&id: &u32| exp2(requant(sat(i64::from(logits[id as usize]) - largest), factor, shift), 24);
    let mut weights: Vec<u32> = order.iter().map(weight).collect();

    let floor = sampling.min_p << 8;
    let kept = weights.iter().take_while(|&&w| w >= floor).count().max(1);
    weights.truncate(kept);
    if sampling.top_p < 65536 {
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        let enough = total * u64::from(sampling.top_p);
        let mut sum = 0u64;
        let below = weights.iter().take_while(|&&w| {
            sum += u64::from(w);
            (sum << 16) < enough
        });
        let kept = (below.count() + 1).min(weights.len());
        weights.truncate(kept);
    }
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    let x = (total >> 32) * u64::from(random) + (((total & 0xFFFF_FFFF) * u64::from(random)) >> 32);
    let mut sum = 0u64;
    let below = weights.iter().take_while(|&&w| {
        sum += u64::from(w);
        sum <= x
    });
    order[below.count()]
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
