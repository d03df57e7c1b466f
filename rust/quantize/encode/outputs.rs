//! What rows aim at besides their values: where the loss minds some directions of the outputs more than others, later
//! rows make good what errors of earlier ones do.
use super::factor::Factor;
use intact_core::cpu::Pool;

/// Tiles that are encoded side by side: errors pass to later ones only.
pub(super) const WAVE: usize = 4;

/// The errors of the rows that are fixed, and what they mean for the others.
pub(super) struct Outputs<'a> {
    factor: &'a Factor,
    errors: Vec<Vec<f64>>,
}

impl<'a> Outputs<'a> {
    /// No row is fixed yet.
    pub(super) fn new(factor: &'a Factor) -> Self {
        Self { factor, errors: Vec::new() }
    }

    /// What the fixed rows leave to each of the `count` rows after them. These know nothing of one another's rounding,
    /// but follow each other's aims.
    pub(super) fn left(&self, count: usize, columns: usize, pool: &Pool) -> Vec<Vec<f64>> {
        let first = self.errors.len();
        let mut left = pool.map(count, |row| {
            let mut sum = vec![0.0; columns];
            for (errors, factor) in self.errors.iter().zip(self.factor.column(first + row)) {
                sum.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error * factor);
            }
            sum
        });
        for row in 1..count {
            let (aims, rest) = left.split_at_mut(row);
            for (aims, factor) in aims.iter().zip(&self.factor.column(first + row)[first..]) {
                rest[0].iter_mut().zip(aims).for_each(|(sum, aim)| *sum -= aim * factor);
            }
        }
        left
    }

    /// Fixes the next row: its values less the decoded ones.
    pub(super) fn fix(&mut self, errors: Vec<f64>) {
        self.errors.push(errors);
    }
}
