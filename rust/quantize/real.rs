//! Real numbers of 320 fraction bits, made of integers alone, so that constants are the same on every machine.
use num_bigint::BigUint;
use std::ops::{Add, Div, Mul, Sub};

/// Fraction bits. The functions below lose fewer than 16 of them, far from the 200 that decide a constant.
const PRECISION: u64 = 320;

/// A number ≥ 0 as a multiple of 2^-320, rounded down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Real(BigUint);

impl From<u64> for Real {
    fn from(value: u64) -> Self {
        Self(BigUint::from(value) << PRECISION)
    }
}

impl Add for &Real {
    type Output = Real;
    fn add(self, other: Self) -> Real {
        Real(&self.0 + &other.0)
    }
}

/// The difference of two numbers of which the first is not the smaller.
impl Sub for &Real {
    type Output = Real;
    fn sub(self, other: Self) -> Real {
        Real(&self.0 - &other.0)
    }
}

impl Mul for &Real {
    type Output = Real;
    fn mul(self, other: Self) -> Real {
        Real((&self.0 * &other.0) >> PRECISION)
    }
}

/// The quotient by a number that is not 0.
impl Div for &Real {
    type Output = Real;
    fn div(self, other: Self) -> Real {
        Real((&self.0 << PRECISION) / &other.0)
    }
}

impl Real {
    /// The value of a finite float ≥ 2^-256, exactly.
    pub(crate) fn from_f64(value: f64) -> Self {
        let (mantissa, exponent) = decompose(value);
        let shift = exponent + PRECISION as i32;
        let mantissa = BigUint::from(mantissa);
        Self(if shift < 0 { mantissa >> shift.unsigned_abs() } else { mantissa << shift.unsigned_abs() })
    }

    /// The square root.
    pub(crate) fn sqrt(&self) -> Self {
        Self((&self.0 << PRECISION).sqrt())
    }

    /// The natural logarithm of a number ≥ 1: 2^e · y with 1 ≤ y < 2 gives e · ln 2 + 2 · atanh((y − 1) / (y + 1)).
    pub(crate) fn ln(&self) -> Self {
        let one = Self::from(1);
        let e = self.0.bits() - 1 - PRECISION;
        let y = Self(&self.0 >> e);
        let mantissa = series(&(&(&y - &one) / &(&y + &one)), Signs::Plus);
        Self(&ln_2().0 * e + (mantissa.0 << 1_u32))
    }

    /// e^-self, by the Taylor series of the part below ln 2.
    pub(crate) fn exp_of_negative(&self) -> Self {
        let ln_2 = ln_2();
        let halvings = &self.0 / &ln_2.0;
        let rest = Self(&self.0 - &halvings * &ln_2.0);
        let (mut sum, mut term, mut n) = (Self::from(1), Self::from(1), 1_u32);
        while term.0 != BigUint::ZERO {
            term = Self((&term * &rest).0 / n);
            sum = &sum + &term;
            n += 1;
        }
        let inverse = &Self::from(1) / &sum;
        // Beyond the precision everything is 0, so a larger shift need not be told apart.
        let shift = u64::try_from(halvings).unwrap_or(u64::MAX).min(2 * PRECISION);
        Self(inverse.0 >> shift)
    }

    /// π = 16 · atan(1/5) − 4 · atan(1/239).
    pub(crate) fn pi() -> Self {
        let atan = |n| series(&(&Self::from(1) / &Self::from(n)), Signs::Alternating);
        &Self(atan(5).0 << 4_u32) - &Self(atan(239).0 << 2_u32)
    }

    /// log2(e).
    pub(crate) fn log2_e() -> Self {
        &Self::from(1) / &ln_2()
    }

