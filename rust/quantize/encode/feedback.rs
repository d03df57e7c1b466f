//! The values that codes aim at: a row's own, and what errors of earlier columns left to the later ones.
use super::factor::Factor;
use intact_core::formats::TILE;
use std::ops::Range;

/// Targets of the rows of a tile. Sums run in ascending column order, whatever is asked for when.
pub(super) struct Targets<'a> {
    factor: Option<&'a Factor>,
    /// Per column and row: the value.
    values: Vec<[f64; TILE]>,
    /// Per column and row: the value less the decoded one, once it is fixed.
    errors: Vec<[f64; TILE]>,
    /// Per column and row: what the columns below `summed` left.
    sums: Vec<[f64; TILE]>,
    /// Per column: how many earlier ones are in its sum.
    summed: Vec<usize>,
}

impl<'a> Targets<'a> {
    /// The targets of up to 16 rows of `columns` values.
    pub(super) fn new(factor: Option<&'a Factor>, rows: &[Vec<f64>], columns: usize) -> Self {
        let none = vec![[0.0; TILE]; columns];
        let mut values = none.clone();
        for (r, row) in rows.iter().enumerate() {
            values.iter_mut().zip(row).for_each(|(column, &value)| column[r] = value);
        }
        Self { factor, values, errors: none.clone(), sums: none, summed: vec![0; columns] }
    }

    /// Takes columns below `fixed` into the sums of `range`.
    pub(super) fn prepare(&mut self, range: Range<usize>, fixed: usize) {
        let Some(factor) = self.factor else { return };
        for k in range {
            let known = fixed.min(k);
            let mut sum = self.sums[k];
            for (errors, factor) in
                self.errors[self.summed[k]..known].iter().zip(&factor.column(k)[self.summed[k]..known])
            {
                sum.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error * factor);
            }
            (self.sums[k], self.summed[k]) = (sum, known);
        }
    }

    /// The target of a column of a row.
    pub(super) fn get(&self, row: usize, k: usize) -> f64 {
        self.values[k][row] + self.sums[k][row]
    }

    /// Fixes what is decoded.
    pub(super) fn fix(&mut self, row: usize, k: usize, decoded: f64) {
        self.errors[k][row] = self.values[k][row] - decoded;
    }
}
