"""The model directories under tests/vectors/models: random weights in every format (docs/MODEL.md)."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from . import constants, formats, linear, safetensors
from .architectures import ARCHITECTURES, CONTEXT, Architecture
from .draw import Draw
from .output import compact, json_text
from .program import DEFAULT, NARROW_CACHES, PROFILES, Profile, Program, build
from .weights import TABLE, Matrix, random_matrix

FORMATS = (
    *("U4z8", "U8r", "U6b8/16", "N4b8", "U5b8", "U8b8", "U4b8", "W16r", "U5z8", "U4z8/128", "U6b8", "N4r", "U4b8/16"),
    *("U8z8", "U4b8/64", "U6z8", "U5r"),
)
"""Given to the matrices of a model in turn, beginning at another place in every model."""

HEAD_GAIN = 4
"""Random logits of this standard deviation have likely and unlikely tokens."""

BRANCH_GAIN = 2
"""Keeps the branches of a layer audible beside the embedding that they are added to."""


class Weights(NamedTuple):
    """One matrix as every profile stores it: planes, decoded W and the N4 table, if it has its own."""

    matrix: Matrix
    planes: formats.Planes
    W: list[list[int]]


def row_constants(draw: Draw, W: linear.Rows, target: Fraction) -> list[tuple[int, int]]:
    """(m, sh) that give every row a root mean square around `target`; a row of zeros has (0, 0)."""
    rows = []
    for row in W:
        squares = sum(w * w for w in row)
        jitter = Fraction(draw.between(192, 320), 256)
        unit = jitter * target / constants.sqrt(Fraction(squares, len(row))) if squares else Fraction(0)
        rows.append(constants.dyadic(unit, 23) if squares else (0, 0))
    return rows


def root_mean_square(name: str, program: Program) -> Fraction:
    """The size of a matrix's real weights that keeps activations around 1."""
    unit = 1 / constants.sqrt(Fraction(program.shapes[name][1]))
    if name in program.head[1]["matrices"]:
        return unit * HEAD_GAIN
    if name == program.body[0]["matrix"]:
        return Fraction(1)
    return unit * BRANCH_GAIN if name.endswith(("o_proj", "down_proj")) else unit


@cache
def model_weights(architecture: Architecture) -> dict[str, Weights]:
    """The matrices of an architecture, the same in every profile."""
    program = build(architecture, DEFAULT)
    first = [model.name for model in ARCHITECTURES].index(architecture.name)
    weights = {}
    for index, (name, (rows, columns)) in enumerate(sorted(program.shapes.items())):
        draw = Draw(f"{architecture.name}/{name}")
        format = FORMATS[(5 * first + index) % len(FORMATS)]
        own_table = TABLE if format == "N4b8" and first % 2 else None
        matrix = random_matrix(draw, format, rows, columns, "typical", own_table)
        W = formats.decode(format, matrix.pack([(0, 0)] * rows), rows, columns, own_table)
        constants_of_rows = row_constants(draw, W, root_mean_square(name, program))
        planes = matrix.pack(constants_of_rows)
        if name in program.biased:
            limit = 1 << architecture.fraction_bits
            planes["bias"] = words([draw.between(-limit, limit) for _ in range(rows)], 4)
        if name == program.body[0]["matrix"] and architecture.embedding_multiplier_root is not None:
            factor = constants.sqrt(Fraction(architecture.embedding_multiplier_root)) / HEAD_GAIN
            scaled = [
                constants.dyadic(factor * Fraction(m) / 2**sh, 23) if m else (0, 0) for m, sh in constants_of_rows
            ]
            planes["embedding_row"] = words([m + (sh << 23) for m, sh in scaled], 4)
        weights[name] = Weights(matrix, planes, W)
    return weights


def words(values: Sequence[int], size: int) -> bytes:
    """A plane of little-endian integers, followed by zeros up to a multiple of 64 bytes."""
    data = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in values)
    return data + bytes(-len(data) % 64)


def modes(program: Program, weights: dict[str, Weights]) -> dict[str, tuple[str, int]]:
    """Activation mode and S of every matrix; matrices that read one vector share the smallest S."""
    chosen = dict.fromkeys(program.shapes, (program.profile.head, 0))
    for group in program.groups:
        S = 0
        if program.profile.layers == "A8b":
            S = min(linear.recommended_cap(weights[name].W) for name in group)
        chosen |= dict.fromkeys(group, (program.profile.layers, S))
    return chosen


def hashed(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return sha256(data).hexdigest()


def directory(architecture: Architecture, profile: Profile) -> dict[str, bytes]:
    """The files of one model directory."""
    program, weights = build(architecture, profile), model_weights(architecture)
    chosen = modes(program, weights)
    planes: dict[str, bytes] = {}
    matrices = {}
    for name, (matrix, parts, W) in weights.items():
        mode, S = chosen[name]
        planes |= {f"{name}.{part}": data for part, data in parts.items()}
        entry: dict[str, Any] = {"rows": matrix.rows, "columns": matrix.columns, "format": matrix.format}
        entry |= {"activation": mode} | ({"cap": S} if mode == "A8b" else {})
        entry["preshift"] = linear.preshift(W, mode, S)
        entry |= {} if matrix.table is None else {"table": list(matrix.table)}
        matrices[name] = entry | {"planes": {part: hashed(data) for part, data in parts.items()}}
    vectors = {}
    for values, size in ((program.gains, 2), (program.tables, 8)):
        for name, numbers in values.items():
            planes[name] = words(numbers, size)
            vectors[name] = {"length": len(numbers), "sha256": hashed(planes[name])}
    model = {
        "contract": 1,
        "fraction_bits": architecture.fraction_bits,
        "vocabulary": architecture.vocabulary,
        "context": CONTEXT,
        "matrices": matrices,
        "vectors": vectors,
        "program": {"body": program.body, "head": program.head},
    }
    config = json_text(architecture.config())
    manifest = {
        "schema": 1,
        "digest": model_digest(model),
        "model": model,
        "files": {"config.json": hashed(config)},
        "provenance": {"profile": profile.name, "source": "tests/oracle", "version": "1"},
    }
    return {
        "config.json": config,
        "intact.json": json_text(manifest),
        "model.safetensors": safetensors.write(planes),
    }


def model_digest(model: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `model`."""
    return hashed(compact(sort_keys(model)).encode())


def sort_keys(value: Any) -> Any:
    """The value with the keys of every object in ascending order of code points."""
    if isinstance(value, dict):
        return {key: sort_keys(value[key]) for key in sorted(value)}
    return [sort_keys(item) for item in value] if isinstance(value, list) else value


def profiles_of(architecture: Architecture) -> tuple[Profile, ...]:
    """The profiles in which an architecture is published."""
    return PROFILES + (NARROW_CACHES if architecture.name == "llama" else ())