    /// `(m, sh)` with m · 2^-sh ≈ self, m rounded to `bits` ≤ 31 bits; self is not 0.
    pub(crate) fn dyadic(&self, bits: u32) -> (i32, i32) {
        let length = self.0.bits();
        let cut = length as i64 - i64::from(bits);
        let m = if cut > 0 { ((&self.0 >> (cut - 1)) + 1_u32) >> 1_u32 } else { &self.0 << -cut };
        let sh = PRECISION as i32 - cut as i32;
        let m = u64::try_from(m).unwrap_or(u64::MAX);
        if m == 1 << bits { ((m >> 1) as i32, sh - 1) } else { (m as i32, sh) }
    }

    /// floor(self · 2^64), or `None` for a number ≥ 1.
    pub(crate) fn in_2_64ths(&self) -> Option<u64> {
        u64::try_from(&self.0 >> (PRECISION - 64)).ok()
    }
}

fn ln_2() -> Real {
    let third = &Real::from(1) / &Real::from(3);
    Real(series(&third, Signs::Plus).0 << 1_u32)
}

enum Signs {
    /// The series of atanh.
    Plus,
    /// The series of atan.
    Alternating,
}

/// x ± x³/3 + x⁵/5 ± … for 0 ≤ x ≤ 1/3.
fn series(x: &Real, signs: Signs) -> Real {
    let square = x * x;
    let (mut sum, mut power, mut n) = (Real(BigUint::ZERO), x.clone(), 1_u32);
    while power.0 != BigUint::ZERO {
        let term = Real(&power.0 / n);
        let minus = matches!(signs, Signs::Alternating) && n % 4 == 3;
        sum = if minus { &sum - &term } else { &sum + &term };
        power = &power * &square;
        n += 2;
    }
    sum
}

/// `(m, e)` with m · 2^e = |value|, exactly; `value` is finite.
pub(crate) fn decompose(value: f64) -> (u64, i32) {
    let bits = value.to_bits();
    let (field, fraction) = (bits >> 52 & 0x7ff, bits & ((1 << 52) - 1));
    if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field as i32 - 1075) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_agree_with_known_digits() {
        // π · 2^60, ln 2 · 2^64 and log2(e) · 2^62, rounded down.
        assert_eq!((Real::pi().0 >> (PRECISION - 60)).to_string(), "3622009729038561421");
        assert_eq!(ln_2().in_2_64ths(), Some(0xb172_17f7_d1cf_79ab));
        assert_eq!((Real::log2_e().0 >> (PRECISION - 62)).to_string(), (0x5c55_1d94_ae0b_f85d_u64).to_string());
        assert_eq!(Real::from(1).exp_of_negative().in_2_64ths(), Some(0x5e2d_58d8_b3bc_df1a));
    }

    #[test]
    fn exp_undoes_ln_and_sqrt_undoes_squares() {
        let ulps = |a: &Real, b: &Real| if a > b { &a.0 - &b.0 } else { &b.0 - &a.0 };
        for value in [1.0, 1.5, 2.0, 10_000.0, 1e6, 5e300] {
            let real = Real::from_f64(value);
            let product = &real * &real.ln().exp_of_negative();
            // The product magnifies the last bit of the exponential by the value.
            assert!(ulps(&product, &Real::from(1)).bits() <= 16 + real.0.bits() - PRECISION, "{value}");
            assert!(ulps(&(&real * &real).sqrt(), &real).bits() <= 1, "{value}");
        }
        assert_eq!(Real::from_f64(f64::MAX).exp_of_negative(), Real::from(0));
    }

    #[test]
    fn dyadic_rounds_half_up_and_carries() {
        assert_eq!(Real::from_f64(0.75).dyadic(15), (24576, 15));
        assert_eq!(Real::from(1).dyadic(31), (1 << 30, 30));
        assert_eq!(Real::from_f64(1.0 - 1e-10).dyadic(15), (1 << 14, 14));
        assert_eq!(Real::from((1 << 16) + 1).dyadic(16), (32769, -1));
        assert_eq!(Real::from_f64(1e300).dyadic(15), crate::constants::dyadic(1e300, 15));
    }
}
