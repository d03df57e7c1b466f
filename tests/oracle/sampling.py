"""Choice of tokens and log-probabilities (docs/NUMERICS.md, section 4)."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

from .fixed import LOG2_E_Q30, U32, exp2, ilog2, philox, requant, sat


class Settings(NamedTuple):
    """A request's sampling parameters: tau (the temperature), top_p and min_p in Q16; top_k 0 is off."""

    tau: int
    top_k: int
    top_p: int
    min_p: int
    seed: int
    stream: int


def q16(value: Fraction) -> int:
    """A real-valued setting in Q16."""
    return (65536 * value + Fraction(1, 2)).__floor__()


def temperature_q16(value: Fraction) -> int:
    """A temperature above 0 in Q16."""
    return max(1, q16(value))


def greedy(logits: Sequence[int]) -> int:
    """The lowest id among the largest logits, taken before a final softcap."""
    return logits.index(max(logits))


def sample(logits: Sequence[int], F: int, tau: int, top_k: int, top_p: int, min_p: int, rnd: int) -> int:
    """The token that the u32 random number rnd picks; tau >= 1."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if 0 < top_k < len(order):
        order = order[:top_k]
    wide = (LOG2_E_Q30 << 16) // tau
    c = max(0, wide.bit_length() - 31)
    scale, shift = wide >> c, 30 - c + F - 16
    largest = logits[order[0]]
    weights = [exp2(requant(sat(logits[token] - largest), scale, shift), 24) for token in order]
    kept = 1
    while kept < len(order) and weights[kept] >= min_p << 8:
        kept += 1
    weights = weights[:kept]
    if top_p < 65536:
        total = sum(weights)
        enough = (i for i, cumulative in enumerate(accumulate(weights)) if cumulative << 16 >= total * top_p)
        weights = weights[: next(enough) + 1]
    x = sum(weights) * rnd >> 32
    return next(order[i] for i, cumulative in enumerate(accumulate(weights)) if cumulative > x)


def choose(logits: Sequence[int], settings: Settings, step: int, F: int) -> int:
    """The token of one step of a continuation with a temperature above 0."""
    rnd = philox((step, settings.stream, 0, 0), (settings.seed & U32, settings.seed >> 32))[0]
    return sample(logits, F, settings.tau, settings.top_k, settings.top_p, settings.min_p, rnd)


def logprobs(logits: Sequence[int], F: int) -> list[int]:
    """log2 of every token's probability at temperature 1, in Q16."""
    largest = max(logits)
    z = [requant(sat(v - largest), LOG2_E_Q30, F + 14) for v in logits]
    total = ilog2(sum(exp2(v, 24) for v in z)) - 24 * 65536
    return [sat(v - total) for v in z]
