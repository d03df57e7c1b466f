"""The per-vector and element-wise operations of the contract (docs/NUMERICS.md, sections 2.5 and 3).

Functions have the names and parameters of the contract's appendix A. Activations are lists of i32 in QF.
"""

from collections.abc import Sequence
from typing import NamedTuple

from . import fixed
from .fixed import LOG2_E_Q30, exp2, requant, rshr, rsqrt, sat, sigmoid, sincos


class Softcap(NamedTuple):
    """The stored constants of a softcap: im * 2^-is = 2 / cap and cm * 2^-cs = cap."""

    im: int
    is_: int
    cm: int
    cs: int


def embed(w: Sequence[int], m: int, sh: int, F: int) -> list[int]:
    """2.5: the activations of a token's row w of integer weights."""
    return [requant(weight, m, sh - F) for weight in w]


def rmsnorm(x: Sequence[int], g: Sequence[int], gs: int, E: int, rn: int, rk: int, F: int) -> list[int]:
    """P4 over one vector of the length of the gain."""
    t = max(0, max(map(abs, x)).bit_length() - 15)
    square_sum = max(1, sum(rshr(v, t) ** 2 for v in x) + (E >> 2 * t))
    R, u = rsqrt(square_sum)
    scale, shift = R * rn, 31 + u + t + rk - F
    return [requant(requant(v, scale, shift), gain, gs) for v, gain in zip(x, g, strict=True)]


def residual_add(x: Sequence[int], y: Sequence[int]) -> list[int]:
    """Section 3: the saturating sum."""
    return [sat(a + b) for a, b in zip(x, y, strict=True)]


def phase(position: int, freq64: int) -> int:
    """3.1: the angle at a position, as a u32 fraction of a turn."""
    return (position * freq64 & (1 << 64) - 1) >> 32


def rope_pair(a: int, b: int, phase: int) -> tuple[int, int]:
    """3.1: the pair (a, b) turned by phase / 2^32 turns."""
    c, s = sincos(phase)
    return sat(rshr(a * c - b * s, 30)), sat(rshr(a * s + b * c, 30))


def rope(v: Sequence[int], position: int, freq64: Sequence[int], rot: int, interleaved: bool) -> list[int]:
    """3.1 over one head; elements from rot = 2 * len(freq64) on are copied."""
    y = list(v)
    for i in range(rot // 2):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + rot // 2)
        y[first], y[second] = rope_pair(v[first], v[second], phase(position, freq64[i]))
    return y


def hadamard(v: Sequence[int]) -> list[int]:
    """3.2 over one head, whose width is a power of two."""
    shift = (len(v).bit_length() - 1) >> 1
    rows = ([-x if (i & j).bit_count() & 1 else x for j, x in enumerate(v)] for i in range(len(v)))
    return [sat(rshr(sum(row), shift)) for row in rows]


def swiglu(g: int, u: int, F: int) -> int:
    """3.4: g * sigmoid(g) * u."""
    return requant(requant(g, sigmoid(g, F), 15), u, F)


def gelu(x: int, F: int) -> int:
    """3.4: GELU in its tanh form."""
    limit = 16 << F
    y = max(-limit, min(limit, x))
    p = requant(requant(y, y, F), 76616651, 30) + requant(1713444047, 1, 30 - F)
    return requant(x, sigmoid(requant(y, p, F), F), 15)


def geglu(g: int, u: int, F: int) -> int:
    """3.4: gelu(g) * u."""
    return requant(gelu(g, F), u, F)


def relu2(g: int, u: int | None, F: int) -> int:
    """3.4: max(g, 0)^2 * u, or without u."""
    r = max(g, 0)
    square = requant(r, r, F)
    return square if u is None else requant(square, u, F)


def softcap(x: int, im: int, is_: int, cm: int, cs: int, F: int) -> int:
    """3.4: cap * tanh(x / cap)."""
    return requant(2 * sigmoid(requant(x, im, is_), F) - 32768, cm, cs + 15 - F)


def router(r: Sequence[int], k: int, F: int, renorm: bool, sigmoid: bool) -> list[tuple[int, int]]:
    """3.5: the k selected experts with their weights in Q15, in the order of selection."""
    largest = max(r)
    p = [fixed.sigmoid(v, F) if sigmoid else exp2(requant(sat(v - largest), LOG2_E_Q30, F + 14), 24) for v in r]
    selected = sorted(range(len(r)), key=lambda e: (-r[e], e))[:k]
    total = max(1, sum(p[e] for e in selected) if renorm else sum(p))
    return [(e, (p[e] << 15) // total) for e in selected]


def expert_sum(w: Sequence[int], y: Sequence[Sequence[int]]) -> list[int]:
    """3.5: the weighted sum of the selected experts' outputs y."""
    columns = zip(*y, strict=True)
    return [sat(rshr(sum(a * b for a, b in zip(w, column, strict=True)), 15)) for column in columns]
