"""`intact quantize`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from intact.cli.common import JsonOption, ThreadsOption, print_json, print_rows
from intact.errors import RequestError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("quantize")(quantize)


def quantize(
    source: Annotated[str, typer.Argument(help="A GGUF file, or a directory of Hugging Face safetensors.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The model directory to write.")],
    profile: Annotated[str, typer.Option("--profile", help="default, fast or fastest.")] = "default",
    type: Annotated[str | None, typer.Option("--type", help="Format of the layers, such as U4b8.")] = None,
    head_type: Annotated[str | None, typer.Option("--head-type", help="Format of embedding and head.")] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type", help="REGEX=FORMAT for the matrices whose names it is found in; may be repeated."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="2bit, 3bit, 4bit, 6bit or 8bit.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="A file that says which matrix gets what.")] = None,
    target_size: Annotated[
        str | None,
        typer.Option("--target-size", help="Bytes of the directory at most, such as 64MiB; needs --imatrix."),
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="With --target-size: keep none of the source's own codes.")
    ] = False,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Store embedding and head rotated; --target-size decides by itself.")
    ] = False,
    calibration: Annotated[str | None, typer.Option("--imatrix", help="A file of intact imatrix.")] = None,
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
        tensor_types=_tensor_types(tensor_type or []),
        preset=preset,
        recipe=recipe,
        target_size=target_size,
        requantize=requantize,
        rotate=rotate,
        calibration=calibration,
        threads=threads,
        overwrite=overwrite,
        progress=sys.stderr.isatty(),
    )
    if json:
        print_json(result)
    else:
        size = f"{result['plane_bytes'] / 2**20:.1f} MiB"
        rows = [("directory", result["path"]), ("weights", size), ("digest", result["digest"])]
        if result["requantized"]:
            rows.append(("requantized", f"{len(result['requantized'])} matrices do not keep the source's codes"))
        print_rows(rows)


def _tensor_types(options: list[str]) -> dict[str, str]:
    """Patterns and formats."""
    types: dict[str, str] = {}
    for option in options:
        pattern, sign, name = option.rpartition("=")
        if not sign or not pattern:
            raise RequestError(f"--tensor-type: {option!r} is no REGEX=FORMAT")
        # Put last where it is given again: the last that is found decides.
        types.pop(pattern, None)
        types[pattern] = name
    return types
