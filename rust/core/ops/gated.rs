//! 3.4, the activation of the feed-forward network, with and without a gate.

use crate::fixed::{requant, sigmoid};

/// Which activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// x · sigmoid(x).
    Swiglu,
    /// The tanh form of GELU.
    Geglu,
    /// max(x, 0)².
    Relu2,
}

/// SwiGLU: `silu(g) · u`, in QF.
#[inline(always)]
#[must_use]
pub fn swiglu(g: i32, u: i32, fraction_bits: u32) -> i32 {
    requant(requant(g, sigmoid(g, fraction_bits) as i32, 15), u, fraction_bits as i32)
}

/// 2 · sqrt(2 / π) in Q30: the linear term of GELU's argument.
pub(crate) const GELU_LINEAR: i32 = 1_713_444_047;
/// 2 · sqrt(2 / π) · 0.044715 in Q30: its cubic term.
pub(crate) const GELU_CUBIC: i32 = 76_616_651;

/// GELU in its tanh form, in QF.
#[inline(always)]
#[must_use]
pub fn gelu(x: i32, fraction_bits: u32) -> i32 {
    let f = fraction_bits as i32;
    let limit = 16 << f;
    let y = x.clamp(-limit, limit);
    let square = requant(y, y, f);
    let p = requant(square, GELU_CUBIC, 30) + requant(GELU_LINEAR, 1, 30 - f);
    requant(x, sigmoid(requant(y, p, f), fraction_bits) as i32, 15)
}

/// ReLU²: `max(x, 0)²`, in QF.
#[inline(always)]
#[must_use]
pub fn relu2(x: i32, fraction_bits: u32) -> i32 {
    let r = x.max(0);
    requant(r, r, fraction_bits as i32)
}

/// `gate[i] = act(gate[i]) · up[i]`.
#[inline(always)]
pub fn gated_activation(kind: Gate, gate: &mut [i32], up: &[i32], fraction_bits: u32) {
    let f = fraction_bits as i32;
    match kind {
        Gate::Swiglu => gate.iter_mut().zip(up).for_each(|(g, &u)| *g = swiglu(*g, u, fraction_bits)),
        Gate::Geglu => gate.iter_mut().zip(up).for_each(|(g, &u)| *g = requant(gelu(*g, fraction_bits), u, f)),
        Gate::Relu2 => gate.iter_mut().zip(up).for_each(|(g, &u)| *g = requant(relu2(*g, fraction_bits), u, f)),
    }
}
