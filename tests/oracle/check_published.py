"""The vectors printed in the documents themselves, compared with the oracle.

Section 9 of docs/NUMERICS.md is a list of headings with indented lines below them. Every heading has one reader here;
a heading or a line that no reader understands is an error, so the document and this module cannot drift apart.
"""

import re
from ast import literal_eval
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import isqrt
from pathlib import Path
from typing import Any

from . import attention, constants, fixed, linear, ops, sampling

Reader = Callable[["re.Match[str]", list[str]], Iterator[tuple[str, Any, Any]]]
READERS: list[tuple[str, Reader]] = []


def heading(pattern: str) -> Callable[[Reader], Reader]:
    """Registers the reader of the headings that match a pattern; it yields (line, computed, printed)."""

    def register(reader: Reader) -> Reader:
        READERS.append((pattern, reader))
        return reader

    return register


def calls(lines: list[str], pattern: str) -> Iterator[tuple[str, Any]]:
    """Every line with the values of its groups, which are written as Python literals."""
    for line in lines:
        match = re.fullmatch(pattern, line)
        assert match, f"unreadable vector {line!r}"
        values = [literal_eval(group) for group in match.groups()]
        yield line, values


def arguments(value: Any) -> tuple[Any, ...]:
    """What was written between the parentheses of a call: a tuple of several arguments, or the only one."""
    return value if isinstance(value, tuple) else (value,)


def labelled(lines: list[str]) -> dict[str, Any]:
    """Lines `name=value`, and several of them separated by commas."""
    return {name: literal_eval(value) for line in lines for name, value in re.findall(r"(\w+)=(\[.*\]|-?\w+)", line)}


def numbers(text: str) -> dict[str, int]:
    """Every `name=integer` of a heading."""
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}


SCALAR: dict[str, Callable[..., int]] = {
    "requant": fixed.requant,
    "isqrt32": isqrt,
    "exp2m": fixed.exp2m,
    "exp2": fixed.exp2,
}


