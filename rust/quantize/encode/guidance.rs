//! What is known of a matrix's inputs, and what encoders make of it.
use super::factor::Factor;
use intact_core::cpu::Pool;
use intact_core::formats::TILE;

/// Second moments of a layer's inputs: H = sum of x·xᵀ, symmetric.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub(super) columns: usize,
    pub(super) lower: Vec<f64>,
}

impl Moments {
    /// Moments of `columns` inputs. `lower` is the lower triangle with its diagonal, row after row:
    /// columns · (columns + 1) / 2 finite numbers, those of the diagonal ≥ 0. `None` where it is not that.
    #[must_use]
    pub fn new(columns: usize, lower: Vec<f64>) -> Option<Self> {
        let count = columns.checked_add(1)?.checked_mul(columns)? / 2;
        let moments = Self { columns, lower };
        let sound = moments.lower.len() == count && moments.lower.iter().all(|value| value.is_finite());
        (sound && (0..columns).all(|k| moments.diagonal(k) >= 0.0)).then_some(moments)
    }

    /// e·H·eᵀ for 16 rows e at a time, given by columns: of the errors themselves, without damping.
    pub(super) fn energies(&self, e: &[[f64; TILE]]) -> [f64; TILE] {
        let mut sums = [0.0; TILE];
        for (i, own) in e.iter().enumerate() {
            let (last, row) = (self.diagonal(i), &self.lower[i * (i + 1) / 2..][..i]);
            let mut inner = own.map(|e| e * last);
            for (other, &moment) in e.iter().zip(row) {
                let moment = 2.0 * moment;
                inner.iter_mut().zip(other).for_each(|(inner, e)| *inner += e * moment);
            }
            sums.iter_mut().zip(own.iter().zip(&inner)).for_each(|(sum, (e, inner))| *sum += e * inner);
        }
        sums
    }

    /// e·H·eᵀ.
    #[cfg(test)]
    pub(super) fn energy(&self, e: &[f64]) -> f64 {
        let pairs = |i: usize| (0..i).fold(e[i] * self.diagonal(i), |sum, j| sum + 2.0 * e[j] * self.lower_entry(i, j));
        (0..e.len()).fold(0.0, |sum, i| sum + e[i] * pairs(i))
    }

    /// H_ij, j ≤ i.
    #[cfg(test)]
    pub(super) fn lower_entry(&self, i: usize, j: usize) -> f64 {
        self.lower[i * (i + 1) / 2 + j]
    }

    fn diagonal(&self, k: usize) -> f64 {
        self.lower[k * (k + 1) / 2 + k]
    }
}

/// What an encoder is told about a matrix's inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Guidance {
    /// Nothing: all columns count the same.
    #[default]
    None,
    /// The weight of a squared error in each column, finite and ≥ 0.
    Importance(Vec<f64>),
    /// Second moments: errors of a column are made good in later ones.
    Moments(Moments),
}

impl Guidance {
    /// Whether it fits a matrix of `columns` columns.
    #[must_use]
    pub fn fits(&self, columns: usize) -> bool {
        match self {
            Self::None => true,
            Self::Importance(weights) => {
                weights.len() == columns && weights.iter().all(|&weight| weight.is_finite() && weight >= 0.0)
            }
            Self::Moments(moments) => moments.columns == columns,
        }
    }

    /// The energies of 16 rows, given by columns: e·H·eᵀ, or the weighted sum of squares.
    pub(super) fn energies(&self, e: &[[f64; TILE]]) -> [f64; TILE] {
        let weighted = |weight: &dyn Fn(usize) -> f64| {
            let mut sums = [0.0; TILE];
            for (k, column) in e.iter().enumerate() {
                let weight = weight(k);
                sums.iter_mut().zip(column).for_each(|(sum, e)| *sum += e * e * weight);
            }
            sums
        };
        match self {
            Self::None => weighted(&|_| 1.0),
            Self::Importance(weights) => weighted(&|k| weights[k]),
            Self::Moments(moments) => moments.energies(e),
        }
    }
}

/// Guidance made ready for the rows of a matrix.
pub(super) struct Guide {
    /// Weights of columns, up to a common factor.
    pub(super) weights: Vec<f64>,
    /// What feeds errors back.
    pub(super) factor: Option<Factor>,
}

impl Guide {
    /// Makes guidance ready. Weights that are all 0 say nothing.
    pub(super) fn new(guidance: &Guidance, columns: usize, pool: &Pool) -> Self {
        let (weights, factor) = match guidance {
            Guidance::None => (vec![1.0; columns], None),
            Guidance::Importance(weights) => (weights.clone(), None),
            Guidance::Moments(moments) => {
                let weights: Vec<f64> = (0..columns).map(|k| moments.diagonal(k)).collect();
                let factor = Factor::new(columns, moments.lower.clone(), pool);
                (weights, factor)
            }
        };
        if weights.iter().any(|&weight| weight > 0.0) {
            Self { weights, factor }
        } else {
            Self { weights: vec![1.0; columns], factor: None }
        }
    }
}
