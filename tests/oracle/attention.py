"""Attention over quantized keys and values (docs/NUMERICS.md, section 3.3)."""

from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

from .fixed import LOG2_E_Q30, DynQuant, dynquant, exp2, requant, rshr, sat
from .ops import Softcap
from .ops import softcap as apply_softcap


class Attended(NamedTuple):
    """One head's result o and the intermediates that the contract names, one per visible position."""

    l: list[int]  # noqa: E741
    p: list[int]
    w: list[int]
    o: list[int]


def first_visible(position: int, window: int) -> int:
    """lo: the first position that a query sees; window 0 means none."""
    return max(0, position - window + 1) if window else 0


def attend(
    q: Sequence[int],
    keys: Sequence[DynQuant],
    values: Sequence[DynQuant],
    F: int,
    xq: int,
    xv: int,
    ca: int,
    cash: int,
    softcap: Softcap | None,
) -> Attended:
    """One query of one head over the visible positions, whose quantized keys and values are given."""
    q8, dq, tq = dynquant(q, xq)
    scores = []
    for k8, dk, tk in keys:
        score = requant(sum(map(mul, q8, k8)), dq * dk * ca, cash + 2 * F - 2 - tq - tk)
        if softcap is not None:
            score = requant(apply_softcap(score, *softcap, 16), LOG2_E_Q30, 30)
        scores.append(score)
    largest, tm = max(scores), max(v.t for v in values)
    p = [exp2(sat(score - largest), 22) for score in scores]
    w = []
    for p_j, (_, dv, tv) in zip(p, values, strict=True):
        shift = 8 + tm - tv
        w.append(0 if shift >= 31 else rshr(p_j * dv, shift))
    total = sum(p)
    length = total.bit_length()
    R = (1 << 31) // (total >> (length - 16))
    b = max(0, length + xv.bit_length() - 31)
    sums = (sum(map(mul, w, column)) for column in zip(*(v.q for v in values), strict=True))
    return Attended(scores, p, w, [requant(rshr(a, b), R, length + 14 - tm - b) for a in sums])


def attention(
    q: Sequence[int],
    k: Sequence[Sequence[int]],
    v: Sequence[Sequence[int]],
    F: int,
    xq: int,
    xk: int,
    xv: int,
    ca: int,
    cash: int,
    lo: int,
    softcap: Softcap | None = None,
) -> list[int]:
    """One head for the last position; k and v hold the head vectors of all positions, lo is the first visible one."""
    keys = [dynquant(vector, xk) for vector in k[lo:]]
    values = [dynquant(vector, xv) for vector in v[lo:]]
    return attend(q, keys, values, F, xq, xv, ca, cash, softcap).o
