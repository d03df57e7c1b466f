"""What several commands share: options, opening models, printing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intact.errors import RequestError

if TYPE_CHECKING:
    from intact.llm import LLM

ModelArgument = Annotated[
    str, typer.Argument(help="A model directory; a source, local or of the hub, that is converted in memory; or tiny.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", "-t", help="CPU threads; by default all.")]
CpuOption = Annotated[str | None, typer.Option("--cpu", help="Kernel set, see `intact kernels`.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="cpu, gpu, auto, or an adapter such as vulkan or gl, see `intact kernels`.")
]
OffloadOption = Annotated[
    int, typer.Option("--offload", min=0, help="Layers that stay on the CPU where a GPU lacks memory.")
]
ProfileOption = Annotated[str | None, typer.Option("--profile", help="default, fast or fastest; for sources only.")]


def open_model(model: str, threads: int | None, cpu: str | None, profile: str | None, **options: Any) -> LLM:
    """An LLM; with a progress bar while a source is converted, where stderr is a terminal."""
    from intact.llm import LLM

    return LLM.from_pretrained(
        model, threads=threads, cpu=cpu, profile=profile, progress=sys.stderr.isatty(), **options
    )


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_rows(rows: list[tuple[str, object]]) -> None:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def read_text(path: str) -> str:
    """A UTF-8 file, or stdin for "-"."""
    try:
        if path == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        with open(path, "rb") as file:
            return file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: byte {error.start} is not UTF-8; convert the text to UTF-8") from error
