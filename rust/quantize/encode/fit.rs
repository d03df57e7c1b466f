//! Scales of the pair trellis before its path is known.
//!
//! Long random codes serve a block at scale s with an error of n·s²·d·σ²·exp(mean of (x/s)²/σ² − 1): their words are
//! dense where the levels of many states lie, so a target far out costs its neighbours accuracy. σ and d are the spread
//! and the distortion at which a code serves a normal source best. No level lies beyond 62, which alone decides for
//! blocks with one huge element.

/// The largest level.
const FARTHEST: f64 = 62.0;
/// Scales tried between the smallest and the largest that may be best.
const STEPS: u32 = 16;
/// Weights count at least this part of their mean: a path cannot give up a column altogether.
const LEAST_WEIGHT: f64 = 1.0 / 64.0;

/// What is known of a code.
#[derive(Clone, Copy)]
pub(super) struct Fit {
    /// The standard deviation, in level units, at which it serves a normal source best.
    pub(super) spread: f64,
    /// The error there, in level units squared.
    error: f64,
}

/// Targets to be given one scale.
pub(super) struct Block<'a> {
    targets: &'a [f64],
    weights: &'a [f64],
    /// The geometric mean of the weights: a path makes errors small where weights are large.
    weight: f64,
}

/// e^x for −1 ≤ x ≤ 10 to 5 %, of plain multiplications.
fn exp(x: f64) -> f64 {
    (0..10).fold(1.0 + x / 1024.0, |power, _| power * power)
}

impl<'a> Block<'a> {
    /// Targets with the weights of their errors, finite and ≥ 0.
    pub(super) fn new(targets: &'a [f64], weights: &'a [f64]) -> Self {
        let mean = weights.iter().fold(0.0, |sum, weight| sum + weight) / weights.len() as f64;
        // Roots of products of 32 factors, so that no product underflows.
        let root = |weights: &[f64]| {
            let product = weights.iter().fold(1.0, |product, weight| product * (weight / mean).max(LEAST_WEIGHT));
            let length = weights.len().next_power_of_two();
            (0..length.ilog2()).fold(product, |root, _| root.sqrt())
        };
        let parts = weights.chunks(32);
        let count = parts.len() as f64;
        let weight = if mean > 0.0 { parts.fold(0.0, |sum, part| sum + root(part)) / count * mean } else { 0.0 };
        Self { targets, weights, weight }
    }
}

impl Fit {
    /// That of the code with `bits` bits per step.
    pub(super) fn of(bits: u32) -> Self {
        let (spread, distortion) = match bits {
            2 => (24.5, 0.2645),
            3 => (23.0, 0.1355),
            4 => (21.9, 0.0684),
            5 => (21.3, 0.0349),
            6 => (20.5, 0.0180),
            7 => (20.2, 0.0094),
            _ => (19.9, 0.0050),
        };
        Self { spread, error: distortion * spread * spread }
    }

    /// The weighted squared error to expect of a block at a scale > 0.
    pub(super) fn error(self, block: &Block, scale: f64) -> f64 {
        let (mut near, mut beyond) = (0.0, 0.0);
        let inverse = 1.0 / scale;
        for (&x, weight) in block.targets.iter().zip(block.weights) {
            let size = x.abs() * inverse;
            let reached = size.min(FARTHEST);
            near += reached * reached;
            beyond += weight * (size - reached) * (size - reached);
        }
        let count = block.targets.len() as f64;
        let path = count * block.weight * self.error * exp(near / count / (self.spread * self.spread) - 1.0);
        scale * scale * (path + beyond)
    }

    /// The scale that promises the least error, near enough; 0 for a block of zeros.
    pub(super) fn scale(self, block: &Block) -> f64 {
        let square = block.targets.iter().fold(0.0, |sum, x| sum + x * x);
        let largest = block.targets.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let usual = (square / block.targets.len() as f64).sqrt() / self.spread;
        let (first, last) = (0.8 * usual, (1.2 * usual).max(largest / FARTHEST));
        let step = (last - first) / f64::from(STEPS);
        let mut best = (f64::INFINITY, 0.0);
        for i in 0..=STEPS {
            let scale = first + step * f64::from(i);
            if scale > 0.0 {
                let error = self.error(block, scale);
                if error < best.0 {
                    best = (error, scale);
                }
            }
        }
        best.1
    }

    /// The multiple 1 … `most` of `unit` > 0 that promises the least error, and that error, where `near` is the best
    /// real scale; 0 for a block of zeros.
    pub(super) fn whole(self, block: &Block, near: f64, unit: f64, most: i32) -> (i32, f64) {
        if near == 0.0 {
            return (0, 0.0);
        }
        let middle = crate::constants::round(near / unit).clamp(1.0, f64::from(most)) as i32;
        let mut best = (middle, self.error(block, f64::from(middle) * unit));
        for scale in [middle - 1, middle + 1] {
            if (1..=most).contains(&scale) {
                let error = self.error(block, f64::from(scale) * unit);
                if error < best.1 {
                    best = (scale, error);
                }
            }
        }
        best
    }

    /// The unit of a row's scales 1 … `most` that promises the least error; 0 for a row of zeros.
    pub(super) fn unit(self, row: &[f64], weights: &[f64], length: usize, most: i32) -> f64 {
        let blocks: Vec<Block> =
            row.chunks(length).zip(weights.chunks(length)).map(|(x, w)| Block::new(x, w)).collect();
        let scales: Vec<f64> = blocks.iter().map(|block| self.scale(block)).collect();
        let largest = scales.iter().fold(0.0, |largest: f64, &scale| largest.max(scale)) / f64::from(most);
        if largest == 0.0 || !(1 < most && most < 100) {
            return largest;
        }
        let mut best = (f64::INFINITY, largest);
        for tenths in (3..=10).rev() {
            let unit = largest * f64::from(tenths) / 10.0;
            let error =
                blocks.iter().zip(&scales).fold(0.0, |sum, (block, &near)| sum + self.whole(block, near, unit, most).1);
            if error < best.0 {
                best = (error, unit);
            }
        }
        best.1
    }
}
