//! One step of the search in terms of vectors of states.
use super::{Cost, RUN, STATES};

/// A vector of `N` ≤ 16 lanes of 32 bits: costs of states, or pairs of i16.
///
/// # Safety
/// Every method needs the instruction set of the implementation, and pointers to what it reads or writes.
pub(super) trait Lanes: Copy {
    /// Lanes.
    const N: usize;
    /// Every lane the same.
    unsafe fn splat(value: i32) -> Self;
    /// The levels of `N` states, as pairs of i16.
    unsafe fn levels(at: *const [i8; 2]) -> Self;
    /// The squares of such pairs, which fit 16 bits.
    unsafe fn squares(self) -> Self;
    /// Such pairs times 16.
    unsafe fn sixteenfold(self) -> Self;
    /// Lane i is `at[i >> bits]`; reads up to 4 costs.
    unsafe fn spread(at: *const i32, bits: u32) -> Self;
    /// Adds products of pairs of i16.
    unsafe fn add_dot(self, pairs: Self, factors: Self) -> Self;
    /// The less of each lane.
    unsafe fn min(self, other: Self) -> Self;
    /// Writes all lanes.
    unsafe fn store(self, at: *mut i32);
}

/// Both factors of a step in one lane.
fn pair([low, high]: [i16; 2]) -> i32 {
    i32::from(low) & 0xFFFF | i32::from(high) << 16
}

/// The step: see [`super::Advance`].
///
/// # Safety
/// The machine has the instruction set of `L`; `levels` are those of `bits`; `from` and `to` have `R` rows of all sets,
/// `costs` one for each.
#[inline(always)]
pub(super) unsafe fn advance<L: Lanes, const R: usize>(
    bits: u32, levels: &[[i8; 2]], costs: &[Cost], from: &[i32], to: &mut [i32],
) {
    let sets = STATES >> bits;
    assert!(levels.len() == STATES && costs.len() == R && from.len() == R * sets && to.len() == R * sets);
    // SAFETY: the caller has the instruction set. Runs of N sets end with the sets, levels with the states; `spread`
    // reads the costs of states at (set + r · sets) >> bits, below `sets`, and at most N >> bits of them (at least 1).
    unsafe {
        let linear: [L; R] = std::array::from_fn(|row| L::splat(pair(costs[row].linear)));
        let square: [L; R] = std::array::from_fn(|row| L::splat(pair(costs[row].square)));
        for set in (0..sets).step_by(L::N) {
            let mut best = [L::splat(i32::MAX); R];
            let run = levels.as_ptr().add(((set / RUN * RUN) << bits) + set % RUN);
            for r in 0..1 << bits {
                let v = L::levels(run.add(r * RUN));
                let (squares, before) = (v.squares(), (set + r * sets) >> bits);
                let v = v.sixteenfold();
                for (row, best) in best.iter_mut().enumerate() {
                    let cost = L::spread(from.as_ptr().add(row * sets + before), bits);
                    *best = best.min(cost.add_dot(v, linear[row]).add_dot(squares, square[row]));
                }
            }
            for (row, best) in best.into_iter().enumerate() {
                best.store(to.as_mut_ptr().add(row * sets + set));
            }
        }
    }
}

/// Plain arrays, which compilers turn into vectors.
#[derive(Clone, Copy)]
pub(super) struct Portable([i32; RUN]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(i32, i32) -> i32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    #[inline(always)]
    fn halves(pair: i32) -> [i32; 2] {
        [i32::from(pair as i16), pair >> 16]
    }
}

impl Lanes for Portable {
    const N: usize = RUN;

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        Self([value; RUN])
    }

    #[inline(always)]
    unsafe fn levels(at: *const [i8; 2]) -> Self {
        // SAFETY: the caller has N states there.
        let states = unsafe { &*at.cast::<[[i8; 2]; RUN]>() };
        Self(std::array::from_fn(|i| pair(states[i].map(i16::from))))
    }

    #[inline(always)]
    unsafe fn squares(self) -> Self {
        Self(self.0.map(|lane| {
            let [low, high] = Self::halves(lane);
            (low * low) | ((high * high) << 16)
        }))
    }

    #[inline(always)]
    unsafe fn sixteenfold(self) -> Self {
        Self(self.0.map(|lane| {
            let [low, high] = Self::halves(lane);
            (low * 16) & 0xFFFF | high << 20
        }))
    }

    #[inline(always)]
    unsafe fn spread(at: *const i32, bits: u32) -> Self {
        // SAFETY: the caller has what the highest lane reads.
        Self(std::array::from_fn(|i| unsafe { *at.add(i >> bits) }))
    }

    #[inline(always)]
    unsafe fn add_dot(self, pairs: Self, factors: Self) -> Self {
        let products = pairs.zip(factors, |pair, factor| {
            let ([a, b], [c, d]) = (Self::halves(pair), Self::halves(factor));
            a * c + b * d
        });
        self.zip(products, |sum, product| sum + product)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, i32::min)
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut i32) {
        // SAFETY: the caller has room for N lanes there.
        unsafe { *at.cast::<[i32; RUN]>() = self.0 }
    }
}
