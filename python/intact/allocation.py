"""Formats for a size: one for each matrix, so that a model directory fits and loses little. See docs/RECIPES.md."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from intact._native import Calibration, Source, matrix_bytes
from intact.errors import ModelError, RequestError
from intact.progress import progress_bar

if TYPE_CHECKING:
    from intact.recipes import Matrix

# Without a search: formats on the line of least loss for their size, as far as matrices differ little.
BODY = ("P20b4", "P25b4", "P30b4", "P35b4", "N4b8", "U5b8", "U6b8", "U8b8")
HEAD = ("P25b4", "P30b4", "P35b4", "N4b8", "U5b8", "U6b8", "U8b8")
LAST_RESORT = ("P10b4", "P15b4")
"""Joins the others of the body where no directory of the others is small enough."""

# How much a matrix's relative error costs the model's output: KL divergence over relative error energy, measured with
# all matrices of a kind in U3b8 (the head in N4b8) on SmolLM2-135M; only ratios count. Much of a logit is the same for
# all tokens and cancels, so errors of the head are small against its outputs.
SENSITIVITY: tuple[tuple[str, float], ...] = (
    (r"^lm_head$", 25.0),
    (r"\.v_proj$", 0.04),
    (r"\.k_proj$", 0.12),
    (r"\.q_proj$", 0.08),
    (r"\.o_proj$", 0.065),
    (r"\.gate_proj$", 0.17),
    (r"\.up_proj$", 0.14),
    (r"\.down_proj$", 0.18),
    (r"^model\.embed_tokens$", 1.0),
    (r"", 0.1),
)
"""By the first expression that is found in a matrix's name, which is `lm_head` where it makes logits. The last two are
guesses: an embedding that is nothing else, and kinds that are not in that model."""
ENDS = 1.7
"""Errors of the first and the last sixth of the layers cost so many times more, measured likewise."""

MOST_FORCED = 8
"""Steps at most that are taken before all others."""

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{mark}B": base ** (power + 1)
    for mark, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("KMGT")
}

Sizes = Callable[[Mapping[str, str]], int]
"""The bytes of a directory whose matrices have these formats."""


class Option(NamedTuple):
    """A format that a matrix may have."""

    bytes: int
    loss: float
    format: str


class Request(NamedTuple):
    """What is to be allocated."""

    matrices: Sequence[Matrix]
    """Those without a format."""
    target: int
    """Bytes of the directory at most."""
    directory_bytes: Sizes
    """For formats of all `matrices`."""


def parse_size(size: int | str) -> int:
    """Bytes: a whole number, or a text such as "64MiB", "1.5 GB" or "70000000".

    Raises:
        RequestError: It is no size above 0.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)", str(size).strip(), re.ASCII)
    units = {name.upper(): unit for name, unit in _UNITS.items()}
    if (
        match is None
        or match[2].upper() not in units
        or not (bytes := int(Decimal(match[1]) * units[match[2].upper()]))
    ):
        raise RequestError(
            f"target_size: {size!r} is no size; give bytes, or a number with KiB, MiB, GiB, KB, MB or GB"
        )
    return bytes


def allocate(
    variants: Sequence[tuple[Source, Request]],
    calibration: str | os.PathLike[str],
    *,
    own_codes: bool = True,
    threads: int | None = None,
    progress: bool = True,
) -> tuple[int, dict[str, str]]:
    """Formats for matrices so that their directory fits the target and the predicted loss is small.

    The variants are of one checkpoint, and differ in embedding and head only. The same sources, requests and
    calibration give the same formats on every machine.

    Returns:
        The index of the variant with the smallest predicted loss, and its formats.

    Raises:
        RequestError: No formats make the directory small enough; the message says what is possible.
        ModelError: The source or the calibration cannot be read or used.
    """
    measured = Calibration.read(calibration)
    body: dict[str, list[float]] = {}
    found: list[tuple[float, dict[str, str]]] = []
    for source, request in variants:
        roles = {name: role for name, role, *_ in request.matrices}
        own = {name: source.own_format(name) if own_codes else None for name in roles}
        try:
            ladders = _ladders(request, own)
        except RequestError:
            # The op that takes a rotation back is a few bytes more.
            if found:
                continue
            raise
        surveyed = {name: [format for _, format in ladder if format != own[name]] for name, ladder in ladders.items()}
        new = {name: formats for name, formats in surveyed.items() if name not in body}
        with progress_bar("surveying", "matrix", progress) as report:
            losses = body | source.survey(new, calibration=calibration, threads=threads, progress=report)
        body = {name: losses[name] for name, role in roles.items() if role == "body"}
        layers = 1 + max(_layer(name) for name, *_ in source.matrices())
        options = {}
        for name, ladder in ladders.items():
            lost = dict(zip(surveyed[name], losses[name], strict=True))
            if not all(map(math.isfinite, lost.values())):
                raise ModelError(f"{os.fspath(calibration)}: moments of {name}: too large; calibrate again")
            known = measured.sensitivity(name)
            weight = sensitivity(name, roles[name], layers) if known is None else known
            options[name] = hull([Option(size, weight * lost.get(format, 0.0), format) for size, format in ladder])
        chosen = _fitting(options, request)
        loss = math.fsum(
            option.loss for name, steps in options.items() for option in steps if option.format == chosen[name]
        )
        found.append((loss, chosen))
    index = min(range(len(found)), key=lambda i: found[i][0])
    return index, found[index][1]


