"""Recipes: which matrix gets which weight format. docs/RECIPES.md describes presets and recipe files.

A recipe is a list of rules in order; of those that fit a matrix the last decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intact._native import matrix_bytes
from intact.errors import ModelError, RequestError

Matrix = tuple[str, str, int, int]
"""Name, "body", "head" or "embedding", rows and columns, as `Source.matrices` has them."""

# Values and keys are read by every later token, so an error there costs most; then come the two matrices that write
# what the next layers read, then gates; queries and the attention's output cost least.
PRESETS: dict[str, tuple[tuple[str, str], ...]] = {
    "8bit": (("", "U8b8"),),
    "6bit": (("", "U6b8"), (r"\.[vk]_proj$", "U8b8"), (r"embed_tokens$|lm_head$", "U8b8")),
    "4bit": (("", "N4b8"), (r"\.k_proj$", "U5b8"), (r"\.v_proj$|embed_tokens$|lm_head$", "U6b8")),
    "3bit": (("", "P30b4"), (r"\.[vk]_proj$", "N4b8"), (r"embed_tokens$|lm_head$", "U5b8")),
    "2bit": (
        ("", "P20b4"),
        (r"\.down_proj$", "P25b4"),
        (r"\.k_proj$", "P30b4"),
        (r"\.v_proj$|embed_tokens$|lm_head$", "N4b8"),
    ),
}
"""Lines of regular expression and format, found as in a file of lines; one that is found nowhere is passed over."""

MAX_RECIPE_BYTES = 1 << 20


@dataclass
class Recipe:
    """What a recipe decides for the matrices of one source."""

    name: str
    """The file's name, or "mapping"."""
    sha256: str
    """Of the file, or of the mapping as JSON."""
    formats: dict[str, str] = field(default_factory=dict)
    """Formats by matrix; others keep their own codes or become U8b8."""
    feedback: bool = False
    """Whether it asks for error feedback."""


def preset_formats(preset: str, matrices: Sequence[Matrix]) -> dict[str, str]:
    """The formats of all matrices by a preset.

    Raises:
        RequestError: There is no such preset.
    """
    if preset not in PRESETS:
        raise RequestError(f"preset: {preset!r} is not one of {', '.join(PRESETS)}")
    formats: dict[str, str] = {}
    for pattern, format in PRESETS[preset]:
        formats.update(dict.fromkeys(found(re.compile(pattern), matrices), format))
    return formats


def read(recipe: str | os.PathLike[str] | dict[str, Any], matrices: Sequence[Matrix]) -> Recipe:
    """A recipe file, `.yaml` or `.yml` in LLM Compressor's words and any other in lines, or a mapping in those words.

    Raises:
        RequestError: It is malformed, or a rule fits no matrix.
        ModelError: The file cannot be read.
    """
    from intact import recipe_yaml

    if isinstance(recipe, dict):
        root = recipe_yaml.wrap(recipe)
        out = Recipe("mapping", hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest())
        recipe_yaml.apply(root, matrices, out)
        return out
    path = Path(recipe)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_RECIPE_BYTES:
        raise RequestError(f"{path}: larger than {MAX_RECIPE_BYTES} bytes, which no recipe is")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: byte {error.start} is not UTF-8; convert the recipe to UTF-8") from error
    out = Recipe(path.name, hashlib.sha256(content).hexdigest())
    if path.suffix in {".yaml", ".yml"}:
        recipe_yaml.apply(recipe_yaml.parse(text, str(path)), matrices, out)
    else:
        _apply_lines(text, str(path), matrices, out)
    return out


def _apply_lines(text: str, path: str, matrices: Sequence[Matrix], out: Recipe) -> None:
    """Lines `REGEX = FORMAT`, with comments from a `#` that begins a line or follows a blank."""
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}: line {number}"
        line = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not line:
            continue
        pattern, sign, format = (part.strip() for part in line.rpartition("="))
        if not sign or not pattern:
            raise RequestError(f"{where}: {line!r} is no REGEX = FORMAT")
        names = matched(pattern, matrices, where)
        out.formats.update(dict.fromkeys(names, checked_format(format, where)))
    if not out.formats:
        raise RequestError(f"{path}: there is no line REGEX = FORMAT")


def names_of(matrix: Matrix) -> tuple[str, ...]:
    """The names that a matrix answers to: its own, and `lm_head` for one that makes logits."""
    name, role, *_ = matrix
    return (name,) if role != "head" or name == "lm_head" else (name, "lm_head")


def found(pattern: re.Pattern[str], matrices: Sequence[Matrix]) -> list[str]:
    """The matrices in whose names a pattern is found anywhere."""
    return [matrix[0] for matrix in matrices if any(pattern.search(name) for name in names_of(matrix))]


def compiled(pattern: str, where: str) -> re.Pattern[str]:
    """A regular expression.

    Raises:
        RequestError: It is none.
    """
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise RequestError(f"{where}: {pattern!r} is no regular expression: {error}") from error


def matched(pattern: str, matrices: Sequence[Matrix], where: str) -> list[str]:
    """The matrices in whose names a regular expression is found anywhere, at least one.

    Raises:
        RequestError: It is no regular expression, or is found nowhere.
    """
    names = found(compiled(pattern, where), matrices)
    if not names:
        raise RequestError(f"{where}: {pattern!r} is found in no matrix's name; one name is {matrices[0][0]}")
    return names


def checked_format(format: str, where: str) -> str:
    """The name of a weight format.

    Raises:
        RequestError: There is no such format.
    """
    try:
        matrix_bytes(format, 1, 1)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error
    return format
