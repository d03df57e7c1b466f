"""Digests over whole domains (digests.json): SHA-256 over the results as little-endian integers, in order."""

from collections.abc import Iterable, Iterator
from itertools import chain
from math import isqrt
from typing import Any

from . import ops
from .fixed import blockscale, dynscale, exp2, exp2m, ilog2, philox, requant, rsqrt, sigmoid, sincos
from .op_vectors import CAP_30
from .output import digest

I16 = range(-32768, 32768)
BLOCK_SCALES = (1, 2, 3, 7, 100, 127, 128, 254, 255)


def entry(function: str, domain: str, size: int, results: Iterable[int]) -> dict[str, Any]:
    """One digest; `bytes` is the width of each result, `count` their number."""
    values = list(results)
    return {
        "function": function,
        "domain": domain,
        "bytes": size,
        "count": len(values),
        "sha256": digest(values, size),
    }


def block_codes() -> Iterator[int]:
    """All runs of 31 consecutive values behind the largest value of a scale."""
    for s in BLOCK_SCALES:
        top = 127 * s
        values = list(range(-top, top + 1))
        for start in range(0, len(values), 31):
            run = values[start : start + 31]
            yield from blockscale([top, *run, *[0] * (31 - len(run))]).c


def digests() -> list[dict[str, Any]]:
    """Every published digest."""
    roots = (v for r in range(1, 65536) for v in (r * r - 1, r * r, r * r + 2 * r))
    return [
        entry("exp2m", "f = 0, 1, ..., 65535", 4, map(exp2m, range(65536))),
        entry("exp2", "x = 0, -37, -74, ..., -37*65535 with B = 22", 4, (exp2(-37 * i, 22) for i in range(65536))),
        entry("exp2", "x = 0, -37, -74, ..., -37*65535 with B = 24", 4, (exp2(-37 * i, 24) for i in range(65536))),
        entry("sigmoid", "x = -32768, ..., 32767 with F = 12", 4, (sigmoid(x, 12) for x in I16)),
        entry(
            "sigmoid", "x = -32768*32, ..., 32767*32 in steps of 32 with F = 16", 4, (sigmoid(32 * x, 16) for x in I16)
        ),
        entry("gelu", "x = -32768, ..., 32767 with F = 12", 4, (ops.gelu(x, 12) for x in I16)),
        entry("swiglu", "g = -32768, ..., 32767 with u = 7 * g and F = 12", 4, (ops.swiglu(x, 7 * x, 12) for x in I16)),
        entry("relu2", "g = -32768, ..., 32767 with u = -5 * g and F = 12", 4, (ops.relu2(x, -5 * x, 12) for x in I16)),
        entry(
            "softcap",
            "x = -32768*16, ..., 32767*16 in steps of 16 with im, is, cm, cs = 1145324612, 34, 31457280, 20 and F = 12",
            4,
            (ops.softcap(16 * x, *CAP_30, 12) for x in I16),
        ),
        entry(
            "requant",
            "x = -32768, ..., 32767 with m = 1549082005, s = 30",
            4,
            (requant(x, 1549082005, 30) for x in I16),
        ),
        entry(
            "requant",
            "x = -32768, ..., 32767 with m = 2147483647, s = 14",
            4,
            (requant(x, 2147483647, 14) for x in I16),
        ),
        entry("requant", "x = -32768, ..., 32767 with m = 3, s = 1", 4, (requant(x, 3, 1) for x in I16)),
        entry(
            "sincos",
            "phase = 0, 65536, ..., 65535*65536; c then s for each",
            4,
            chain.from_iterable(sincos(i << 16) for i in range(65536)),
        ),
        entry("isqrt32", "v = r*r - 1, r*r, r*r + 2r for r = 1, ..., 65535", 4, map(isqrt, roots)),
        entry(
            "rsqrt", "v = 1, ..., 65536; R then u for each", 4, chain.from_iterable(rsqrt(v) for v in range(1, 65537))
        ),
        entry(
            "rsqrt",
            "v = 65537*i*i for i = 1, ..., 65536; R then u for each",
            4,
            chain.from_iterable(rsqrt(65537 * i * i) for i in range(1, 65537)),
        ),
        *(
            entry(
                "dynscale",
                f"amax = i*i div 2 for i = 0, ..., 65536 with xmax = {xmax}; d then t for each",
                4,
                chain.from_iterable(dynscale(i * i // 2, xmax) for i in range(65537)),
            )
            for xmax in (7, 127, 5792, 32385)
        ),
        entry(
            "blockscale",
            "for s in "
            + ", ".join(map(str, BLOCK_SCALES))
            + ": the values -127s, ..., 127s in runs of 31, each run behind "
            "the element 127s and filled up to 32 with 0; c of every run",
            1,
            block_codes(),
        ),
        entry(
            "philox",
            "ctr = (i, 0, 0, 0) for i = 0, ..., 4095 with key = (42, 0); four words each",
            4,
            chain.from_iterable(philox((i, 0, 0, 0), (42, 0)) for i in range(4096)),
        ),
        entry("ilog2", "v = 1, ..., 65536", 4, map(ilog2, range(1, 65537))),
    ]
