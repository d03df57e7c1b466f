//! H = R·D·Rᵀ with R unit upper triangular: what error feedback needs of the second moments.
//!
//! For a row's errors e it says e·H·eᵀ = sum over k of D_k·(e_k + sum over i < k of e_i·R_ik)². So the best that column
//! k can do, its predecessors being fixed, is to aim at its value plus what they left it.
use intact_core::cpu::Pool;
use std::sync::{Mutex, PoisonError};

/// Part of the mean of the diagonal that is added to it: dead columns and combinations of columns that never occur
/// then have a cost, and every pivot is positive.
const DAMPING: f64 = 0.01;
/// Columns eliminated at a time.
const PANEL: usize = 32;
/// Rows of one task.
const TASK: usize = 16;

/// The factors.
#[derive(Debug, PartialEq)]
pub(super) struct Factor {
    /// D.
    pivots: Vec<f64>,
    /// Row k holds R_ik for i < k, then an entry without meaning.
    rows: Vec<f64>,
}

/// Where row `k` of a packed triangle begins.
fn start(k: usize) -> usize {
    k * (k + 1) / 2
}

/// Takes the part of columns `from..` with their pivots out of row `i`, the last column first. `panel` is the packed
/// rows of those columns.
fn eliminate(row: &mut [f64], i: usize, from: usize, panel: &[f64], pivots: &[f64]) {
    for (offset, pivot) in pivots.iter().enumerate().rev() {
        let column = &panel[start(from + offset) - start(from)..][..=i];
        let factor = column[i] * pivot;
        for (value, other) in row.iter_mut().zip(column) {
            *value -= factor * other;
        }
    }
}

impl Factor {
    /// The factors of the moments whose packed lower triangle is `rows`; `None` where all are 0.
    pub(super) fn new(columns: usize, mut rows: Vec<f64>, pool: &Pool) -> Option<Self> {
        let trace = (0..columns).fold(0.0, |sum: f64, k| sum + rows[start(k) + k]);
        let damping = trace / columns as f64 * DAMPING;
        if damping == 0.0 || !damping.is_finite() {
            return None;
        }
        (0..columns).for_each(|k| rows[start(k) + k] += damping);
        let mut pivots = vec![0.0; columns];
        let mut end = columns;
        while end > 0 {
            let from = end.saturating_sub(PANEL);
            let (before, panel) = rows[..start(end)].split_at_mut(start(from));
            for k in (from..end).rev() {
                let (row, later) = panel[start(k) - start(from)..].split_at_mut(k + 1);
                eliminate(row, k, k + 1, later, &pivots[k + 1..end]);
                // In exact arithmetic no pivot is below the damping.
                pivots[k] = row[k].max(damping);
                row[..k].iter_mut().for_each(|value| *value /= pivots[k]);
            }
            let mut rest = before;
            let mut tasks = Vec::with_capacity(from.div_ceil(TASK));
            for first in (0..from).step_by(TASK) {
                let (part, later) = rest.split_at_mut(start((first + TASK).min(from)) - start(first));
                tasks.push(Mutex::new(part));
                rest = later;
            }
            let (panel, pivots) = (&*panel, &pivots[from..end]);
            pool.map(tasks.len(), |task| {
                let mut part = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
                let first = task * TASK;
                for i in first..(first + TASK).min(from) {
                    let row = &mut part[start(i) - start(first)..][..=i];
                    eliminate(row, i, from, panel, pivots);
                }
            });
            end = from;
        }
        Some(Self { pivots, rows })
    }

    /// R_ik for i < k.
    pub(super) fn column(&self, k: usize) -> &[f64] {
        &self.rows[start(k)..][..k]
    }

    /// The cost of an error in each column of a range, those after the range being free to make it good.
    pub(super) fn weights(&self, range: std::ops::Range<usize>) -> Vec<f64> {
        range
            .clone()
            .map(|i| {
                (i + 1..range.end).fold(self.pivots[i], |sum, k| {
                    let r = self.column(k)[i];
                    sum + r * r * self.pivots[k]
                })
            })
            .collect()
    }
}
