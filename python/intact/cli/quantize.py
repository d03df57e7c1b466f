"""`intact quantize`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from intact.cli.common import JsonOption, ThreadsOption, print_json, print_rows


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("quantize")(quantize)


def quantize(
    source: Annotated[str, typer.Argument(help="A GGUF file, or a directory of Hugging Face safetensors.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The model directory to write.")],
    profile: Annotated[str, typer.Option("--profile", help="default, fast or fastest.")] = "default",
    type: Annotated[str | None, typer.Option("--type", help="Format of the layers, such as U4b8.")] = None,
    head_type: Annotated[str | None, typer.Option("--head-type", help="Format of embedding and head.")] = None,
    threads: ThreadsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a directory that exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Convert a checkpoint to a model directory."""
    from intact.conversion import quantize as convert

    result = convert(
        source,
        output,
        profile=profile,
        type=type,
        head_type=head_type,
        threads=threads,
        overwrite=overwrite,
        progress=sys.stderr.isatty(),
    )
    if json:
        print_json(result)
    else:
        size = f"{result['plane_bytes'] / 2**20:.1f} MiB"
        print_rows([("directory", result["path"]), ("weights", size), ("digest", result["digest"])])
