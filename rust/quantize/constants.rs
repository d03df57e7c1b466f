//! The constants of a program, from a checkpoint's real numbers (docs/NUMERICS.md, section 8).
//!
//! Each is its formula's exact value, rounded once: whole numbers and dyadic fractions are computed with machine
//! integers, everything else with 320 fraction bits.
use crate::real::{Real, decompose};
use intact_core::ops::hadamard;

/// round(v) = floor(v + 1/2).
pub(crate) fn round(v: f64) -> f64 {
    (v + 0.5).floor()
}

/// floor(log2 |v|) of a finite number that is not 0.
pub fn floor_log2(v: f64) -> i32 {
    let (mantissa, exponent) = decompose(v);
    63 - mantissa.leading_zeros() as i32 + exponent
}

/// `(m, sh)` with m · 2^-sh ≈ v, m rounded to `bits` ≤ 31 bits, for a finite v > 0.
pub fn dyadic(v: f64, bits: u32) -> (i32, i32) {
    let (mantissa, exponent) = decompose(v);
    let length = 64 - mantissa.leading_zeros();
    let sh = bits as i32 - length as i32 - exponent;
    let m = match length.checked_sub(bits) {
        None | Some(0) => mantissa << (bits - length),
        Some(cut) => (mantissa + (1 << (cut - 1))) >> cut,
    };
    if m == 1 << bits { ((m >> 1) as i32, sh - 1) } else { (m as i32, sh) }
}

/// E = round(n · eps · 2^2F) of a norm, for a finite `eps` ≥ 0 and F ≤ 20; `None` where it is not below 2^44.
pub fn epsilon(n: usize, eps: f64, fraction_bits: u32) -> Option<u64> {
    let (mantissa, exponent) = decompose(eps);
    let product = u128::from(mantissa) * u128::try_from(n).ok()?;
    let exponent = exponent + 2 * fraction_bits as i32;
    let value = match exponent {
        // A mantissa has 53 bits unless the number is tiny, so that a product shifted left is far too large.
        0.. => product.checked_mul(1_u128.checked_shl(exponent.unsigned_abs())?)?,
        -127..0 => ((product >> (-exponent - 1)) + 1) >> 1,
        _ => 0,
    };
    u64::try_from(value).ok().filter(|&value| value < 1 << 44)
}

/// `(rn, rk)` with rn · 2^-rk ≈ sqrt(n), 2^14 ≤ rn < 2^15, for 1 ≤ n ≤ 2^20.
pub fn root(n: usize) -> (i32, i32) {
    let n = n as u64;
    let sh = 14 - n.ilog2() / 2;
    // floor(sqrt(n) · 2^sh + 1/2) = floor((floor(sqrt(4 · n · 2^2sh)) + 1) / 2).
    let m = ((n << (2 * sh + 2)).isqrt() + 1) >> 1;
    if m == 1 << 15 { ((m >> 1) as i32, sh as i32 - 1) } else { (m as i32, sh as i32) }
}

/// `(ca, cash)` with ca · 2^-cash ≈ log2(e) / sqrt(head_width), 2^14 ≤ ca < 2^15; where queries and keys pass through
/// a Hadamard transform, the factor that it gives their products is divided out.
pub fn score(head_width: usize, transformed: bool) -> (i32, i32) {
    let scale = &Real::log2_e() / &Real::from(head_width as u64).sqrt();
    let (ca, cash) = scale.dyadic(15);
    if !transformed {
        return (ca, cash);
    }
    // The factor is head_width · 2^-2a with a = floor(log2(head_width) / 2): 1 or 2.
    debug_assert!(head_width.is_power_of_two() && head_width <= hadamard::MAX_WIDTH);
    (ca, cash + (head_width.ilog2() % 2) as i32)
}

/// `(g, gs)` with g · 2^-gs ≈ the gains of a norm, which are finite; `None` where one is 2^15 or larger.
pub fn gains(values: &[f32]) -> Option<(Vec<i16>, i32)> {
    let largest = values.iter().fold(0.0, |largest: f64, &value| largest.max(f64::from(value).abs()));
    let shift = if largest > 0.0 { (14 - floor_log2(largest)).min(30) } else { 30 };
    let factor = f64::from(1_u32.checked_shl(u32::try_from(shift).ok()?)?);
    let code = |value: &f32| round(f64::from(*value) * factor).clamp(-32767.0, 32767.0) as i16;
    Some((values.iter().map(code).collect(), shift))
}

