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
    "T20": (PAIR,),
}
"""The fields of the codes of payloads that have words of their own for every group, lowest bits first."""

STEP_BITS = {f"P{5 * bits}": bits for bits in range(2, 9)}
"""B: bits of a step of the trellis."""

MODES = {
    **dict.fromkeys(("U2", "U3", "U4", "U5", "U6", "U8"), "r b8 z8"),
    **dict.fromkeys(("T20", *STEP_BITS), "r b4 b8"),
    "T16": "r",
    "N4": "r b8",
    "W16": "r",
}

HALF_LEVELS = (-31, -21, -16, -12, -9, -6, -4, -1, 1, 4, 6, 9, 12, 16, 21, 31)


class Format(NamedTuple):
    """A parsed format name."""

    payload: str
    mode: str
    block: int

    @property
    def bits(self) -> int:
        """Bits of a stored code; of a step in P."""
        if self.payload in STEP_BITS:
            return STEP_BITS[self.payload]
        return 2 if self.payload == "T16" else sum(field.bits for field in FIELDS[self.payload])

    @property
    def zero(self) -> int:
        """The code that a writer stores in padding columns."""
        if self.payload[0] == "T":
            return 1
        return 1 << (self.bits - 1) if self.payload[0] == "U" else 0

    def words(self, groups: int) -> int:
        """nw: words of a row of so many groups."""
        if self.payload in STEP_BITS:
            return -(-16 * self.bits * groups // 32)
        if self.payload == "T16":
            return -(-32 * groups // 20)
        return groups * sum(field.words for field in FIELDS[self.payload])


def parse(name: str) -> Format:
    """The format of a name such as U4z8 or U6b8/16."""
    match = re.fullmatch(r"([UNTPW]\d+)(r|b4|b8|z8)(?:/(16|64|128))?", name)
    if not match or match[1] not in MODES or match[2] not in MODES[match[1]].split() or (match[2] == "r" and match[3]):
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


def ternary_words(codes: Sequence[int]) -> list[int]:
    """The words of a row of T16: 20 codes each, those beyond the row being 1."""
    words = []
    for first in range(0, len(codes), 20):
        word = 0
        for c in range(4):
            number = 0
            for column in range(first + c, first + 20, 4):
                number = 3 * number + (codes[column] if column < len(codes) else 1)
            word |= (256 * number + 242) // 243 << 8 * c
        words.append(word)
    return words


def ternary_codes(words: Sequence[int]) -> list[int]:
    """The codes of words of T16, 20 of each."""
    codes = []
    for word in words:
        rest = list(word.to_bytes(4, "little"))
        for _ in range(5):
            codes += [3 * byte >> 8 for byte in rest]
            rest = [3 * byte & 255 for byte in rest]
    return codes


def pair_hash(w: int) -> int:
    """h: the 16 bits that the levels of a step are read from, for the window w."""
    signed = w - (w >> 15 << 16)
    return w * 2767 + (signed * 13793 + 0x4000 >> 15) & 0xFFFF


def pair_levels(w: int) -> tuple[int, int]:
    """The levels v of the two columns of a step with the window w."""
    nibbles = [HALF_LEVELS[pair_hash(w) >> 4 * i & 15] for i in range(4)]
    return nibbles[0] + nibbles[1], nibbles[2] + nibbles[3]


def trellis_levels(stream: int, bits: int, steps: int) -> list[int]:
    """The levels of a row of P whose bit stream is the integer `stream`."""
    return [v for t in range(steps) for v in pair_levels((stream << 16) >> (t + 1) * bits & 0xFFFF)]


def row_words(form: Format, codes: Sequence[int]) -> list[int]:
    """The words of a row of whole groups of stored codes; P has the bits of a step in its even column."""
    if form.payload == "T16":
        return ternary_words(codes)
    if form.payload in STEP_BITS:
        stream = sum((code & (1 << form.bits) - 1) << form.bits * t for t, code in enumerate(codes[::2]))
        return [stream >> 32 * i & 0xFFFFFFFF for i in range(form.words(len(codes) // GROUP))]
    groups = (codes[first : first + GROUP] for first in range(0, len(codes), GROUP))
    return [word for group in groups for word in group_words(form.payload, group)]


def row_codes(form: Format, words: Sequence[int], groups: int) -> list[int]:
    """The codes of a row of words; of P the levels."""
    if form.payload == "T16":
        return ternary_codes(words)[: groups * GROUP]
    if form.payload in STEP_BITS:
        stream = sum(word << 32 * i for i, word in enumerate(words))
        return trellis_levels(stream, form.bits, groups * GROUP // 2)
    count = len(words) // groups
    return [code for g in range(groups) for code in group_codes(form.payload, words[g * count : (g + 1) * count])]


def code_weight(payload: str, code: int, table: Sequence[int] | None) -> int:
    """v: the value of a code at scale 1."""
    if payload == "N4":
        return (table or N4_TABLE)[code]
    if payload == "W16":
        return code - (code >> 15 << 16)
    if payload[0] == "T":
        return code - 1
    if payload[0] == "P":
        return code
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
        sizes = {"payload": 64 * tiles * form.words(groups), "row": 64 * tiles}
        if form.mode != "r":
            sizes["scale"] = 16 * tiles * (-(-blocks // 2) if form.mode == "b4" else blocks)
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
        for i, word in enumerate(row_words(form, padded)):
            store("payload", (t * form.words(layout.groups) + i) * 64 + 4 * r, word, 4)
        m, sh = row_constants[n]
        store("row", 4 * n, m + (sh << 23), 4)
        for b in range(layout.blocks if form.mode != "r" else 0):
            scale = scales[n][b]
            if form.mode == "b4":
                planes["scale"][(t * -(-layout.blocks // 2) + b // 2) * 16 + r] |= scale << 4 * (b % 2)
                continue
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
        count = form.words(layout.groups)
        at = [(t * count + i) * 64 + 4 * r for i in range(count)]
        row = row_codes(form, [int.from_bytes(planes["payload"][a : a + 4], "little") for a in at], layout.groups)
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
    if form.mode == "b4":
        return planes["scale"][(t * -(-layout.blocks // 2) + b // 2) * 16 + r] >> 4 * (b % 2) & 15, 0
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
