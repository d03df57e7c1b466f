//! The best path through the pair trellis: exact dynamic programming over its 2^16 states.
//!
//! States are kept as windows of the stream with their bits reversed, so that a step shifts in its symbol at the low
//! end: e' = (e · 2^B + symbol) mod 2^16. All that a step needs of its past is the least cost of each of the
//! 2^(16−B) sets of states with equal low bits; a step makes them anew from all 2^16 states. Decisions are not
//! recorded: going back, each is found again from the costs before it, for the states of one path only.
//!
//! Costs are i32 and every operation is one of integers, so all instruction sets find the same path.
mod lanes;
#[cfg(target_arch = "x86_64")]
mod x86;

use intact_core::formats::trellis_pair;
use lanes::{Portable, advance};
use std::sync::OnceLock;

/// Bits of a state.
const WINDOW: u32 = 16;
/// States.
const STATES: usize = 1 << WINDOW;
/// States that lie together in a table.
const RUN: usize = 16;
/// The cost of a start that is not the one given.
const UNREACHABLE: i32 = 1 << 30;
/// Targets are limited to this many level units: the largest level is 62.
const FARTHEST: f64 = 85.0;
/// What weights are scaled to on average.
const MEAN_WEIGHT: f64 = 128.0;

/// The cost of the levels v of one step, up to a constant: sum over its two columns of a·v² + b·16v ~ w·(v − x)².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// a of both columns, 0 … [`most_weight`].
    pub(super) square: [i16; 2],
    /// b of both columns.
    pub(super) linear: [i16; 2],
}

/// The largest a: the costs of paths from one state, which meet again after 16 / B steps, fit i32 together with
/// [`UNREACHABLE`].
fn most_weight(bits: u32) -> f64 {
    if bits < 4 { 1500.0 } else { 3000.0 }
}

/// Costs of the steps of one row. `targets` are in level units, `weights` finite and ≥ 0, in any common unit; a column
/// of weight 0 costs nothing. Both have an even length.
pub(super) fn costs(bits: u32, targets: &[f64], weights: &[f64], out: &mut Vec<Cost>) {
    let most = most_weight(bits);
    // The mean of weights cut at the most that can be expressed, so that a few large ones leave the rest their size.
    let mut limit = f64::INFINITY;
    let mut unit = 0.0;
    for _ in 0..4 {
        let sum = weights.iter().fold(0.0, |sum: f64, &weight| sum + weight.min(limit));
        unit = sum / weights.len().max(1) as f64 / MEAN_WEIGHT;
        limit = unit * most;
    }
    out.clear();
    out.extend(targets.chunks_exact(2).zip(weights.chunks_exact(2)).map(|(targets, weights)| {
        let mut cost = Cost::default();
        for column in 0..2 {
            let a = if unit > 0.0 { (weights[column] / unit + 0.5).floor().min(most) } else { 0.0 };
            let x = targets[column].clamp(-FARTHEST, FARTHEST);
            cost.square[column] = a as i16;
            cost.linear[column] = (0.5 - a * x / 8.0).floor() as i16;
        }
        cost
    }));
}

/// Levels of the states in the order in which a step visits them: for every run of [`RUN`] sets, for every r < 2^B,
/// the states e = set + r · 2^(16−B).
struct Levels(Vec<[i8; 2]>);

impl Levels {
    fn of(bits: u32) -> &'static Self {
        static TABLES: [OnceLock<Levels>; 9] = [const { OnceLock::new() }; 9];
        TABLES[bits as usize].get_or_init(|| {
            let sets = STATES >> bits;
            let state = |i: usize| i / (RUN << bits) * RUN + i % RUN + (i / RUN) % (1 << bits) * sets;
            Self((0..STATES).map(|i| trellis_pair((state(i) as u16).reverse_bits())).collect())
        })
    }
}

/// Reads costs of sets from `from`, one of `R` rows after the other, and writes those after the step to `to`.
type Advance = unsafe fn(u32, &[[i8; 2]], &[Cost], &[i32], &mut [i32]);

/// An instruction set.
#[derive(Clone, Copy)]
pub(super) struct Set {
    /// For reports and tests.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests name the set that differs"))]
    pub(super) name: &'static str,
    /// Rows that it does at a time, so that one reading of the levels serves them all.
    rows: usize,
    many: Advance,
    one: Advance,
}

static PORTABLE: Set = Set { name: "portable", rows: 2, many: advance::<Portable, 2>, one: advance::<Portable, 1> };

/// The sets that this machine has, the best first.
pub(super) fn sets() -> impl Iterator<Item = Set> {
    #[cfg(target_arch = "x86_64")]
    let own = x86::sets();
    #[cfg(not(target_arch = "x86_64"))]
    let own = std::iter::empty();
    own.chain(std::iter::once(PORTABLE))
}

