//! The rotation of embeddings and heads, which spreads what single columns have over many.
use super::guidance::{Guidance, Moments};

/// Elements of a transform: its factor, 1/8, is exact.
pub const ROTATION: usize = 64;

/// Replaces a run by H·v / 8, H the Walsh–Hadamard matrix of order [`ROTATION`] in natural order, as the op `hadamard`
/// does with integers. It is its own inverse.
///
/// # Panics
/// Where the run is of another length.
pub fn rotate(v: &mut [f64]) {
    assert!(v.len() == ROTATION, "a run of {ROTATION}");
    let mut step = 1;
    while step < ROTATION {
        for pair in v.chunks_exact_mut(2 * step) {
            let (low, high) = pair.split_at_mut(step);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        step *= 2;
    }
    v.iter_mut().for_each(|v| *v /= 8.0);
}

impl Guidance {
    /// What this says of inputs, said of them once they are rotated run by run. Columns are a multiple of [`ROTATION`].
    pub(crate) fn rotated(self) -> Self {
        match self {
            Self::None => Self::None,
            // Weights of columns alone know nothing of their correlation: each rotated one has the mean of its run.
            Self::Importance(mut weights) => {
                for run in weights.chunks_exact_mut(ROTATION) {
                    let mean = run.iter().fold(0.0, |sum, weight| sum + weight) / ROTATION as f64;
                    run.fill(mean);
                }
                Self::Importance(weights)
            }
            Self::Moments(moments) => Self::Moments(moments.rotated()),
        }
    }
}

impl Moments {
    /// R·H·Rᵀ.
    fn rotated(&self) -> Self {
        let (columns, mut full) = (self.columns, vec![0.0; self.columns * self.columns]);
        for i in 0..columns {
            for j in 0..=i {
                let value = self.lower[i * (i + 1) / 2 + j];
                (full[i * columns + j], full[j * columns + i]) = (value, value);
            }
        }
        full.chunks_exact_mut(ROTATION).for_each(rotate);
        let mut run = vec![0.0; ROTATION];
        let mut lower = vec![0.0; self.lower.len()];
        for j in 0..columns {
            for first in (0..columns).step_by(ROTATION) {
                run.iter_mut().enumerate().for_each(|(k, v)| *v = full[(first + k) * columns + j]);
                rotate(&mut run);
                for (i, &value) in (first..).zip(&run).filter(|&(i, _)| j <= i) {
                    // Of a square only rounding could be below 0.
                    lower[i * (i + 1) / 2 + j] = if i == j { value.max(0.0) } else { value };
                }
            }
        }
        Self { columns, lower }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::tests::Random;

    #[test]
    fn a_rotation_is_its_own_inverse_and_keeps_energies() {
        let mut random = Random(5);
        let row: Vec<f64> = random.row(2 * ROTATION).iter().map(|&x| f64::from(x)).collect();
        let inputs: Vec<Vec<f64>> =
            (0..5).map(|_| random.row(2 * ROTATION).iter().map(|&x| f64::from(x)).collect()).collect();
        let turned = |row: &[f64]| {
            let mut row = row.to_vec();
            row.chunks_exact_mut(ROTATION).for_each(rotate);
            row
        };
        assert!(turned(&turned(&row)).iter().zip(&row).all(|(a, b)| (a - b).abs() < 1e-12));
        let lower: Vec<f64> = (0..2 * ROTATION)
            .flat_map(|i| (0..=i).map(move |j| (i, j)))
            .map(|(i, j)| inputs.iter().fold(0.0, |sum, x| sum + x[i] * x[j]))
            .collect();
        let moments = Moments::new(2 * ROTATION, lower).unwrap();
        let before = moments.energy(&row);
        let Guidance::Moments(moments) = Guidance::Moments(moments).rotated() else { unreachable!() };
        assert!((moments.energy(&turned(&row)) / before - 1.0).abs() < 1e-12);
        let weights = Guidance::Importance((0..ROTATION).map(|k| k as f64).collect()).rotated();
        assert_eq!(weights, Guidance::Importance(vec![31.5; ROTATION]));
    }
}