def _fitting(options: Mapping[str, Sequence[Option]], request: Request) -> dict[str, str]:
    """The choice whose directory fits the target, or the smallest one."""
    # What is written beside planes differs by a few bytes from one choice to another.
    cheapest = {name: steps[0].format for name, steps in options.items()}
    budget = request.target - request.directory_bytes(cheapest) + sum(steps[0].bytes for steps in options.values())
    while True:
        chosen = choose(options, budget)
        excess = request.directory_bytes(chosen) - request.target
        if excess <= 0 or chosen == cheapest:
            return chosen
        budget -= excess


def sensitivity(name: str, role: str, layers: int) -> float:
    """What a unit of relative error energy of a matrix costs, in a model of so many layers."""
    known = "lm_head" if role == "head" else name
    weight = next(weight for pattern, weight in SENSITIVITY if re.search(pattern, known))
    layer = _layer(name)
    return weight if layer < 0 or (layers <= 6 * layer + 5 and 6 * layer < 5 * layers) else weight * ENDS


def _layer(name: str) -> int:
    """The number of the layer of a matrix, −1 for one outside of them."""
    match = re.search(r"\blayers\.(\d{1,6})\.", name, re.ASCII)
    return int(match[1]) if match else -1


def _ladders(request: Request, own: Mapping[str, str | None]) -> dict[str, list[tuple[int, str]]]:
    """For each matrix its formats by ascending bytes, none larger than the source's own codes.

    Raises:
        RequestError: Even the smallest ones are too large.
    """
    for extra in ((), LAST_RESORT):
        ladders = {}
        for name, role, rows, columns in request.matrices:
            formats = dict.fromkeys((*extra, *BODY) if role == "body" else HEAD)
            kept = own[name]
            sizes = {format: matrix_bytes(format, rows, columns) for format in formats}
            if kept is not None:
                most = matrix_bytes(kept, rows, columns)
                sizes = {format: size for format, size in sizes.items() if size < most} | {kept: most}
            ladders[name] = sorted((size, format) for format, size in sizes.items())
        least = request.directory_bytes({name: ladder[0][1] for name, ladder in ladders.items()})
        if least <= request.target:
            return ladders
    raise RequestError(f"target_size: {request.target} bytes are too few; the least that can be reached is {least}")


def hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of loss over bytes, by ascending bytes and descending loss."""
    kept: list[Option] = []
    for option in sorted(options):
        if kept and option.loss >= kept[-1].loss:
            continue
        while kept and (
            option.bytes == kept[-1].bytes or (len(kept) > 1 and _gain(kept[-1], option) >= _gain(*kept[-2:]))
        ):
            kept.pop()
        kept.append(option)
    return kept


def _gain(smaller: Option, larger: Option) -> float:
    """Loss that a byte saves."""
    return (smaller.loss - larger.loss) / (larger.bytes - smaller.bytes)


def choose(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, str]:
    """A format for each matrix from its hull, by the greatest gain for a byte first, within a budget of bytes.

    A step that does not fit ends its matrix; the others go on. A large matrix may then leave much of the budget unused,
    so that each such step is tried again as one that all others have to make room for, while that lowers the loss.
    """
    steps = sorted(
        (-_gain(*pair), name, index) for name, hull in options.items() for index, pair in enumerate(pairwise(hull))
    )

    def climb(least: Mapping[str, int]) -> tuple[float, dict[str, int]]:
        chosen = {name: least.get(name, 0) for name in options}
        left = budget - sum(options[name][index].bytes for name, index in chosen.items())
        for _, name, index in steps:
            if chosen[name] == index:
                cost = options[name][index + 1].bytes - options[name][index].bytes
                if cost <= left:
                    chosen[name] = index + 1
                    left -= cost
        loss = math.fsum(options[name][index].loss for name, index in chosen.items())
        return loss if left >= 0 else math.inf, chosen

    least: dict[str, int] = {}
    loss, chosen = climb(least)
    for _ in range(MOST_FORCED):
        forced = [least | {name: index + 1} for name, index in chosen.items() if index + 1 < len(options[name])]
        trials = [(*climb(trial), trial) for trial in forced]
        best = min(trials, key=lambda trial: trial[0], default=None)
        if best is None or best[0] >= loss:
            break
        loss, chosen, least = best
    return {name: options[name][index].format for name, index in chosen.items()}