/// A search with its memory.
pub(super) struct Viterbi {
    bits: u32,
    set: Set,
    levels: &'static Levels,
    /// Costs of sets before and after a step, a row after the other.
    from: Vec<i32>,
    to: Vec<i32>,
    /// Costs of sets before each step, less the least, in units of 2^(8−B), a step after the other.
    history: Vec<u16>,
}

impl Viterbi {
    /// A search for paths with `bits` bits per step, 2 … 8.
    pub(super) fn new(bits: u32, set: Set) -> Self {
        let levels = Levels::of(bits);
        let sets = STATES >> bits;
        Self { bits, set, levels, from: vec![0; set.rows * sets], to: vec![0; set.rows * sets], history: Vec::new() }
    }

    /// The cheapest path of each row from its state in `starts`: its state after every step, in `paths`.
    /// Rows have equally many steps.
    pub(super) fn paths(&mut self, rows: &[Vec<Cost>], starts: &[u16], paths: &mut [Vec<u16>]) {
        let mut done = 0;
        while done < rows.len() {
            let count = if rows.len() - done >= self.set.rows { self.set.rows } else { 1 };
            let part = done..done + count;
            self.together(&rows[part.clone()], &starts[part.clone()], &mut paths[part]);
            done += count;
        }
    }

    /// The same for as many rows as the set does at a time, or for one.
    fn together(&mut self, rows: &[Vec<Cost>], starts: &[u16], paths: &mut [Vec<u16>]) {
        let sets = STATES >> self.bits;
        let size = sets * rows.len();
        let steps = rows[0].len();
        self.history.resize(self.history.len().max(steps * size), 0);
        self.from[..size].fill(UNREACHABLE);
        for (from, &start) in self.from.chunks_mut(sets).zip(starts) {
            from[usize::from(start) % sets] = 0;
        }
        let step = if rows.len() == 1 { self.set.one } else { self.set.many };
        let mut costs = vec![Cost::default(); rows.len()];
        for t in 0..steps {
            let history = &mut self.history[t * size..][..size];
            for (from, history) in self.from[..size].chunks_mut(sets).zip(history.chunks_mut(sets)) {
                let least = from.iter().fold(i32::MAX, |least, &cost| least.min(cost));
                for (cost, past) in from.iter_mut().zip(history) {
                    *cost -= least;
                    *past = (*cost >> (8 - self.bits)).min(0xFFFF) as u16;
                }
            }
            for (cost, row) in costs.iter_mut().zip(rows) {
                *cost = row[t];
            }
            // SAFETY: the set is one of this machine's; the slices hold `rows` rows of all sets.
            unsafe { step(self.bits, &self.levels.0, &costs, &self.from[..size], &mut self.to[..size]) };
            std::mem::swap(&mut self.from, &mut self.to);
        }
        for (i, ((row, path), &start)) in rows.iter().zip(paths).zip(starts).enumerate() {
            self.back(row, &self.from[i * sets..][..sets], start, (i * sets, size), path);
        }
    }

    /// The path of a row from the last step to the first. Its costs before step t lie at `offset + t · stride`.
    fn back(&self, row: &[Cost], last: &[i32], start: u16, (offset, stride): (usize, usize), path: &mut Vec<u16>) {
        let sets = STATES >> self.bits;
        let least = |costs: &mut dyn Iterator<Item = (i32, usize)>| costs.min().map_or(0, |(_, index)| index);
        let mut set = least(&mut last.iter().enumerate().map(|(set, &cost)| (cost, set)));
        path.clear();
        path.resize(row.len(), 0);
        for t in (0..row.len()).rev() {
            let past = &self.history[offset + t * stride..][..sets];
            let mut arrivals = (0..1 << self.bits).map(|r| set + r * sets).filter_map(|state| {
                let before = state >> self.bits;
                if t == 0 && before != usize::from(start) % sets {
                    return None;
                }
                Some(((i32::from(past[before]) << (8 - self.bits)) + row[t].of(state as u16), state))
            });
            let state = least(&mut arrivals);
            path[t] = state as u16;
            set = state >> self.bits;
        }
    }
}

impl Cost {
    /// The cost of a state.
    fn of(&self, state: u16) -> i32 {
        let levels = trellis_pair(state.reverse_bits());
        (0..2).fold(0, |sum, column| {
            let v = i32::from(levels[column]);
            sum + i32::from(self.square[column]) * v * v + i32::from(self.linear[column]) * 16 * v
        })
    }
}

/// The levels of a state, and the symbol that led to it.
pub(super) fn arrival(bits: u32, state: u16) -> ([i8; 2], i16) {
    let window = state.reverse_bits();
    (trellis_pair(window), (window >> (WINDOW - bits)) as i16)
}

#[cfg(test)]
mod tests;
