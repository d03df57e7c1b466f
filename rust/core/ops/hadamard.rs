//! 3.2, hadamard: mixes a head vector so that narrow caches lose less.

use crate::fixed::{rshr, sat};

/// The most elements of one transform.
pub const MAX_WIDTH: usize = 1024;

/// Replaces `v` (a power of two of elements, at most [`MAX_WIDTH`]) by `rshr(H·v, floor(log2(n) / 2))`, saturated.
pub fn hadamard(v: &mut [i32]) {
    let n = v.len();
    let mut buffer = [0i64; MAX_WIDTH];
    let exact = &mut buffer[..n];
    for (exact, &v) in exact.iter_mut().zip(v.iter()) {
        *exact = i64::from(v);
    }
    let mut step = 1;
    while step < n {
        for pair in exact.chunks_exact_mut(2 * step) {
            let (low, high) = pair.split_at_mut(step);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        step *= 2;
    }
    for (v, &exact) in v.iter_mut().zip(exact.iter()) {
        *v = sat(rshr(exact, n.ilog2() / 2));
    }
}
