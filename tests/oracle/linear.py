"""Linear layers (docs/NUMERICS.md, section 2)."""

from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

from .fixed import I32_MAX, blockscale, dynquant, requant, rshr, sat

Rows = Sequence[Sequence[int]]


class Quantized(NamedTuple):
    """A quantized input vector: x ~ q * d * 2^(t-7); in A8b, q is already block scale times code."""

    q: list[int]
    d: int
    t: int


def code_limit(mode: str, S: int) -> int:
    """xmax of an activation mode; S counts in A8b only."""
    return {"A8": 127, "A8b": 127 * S, "A16": 32385}[mode]


def quantize(x: Sequence[int], mode: str, S: int) -> Quantized:
    """2.1: the quantized input vector, which every matrix reading it shares."""
    q, d, t = dynquant(x, code_limit(mode, S))
    if mode == "A8b":
        c, s = blockscale(q)
        q = [s[k // 32] * code for k, code in enumerate(c)]
    return Quantized(q, d, t)


def multiply(
    x: Quantized, W: Rows, m: Sequence[int], sh: Sequence[int], a: int, bias: Sequence[int] | None
) -> list[int]:
    """2.1: one output in QF for each row of the integer matrix."""
    q, d, t = x
    y = []
    for n, row in enumerate(W):
        acc = sum(map(mul, row, q))
        value = requant(sat(rshr(acc, a)), d * m[n], sh[n] + 7 - t - a)
        y.append(value if bias is None else sat(value + bias[n]))
    return y


def linear(
    x: Sequence[int],
    W: Rows,
    m: Sequence[int],
    sh: Sequence[int],
    a: int,
    mode: str,
    S: int,
    bias: Sequence[int] | None,
) -> list[int]:
    """2.1, from an input vector in QF."""
    return multiply(quantize(x, mode, S), W, m, sh, a, bias)


def preshift(W: Rows, mode: str, S: int) -> int:
    """2.1: the pre-shift a."""
    return max(0, (max(sum(map(abs, row)) for row in W) * code_limit(mode, S)).bit_length() - 31)


def chunk_sum(W: Rows, chunk: int) -> int:
    """The largest sum of |W| over one row and one aligned chunk of columns (L1c of 2.3 for chunk = 128)."""
    return max(sum(map(abs, row[start : start + chunk])) for row in W for start in range(0, len(row), chunk))


def recommended_cap(W: Rows) -> int:
    """Section 8: the S of a matrix in A8b."""
    wide, narrow = (I32_MAX // max(1, chunk_sum(W, chunk)) // 127 for chunk in (512, 128))
    return min(255, wide) if wide >= 32 else min(32, narrow)
