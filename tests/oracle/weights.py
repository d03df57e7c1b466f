"""Random matrices of every format: codes, scales and offsets within the rules of docs/FORMATS.md."""

from collections.abc import Sequence
from typing import NamedTuple

from . import formats
from .draw import Draw

TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The N4 table of the matrices that carry their own."""


ZERO_ROWS = 48
"""One typical row in so many is all zero (not in N4r, whose padding code is no zero)."""


class Matrix(NamedTuple):
    """A matrix without its row constants."""

    format: str
    rows: int
    columns: int
    codes: list[list[int]]
    scales: list[list[int]]
    offsets: list[list[int]]
    table: Sequence[int] | None

    def pack(self, row_constants: Sequence[tuple[int, int]]) -> formats.Planes:
        """The planes."""
        return formats.pack(self.format, self.codes, self.scales, self.offsets, row_constants)


def code(draw: Draw, form: formats.Format, kind: str) -> int:
    """A code that the payload uses; kind "extreme" takes its ends only."""
    low, high = 0, (1 << form.bits) - 1
    if form.payload == "U8":
        low = 1
    if form.payload[0] == "T":
        high = 2
    if kind == "extreme":
        value = draw.choice((low, high))
        return draw.choice((32769, 32767)) if form.payload == "W16" else value
    if form.payload == "W16":
        return draw.between(-32767, 32767) & 0xFFFF
    return draw.between(low, high)


def scale(draw: Draw, form: formats.Format, kind: str) -> int:
    """A block scale; kind "typical" stays away from 0 and covers a factor of four, as converted blocks do."""
    most = 15 if form.mode == "b4" else 255
    least = (most + 1) // 4 if kind == "typical" else 0
    magnitude = draw.choice((0, 1, most)) if kind == "extreme" else draw.between(least, most)
    return -magnitude if form.mode == "b8" and draw.below(2) else magnitude


def offset(draw: Draw, form: formats.Format, kind: str, s: int) -> int:
    """An offset with |z| <= 32767 and |s * umax + z| <= 32767."""
    span = s * ((1 << form.bits) - 1)
    low, high = -32767, 32767 - span
    if kind == "extreme":
        return draw.choice((low, high))
    if kind == "typical":
        return max(low, min(high, -span // 2 + draw.between(-span // 8, span // 8)))
    return draw.between(low, high)


def random_matrix(draw: Draw, name: str, rows: int, columns: int, kind: str, table: Sequence[int] | None) -> Matrix:
    """A matrix of kind "typical", "random" or "extreme"; in the last two every padding column holds any code."""
    form = formats.parse(name)
    layout = formats.Layout.of(form, rows, columns)
    blocks = layout.blocks if form.mode != "r" else 0
    stored = columns if kind == "typical" else 32 * layout.groups
    codes, scales, offsets = [], [], []
    for _ in range(rows):
        if kind == "typical" and name != "N4r" and draw.below(ZERO_ROWS) == 0:
            codes.append([form.zero] * columns)
            scales.append([0] * blocks)
            offsets.append([0] * blocks)
            continue
        row = [code(draw, form, kind) for _ in range(columns)]
        room = 3 if form.payload == "T16" else 1 << form.bits
        codes.append(row + [draw.below(room) for _ in range(stored - columns)])
        scales.append([scale(draw, form, kind) for _ in range(blocks)])
        offsets.append([offset(draw, form, kind, s) for s in scales[-1]] if form.mode == "z8" else [])
    if kind == "typical":
        clear_padding_blocks(form, columns, scales, offsets)
    return Matrix(name, rows, columns, codes, scales, offsets, table)


def clear_padding_blocks(form: formats.Format, columns: int, scales: list[list[int]], offsets: list[list[int]]) -> None:
    """A writer stores 0 in the blocks that begin at or beyond K."""
    for row in (*scales, *offsets):
        for b in range(-(-columns // form.block), len(row)):
            row[b] = 0
