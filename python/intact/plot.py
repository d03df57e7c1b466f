"""The size of models against their divergence, as an SVG file written without a library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from xml.sax.saxutils import escape

_Scale: TypeAlias = Callable[[float], float]  # from a value to pixels

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 150, 20, 52  # margins; labels of points reach into the right one
_LETTER, _LINE = 6.2, 13  # of a label, in pixels
_SMALLEST = 1e-9  # a divergence below this, as of a model from itself, is drawn here

_STYLE = (
    "text{font:11px sans-serif;fill:#222}.grid{stroke:#ddd}.axis{stroke:#222}"
    ".model{fill:#1668b8;stroke:#1668b8}.peer{fill:#fff;stroke:#b04a12;stroke-width:1.5}"
)


@dataclass(frozen=True)
class Point:
    """A model in the plot."""

    label: str
    mebibytes: float
    kld: float
    """In nats per token."""
    error: float | None
    """The standard error of `kld`."""
    peer: bool
    """Whether it is another engine's."""


@dataclass(frozen=True)
class _Box:
    """A rectangle that labels keep free."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def size_against_divergence(points: Sequence[Point]) -> str:
    """An SVG image: MiB to the right, and the KL divergence upwards on a logarithmic axis; at least one point."""
    every = [point.mebibytes for point in points]
    sizes = _ticks(min(every), max(every))
    low, high = _decades(points)

    def x(mebibytes: float) -> float:
        return _LEFT + (mebibytes - sizes[0]) / (sizes[-1] - sizes[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y(kld: float) -> float:
        share = (math.log10(max(kld, 10.0**low)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - min(share, 1.0) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [*_axes(sizes, low, high, x, y)]
    places = [(x(point.mebibytes), y(point.kld)) for point in points]
    taken = [_Box(across - 5, down - 5, across + 5, down + 5) for across, down in places]
    for point, (across, down) in zip(points, places, strict=True):
        if point.error is not None:
            upper, lower = y(point.kld + point.error), y(point.kld - point.error)
            parts.append(_line(across, upper, across, lower, "axis"))
        parts.append(_mark(across, down, point.peer))
        parts.append(_label(point.label, across, down, taken))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">\n'
        f'<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _ticks(smallest: float, largest: float) -> list[float]:
    """Round numbers on both sides of all sizes, ten steps between them at most."""
    spread = max(largest - smallest, largest / 10, 1e-6)
    unit = 10.0 ** math.floor(math.log10(spread))
    step = next(unit * factor for factor in (0.2, 0.5, 1, 2) if spread < 8 * unit * factor)
    first, last = math.floor(smallest / step), math.floor(largest / step) + 1
    return [step * i for i in range(first, last + 1)]


def _decades(points: Sequence[Point]) -> tuple[int, int]:
    """The powers of ten between which all divergences lie."""
    drawn = [max(point.kld, _SMALLEST) for point in points]
    low = math.floor(math.log10(min(drawn)))
    return low, max(low + 1, math.ceil(math.log10(max(drawn))))


def _axes(sizes: Sequence[float], low: int, high: int, x: _Scale, y: _Scale) -> Iterator[str]:
    left, right, bottom = x(sizes[0]), x(sizes[-1]), y(10.0**low)
    for size in sizes:
        yield _line(x(size), bottom, x(size), y(10.0**high), "grid")
        yield _text(x(size), bottom + 18, f"{size:g}", "middle")
    for power in range(low, high + 1):
        yield _line(left, y(10.0**power), right, y(10.0**power), "grid")
        yield _text(left - 8, y(10.0**power) + 4, f"{10.0**power:g}", "end")
    yield _line(left, bottom, right, bottom, "axis")
    yield _line(left, bottom, left, y(10.0**high), "axis")
    yield _text((left + right) / 2, bottom + 40, "size on disk, MiB", "middle")
    middle = (bottom + y(10.0**high)) / 2
    turned = f'transform="translate(16 {middle:.1f}) rotate(-90)" text-anchor="middle"'
    yield f"<text {turned}>KL divergence, nats a token</text>"


def _label(text: str, across: float, down: float, taken: list[_Box]) -> str:
    """The label beside its point: the first place that is free, else the first."""
    width = _LETTER * len(text)
    places = [
        (across + 8 if side > 0 else across - 8 - width, down + 4 + shift * _LINE)
        for shift in (0, -1, 1, -2, 2)
        for side in (1, -1)
    ]
    boxes = [_Box(left, base - 10, left + width, base + 3) for left, base in places]
    free = (i for i, box in enumerate(boxes) if box.left > _LEFT and not any(map(box.meets, taken)))
    chosen = next(free, 0)
    taken.append(boxes[chosen])
    return _text(*places[chosen], text, "start")


def _mark(across: float, down: float, peer: bool) -> str:
    if peer:
        return f'<rect class="peer" x="{across - 4:.1f}" y="{down - 4:.1f}" width="8" height="8"/>'
    return f'<circle class="model" cx="{across:.1f}" cy="{down:.1f}" r="4"/>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
