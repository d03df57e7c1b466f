//! 3, residual add: saturating, in the order of the program.

use crate::fixed::sat;

/// `into[i] = sat(into[i] + from[i])`.
#[inline(always)]
pub fn residual_add(into: &mut [i32], from: &[i32]) {
    for (x, &y) in into.iter_mut().zip(from) {
        *x = sat(i64::from(*x) + i64::from(y));
    }
}
