//! 3.5, router: which experts a token goes to, and with which weights.

use crate::fixed::{LOG2_E_Q30, exp2, requant, sat, sigmoid};
use alloc::vec::Vec;

/// How router logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    /// Experts per token.
    pub k: usize,
    /// Whether the weights of the selected experts add up to 1, rather than those of all.
    pub renormalise: bool,
    /// Sigmoid in place of softmax.
    pub sigmoid: bool,
}

/// The `k` largest logits, lowest index first among equals, each with its weight in Q15.
#[must_use]
pub fn route(logits: &[i32], router: Router, fraction_bits: u32) -> Vec<(usize, u32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by_key(|&e| (core::cmp::Reverse(logits[e]), e));
    order.truncate(router.k);
    let largest = logits.iter().copied().max().unwrap_or(0);
    let p = |e: usize| {
        if router.sigmoid {
            return u64::from(sigmoid(logits[e], fraction_bits));
        }
        let below = sat(i64::from(logits[e]) - i64::from(largest));
        u64::from(exp2(requant(below, LOG2_E_Q30, fraction_bits as i32 + 14), 24))
    };
    let total: u64 =
        if router.renormalise { order.iter().map(|&e| p(e)).sum() } else { (0..logits.len()).map(p).sum() };
    order.into_iter().map(|e| (e, ((p(e) << 15) / total.max(1)) as u32)).collect()
}
