//! Rows of the pair trellis: block scales, paths, scales again.
use super::feedback::Targets;
use super::fit::{Block, Fit};
use super::guidance::Guide;
use super::row::{Row, Unrepresentable};
use super::viterbi::{Cost, Viterbi, arrival, costs, sets};
use crate::constants::round;
use intact_core::formats::{Format, PayloadKind, ScaleMode};
use std::ops::Range;

/// Columns that are fixed at a time where errors are fed back.
const COMMIT: usize = 16;
/// Further columns that a path runs through before it is fixed.
const AHEAD: usize = 32;
/// Columns that are fixed at a time where errors are not fed back, which limits the memory of a search.
const LONG: usize = 1024;
/// Scales of blocks whose targets errors have made larger find room below the largest.
const HEADROOM: f64 = 1.1;

/// The largest scale of a mode.
fn most(mode: ScaleMode) -> i32 {
    match mode {
        ScaleMode::R => 1,
        ScaleMode::B4 => 15,
        ScaleMode::B8 | ScaleMode::Z8 => 255,
    }
}

/// The rows of a tile on their way.
struct Tile<'a> {
    bits: u32,
    fit: Fit,
    most: i32,
    block: usize,
    targets: Targets<'a>,
    /// Per row: the row unit.
    units: Vec<f64>,
    /// Per row and column: the level.
    levels: Vec<Vec<f64>>,
    /// Per row: the state before the columns that are not fixed yet.
    states: Vec<u16>,
    viterbi: Viterbi,
}

/// Encodes up to 16 rows of finite values.
///
/// # Errors
/// The index of a row whose values are beyond the row constants.
pub(super) fn encode(format: &Format, guide: &Guide, values: &[Vec<f64>], rows: &mut [Row]) -> Result<(), usize> {
    let PayloadKind::Trellis(bits) = format.payload.kind() else { unreachable!("the caller chose this encoder") };
    let columns = values[0].len();
    let block = if format.mode == ScaleMode::R { columns } else { format.block };
    let most = most(format.mode);
    let headroom = if guide.factor.is_some() && most > 1 { HEADROOM } else { 1.0 };
    let fit = Fit::of(bits);
    let unit = |row: &Vec<f64>| fit.unit(row, &guide.weights, block, most) * headroom;
    let units: Vec<f64> = values.iter().map(unit).collect();
    let mut tile = Tile {
        bits,
        fit,
        most,
        block,
        targets: Targets::new(guide.factor.as_ref(), values, columns),
        units,
        levels: vec![vec![0.0; columns]; values.len()],
        states: vec![0; values.len()],
        viterbi: Viterbi::new(bits, sets().next().unwrap_or_else(|| unreachable!("one set is portable"))),
    };
    rows.iter_mut().for_each(|row| row.clear(format, columns));
    let (commit, ahead) = if guide.factor.is_some() { (COMMIT, AHEAD) } else { (LONG, 4 * AHEAD) };
    for first in (0..columns).step_by(commit) {
        let end = (first + commit).min(columns);
        let last = (end + ahead).min(columns);
        tile.targets.prepare(first..last, first);
        let weights = match &guide.factor {
            Some(factor) => factor.weights(first..last),
            None => guide.weights[first..last].to_vec(),
        };
        tile.window(first..end, &weights, rows);
    }
    for (r, row) in rows.iter_mut().enumerate() {
        let unit =
            if guide.factor.is_none() { tile.refined(r, &values[r], &guide.weights, row) } else { tile.units[r] };
        match row.set_unit(unit) {
            Err(Unrepresentable) => return Err(r),
            Ok(true) => {}
            Ok(false) => row.clear(format, columns),
        }
    }
    Ok(())
}

