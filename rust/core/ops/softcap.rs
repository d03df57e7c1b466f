//! 3.4, softcap: `cap · tanh(x / cap)`.

use crate::fixed::{requant, sigmoid};

/// Constants of one softcap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softcap {
    /// im with im · 2^-is = 2 / cap.
    pub inverse: i32,
    /// is.
    pub inverse_shift: i32,
    /// cm with cm · 2^-cs = cap.
    pub cap: i32,
    /// cs.
    pub cap_shift: i32,
}

/// Caps `x`, in QF.
#[inline(always)]
#[must_use]
pub fn softcap(x: i32, cap: &Softcap, fraction_bits: u32) -> i32 {
    let tanh = 2 * sigmoid(requant(x, cap.inverse, cap.inverse_shift), fraction_bits) as i32 - 32768;
    requant(tanh, cap.cap, cap.cap_shift + 15 - fraction_bits as i32)
}
