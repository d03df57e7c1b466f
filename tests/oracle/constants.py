"""The constants that a model file stores, from real numbers (docs/NUMERICS.md, section 8b).

Real numbers are Fractions; irrational ones are truncated to PRECISION fraction bits or more.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from math import isqrt

PRECISION = 320


def round_half_up(value: Fraction) -> int:
    """floor(value + 1/2), the contract's round."""
    return (value + Fraction(1, 2)).__floor__()


def floor_log2(value: Fraction) -> int:
    """The largest e with 2^e <= value, value > 0."""
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if Fraction(2) ** e <= value else e - 1


def dyadic(value: Fraction, bits: int) -> tuple[int, int]:
    """(m, sh) with m * 2^-sh ~ value > 0 and m of exactly `bits` bits."""
    sh = bits - 1 - floor_log2(value)
    m = round_half_up(value * Fraction(2) ** sh)
    return (m >> 1, sh - 1) if m == 1 << bits else (m, sh)


def truncate(value: Fraction) -> Fraction:
    """The value with PRECISION fraction bits."""
    return Fraction((value * (1 << PRECISION)).__floor__(), 1 << PRECISION)


def sqrt(value: Fraction) -> Fraction:
    """The square root of value >= 0."""
    return Fraction(isqrt((value.numerator << 2 * PRECISION) // value.denominator), 1 << PRECISION)


def atanh(x: Fraction) -> Fraction:
    """The inverse hyperbolic tangent by its series, 0 <= x <= 1/3."""
    return odd_series(x, 1)


def atan(x: Fraction) -> Fraction:
    """The inverse tangent by its series, 0 <= x <= 1/3."""
    return odd_series(x, -1)


def odd_series(x: Fraction, sign: int) -> Fraction:
    """The sum over n of sign^n * x^(2n+1) / (2n+1)."""
    total, n, power = Fraction(0), 0, x
    while power * (1 << PRECISION) >= 1:
        total += sign**n * power / (2 * n + 1)
        n, power = n + 1, truncate(power * x * x)
    return truncate(total)


@cache
def ln(value: Fraction) -> Fraction:
    """The natural logarithm of value > 0: value = 2^e * y with 1 <= y < 2 and the atanh series."""
    e = floor_log2(value)
    y = value / Fraction(2) ** e
    return 2 * atanh((y - 1) / (y + 1)) + e * 2 * atanh(Fraction(1, 3))


def exp(value: Fraction) -> Fraction:
    """e^value: range reduction by ln 2 and the Taylor series."""
    e = (value / ln(Fraction(2))).__floor__()
    rest = truncate(value - e * ln(Fraction(2)))
    total, term, n = Fraction(0), Fraction(1), 0
    while term:
        total += term
        n += 1
        term = truncate(term * rest / n)
    return total * Fraction(2) ** e


@cache
def pi() -> Fraction:
    """Pi by Machin's formula."""
    return 4 * (4 * atan(Fraction(1, 5)) - atan(Fraction(1, 239)))


@cache
def log2_e() -> Fraction:
    """1 / ln 2."""
    return 1 / ln(Fraction(2))


def turns(theta: Fraction, rotated: int) -> list[Fraction]:
    """The unscaled rotary frequencies in turns per position, one for each pair."""
    slope = ln(theta) * Fraction(-2, rotated)
    return [truncate(exp(slope * i) / (2 * pi())) for i in range(rotated // 2)]


def llama3_scaling(
    frequencies: Sequence[Fraction], factor: Fraction, low: Fraction, high: Fraction, original: int
) -> list[Fraction]:
    """The llama3 rule: `original * turns` is the number of turns in the original context."""
    scaled = []
    for f in frequencies:
        smooth = max(Fraction(0), min(Fraction(1), (original * f - low) / (high - low)))
        scaled.append((1 - smooth) * f / factor + smooth * f)
    return scaled


def yarn_scaling(
    frequencies: Sequence[Fraction], theta: Fraction, factor: Fraction, fast: int, slow: int, original: int
) -> list[Fraction]:
    """The yarn rule: pairs that turn more than `fast` times keep their frequency, fewer than `slow` are divided."""
    rotated = 2 * len(frequencies)

    def pair_of(count: int) -> Fraction:
        return rotated * ln(Fraction(original) / (count * 2 * pi())) / (2 * ln(theta))

    low = max(pair_of(fast).__floor__(), 0)
    high = min(pair_of(slow).__ceil__(), rotated - 1)
    scaled = []
    for i, f in enumerate(frequencies):
        ramp = max(Fraction(0), min(Fraction(1), Fraction(i - low, max(high - low, 1))))
        scaled.append(f / factor * ramp + f * (1 - ramp))
    return scaled


def rope_frequencies(theta: Fraction, rotated: int, scaling: Mapping[str, str | int] | None) -> list[Fraction]:
    """Turns per position under a `rope_scaling` of a Hugging Face configuration, its reals as decimal strings."""
    frequencies = turns(theta, rotated)
    if scaling is None:
        return frequencies
    factor = Fraction(scaling["factor"])
    match scaling["rope_type"]:
        case "linear":
            return [f / factor for f in frequencies]
        case "llama3":
            low, high = Fraction(scaling["low_freq_factor"]), Fraction(scaling["high_freq_factor"])
            return llama3_scaling(frequencies, factor, low, high, int(scaling["original_max_position_embeddings"]))
        case "yarn":
            fast, slow = int(scaling.get("beta_fast", 32)), int(scaling.get("beta_slow", 1))
            original = int(scaling["original_max_position_embeddings"])
            return yarn_scaling(frequencies, theta, factor, fast, slow, original)
    raise ValueError(f"unknown rope_type {scaling['rope_type']!r}")


def yarn_attention_factor(factor: Fraction) -> Fraction:
    """yarn's mscale, whose square multiplies the score scale: 0.1 ln(factor) + 1."""
    return ln(factor) / 10 + 1


def freq64(frequencies: Sequence[Fraction]) -> list[int]:
    """3.1: u64 turns per position in units of 2^-64."""
    error = Fraction(1, 1 << 200)
    table = []
    for f in frequencies:
        low, high = (((f + e) * (1 << 64)).__floor__() for e in (-error, error))
        assert low == high, "the precision does not decide this frequency"
        table.append(low)
    return table


def norm_constants(n: int, epsilon: Fraction, fraction_bits: int) -> tuple[int, int, int]:
    """(E, rn, rk) of an rmsnorm over n elements."""
    return round_half_up(n * epsilon * (1 << 2 * fraction_bits)), *dyadic(sqrt(Fraction(n)), 15)


def gain_codes(gains: Sequence[Fraction]) -> tuple[list[int], int]:
    """(g, gs) of real gains."""
    gs = min(30, 14 - floor_log2(max(map(abs, gains))))
    return [max(-32767, min(32767, round_half_up(g * Fraction(2) ** gs))) for g in gains], gs


def softcap_constants(cap: Fraction) -> tuple[int, int, int, int]:
    """(im, is, cm, cs) of a softcap."""
    return *dyadic(2 / cap, 31), *dyadic(cap, 25)


def score_constants(score_scale: Fraction, head_dim: int, hadamard: bool, softcap: bool) -> tuple[int, int]:
    """(ca, cash) of an attention: the Hadamard factor is divided out, and a softcap takes no log2(e)."""
    value = score_scale if softcap else score_scale * log2_e()
    if hadamard:
        value = value * Fraction(4) ** ((head_dim.bit_length() - 1) // 2) / head_dim
    return dyadic(value, 15)