/// round(b · 2^F) of a finite bias; `None` where it does not fit i32.
pub fn bias(value: f32, fraction_bits: u32) -> Option<i32> {
    let value = round(f64::from(value) * f64::from(1_u32 << fraction_bits));
    (f64::from(i32::MIN) <= value && value <= f64::from(i32::MAX)).then_some(value as i32)
}

/// How a checkpoint stretches the frequencies of its rope. All numbers are finite and at least 2^-64.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by the factor.
    Linear {
        /// ≥ 1.
        factor: f64,
    },
    /// Llama 3's rule: by the turns that a pair makes in the original context, few are divided, many are kept, and
    /// those between are interpolated.
    Llama3 {
        /// ≥ 1.
        factor: f64,
        /// The turns up to which a frequency is divided.
        low: f64,
        /// The turns from which it is kept; more than `low`.
        high: f64,
        /// Positions.
        original_context: u64,
    },
    /// Every frequency divided by a factor of its own, ≥ 1.
    Factors(
        /// As many as pairs.
        Vec<f32>,
    ),
}

/// The table of a rope that rotates `rotated` elements, an even number: freq64 of each pair, for a finite theta > 1.
pub fn freq64(theta: f64, rotated: usize, scaling: &RopeScaling) -> Vec<u64> {
    let ln_theta = Real::from_f64(theta).ln();
    let turn = &Real::from(2) * &Real::pi();
    let pairs = (0..rotated / 2).map(|i| {
        let exponent = &(&ln_theta * &Real::from(2 * i as u64)) / &Real::from(rotated as u64);
        let frequency = scaled(&exponent.exp_of_negative() / &turn, i, scaling);
        // 1 / 2π of a turn is the most that a position can make.
        frequency.in_2_64ths().unwrap_or(u64::MAX)
    });
    pairs.collect()
}

