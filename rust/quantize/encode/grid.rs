//! Blocks of scalar codes: the best scale of a grid of levels, exactly.

/// The levels of a payload in ascending order, with their codes.
pub(super) struct Grid {
    levels: Vec<(f64, i16)>,
    /// The level that is nearest to 0.
    zero: usize,
    /// Whether negative scales give nothing new.
    symmetric: bool,
}

/// An element passes from the level below or above to the next as the scale shrinks.
struct Crossing {
    /// What it adds to sum w·x·v.
    product: f64,
    /// What it adds to sum w·v².
    square: f64,
}

/// Crossings, and where they are, in ascending order once all are there.
#[derive(Default)]
struct Crossings {
    changes: Vec<Crossing>,
    /// The bits of the inverse of the scale, which is positive, and the index of the change.
    order: Vec<(u64, u32)>,
}

/// Grids of more levels are searched only where the largest element lies at 0.5 to 1.5 of their depth.
const FEW_LEVELS: usize = 16;
/// Grids of more levels are searched only where it lies at 0.6 to 3 of their depth.
const VERY_FEW_LEVELS: usize = 8;

impl Grid {
    /// A grid of the levels of some codes.
    pub(super) fn new(levels: impl Iterator<Item = (f64, i16)>) -> Self {
        let mut levels: Vec<(f64, i16)> = levels.collect();
        levels.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        levels.dedup_by(|next, kept| next.0 == kept.0);
        let zero = (0..levels.len()).fold(0, |best, i| if levels[i].0.abs() < levels[best].0.abs() { i } else { best });
        let symmetric = levels.iter().zip(levels.iter().rev()).all(|(low, high)| low.0 == -high.0);
        Self { levels, zero, symmetric }
    }

    /// The level nearest to `x` and its code, the lower of equals.
    pub(super) fn nearest(&self, x: f64) -> (f64, i16) {
        let above = self.levels.partition_point(|&(level, _)| level < x);
        let (low, high) = (above.saturating_sub(1), above.min(self.levels.len() - 1));
        if x - self.levels[low].0 <= self.levels[high].0 - x { self.levels[low] } else { self.levels[high] }
    }

    /// The weighted squared error of a block with a scale.
    pub(super) fn error(&self, values: &[f64], weights: &[f64], scale: f64) -> f64 {
        values.iter().zip(weights).fold(0.0, |sum, (&x, w)| {
            let level = if scale == 0.0 { 0.0 } else { self.nearest(x / scale).0 };
            let off = x - scale * level;
            sum + w * off * off
        })
    }

    /// The real scale with which a block has the least weighted squared error; 0 where none is better than zeros.
    /// Negative scales are tried where `signed`.
    pub(super) fn best_scale(&self, values: &[f64], weights: &[f64], signed: bool) -> f64 {
        let mut best = (0.0, 0.0);
        let mut crossings = Crossings::default();
        for sign in if signed && !self.symmetric { &[1.0, -1.0][..] } else { &[1.0] } {
            let (mut product, mut square) = self.crossings(values, weights, *sign, &mut crossings);
            let mut take = |product: f64, square: f64| {
                if product > 0.0 && square > 0.0 && product * product / square > best.0 {
                    best = (product * product / square, sign * product / square);
                }
            };
            take(product, square);
            for &(_, index) in &crossings.order {
                let crossing = &crossings.changes[index as usize];
                product += crossing.product;
                square += crossing.square;
                take(product, square);
            }
        }
        best.1
    }

    /// All crossings in ascending order, and the sums before the first.
    fn crossings(&self, values: &[f64], weights: &[f64], sign: f64, out: &mut Crossings) -> (f64, f64) {
        out.changes.clear();
        out.order.clear();
        let largest = values.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let depth = self.levels[0].0.abs().max(self.levels[self.levels.len() - 1].0.abs());
        let within = match self.levels.len() {
            count if count <= VERY_FEW_LEVELS => None,
            count if count <= FEW_LEVELS => Some((0.6, 3.0)),
            _ => Some((0.5, 1.5)),
        };
        let limits = within.filter(|_| largest > 0.0);
        let (first, last) =
            limits.map_or((0.0, f64::INFINITY), |(first, last)| (first * depth / largest, last * depth / largest));
        let (mut product, mut square) = (0.0, 0.0);
        for (&x, w) in values.iter().zip(weights) {
            let x = sign * x;
            let mut level = self.levels[self.zero].0;
            let mut next = self.zero;
            loop {
                if x == 0.0 {
                    break;
                }
                next = match if x > 0.0 { next.checked_add(1) } else { next.checked_sub(1) } {
                    Some(next) if next < self.levels.len() => next,
                    _ => break,
                };
                let to = self.levels[next].0;
                let at = (level + to) / 2.0 / x;
                if at > last {
                    break;
                }
                if at > first {
                    out.order.push((at.to_bits(), out.changes.len() as u32));
                    out.changes.push(Crossing { product: w * x * (to - level), square: w * (to * to - level * level) });
                } else {
                    product += w * x * (to - level);
                    square += w * (to * to - level * level);
                }
                level = to;
            }
            let zero = self.levels[self.zero].0;
            product += w * x * zero;
            square += w * zero * zero;
        }
        out.order.sort_unstable();
        (product, square)
    }

    /// The whole number of `unit`s next to the real scale `near` that serves the block best: within `least..=most`.
    pub(super) fn whole_scale(
        &self, values: &[f64], weights: &[f64], near: f64, unit: f64, (least, most): (i32, i32),
    ) -> i32 {
        let near = crate::constants::round(near / unit).clamp(f64::from(least), f64::from(most)) as i32;
        let mut best = (f64::INFINITY, 0);
        for scale in [near, (near - 1).max(least), (near + 1).min(most)] {
            let error = self.error(values, weights, f64::from(scale) * unit);
            if error < best.0 {
                best = (error, scale);
            }
        }
        best.1
    }
}
