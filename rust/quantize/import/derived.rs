//! Matrices whose elements are made of other tensors: packed ones, master weights that are made ternary, and rotated
//! ones.
use super::blocks::{Blocks, Grid, WHOLE_ROW};
use super::packed::Packed;
use super::tensor::Tensor;
use crate::encode::{ROTATION, rotate};
use crate::error::Error;
use std::sync::OnceLock;

/// The least mean magnitude, as in the reference implementation.
const LEAST_MEAN: f32 = 1e-5;

/// What a matrix is made of.
#[derive(Debug)]
pub(super) enum Derived {
    Packed(Packed),
    Ternarised(Ternarised),
    Rotated(Rotated),
}

impl Derived {
    /// The meaning of a row's codes; `None` where columns that share a scale lie apart.
    pub(super) fn grid(&self) -> Option<Grid> {
        match self {
            Self::Packed(packed) => packed.in_blocks().then_some(packed.grid),
            Self::Ternarised(_) => Some(Ternarised::GRID),
            Self::Rotated(_) => None,
        }
    }
}

/// A matrix whose rows are transformed, run by run, by the orthogonal Walsh–Hadamard matrix.
#[derive(Debug)]
pub(super) struct Rotated {
    master: Tensor,
}

impl Rotated {
    pub(super) fn new(master: Tensor) -> Self {
        Self { master }
    }

    /// Whether the elements are floats.
    pub(super) fn is_float(&self) -> bool {
        self.master.is_float()
    }

    /// Row `row` as f32: sums in f64, rounded once.
    pub(super) fn values(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        self.master.row_f32(row, out)?;
        let mut wide: Vec<f64> = out.iter().map(|&value| f64::from(value)).collect();
        wide.chunks_exact_mut(ROTATION).for_each(rotate);
        out.iter_mut().zip(&wide).for_each(|(out, &value)| *out = value as f32);
        Ok(())
    }
}

/// A matrix of floats of which clamp(round(w/mean), ±1)·mean is the weight, mean that of all |w|.
#[derive(Debug)]
pub(super) struct Ternarised {
    master: Tensor,
    /// 1/mean, once it is known.
    inverse: OnceLock<f32>,
}

impl Ternarised {
    const GRID: Grid = Grid {
        block: WHOLE_ROW,
        bits: 2,
        levels: super::Levels::Linear { zero: 1 },
        shift: super::Shift::None,
        scales: super::Scales::Real,
    };

    pub(super) fn new(master: Tensor) -> Self {
        Self { master, inverse: OnceLock::new() }
    }

    /// 1/mean. The sum runs in f64 over all rows in order, whoever asks first.
    fn inverse(&self) -> Result<f32, Error> {
        if let Some(&inverse) = self.inverse.get() {
            return Ok(inverse);
        }
        let (rows, columns) = (self.master.rows(), self.master.columns());
        let (mut values, mut sum) = (vec![0.0; columns], 0.0);
        for row in 0..rows {
            self.master.row_f32(row, &mut values)?;
            sum = values.iter().fold(sum, |sum: f64, &value| sum + f64::from(value.abs()));
        }
        let mean = (sum / (rows as f64 * columns as f64)) as f32;
        Ok(*self.inverse.get_or_init(|| 1.0 / mean.max(LEAST_MEAN)))
    }

    /// Row `row` in its codes.
    pub(super) fn decode(&self, row: usize, out: &mut Blocks) -> Result<(), Error> {
        let inverse = self.inverse()?;
        let mut values = vec![0.0; self.master.columns()];
        self.master.row_f32(row, &mut values)?;
        out.clear();
        out.grid = Self::GRID;
        // Beyond ½ a value rounds to ±1; ½ itself rounds to 0.
        out.codes.extend(values.iter().map(|&value| {
            let x = value * inverse;
            1 + u8::from(x > 0.5) - u8::from(x < -0.5)
        }));
        out.scale.push(f64::from(1.0 / inverse));
        Ok(())
    }

    /// Row `row` as f32.
    pub(super) fn values(&self, row: usize, out: &mut [f32]) -> Result<(), Error> {
        let mut blocks = Blocks::default();
        self.decode(row, &mut blocks)?;
        out.iter_mut().enumerate().for_each(|(k, value)| *value = blocks.weight(k) as f32);
        Ok(())
    }
}
