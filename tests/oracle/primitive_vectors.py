"""Cases of the primitives: edges and random arguments (primitives.json)."""

from math import isqrt

from .draw import Draw
from .fixed import (
    I32_MAX,
    I32_MIN,
    blockscale,
    dynquant,
    dynscale,
    exp2,
    exp2m,
    ilog2,
    philox,
    requant,
    rshr,
    rsqrt,
    sat,
    sigmoid,
    sincos,
)
from .output import Cases, case

I32_EDGES = (I32_MIN, I32_MIN + 1, -65536, -32769, -128, -1, 0, 1, 2, 3, 127, 255, 32768, 1 << 30, I32_MAX - 1, I32_MAX)
MULTIPLIERS = (I32_MIN, -3, -1, 0, 1, 2, 255, 1 << 22, I32_MAX)
SHIFTS = (-1000, -33, -32, -31, -30, -1, 0, 1, 2, 15, 30, 31, 32, 33, 61, 62, 63, 64, 1000)
CODE_LIMITS = (1, 7, 127, 508, 2896, 5792, 11585, 32385)


def isqrt32(v: int) -> int:
    """The integer square root of a u32."""
    return isqrt(v)


def around_powers(bits: int) -> list[int]:
    """2^k - 1, 2^k, 2^k + 1 for every k, between 1 and 2^bits - 1."""
    values = {(1 << k) + d for k in range(bits + 1) for d in (-1, 0, 1)}
    return sorted(v for v in values if 1 <= v < 1 << bits)


def primitives() -> Cases:
    """Cases of every primitive and of the helpers of section 0."""
    draw = Draw("primitives")
    cases: Cases = {
        "sat": [case(sat, v=v) for v in (I32_MIN - 1, I32_MIN, -1, 0, I32_MAX, I32_MAX + 1, -(1 << 62), 1 << 62)],
        "rshr": [case(rshr, v=v, s=s) for v in (-(1 << 46), -7, -6, -5, -1, 0, 1, 5, 6, 7) for s in (0, 1, 2, 3, 47)],
        "requant": [case(requant, x=x, m=m, s=s) for x in I32_EDGES[::2] for m in MULTIPLIERS for s in SHIFTS],
    }
    cases["rshr"] += [case(rshr, v=draw.wide(62), s=draw.below(62)) for _ in range(100)]
    cases["requant"] += [case(requant, x=draw.wide(31), m=draw.wide(31), s=draw.between(-8, 64)) for _ in range(400)]

    cases["dynscale"] = [case(dynscale, amax=a, xmax=x) for a in (0, 1, 127, 255, 32385, 1 << 31) for x in CODE_LIMITS]
    cases["dynscale"] += [
        case(dynscale, amax=draw.word() >> draw.between(1, 31), xmax=draw.choice(CODE_LIMITS)) for _ in range(200)
    ]
    vectors = [[0], [0] * 5, [I32_MIN], [I32_MAX, I32_MIN, 0, 1, -1], [127, -127, 126], [128, -1], [32385, -32385, 7]]
    vectors += [draw.vector(draw.between(1, 40), 31) for _ in range(40)]
    cases["dynquant"] = [case(dynquant, x=x, xmax=xmax) for x in vectors for xmax in CODE_LIMITS]

    roots = [r * r + d for r in (1, 2, 255, 256, 32767, 32768, 46340, 46341, 65535) for d in (-1, 0, 1)]
    cases["isqrt32"] = [case(isqrt32, v=v) for v in [*around_powers(32), *roots]]
    cases["isqrt32"] += [case(isqrt32, v=draw.word() >> draw.below(32)) for _ in range(100)]
    cases["rsqrt"] = [case(rsqrt, v=v) for v in around_powers(64)]
    cases["rsqrt"] += [case(rsqrt, v=max(1, abs(draw.wide(64)))) for _ in range(200)]

    cases["exp2m"] = [case(exp2m, f=f) for f in (0, 1, 2, 255, 16384, 32767, 32768, 65534, 65535)]
    units = [0, 1, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, (1 << 21) - 1, 1 << 21, 1 << 31]
    cases["exp2"] = [case(exp2, x=-x, B=B) for x in units for B in (0, 1, 14, 16, 17, 22, 24, 30)]
    cases["exp2"] += [case(exp2, x=-abs(draw.wide(22)), B=draw.between(0, 30)) for _ in range(200)]
    cases["sigmoid"] = [case(sigmoid, x=x, F=F) for x in I32_EDGES for F in (8, 12, 16, 20)]
    cases["sigmoid"] += [case(sigmoid, x=draw.wide(F + 5), F=F) for F in range(8, 21) for _ in range(20)]

    octants = [(k << 29) + d & 0xFFFFFFFF for k in range(8) for d in (-1, 0, 1)]
    cases["sincos"] = [case(sincos, phase=phase) for phase in [*octants, 0x02349E05]]
    cases["sincos"] += [case(sincos, phase=draw.word()) for _ in range(100)]

    runs = [[0] * 32, [127, -127] * 16, [128, -128] * 16, [32385, *[-1] * 31], [-32385] * 32, list(range(-48, 48))]
    runs += [[max(-32385, min(32385, v)) for v in draw.vector(32 * draw.between(1, 3), 15)] for _ in range(40)]
    cases["blockscale"] = [case(blockscale, q=q) for q in runs]
    counters = [[0] * 4, [0xFFFFFFFF] * 4, *([draw.word() for _ in range(4)] for _ in range(30))]
    cases["philox"] = [case(philox, ctr=ctr, key=[draw.word(), draw.word()]) for ctr in counters]
    cases["ilog2"] = [case(ilog2, v=v) for v in around_powers(64)]
    cases["ilog2"] += [case(ilog2, v=max(1, abs(draw.wide(64)))) for _ in range(100)]
    return cases