@heading(r"(requant|isqrt32|exp2m|exp2)")
def read_scalar(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (values, result) in calls(lines, r"\w+\((.*)\) = (-?\d+)"):
        yield line, SCALAR[match[1]](*arguments(values)), result


@heading(r"dynscale")
def read_dynscale(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (amax, xmax, d, t) in calls(lines, r"dynscale\(amax=(\d+), xmax=(\d+)\) = \(d=(\d+), t=(\d+)\)"):
        yield line, fixed.dynscale(amax, xmax), (d, t)


@heading(r"dynquant")
def read_dynquant(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (x, xmax, q, d, t) in calls(lines, r"dynquant\((\[.*?\]), (\d+)\) = q=(\[.*?\]), d=(\d+), t=(\d+)"):
        yield line, fixed.dynquant(x, xmax), (q, d, t)


@heading(r"rsqrt")
def read_rsqrt(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (v, r, u) in calls(lines, r"rsqrt\((\d+)\) = \(R=(\d+), u=(-?\d+)\)"):
        yield line, fixed.rsqrt(v), (r, u)


@heading(r"rmsnorm \(n=4, rn=(\d+), rk=(\d+), F=(\d+), gs=(\d+), E=round\(.*\)=(\d+)\)")
def read_rmsnorm(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    root, root_shift, fraction_bits, gain_shift, epsilon = map(int, match.groups())
    for line, (x, g, y) in calls(lines, r"x=(\[.*?\]), g=(\[.*?\]) -> (\[.*?\])"):
        yield line, ops.rmsnorm(x, g, gain_shift, epsilon, root, root_shift, fraction_bits), y


ACTIVATIONS: dict[str, Callable[..., int]] = {"sigmoid": fixed.sigmoid, "gelu": ops.gelu, "swiglu": ops.swiglu}


@heading(r"(sigmoid|swiglu|gelu) \(F=(\d+)\)")
def read_activation(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (values, result) in calls(lines, r"\w+\((.*)\) = (-?\d+)"):
        yield line, ACTIVATIONS[match[1]](*arguments(values), int(match[2])), result


@heading(r"softcap cap=(\d+) \(F=(\d+), cm=(\d+), cs=(\d+), im=(\d+), is=(\d+)\)")
def read_softcap(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    limit, fraction_bits, cm, cs, im, inverse_shift = map(int, match.groups())
    cap = ops.Softcap(im, inverse_shift, cm, cs)
    yield "constants", constants.softcap_constants(Fraction(limit)), tuple(cap)
    for line, (x, result) in calls(lines, r"softcap\((-?\d+)\) = (-?\d+)"):
        yield line, ops.softcap(x, *cap, fraction_bits), result


@heading(r"sincos")
def read_sincos(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (phase, c, s) in calls(lines, r"sincos\((0x\w+)\) = \(c=(-?\d+), s=(-?\d+)\)"):
        yield line, fixed.sincos(phase), (c, s)


@heading(r"freq64 \(theta=(\d+), rot=(\d+)\)")
def read_freq64(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    table = constants.freq64(constants.turns(Fraction(match[1]), int(match[2])))
    for line, (i, result) in calls(lines, r"i=(\d+): (0x\w+)"):
        yield line, table[i], result


@heading(r"phase")
def read_phase(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    pattern = r"phase\((\d+), freq64\[theta=(\d+),rot=(\d+)\]\[(\d+)\]\) = (0x\w+)"
    for line, (position, theta, rot, i, result) in calls(lines, pattern):
        table = constants.freq64(constants.turns(Fraction(theta), rot))
        yield line, ops.phase(position, table[i]), result


@heading(r"rope pair .*")
def read_rope(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (a, b, phase, result) in calls(lines, r"rope\((-?\d+), (-?\d+), (0x\w+)\) = (\(.*\))"):
        yield line, ops.rope_pair(a, b, phase), result


@heading(r"hadamard .*")
def read_hadamard(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (x, y) in calls(lines, r"hadamard\((\[.*?\])\) = (\[.*?\])"):
        yield line, ops.hadamard(x), y


@heading(r"philox4x32_10")
def read_philox(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, words in calls(lines, r"ctr=(\[.*?\]) key=(\[.*?\]) -> (\[.*?\])"):
        ctr, key, result = ([int(word, 16) for word in group] for group in words)
        yield line, fixed.philox(ctr, key), result


@heading(r"blockscale .*")
def read_blockscale(_: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (q, c, s) in calls(lines, r"blockscale\((\[.*?\])\) = c=(\[.*?\]), s=(\d+)"):
        yield line, fixed.blockscale(q), (c, [s])


@heading(r"sample logits=(\[.*\]) F=(\d+)")
def read_sample(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    pattern = r"tau=(\d+) k=(\d+) topp=(\d+) minp=(\d+) rnd=(0x\w+) -> (\d+)"
    for line, (tau, k, top_p, min_p, rnd, token) in calls(lines, pattern):
        yield line, sampling.sample(literal_eval(match[1]), int(match[2]), tau, k, top_p, min_p, rnd), token


@heading(r"router k=(\d+) \(F=(\d+)\)")
def read_router(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    for line, (logits, chosen) in calls(lines, r"(\[.*?\]) -> (\[.*?\])"):
        yield line, ops.router(logits, int(match[1]), int(match[2]), True, False), chosen


@heading(r"attention.* F=.*")
def read_attention(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    given, printed = numbers(match[0]), labelled(lines)
    cap = ops.Softcap(given["im"], given["is"], given["cm"], given["cs"]) if "im" in given else None
    keys = [fixed.dynquant(k, given["xk"]) for k in printed["k"]]
    values = [fixed.dynquant(v, given["xv"]) for v in printed["v"]]
    F, xq, xv, ca, cash = (given[name] for name in ("F", "xq", "xv", "ca", "cash"))
    result = attention.attend(printed["q"], keys, values, F, xq, xv, ca, cash, cap)
    for name, computed in zip("lpwo", result, strict=True):
        yield name, computed, printed[name]


@heading(r"linear, K=(\d+), mode (A8b|A8|A16)(?:, S=(\d+))?, a=(\d+): .*, m=(\[.*\]), sh=(\[.*\])")
def read_linear(match: "re.Match[str]", lines: list[str]) -> Iterator[tuple[str, Any, Any]]:
    columns, preshift = int(match[1]), int(match[4])
    printed = labelled(lines)
    # The heading's formula for x; its second half is divided by 16 where the heading says so.
    x = [(i * 2654435761 % 20001 - 10000) >> (4 if ">>" in match[0] and i >= 32 else 0) for i in range(columns)]
    weights = [[(7 * i * i + 13 * r) % 255 - 127 for i in range(columns)] for r in range(3)]
    m, sh = literal_eval(match[5]), literal_eval(match[6])
    quantized = linear.quantize(x, match[2], int(match[3] or 0))
    yield "q", quantized.q, printed["q"]
    yield "d, t", quantized[1:], (printed["d"], printed["t"])
    yield "y", linear.multiply(quantized, weights, m, sh, preshift, None), printed["y"]


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """The headings of the section of test vectors, with their indented or fenced lines."""
    body = re.split(r"^## \d+\w?\. Test vectors$", text, flags=re.MULTILINE)[1]
    body = re.split(r"^## ", body, flags=re.MULTILINE)[0]
    for block in re.split(r"^### ", body, flags=re.MULTILINE)[1:]:
        title, *lines = (line.strip() for line in block.splitlines())
        yield title, [line for line in lines if line and not line.startswith("```")]


def check_numerics(document: Path) -> int:
    """Compares every vector of section 9; returns how many there are."""
    count = 0
    for title, lines in sections(document.read_text(encoding="utf-8")):
        matches = [(match, reader) for pattern, reader in READERS if (match := re.fullmatch(pattern, title))]
        if len(matches) != 1 or not lines:
            raise SystemExit(f"{document.name}: unreadable section {title!r}")
        match, reader = matches[0]
        for line, computed, printed in reader(match, lines):
            count += 1
            if computed != printed:
                raise SystemExit(f"{document.name}, {title}: {line}: the oracle computes {computed}")
    assert count, f"{document.name}: no test vectors"
    return count
