//! 3.1, rope: rotates pairs of a head vector by an angle proportional to the token's position.

use crate::fixed::{rshr, sat, sincos};

/// Which elements form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// (2i, 2i + 1).
    Interleaved,
    /// (i, i + rot / 2).
    Half,
}

/// Cosine and sine in Q30 for every frequency at `position`.
pub fn angles(freq64: &[u64], position: u32) -> impl Iterator<Item = (i32, i32)> {
    freq64.iter().map(move |freq| sincos((u64::from(position).wrapping_mul(*freq) >> 32) as u32))
}

/// Rotates one pair by an angle with cosine `c` and sine `s`.
#[inline(always)]
#[must_use]
pub fn rotate(a: i32, b: i32, (c, s): (i32, i32)) -> (i32, i32) {
    let (a, b, c, s) = (i64::from(a), i64::from(b), i64::from(c), i64::from(s));
    (sat(rshr(a * c - b * s, 30)), sat(rshr(a * s + b * c, 30)))
}

/// Rotates the first `2 · angles.len()` elements of one head vector; the rest stays.
#[inline(always)]
pub fn rope(v: &mut [i32], angles: &[(i32, i32)], pairs: Pairs) {
    let half = angles.len();
    for (i, &angle) in angles.iter().enumerate() {
        let (ia, ib) = match pairs {
            Pairs::Interleaved => (2 * i, 2 * i + 1),
            Pairs::Half => (i, i + half),
        };
        (v[ia], v[ib]) = rotate(v[ia], v[ib], angle);
    }
}
