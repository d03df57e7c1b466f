//! How much each token of a window counts: an estimate of the gradient energy at a matrix's output, without gradients.
//!
//! Computed in doubles, one operation at a time in the order of tokens, so that it is the same on every machine.
use super::moments::power_of_two;
use intact_core::cpu::Pool;
use intact_core::fixed::exp2;
use intact_core::program::Attention;

/// The slots of an attention op for one window, in QF.
pub(super) struct Seen<'a> {
    pub(super) queries: &'a [i32],
    pub(super) keys: &'a [i32],
    pub(super) values: &'a [i32],
    pub(super) attended: &'a [i32],
}

/// Weights of the inputs of the query, key and value projections.
#[derive(Default)]
pub(super) struct AttentionWeights {
    pub(super) query: Vec<f64>,
    pub(super) key: Vec<f64>,
    pub(super) value: Vec<f64>,
}

/// The energies that reach queries, keys and values if that at the attention's output is the same for every token and
/// direction. With a the attention of token s to t in one head, a change of value t moves the output by a, and one of
/// the score by a · (v_t − o_s), which is shared by query s and key t.
pub(super) fn attention(a: &Attention, f: u32, seen: &Seen<'_>, tokens: usize, pool: &Pool) -> AttentionWeights {
    let heads = pool.map(a.heads, |head| of_head(a, f, seen, tokens, head));
    let sum = |part: fn(&AttentionWeights) -> &[f64]| {
        (0..tokens).map(|t| heads.iter().fold(0.0, |sum, head| sum + part(head)[t])).collect()
    };
    AttentionWeights { query: sum(|w| &w.query), key: sum(|w| &w.key), value: sum(|w| &w.value) }
}

fn of_head(a: &Attention, f: u32, seen: &Seen<'_>, tokens: usize, head: usize) -> AttentionWeights {
    let (width, kv_head) = (a.head_width, head / (a.heads / a.kv_heads));
    let queries = Codes::new(seen.queries, a.heads, head, width);
    let attended = Codes::new(seen.attended, a.heads, head, width);
    let keys = Codes::new(seen.keys, a.kv_heads, kv_head, width);
    let values = Codes::new(seen.values, a.kv_heads, kv_head, width);
    // log2 units of Q16 per unit of a product of codes; `scale` carries log2(e) unless a softcap stands between.
    let base = 65536.0 * f64::from(a.scoring.scale) * power_of_two(-(a.scoring.scale_shift + 2 * f as i32));
    let mut out = AttentionWeights { query: vec![0.0; tokens], key: vec![0.0; tokens], value: vec![0.0; tokens] };
    let mut weights = Vec::with_capacity(tokens);
    for s in 0..tokens {
        let first = if a.window == 0 { 0 } else { (s + 1).saturating_sub(a.window as usize) };
        let score = |t: usize| (base * queries.product(s, &keys, t)) as i64;
        let scores = (first..=s).map(score);
        weights.clear();
        weights.extend(scores);
        let largest = weights.iter().copied().max().unwrap_or(0);
        let mut total = 0u64;
        for l in &mut weights {
            *l = exp2((*l - largest).max(i64::from(i32::MIN)) as i32, 22).into();
            total += l.unsigned_abs();
        }
        for (t, &p) in (first..).zip(&weights) {
            if p == 0 {
                continue;
            }
            let share = p as f64 / total as f64;
            let moved = share * share;
            let spread = values.power[t] - 2.0 * attended.product(s, &values, t) + attended.power[s];
            let scored = moved * spread.max(0.0);
            out.value[t] += moved;
            out.key[t] += scored;
            out.query[s] += scored;
        }
    }
    out
}

/// The vectors of one head as codes with a scale for each token.
struct Codes {
    width: usize,
    codes: Vec<i16>,
    /// Value of a code's unit.
    unit: Vec<f64>,
    /// Sum of squares.
    power: Vec<f64>,
}

impl Codes {
    fn new(slot: &[i32], heads: usize, head: usize, width: usize) -> Self {
        // Products of `width` pairs of codes fit i32.
        let most = i64::from((i32::MAX.unsigned_abs() / width.max(1) as u32).isqrt().min(16383));
        let mut out = Self { width, codes: Vec::new(), unit: Vec::new(), power: Vec::new() };
        for x in slot.chunks_exact(heads * width) {
            let x = &x[head * width..(head + 1) * width];
            let largest = x.iter().fold(1, |largest, x| i64::from(x.unsigned_abs()).max(largest));
            out.codes.extend(x.iter().map(|&x| (i64::from(x) * most / largest) as i16));
            out.unit.push(largest as f64 / most as f64);
        }
        out.power = (0..out.unit.len()).map(|t| out.product(t, &out, t)).collect();
        out
    }

    /// The inner product of vector `i` with vector `j` of `other`.
    fn product(&self, i: usize, other: &Self, j: usize) -> f64 {
        let (a, b) = (&self.codes[i * self.width..], &other.codes[j * self.width..]);
        let products = a[..self.width].iter().zip(&b[..self.width]).map(|(&a, &b)| i32::from(a) * i32::from(b));
        f64::from(products.sum::<i32>()) * self.unit[i] * other.unit[j]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use intact_core::ops::attention::Scoring;

    /// One head of two elements over three tokens, all keys 0, so that attention is uniform.
    fn uniform(window: u32) -> AttentionWeights {
        let scoring = Scoring { scale: 1 << 14, scale_shift: 14, value_max: 127, softcap: None };
        let a = Attention {
            query: 0,
            key: 1,
            value: 2,
            out: 3,
            heads: 1,
            kv_heads: 1,
            head_width: 2,
            window,
            query_max: 127,
            key_max: 127,
            scoring,
        };
        let seen = Seen { queries: &[4096; 6], keys: &[0; 6], values: &[100; 6], attended: &[100; 6] };
        attention(&a, 12, &seen, 3, &Pool::new(2))
    }

    #[test]
    fn uniform_attention_weighs_values_by_squared_shares() {
        let (half, third) = (0.5 * 0.5, (1.0 / 3.0) * (1.0 / 3.0));
        assert_eq!(uniform(0).value, [1.0 + half + third, half + third, third]);
    }

    #[test]
    fn a_window_hides_older_tokens() {
        assert_eq!(uniform(2).value, [1.25, 0.5, 0.25]);
    }

    #[test]
    fn equal_values_leave_keys_without_weight() {
        assert!(uniform(0).key.iter().all(|&w| w.abs() < 1e-3), "{:?}", uniform(0).key);
    }
}