impl Tile<'_> {
    /// The scale of a block, where a row without block scales has 1.
    fn scale(&self, row: &Row, k: usize) -> i32 {
        row.scales.get(k / self.block).copied().filter(|_| self.most > 1).unwrap_or(1)
    }

    /// Fixes `fixed`, the first columns of those that have `weights`.
    fn window(&mut self, fixed: Range<usize>, weights: &[f64], rows: &mut [Row]) {
        let all = fixed.start..fixed.start + weights.len();
        for (r, row) in rows.iter_mut().enumerate() {
            for first in (all.start.next_multiple_of(self.block)..all.end).step_by(self.block).filter(|_| self.most > 1)
            {
                let targets: Vec<f64> =
                    (first..(first + self.block).min(all.end)).map(|k| self.targets.get(r, k)).collect();
                let weights = &weights[first - all.start..][..targets.len()];
                let block = Block::new(&targets, weights);
                row.scales[first / self.block] = match self.units[r] {
                    0.0 => 0,
                    unit => self.fit.whole(&block, self.fit.scale(&block), unit, self.most).0,
                };
            }
        }
        let mut paths = vec![Vec::new(); rows.len()];
        let steps: Vec<Vec<Cost>> = rows.iter().enumerate().map(|(r, row)| self.steps(&all, weights, r, row)).collect();
        self.viterbi.paths(&steps, &self.states, &mut paths);
        for (r, (row, path)) in rows.iter_mut().zip(&paths).enumerate() {
            for (k, &state) in fixed.clone().step_by(2).zip(path) {
                let (levels, symbol) = arrival(self.bits, state);
                row.codes[k] = symbol;
                row.codes[k + 1] = 0;
                for (level, &found) in self.levels[r][k..].iter_mut().zip(&levels) {
                    *level = f64::from(found);
                }
            }
            self.rescale(&fixed, weights, r, row);
        }
        for (r, row) in rows.iter().enumerate() {
            self.states[r] = paths[r][fixed.len().div_ceil(2) - 1];
            for k in fixed.clone() {
                let decoded = f64::from(self.scale(row, k)) * self.units[r] * self.levels[r][k];
                self.targets.fix(r, k, decoded);
            }
        }
    }

    /// Costs of the steps of some columns of a row, by its scales.
    fn steps(&self, columns: &Range<usize>, weights: &[f64], r: usize, row: &Row) -> Vec<Cost> {
        let (mut targets, mut sizes) = (Vec::with_capacity(weights.len() + 1), Vec::with_capacity(weights.len() + 1));
        for (k, weight) in columns.clone().zip(weights) {
            let scale = f64::from(self.scale(row, k));
            let step = scale * self.units[r];
            // The square of the unit is common to all, and may underflow.
            targets.push(if step > 0.0 { self.targets.get(r, k) / step } else { 0.0 });
            sizes.push(if step > 0.0 { weight * scale * scale } else { 0.0 });
        }
        if targets.len() % 2 == 1 {
            targets.push(0.0);
            sizes.push(0.0);
        }
        let mut steps = Vec::new();
        costs(self.bits, &targets, &sizes, &mut steps);
        steps
    }

    /// Gives the blocks that lie wholly in `fixed` the scales that serve their levels best.
    fn rescale(&self, fixed: &Range<usize>, weights: &[f64], r: usize, row: &mut Row) {
        if self.most == 1 {
            return;
        }
        for first in (fixed.start.next_multiple_of(self.block)..fixed.end).step_by(self.block) {
            if first + self.block > fixed.end && fixed.end < self.levels[r].len() {
                return;
            }
            let (mut product, mut square) = (0.0, 0.0);
            for k in first..(first + self.block).min(fixed.end) {
                let (level, weight) = (self.levels[r][k], weights[k - fixed.start]);
                product += weight * level * self.targets.get(r, k);
                square += weight * level * level;
            }
            let scale = &mut row.scales[first / self.block];
            if square * self.units[r] > 0.0 && *scale > 0 {
                *scale = round(product / square / self.units[r]).clamp(0.0, f64::from(self.most)) as i32;
            }
        }
    }

    /// The row unit that serves the row's whole numbers best.
    fn refined(&self, r: usize, values: &[f64], weights: &[f64], row: &Row) -> f64 {
        let (mut product, mut square) = (0.0, 0.0);
        for (k, (&value, weight)) in values.iter().zip(weights).enumerate() {
            let whole = f64::from(self.scale(row, k)) * self.levels[r][k];
            product += weight * whole * value;
            square += weight * whole * whole;
        }
        if product > 0.0 && square > 0.0 { product / square } else { self.units[r] }
    }
}
