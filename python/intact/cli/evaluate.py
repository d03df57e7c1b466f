"""`intact eval`: accuracy against the source's weights in floats."""

from __future__ import annotations

import glob
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intact.cli.common import (
    CpuOption,
    DeviceOption,
    JsonOption,
    ProfileOption,
    ThreadsOption,
    open_model,
    print_json,
    read_text,
)
from intact.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from intact.evaluate import EvalResult
    from intact.llm import LLM
    from intact.reference import FloatModel


_SHARED = ("windows", "predictions", "reference_perplexity")  # figures that are the same for every model


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("eval")(evaluate)


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Model directories or sources, conversions of one checkpoint.")],
    reference: Annotated[str, typer.Option("--reference", help="The source with the true weights.")],
    text: Annotated[str, typer.Option("--text", help="Prose that took no part in any calibration; - is stdin.")],
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", help="A source, such as another GGUF file, whose weights run in float32; repeatable."),
    ] = None,
    plot: Annotated[str | None, typer.Option("--plot", help="An SVG file of size and KL divergence to write.")] = None,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Windows of text.")] = 24,
    size: Annotated[int, typer.Option("--size", min=2, help="Tokens per window.")] = 512,
    profile: ProfileOption = None,
    threads: ThreadsOption = None,
    cpu: CpuOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Measure KL divergence, perplexity and top-1 agreement against a float32 run of the source's own weights."""
    from tqdm import tqdm

    from intact import evaluate as evaluation
    from intact.files import check_target

    if plot is not None and not plot.endswith(".svg"):
        raise RequestError(f"--plot: {plot!r} does not end with .svg, the only format of a plot")
    if plot is not None:
        check_target(plot)  # before the evaluation, which takes long
    passage = read_text(text)
    floats = float_model(reference)
    opened = [open_model(model, threads, cpu, profile, device=device) for model in models]
    ids, bos = _tokens(passage, models, opened, peer or [])
    chosen = evaluation.windows(ids, size, windows, bos)

    weights = _weights(reference)
    measured = [
        *(_Measured(name, llm, _model_bytes(llm), weights) for name, llm in zip(models, opened, strict=True)),
        *(_Measured(path, float_model(path, keep=False), _disk_bytes(path), weights) for path in peer or []),
    ]
    shown = tqdm(chosen, desc="evaluating", unit="window", disable=not sys.stderr.isatty())
    results = evaluation.compare(measured, floats.logits, shown, _exact_nll)
    rows = [one.row(result) for one, result in zip(measured, results, strict=True)]
    if plot is not None:
        _write_plot(plot, rows, len(models))
    if json:
        shared = {name: value for name, value in asdict(results[0]).items() if name in _SHARED}
        print_json({"reference": reference, **shared, "rows": rows})
    else:
        _print_table(rows, results)


class _Measured:
    """A model or peer with its size on disk, whose runs are timed."""

    def __init__(self, name: str, model: LLM | FloatModel, size: int, weights: int) -> None:
        self.name = name
        self._model = model
        self._bytes = size
        self._weights = weights
        self._tokens = 0
        self._seconds = 0.0

    @property
    def fraction_bits(self) -> int | None:
        """Those of the logits; None where they are floats."""
        return getattr(self._model, "fraction_bits", None)

    def logits(self, token_ids: Sequence[int]) -> Any:
        """The model's logits after every token."""
        start = time.perf_counter()
        logits = self._model.logits(token_ids)
        self._seconds += time.perf_counter() - start
        self._tokens += len(token_ids)
        return logits

    def row(self, result: EvalResult) -> dict[str, Any]:
        """The fields that docs/CLI.md describes."""
        peer = self.fraction_bits is None
        return {
            "model": self.name,
            "model_digest": getattr(self._model, "digest", None),
            "bytes": self._bytes,
            "bits_per_weight": round(8 * self._bytes / self._weights, 3),
            # A peer runs in numpy, which says nothing about its own engine.
            "tokens_per_second": None if peer else round(self._tokens / self._seconds, 1),
            **{name: value for name, value in asdict(result).items() if name not in _SHARED},
        }


