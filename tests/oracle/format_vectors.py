"""Packed matrices of every format and their decoded weights (formats.json)."""

from itertools import chain
from operator import mul

from . import formats
from .draw import Draw
from .linear import Rows, chunk_sum, preshift, quantize, recommended_cap
from .output import Case, Cases, digest
from .weights import TABLE, random_matrix

NAMES = (
    *(f"{payload}{mode}" for payload in ("U4", "U5", "U6", "U8") for mode in ("r", "b8", "z8")),
    *("N4r", "N4b8", "W16r"),
    *(f"U4{mode}/{block}" for mode in ("b8", "z8") for block in (16, 64, 128)),
    *("U6b8/16", "U5z8/64", "U8b8/128", "N4b8/16"),
    *(f"{payload}{mode}" for payload in ("U2", "U3") for mode in ("r", "b8", "z8")),
    *("T16r", "T20r", "T20b4", "T20b8", "T20b4/16", "T20b8/128", "U2z8/16", "U3b8/16"),
    *(f"P{rate}b4" for rate in (10, 15, 20, 25, 30, 35, 40)),
    *("P15r", "P30r", "P20b8", "P25b8/64", "P30b4/16", "P15b4/64", "P35b4/128"),
)
SHAPES = (
    *(
        (rows, columns, kind)
        for rows, columns in ((3, 32), (2, 33), (17, 64), (1, 96))
        for kind in ("random", "extreme")
    ),
    (16, 576, "random"),
    (2, 580, "extreme"),
)


def sums_digest(W: Rows, mode: str, S: int) -> str:
    """SHA-256 over the exact sums acc of 2.1, i64 in row order, for an input of codes of all sizes and both signs."""
    x = [(k * k * 977 + k * 31 + 5) % 65521 - 32760 for k in range(len(W[0]))]
    q = quantize(x, mode, S).q
    return digest((sum(map(mul, row, q)) for row in W), 8)


def format_case(name: str, rows: int, columns: int, kind: str, own_table: bool) -> Case:
    """One matrix: its planes in hexadecimal, and W in full or as a digest over i16 in row order."""
    draw = Draw(f"formats/{name}/{rows}x{columns}/{kind}/{own_table}")
    matrix = random_matrix(draw, name, rows, columns, kind, TABLE if own_table else None)
    constants = [(draw.between(1 << 22, (1 << 23) - 1), draw.below(128)) for _ in range(rows)]
    planes = matrix.pack(constants)
    W = formats.decode(name, planes, rows, columns, matrix.table)
    assert formats.row_constants(planes["row"], rows) == constants
    result = {"W": W} if rows * columns <= 100 else {}
    cap = recommended_cap(W)
    return {
        "kind": kind,
        "rows": rows,
        "columns": columns,
        "table": matrix.table,
        "planes": {plane: data.hex() for plane, data in planes.items()},
        **result,
        "W_sha256": digest(chain.from_iterable(W), 2),
        "chunk_sum": chunk_sum(W, 128),
        "cap": cap,
        "preshift": {"A8": preshift(W, "A8", 0), "A16": preshift(W, "A16", 0)},
        "sums": {mode: sums_digest(W, mode, cap) for mode in ("A8", "A8b", "A16")},
    }


def format_cases() -> Cases:
    """Every format in every shape."""
    cases: Cases = {}
    for name in NAMES:
        tables = (False, True) if name.startswith("N4") else (False,)
        cases[name] = [format_case(name, *shape, own_table=own) for shape in SHAPES for own in tables]
    return cases
