"""Weight formats: packing codes into planes and decoding planes to integer matrices (docs/FORMATS.md)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Planes = dict[str, bytes]

TILE_ROWS, GROUP = 16, 32

N4_TABLE = (-127, -101, -79, -62, -47, -34, -21, -9, 2, 14, 25, 37, 50, 65, 83, 107)


class Field(NamedTuple):
    """Some bits of every code of a group: where in the group's words (word 0 lowest) column c has them."""

    bits: int
    words: int
    position: Callable[[int], int]


BYTE = Field(8, 8, lambda c: 32 * (c // 4) + 8 * (c % 4))
NIBBLE = Field(4, 4, lambda c: 32 * (c % 16 // 4) + 8 * (c % 4) + 4 * (c // 16))
PAIR = Field(2, 2, lambda c: 32 * (c % 8 // 4) + 8 * (c % 4) + 2 * (c // 8))
BIT = Field(1, 1, lambda c: 8 * (c % 4) + c // 4)
HALF = Field(16, 16, lambda c: 32 * (c // 2) + 16 * (c % 2))

FIELDS = {
    "U2": (PAIR,),
    "U3": (PAIR, BIT),
    "U4": (NIBBLE,),
    "U5": (NIBBLE, BIT),
    "U6": (NIBBLE, PAIR),
    "U8": (BYTE,),
    "N4": (NIBBLE,),
    "W16": (HALF,),
}
"""The fields of a payload's codes, lowest bits first. U2 and U3 are reserved: no format has them."""

MODES = {"U4": "r b8 z8", "U5": "r b8 z8", "U6": "r b8 z8", "U8": "r b8 z8", "N4": "r b8", "W16": "r"}


class Format(NamedTuple):
    """A parsed format name."""

    payload: str
    mode: str
    block: int

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return sum(field.bits for field in FIELDS[self.payload])

    @property
    def words(self) -> int:
        """nd: words of a group of 32 codes."""
        return sum(field.words for field in FIELDS[self.payload])

    @property
    def zero(self) -> int:
        """The code that a writer stores in padding columns."""
        return 1 << (self.bits - 1) if self.payload[0] == "U" else 0


def parse(name: str) -> Format:
    """The format of a name such as U4z8 or U6b8/16."""
    match = re.fullmatch(r"(U4|U5|U6|U8|N4|W16)(r|b8|z8)(?:/(16|64|128))?", name)
    if not match or match[2] not in MODES[match[1]].split() or (match[2] == "r" and match[3]):
        raise ValueError(f"{name!r} is no format")
    return Format(match[1], match[2], int(match[3] or 32))


def group_words(payload: str, codes: Sequence[int]) -> list[int]:
    """The words D[0], D[1], ... of one group of 32 codes."""
    packed, base, low = 0, 0, 0
    for bits, words, position in FIELDS[payload]:
        for column, code in enumerate(codes):
            packed |= (code >> low & (1 << bits) - 1) << base + position(column)
        base, low = base + 32 * words, low + bits
    return [packed >> 32 * i & 0xFFFFFFFF for i in range(base // 32)]


def group_codes(payload: str, words: Sequence[int]) -> list[int]:
    """The 32 codes of one group of words D[0], D[1], ..."""
    packed = sum(word << 32 * i for i, word in enumerate(words))
    codes, base, low = [0] * GROUP, 0, 0
    for bits, count, position in FIELDS[payload]:
        for column in range(GROUP):
            codes[column] |= (packed >> base + position(column) & (1 << bits) - 1) << low
        base, low = base + 32 * count, low + bits
    return codes


def code_weight(payload: str, code: int, table: Sequence[int] | None) -> int:
    """v: the value of a code at scale 1."""
    if payload == "N4":
        return (table or N4_TABLE)[code]
    if payload == "W16":
        return code - (code >> 15 << 16)
    return code - (1 << (sum(field.bits for field in FIELDS[payload]) - 1))


class Layout(NamedTuple):
    """The counts of section 2 for one matrix."""

    tiles: int
    groups: int
    blocks: int

    @classmethod
    def of(cls, form: Format, rows: int, columns: int) -> "Layout":
        """The layout of a matrix of rows x columns."""
        groups = -(-columns // GROUP)
        return cls(-(-rows // TILE_ROWS), groups, -(-groups * GROUP // form.block))

    def sizes(self, form: Format) -> dict[str, int]:
        """The length in bytes of every plane of a format, rounded up to a multiple of 64."""
        tiles, groups, blocks = self
        sizes = {"payload": 64 * tiles * groups * form.words, "row": 64 * tiles}
        if form.mode != "r":
            sizes["scale"] = 16 * tiles * blocks
        if form.mode == "b8":
            sizes["sign"] = 2 * tiles * blocks
        if form.mode == "z8":
            sizes["offset"] = 64 * tiles * -(-blocks // 2)
        return {plane: -(-size // 64) * 64 for plane, size in sizes.items()}


def pack(
    name: str,
    codes: Sequence[Sequence[int]],
    scales: Sequence[Sequence[int]],
    offsets: Sequence[Sequence[int]],
    row_constants: Sequence[tuple[int, int]],
) -> Planes:
    """The planes of a matrix.

    codes[n] holds the codes of row n up to K, or up to any padding column; the rest is the padding code.
    scales[n] and offsets[n] hold one number per block, as far as the mode has them.
    """
    form = parse(name)
    layout = Layout.of(form, len(codes), min(map(len, codes)))
    planes = {plane: bytearray(size) for plane, size in layout.sizes(form).items()}

    def store(plane: str, at: int, value: int, size: int) -> None:
        planes[plane][at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    for n, row in enumerate(codes):
        t, r = divmod(n, TILE_ROWS)
        padded = [*row, *[form.zero] * (layout.groups * GROUP - len(row))]
        for g in range(layout.groups):
            for i, word in enumerate(group_words(form.payload, padded[g * GROUP : (g + 1) * GROUP])):
                store("payload", ((t * layout.groups + g) * form.words + i) * 64 + 4 * r, word, 4)
        m, sh = row_constants[n]
        store("row", 4 * n, m + (sh << 23), 4)
        for b in range(layout.blocks if form.mode != "r" else 0):
            scale = scales[n][b]
            store("scale", (t * layout.blocks + b) * 16 + r, abs(scale), 1)
            if form.mode == "b8" and scale < 0:
                planes["sign"][2 * (t * layout.blocks + b) + r // 8] |= 1 << r % 8
            if form.mode == "z8":
                line = t * -(-layout.blocks // 2) + b // 2
                store("offset", line * 64 + 4 * r + 2 * (b % 2), offsets[n][b], 2)
    return {plane: bytes(data) for plane, data in planes.items()}


def decode(
    format: str, planes: Mapping[str, bytes], rows: int, columns: int, table: Sequence[int] | None = None
) -> list[list[int]]:
    """W: the integer matrix, rows x columns."""
    form = parse(format)
    layout = Layout.of(form, rows, columns)
    weights = []
    for n in range(rows):
        t, r = divmod(n, TILE_ROWS)
        row: list[int] = []
        for g in range(layout.groups):
            at = [((t * layout.groups + g) * form.words + i) * 64 + 4 * r for i in range(form.words)]
            words = [int.from_bytes(planes["payload"][a : a + 4], "little") for a in at]
            row += group_codes(form.payload, words)
        blocks = [block_scale(form, layout, planes, t, r, b) for b in range(layout.blocks)]
        for k, code in enumerate(row[:columns]):
            s, z = blocks[k // form.block]
            row[k] = s * code + z if form.mode == "z8" else s * code_weight(form.payload, code, table)
        weights.append(row[:columns])
    return weights


def block_scale(form: Format, layout: Layout, planes: Mapping[str, bytes], t: int, r: int, b: int) -> tuple[int, int]:
    """(s, z) of block b in row r of tile t; z counts in mode z8 only."""
    if form.mode == "r":
        return 1, 0
    s = planes["scale"][(t * layout.blocks + b) * 16 + r]
    if form.mode == "b8":
        at = 2 * (t * layout.blocks + b)
        negative = int.from_bytes(planes["sign"][at : at + 2], "little") >> r & 1
        return -s if negative else s, 0
    at = (t * -(-layout.blocks // 2) + b // 2) * 64 + 4 * r + 2 * (b % 2)
    return s, int.from_bytes(planes["offset"][at : at + 2], "little", signed=True)


def row_constants(plane: bytes, rows: int) -> list[tuple[int, int]]:
    """(m, sh) of every row of a `row` or `embedding_row` plane."""
    words = [int.from_bytes(plane[4 * n : 4 * n + 4], "little") for n in range(rows)]
    return [(word & (1 << 23) - 1, word >> 23) for word in words]
