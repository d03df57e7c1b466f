//! Sums of one window: exact integers, whatever thread computes which part of them.
use intact_core::cpu::Pool;
use std::sync::{Mutex, PoisonError};

/// Largest magnitude of a scaled input: [`RUN`] products of two sum to less than 2^31.
const CODE_MAX: u64 = 4095;
/// Tokens whose products are summed in i32.
const RUN: usize = 128;
/// Rows of the triangle that are one part of the work.
const ROWS: usize = 16;
/// Columns that stay in a cache while [`ROWS`] rows meet them.
const COLUMNS: usize = 64;
/// Fraction bits of a token's gain.
pub(super) const GAIN_BITS: u32 = 10;
/// Largest gain, in units of 2^-[`GAIN_BITS`].
pub(super) const GAIN_MAX: u32 = 1 << 20;

/// Adds `Σ_t (gains[t] · x[t][k])²` to `sums[k]`, for `x` of `gains.len()` vectors of `sums.len()`.
///
/// A window's sum is exact below 2^127: gains are at most 2^20, inputs below 2^31, and windows below 2^24 tokens. It is
/// rounded to a double once, and windows are added in order.
pub(super) fn add_diagonal(x: &[i32], gains: &[u32], sums: &mut [f64]) {
    let mut exact = vec![0u128; sums.len()];
    for (x, &gain) in x.chunks_exact(sums.len()).zip(gains) {
        for (sum, &x) in exact.iter_mut().zip(x) {
            let scaled = u64::from(x.unsigned_abs()) * u64::from(gain);
            *sum += u128::from(scaled) * u128::from(scaled);
        }
    }
    for (sum, exact) in sums.iter_mut().zip(exact) {
        *sum += exact as f64;
    }
}

/// Adds `Σ_t gains[t]² · x[t][j] · x[t][k]` to the packed lower triangle `sums`: row j holds k = 0…j.
///
/// Within a window every column is rounded to 12 bits and a sign, by a shift that fits its largest value; the sums of
/// these codes are exact. Windows are added in order as doubles.
pub(super) fn add_moments(x: &[i32], gains: &[u32], columns: usize, sums: &mut [f64], pool: &Pool) {
    let padded = gains.len().next_multiple_of(RUN);
    let (codes, shifts) = codes(x, gains, columns, padded);
    let mut rest = sums;
    let mut parts = Vec::with_capacity(columns.div_ceil(ROWS));
    for first in (0..columns).step_by(ROWS) {
        let end = columns.min(first + ROWS);
        let (part, later) = rest.split_at_mut(packed(end) - packed(first));
        parts.push((first, Mutex::new(part)));
        rest = later;
    }
    // The last rows are the longest; they begin first so that threads end together.
    pool.run(parts.len(), &|_, part| {
        let (first, part) = &parts[parts.len() - 1 - part];
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        add_rows(&codes, &shifts, padded, *first, &mut part);
    });
}

/// Elements of the first `rows` rows of a packed lower triangle.
pub(super) fn packed(rows: usize) -> usize {
    rows * (rows + 1) / 2
}

/// Codes of the scaled inputs, `padded` tokens for each column, and the shift of each column.
fn codes(x: &[i32], gains: &[u32], columns: usize, padded: usize) -> (Vec<i16>, Vec<u32>) {
    let mut largest = vec![0u64; columns];
    for (x, &gain) in x.chunks_exact(columns).zip(gains) {
        for (largest, &x) in largest.iter_mut().zip(x) {
            *largest = (*largest).max(u64::from(x.unsigned_abs()) * u64::from(gain));
        }
    }
    let shift = |&largest: &u64| (0..64).find(|&shift| round(largest, shift) <= CODE_MAX).unwrap_or(0);
    let shifts: Vec<u32> = largest.iter().map(shift).collect();
    let mut codes = vec![0i16; columns * padded];
    for (token, (x, &gain)) in x.chunks_exact(columns).zip(gains).enumerate() {
        for (column, (&x, &shift)) in x.iter().zip(&shifts).enumerate() {
            let code = round(u64::from(x.unsigned_abs()) * u64::from(gain), shift) as i16;
            codes[column * padded + token] = if x < 0 { -code } else { code };
        }
    }
    (codes, shifts)
}

