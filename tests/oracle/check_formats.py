"""The vectors of section 7 of docs/FORMATS.md: the oracle writes every line anew and the texts are compared."""

import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from operator import mul
from pathlib import Path

from . import formats, linear

IQ4_NL_TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def text(values: Sequence[int]) -> str:
    """Integers separated by blanks."""
    return " ".join(map(str, values))


def words_text(words: Sequence[int]) -> str:
    """u32 words in hexadecimal."""
    return " ".join(f"{word:08x}" for word in words)


def irregular(bits: int) -> list[int]:
    """The irregular codes of the document."""
    return [(37 * c * c + 11 * c + 5 >> 2) & (1 << bits) - 1 for c in range(32)]


def ramp(n: int, modulus: int) -> list[int]:
    """The input vector of the layers of the document."""
    return [k * 2654435761 % modulus - modulus // 2 for k in range(n)]


def layer_lines(
    W: linear.Rows, rows: Sequence[tuple[int, int]], bias: Sequence[int] | None, x: Sequence[int]
) -> Iterator[tuple[str, linear.Quantized, list[int], list[int]]]:
    """For A16, A8b and A8: the start of the line, the quantized vector, acc and y."""
    m, sh = zip(*rows, strict=True)
    for mode, S, label in (("A16", 0, "A16"), ("A8b", 32, "A8b, S=32"), ("A8", 0, "A8")):
        a = linear.preshift(W, mode, S)
        quantized = linear.quantize(x, mode, S)
        acc = [sum(map(mul, row, quantized.q)) for row in W]
        y = linear.multiply(quantized, W, m, sh, a, bias)
        yield f"{label} a={a} d={quantized.d} t={quantized.t}", quantized, acc, y


def plane_lines(planes: formats.Planes) -> Iterator[str]:
    """Name, length and SHA-256 of every plane."""
    for plane in ("payload", "scale", "sign", "offset", "row"):
        if plane in planes:
            yield f"{plane} {len(planes[plane])} bytes {sha256(planes[plane]).hexdigest()}"


class Small:
    """The U4z8 layer of the document."""

    rows = ((5000000, 34), (8388607, 38))
    planes = formats.pack(
        "U4z8",
        [[(5 * k * k + 3 * k + 7 * r) & 15 for k in range(64)] for r in range(2)],
        [[255, 31], [0, 200]],
        [[-1900, -250], [77, -32767]],
        rows,
    )
    W = formats.decode("U4z8", planes, 2, 64)


class Padded:
    """The U6b8/16 layer of the document, with padding rows and columns."""

    rows = tuple((5000000 + r, 36) for r in range(18))
    planes = formats.pack(
        "U6b8/16",
        [[(11 * k * k + 5 * k + 9 * r) & 63 for k in range(40)] for r in range(18)],
        [[(97 * r + 61 * b) % 511 - 255 if b < 3 else 0 for b in range(4)] for r in range(18)],
        [],
        rows,
    )
    W = formats.decode("U6b8/16", planes, 18, 40)


def l1(W: linear.Rows) -> int:
    """The largest sum of |W| over a row."""
    return max(sum(map(abs, row)) for row in W)


def words() -> Iterator[str]:
    """### Words."""
    for payload, a, b, bits in (("U4", 7, 3, 4), ("U2", 3, 1, 2), ("U3", 5, 2, 3)):
        codes = [(a * c + b) & (1 << bits) - 1 for c in range(32)]
        head = f"{payload} words, q(c) = ({a}c+{b}) & {(1 << bits) - 1}:"
        yield f"{head} {words_text(formats.group_words(payload, codes))}"
    for payload in ("U2", "U3", "U4", "U5", "U6", "U8"):
        yield f"{payload} {words_text(formats.group_words(payload, irregular(int(payload[1]))))}"


def layer() -> Iterator[str]:
    """### Layer, U4z8."""
    planes, W = Small.planes, Small.W
    offsets = [int.from_bytes(planes["offset"][at : at + 4], "little") for at in (0, 4)]
    rows = [int.from_bytes(planes["row"][at : at + 4], "little") for at in (0, 4)]
    parts = f"offset dwords {words_text(offsets)} row words {words_text(rows)}"
    yield f"{parts} W[0][0..3] = {text(W[0][:4])} W[1][32..35] = {text(W[1][32:36])} L1 = {l1(W)}"
    for start, quantized, acc, y in layer_lines(W, Small.rows, None, ramp(64, 200001)):
        yield f"{start} acc {text(acc)} y {text(y)} q[0..3] {text(quantized.q[:4])}"


def padded_layer() -> Iterator[str]:
    """### Planes and layer, U6b8/16 with padding."""
    planes, W = Padded.planes, Padded.W
    yield from plane_lines(planes)
    payload = [planes["payload"][(6 + i) * 64 : (6 + i) * 64 + 4] for i in range(6)]
    yield f"payload words of row 0, group 1: {words_text([int.from_bytes(word, 'little') for word in payload])}"
    signs = [f"{int.from_bytes(planes['sign'][2 * i : 2 * i + 2], 'little'):04x}" for i in range(8)]
    yield f"sign words of tile 0: {' '.join(signs[:4])}, of tile 1: {' '.join(signs[4:])}"
    yield f"W[0][0..3] = {text(W[0][:4])} W[17][36..39] = {text(W[17][36:40])} L1 = {l1(W)}"
    bias = [1000 * r - 9000 for r in range(18)]
    for start, _, acc, y in layer_lines(W, Padded.rows, bias, ramp(40, 20001)):
        yield f"{start} acc[0], acc[17] = {acc[0]} {acc[17]} y[0], y[17] = {y[0]} {y[17]}"


def tables() -> Iterator[str]:
    """### N4 and W16."""
    planes = formats.pack("N4r", [irregular(4)], [], [], [(0, 0)])
    for table in (None, IQ4_NL_TABLE):
        yield text(formats.decode("N4r", planes, 1, 8, table)[0])
    codes = [((7919 * c * c + 12345 * c) % 65535 - 32767) & 0xFFFF for c in range(32)]
    stored = formats.group_words("W16", codes)
    yield words_text(stored[:8])
    yield words_text(stored[8:])


def ternary() -> Iterator[str]:
    """### T16."""
    for digits in ("00000", "11111", "21102", "22222"):
        codes = [int(digit) for digit in digits for _ in range(4)]
        yield f"{digits} {formats.ternary_words(codes)[0] & 255:02x}"


STREAM = int.from_bytes(bytes.fromhex("0b30557a9fc4e90e"), "little")


def trellis() -> Iterator[str]:
    """### P."""
    for w in (0x0000, 0x0001, 0x0002, 0x1234, 0x7FFF, 0x8000, 0xABCD, 0xFFFF):
        yield f"{w:04x} h {formats.pair_hash(w):04x} v {text(formats.pair_levels(w))}"
    checksum = 0x811C9DC5
    for byte in b"".join(formats.pair_hash(w).to_bytes(2, "little") for w in range(1 << 16)):
        checksum = (checksum ^ byte) * 0x01000193 & 0xFFFFFFFF
    yield f"FNV-1a {checksum:08x}"
    for payload, bits in formats.STEP_BITS.items():
        yield f"{payload} {text(formats.trellis_levels(STREAM, bits, 8))}"


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "Words": words,
    "Layer, U4z8": layer,
    "Planes, U4z8 (that above)": lambda: plane_lines(Small.planes),
    "Planes and layer, U6b8/16 with padding": padded_layer,
    "N4 and W16": tables,
    "T16": ternary,
    "P": trellis,
}


def check_formats(document: Path) -> int:
    """Compares every line of section 7; returns how many there are."""
    body = re.split(r"^## \d+\. Test vectors$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    body = re.split(r"^## ", body, flags=re.MULTILINE)[0]
    blocks = re.split(r"^### ", body, flags=re.MULTILINE)[1:]
    assert [block.splitlines()[0] for block in blocks] == list(SECTIONS), f"{document.name}: other sections"
    count = 0
    for block in blocks:
        title, *lines = block.splitlines()
        printed = [re.sub(r" ?: +", ": ", " ".join(line.split())) for line in lines if line.startswith("    ")]
        for computed, line in zip(SECTIONS[title](), printed, strict=True):
            count += 1
            if computed != line:
                raise SystemExit(f"{document.name}, {title}: {line}: the oracle computes {computed}")
    return count