/// The frequency of pair `i`, in turns per position, under a scaling.
fn scaled(frequency: Real, i: usize, scaling: &RopeScaling) -> Real {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => &frequency / &Real::from_f64(*factor),
        RopeScaling::Factors(factors) => &frequency / &Real::from_f64(f64::from(factors[i])),
        RopeScaling::Llama3 { factor, low, high, original_context } => {
            let divided = &frequency / &Real::from_f64(*factor);
            let (low, high) = (Real::from_f64(*low), Real::from_f64(*high));
            let turns = &frequency * &Real::from(*original_context);
            if turns <= low {
                divided
            } else if turns >= high {
                frequency
            } else {
                let kept = &(&turns - &low) / &(&high - &low);
                &divided + &(&kept * &(&frequency - &divided))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freq64_agrees_with_the_contract() {
        let table = freq64(100_000.0, 64, &RopeScaling::None);
        assert_eq!(table.len(), 32);
        let published = [(0, 0x28be_60db_9391_054a), (1, 0x1c6e_a314_0b9f_22a9), (2, 0x13d7_416a_896a_28aa)];
        for (i, value) in published.into_iter().chain([(16, 0x0020_fbd7_3341_c2f4), (31, 0x0000_2643_938a_0568)]) {
            assert_eq!(table[i], value, "{i}");
        }
        let table = freq64(10_000.0, 128, &RopeScaling::None);
        let published = [(0, 0x28be_60db_9391_054a), (1, 0x2348_55e5_5644_662e), (2, 0x1e8d_ae29_db02_bb87)];
        for (i, value) in published.into_iter().chain([(32, 0x0068_4dc4_c179_c52c), (63, 0x0001_3458_e2f5_9024)]) {
            assert_eq!(table[i], value, "{i}");
        }
    }

    #[test]
    fn scalings_divide_frequencies() {
        let plain = freq64(500_000.0, 128, &RopeScaling::None);
        let linear = freq64(500_000.0, 128, &RopeScaling::Linear { factor: 8.0 });
        assert!(plain.iter().zip(&linear).all(|(plain, linear)| plain / 8 == *linear));
        let factors: Vec<f32> = (0..64).map(|i| [1.0, 4.0][i % 2]).collect();
        let divided = freq64(500_000.0, 128, &RopeScaling::Factors(factors));
        assert!(plain.iter().zip(&divided).enumerate().all(|(i, (plain, own))| plain / [1, 4][i % 2] == *own));
        // Llama 3.2: of 64 pairs those with more than 4 turns in 8192 positions stay, those with less than 1 are
        // divided by 32. transformers keeps the first 29 and divides from the 36th on.
        let scaling = RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original_context: 8192 };
        let llama = freq64(500_000.0, 128, &scaling);
        assert_eq!((0..64).filter(|&i| llama[i] == plain[i]).max(), Some(28));
        assert_eq!((0..64).filter(|&i| llama[i] == plain[i] / 32).min(), Some(35));
        assert!(llama.is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn extreme_bases_have_tables() {
        assert_eq!(freq64(f64::MAX, 4, &RopeScaling::None)[1], 0);
        let almost_one = freq64(1.0 + f64::EPSILON, 4, &RopeScaling::None);
        assert!(almost_one[0] > almost_one[1] && almost_one[0] - almost_one[1] < 1024);
    }

    #[test]
    fn dyadic_takes_any_float() {
        assert_eq!(dyadic(1.0, 23), (1 << 22, 22));
        assert_eq!(dyadic(f64::from_bits(1), 23), (1 << 22, 22 + 1074));
        assert_eq!(dyadic(f64::MAX, 23), (1 << 22, 22 - 1024));
        assert_eq!(dyadic(8_388_607.5, 23), (1 << 22, -1));
        assert_eq!(dyadic(4_194_304.5, 23), (4_194_305, 0));
        assert_eq!(floor_log2(0.999), -1);
        assert_eq!(floor_log2(-8.0), 3);
    }

    #[test]
    fn norms_have_exact_constants() {
        assert_eq!(epsilon(4, 1e-5, 16), Some(171_799));
        assert_eq!(epsilon(4, 1e-5, 12), Some(671));
        assert_eq!(epsilon(576, 0.0, 12), Some(0));
        assert_eq!(epsilon(1, f64::from_bits(1), 20), Some(0));
        assert_eq!(epsilon(1, 0.25, 20), Some(1 << 38));
        assert_eq!(epsilon(16384, 1.0, 12), Some(1 << 38));
        assert_eq!(epsilon(16384, 1.0, 20), None);
        assert_eq!(epsilon(1, f64::MAX, 20), None);
        assert_eq!(root(4), (16384, 13));
        assert_eq!(root(576), (24576, 10));
        assert_eq!(root(2), (23170, 14));
        assert_eq!(root(16383), (32767, 8));
        for n in 1..=16384_usize {
            let (m, sh) = root(n);
            assert_eq!((m, sh), Real::from(n as u64).sqrt().dyadic(15), "{n}");
        }
    }

    #[test]
    fn scores_have_fifteen_bits() {
        assert_eq!(score(4, false), (23637, 15));
        assert_eq!(score(64, false), (23637, 17));
        assert_eq!(score(64, true), (23637, 17));
        assert_eq!(score(128, true).1, score(128, false).1 + 1);
        // log2(e) / sqrt(128) = 0.127517… = 16714 · 2^-17.
        assert_eq!(score(128, false), (16714, 17));
    }

    #[test]
    fn gains_use_fifteen_bits() {
        assert_eq!(gains(&[1.0, -0.5, 0.0]), Some((vec![16384, -8192, 0], 14)));
        assert_eq!(gains(&[1.999_99, 0.1]), Some((vec![32767, 1638], 14)));
        assert_eq!(gains(&[1e-20]), Some((vec![0], 30)));
        assert_eq!(gains(&[0.0]), Some((vec![0], 30)));
        assert_eq!(gains(&[32767.5]), Some((vec![32767], 0)));
        assert_eq!(gains(&[32768.0]), None);
    }

    #[test]
    fn biases_round_half_up_or_fail() {
        assert_eq!(bias(1.5, 12), Some(6144));
        assert_eq!(bias(-0.5, 0), Some(0));
        assert_eq!(bias(-524_288.0, 12), Some(i32::MIN));
        assert_eq!(bias(524_288.0, 12), None);
        assert_eq!(bias(f32::MAX, 12), None);
    }
}