/// `value · 2^-shift`, halves away from zero; `value` is below 2^52.
fn round(value: u64, shift: u32) -> u64 {
    (value + ((1 << shift) >> 1)) >> shift
}

/// Adds the products of columns `first…` with all columns up to themselves to their packed rows.
fn add_rows(codes: &[i16], shifts: &[u32], padded: usize, first: usize, sums: &mut [f64]) {
    let rows = shifts.len().min(first + ROWS) - first;
    let column = |k: usize| &codes[k * padded..(k + 1) * padded];
    for start in (0..first + rows).step_by(COLUMNS) {
        for j in first..first + rows {
            let row = packed(j) - packed(first);
            for k in start..(start + COLUMNS).min(j + 1) {
                let sum = dot(column(j), column(k));
                // Exact: the sum is below 2^53 for windows below 2^29 tokens.
                sums[row + k] += sum as f64 * power_of_two((shifts[j] + shifts[k]) as i32);
            }
        }
    }
}

/// The inner product of codes, a multiple of [`RUN`] of them.
fn dot(a: &[i16], b: &[i16]) -> i64 {
    let runs = a.chunks_exact(RUN).zip(b.chunks_exact(RUN));
    let run = |(a, b): (&[i16], &[i16])| -> i32 { a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum() };
    runs.map(|pair| i64::from(run(pair))).sum()
}

/// 2^`exponent`, for exponents within ±1000.
pub(super) fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs of `tokens` tokens with outliers in some columns.
    fn inputs(tokens: usize, columns: usize) -> Vec<i32> {
        let mut state = 1u64;
        (0..tokens * columns)
            .map(|i| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let width = if (i % columns).is_multiple_of(7) { 28 } else { 14 };
                (state >> 33) as i32 % (1 << width) - (1 << (width - 1))
            })
            .collect()
    }

    #[test]
    fn threads_do_not_change_moments() {
        let (tokens, columns) = (300, 83);
        let (x, gains) = (inputs(tokens, columns), vec![1 << GAIN_BITS; tokens]);
        let of = |threads| {
            let mut sums = vec![0.0; packed(columns)];
            add_moments(&x, &gains, columns, &mut sums, &Pool::new(threads));
            sums
        };
        assert_eq!(of(1), of(3));
    }

    #[test]
    fn small_inputs_have_exact_moments() {
        let (tokens, columns) = (130, 20);
        let x: Vec<i32> = inputs(tokens, columns).iter().map(|x| x % 1000).collect();
        let gains: Vec<u32> = (0..tokens as u32).map(|t| 1 + t % 4).collect();
        let mut sums = vec![0.0; packed(columns)];
        add_moments(&x, &gains, columns, &mut sums, &Pool::new(2));
        for j in 0..columns {
            for k in 0..=j {
                let exact: i64 = (0..tokens)
                    .map(|t| i64::from(gains[t]).pow(2) * i64::from(x[t * columns + j]) * i64::from(x[t * columns + k]))
                    .sum();
                assert_eq!(sums[packed(j) + k], exact as f64, "{j} {k}");
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let (tokens, columns) = (256, 17);
        let (x, gains) = (vec![i32::MIN; tokens * columns], vec![GAIN_MAX; tokens]);
        let mut sums = vec![0.0; packed(columns)];
        add_moments(&x, &gains, columns, &mut sums, &Pool::new(1));
        let mut diagonal = vec![0.0; columns];
        add_diagonal(&x, &gains, &mut diagonal);
        assert!(sums.iter().all(|&sum| sum > 0.99 * diagonal[0] && sum < 1.01 * diagonal[0]));
        assert_eq!(diagonal[0], 256.0 * power_of_two(102));
    }

    #[test]
    fn rounding_is_small_beside_the_diagonal() {
        let (tokens, columns) = (512, 40);
        let (x, gains) = (inputs(tokens, columns), vec![1u32; tokens]);
        let mut sums = vec![0.0; packed(columns)];
        add_moments(&x, &gains, columns, &mut sums, &Pool::new(2));
        let mut diagonal = vec![0.0; columns];
        add_diagonal(&x, &gains, &mut diagonal);
        for (k, exact) in diagonal.iter().enumerate() {
            let error = (sums[packed(k) + k] - exact).abs();
            assert!(error <= exact / 1024.0, "column {k}: {error} of {exact}");
        }
    }
}
