"""The nine primitives of the contract (docs/NUMERICS.md, section 1) and the helpers of section 0.

Functions have the names and parameters of the contract's appendix A; F is the number of fraction bits of an activation.

Every value is a Python integer, so nothing wraps and no width has to be proved here.
"""

from collections.abc import Sequence
from functools import cache
from math import isqrt
from typing import NamedTuple

I32_MIN, I32_MAX = -(1 << 31), (1 << 31) - 1
U32 = (1 << 32) - 1

LOG2_E_Q30 = 1549082005
"""round(log2(e) * 2^30): turns natural logarithms into log2 units."""

SINCOS_ANGLES = (
    536870912, 316933406, 167458907, 85004756, 42667331, 21354465, 10679838, 5340245, 2670163, 1335087, 667544,
    333772, 166886, 83443, 41722, 20861, 10430, 5215, 2608, 1304, 652, 326, 163, 81, 41, 20, 10, 5, 3, 1, 1,
)  # fmt: skip


class DynScale(NamedTuple):
    """The scale of a quantized vector: x ~ q * d * 2^(t-7), 128 <= d <= 255, t >= 0."""

    d: int
    t: int


class DynQuant(NamedTuple):
    """A quantized vector: x ~ q * d * 2^(t-7)."""

    q: list[int]
    d: int
    t: int


class BlockScale(NamedTuple):
    """Codes of |c| <= 127 and one scale 1..255 for each run of 32 of them."""

    c: list[int]
    s: list[int]


class Rsqrt(NamedTuple):
    """1/sqrt(v) ~ R * 2^-(31+u), 2^15 <= R <= 2^16."""

    R: int
    u: int


class SinCos(NamedTuple):
    """Cosine and sine in Q30."""

    c: int
    s: int


def sat(v: int) -> int:
    """The i32 nearest to v."""
    return max(I32_MIN, min(I32_MAX, v))


def rshr(v: int, s: int) -> int:
    """v / 2^s for s >= 0, halves rounded towards +infinity."""
    return v if s == 0 else (v + (1 << (s - 1))) >> s


def requant(x: int, m: int, s: int) -> int:
    """P1: x * m / 2^s as a saturated i32; s is any integer, and 63 or more gives 0."""
    if s >= 63:
        return 0
    p = x * m
    # A non-zero p saturates by a shift of 31, so a hostile shift costs no memory.
    return sat(rshr(p, s) if s >= 0 else p << min(-s, 31))


def dynscale(amax: int, xmax: int) -> DynScale:
    """P2, first half: the scale for a vector of largest magnitude amax (0..2^31) and codes of at most xmax."""
    scaled = max(128, -(-128 * amax // xmax))
    t = scaled.bit_length() - 8
    d = -(-scaled >> t)
    return DynScale(128, t + 1) if d == 256 else DynScale(d, t)


def dynquant(x: Sequence[int], xmax: int) -> DynQuant:
    """P2: codes |q| <= xmax with one scale for the i32 vector x."""
    d, t = dynscale(max(map(abs, x), default=0), xmax)
    r = (1 << 31) // d
    return DynQuant([requant(v, r, 24 + t) for v in x], d, t)


def rsqrt(v: int) -> Rsqrt:
    """P3: the reciprocal square root of a u64 v >= 1."""
    u = (v.bit_length() - 31) >> 1
    mantissa = v >> 2 * u if u >= 0 else v << -2 * u
    return Rsqrt((1 << 31) // isqrt(mantissa), u)


def exp2m(f: int) -> int:
    """The polynomial of P5: 2^(f/65536) in Q16 for f in 0..65535."""
    t = 882
    for coefficient in (3420, 15815, 45420):
        t = coefficient + (t * f >> 16)
    return 65536 + ((t * f + 32768) >> 16)


def exp2(x: int, B: int) -> int:
    """P5: 2^(x/65536) in units of 2^-B, x <= 0 in Q16 log2 units, B in 0..30."""
    m = exp2m(x & 65535)
    h = -(x >> 16) + 16 - B
    if h >= 18:
        return 0
    return rshr(m, h) if h >= 0 else m << -h


def sigmoid(x: int, F: int) -> int:
    """P6: the logistic function of x in QF, as Q15 (0..32768)."""
    z = requant(min(abs(x), I32_MAX), LOG2_E_Q30, F + 14)
    e = exp2(-z, 16)
    return ((1 << 31) if x >= 0 else (e << 15)) // (65536 + e)


@cache
def sincos(phase: int) -> SinCos:
    """P7: cosine and sine of phase / 2^32 turns, phase a u32."""
    k = ((phase + (1 << 29)) >> 30) & 3
    z = ((phase - (k << 30) + (1 << 31)) & U32) - (1 << 31)
    x, y = 652032874, 0
    for i, angle in enumerate(SINCOS_ANGLES):
        if z < 0:
            x, y, z = x + (y >> i), y - (x >> i), z + angle
        else:
            x, y, z = x - (y >> i), y + (x >> i), z - angle
    c, s = ((x, y), (-y, x), (-x, -y), (y, -x))[k]
    one = 1 << 30
    return SinCos(max(-one, min(one, c)), max(-one, min(one, s)))


def blockscale(q: Sequence[int]) -> BlockScale:
    """P8: codes and one scale for each run of 32 elements of |q| <= 32385 (the last run may be shorter)."""
    codes: list[int] = []
    scales: list[int] = []
    for start in range(0, len(q), 32):
        run = q[start : start + 32]
        s = max(1, -(-max(map(abs, run)) // 127))
        scales.append(s)
        codes += [requant(v, (1 << 30) // s, 30) for v in run]
    return BlockScale(codes, scales)


def philox(ctr: Sequence[int], key: Sequence[int]) -> list[int]:
    """P9: Philox4x32-10 of four u32 counter words and two u32 key words."""
    c0, c1, c2, c3 = ctr
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & U32, (a >> 32) ^ c3 ^ k1, a & U32
        k0, k1 = (k0 + 0x9E3779B9) & U32, (k1 + 0xBB67AE85) & U32
    return [c0, c1, c2, c3]


def ilog2(v: int) -> int:
    """Section 4: log2 of a u64 v >= 1 in Q16."""
    y = v.bit_length() - 1
    m = v << (31 - y) if y <= 31 else v >> (y - 31)
    for _ in range(16):
        m *= m
        y *= 2
        if m >= 1 << 63:
            y, m = y + 1, m >> 32
        else:
            m >>= 31
    return y