def _tokens(passage: str, models: list[str], opened: list[LLM], peers: list[str]) -> tuple[list[int], int | None]:
    """The text's token ids, on which all models agree, and the id that begins a text, if the tokenizer puts one."""
    from intact.conversion import source_tokenizer

    tokenizer = opened[0].tokenizer
    ids = tokenizer.encode(passage, add_special_tokens=False)
    others = [*(llm.tokenizer for llm in opened[1:]), *map(source_tokenizer, peers)]
    for name, other in zip([*models[1:], *peers], others, strict=True):
        if other is not None and other.encode(passage, add_special_tokens=False) != ids:
            raise RequestError(f"{name}: has other tokens than {models[0]}; compare conversions of one checkpoint")
    # A tokenizer that begins a text with a token of its own does so in front of nothing, too.
    begins = tokenizer.encode("")[:1] == [tokenizer.bos_id]
    return ids, tokenizer.bos_id if begins else None


def _exact_nll(logits: npt.NDArray[np.int32], targets: list[int], fraction_bits: int) -> int:
    from intact import numerics

    rows = zip(logits, targets, strict=True)
    return -sum(int(numerics.logprobs(row, fraction_bits)[target]) for row, target in rows)


def _weights(reference: str) -> int:
    """The numbers in all tensors of a source."""
    from intact._native import Source

    source = Source(reference)
    return sum(math.prod(source.tensor_shape(name)) for name in source.tensor_names())


def _model_bytes(llm: LLM) -> int:
    """The size of a model directory; of a source that was converted in memory, that of its weights."""
    path = llm._model.path
    return _disk_bytes(path) if (Path(path) / "intact.json").is_file() else llm._model.plane_bytes


def _disk_bytes(path: str | Path) -> int:
    """The size of a directory's files, or of a file with the other parts of it."""
    place = Path(path)
    if place.is_dir():
        return sum(file.stat().st_size for file in place.iterdir() if file.is_file())
    first = re.fullmatch(r"(.*-)00001(-of-\d{5}\.gguf)", place.name)
    parts = [place] if first is None else place.parent.glob(f"{glob.escape(first[1])}?????{glob.escape(first[2])}")
    return sum(part.stat().st_size for part in parts)


def _print_table(rows: list[dict[str, Any]], results: list[EvalResult]) -> None:
    """A line for each model, and the figures that are the same on every machine."""
    lines = [("model", "MiB", "bits/weight", "KL divergence, nats", "perplexity, %", "top-1 agreement, %", "tokens/s")]
    labels = _labels(rows)
    for label, row, result in zip(labels, rows, results, strict=True):
        speed = row["tokens_per_second"]
        lines.append(
            (
                label,
                f"{row['bytes'] / 2**20:.1f}",
                f"{row['bits_per_weight']:.2f}",
                str(result.kld),
                result.perplexity_change.signed(),
                str(result.top1_agreement),
                "-" if speed is None else f"{speed:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *values in lines:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True))
        print(f"{name:<{widths[0]}}", *cells, sep="  ")
    first = results[0]
    print(f"{first.predictions} predictions in {first.windows} windows")
    print(f"perplexity of the reference {first.reference_perplexity}")
    for label, result in zip(labels, results, strict=True):
        if result.exact_nll is not None:
            print(f"{label}: exact NLL {result.exact_nll} / 65536 bits, logits SHA-256 {result.logits_sha256}")


def _write_plot(path: str, rows: list[dict[str, Any]], models: int) -> None:
    from intact import files
    from intact.plot import Point, size_against_divergence

    points = [
        Point(label, row["bytes"] / 2**20, row["kld"]["value"], row["kld"]["error"], peer=i >= models)
        for i, (label, row) in enumerate(zip(_labels(rows), rows, strict=True))
    ]
    files.write(path, size_against_divergence(points).encode())


def _labels(rows: list[dict[str, Any]]) -> list[str]:
    """The last parts of the models' paths; the whole paths where those do not tell them apart."""
    short = [Path(row["model"]).name.removesuffix(".gguf") for row in rows]
    return short if len(set(short)) == len(short) else [row["model"] for row in rows]


def float_model(path: str, keep: bool = True) -> FloatModel:
    """The float reference of a source; `keep` holds all its tensors in memory, 4 bytes a weight."""
    from intact.reference import FloatModel, source_model

    return source_model(path, FloatModel, keep)
