"""`intact imatrix`: second moments for the quantizers."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from intact.cli.common import JsonOption, ThreadsOption, print_json, print_rows, read_text


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("imatrix")(imatrix)


def imatrix(
    model: Annotated[str, typer.Argument(help="A model directory; or a source that is converted in memory.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write.")],
    texts: Annotated[
        list[str] | None, typer.Option("--file", "-f", help="Prose in UTF-8; - is stdin; repeatable.")
    ] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write a text itself.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All second moments, for error feedback.")] = False,
    weights: Annotated[
        str, typer.Option("--weights", help="gradient, auto or none: how much each token counts.")
    ] = "auto",
    sensitivities: Annotated[
        bool | None,
        typer.Option(help="Measure how sensitive the model is to each matrix; by default with --full."),
    ] = None,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Windows at most, of all texts.")] = 32,
    window: Annotated[int, typer.Option("--window", min=2, help="Tokens per window.")] = 512,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides what is drawn by chance.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the output where it exists.")] = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Measure on a text which inputs of each matrix matter."""
    from intact.calibration import calibrate
    from intact.errors import RequestError

    if not texts and not generate:
        raise RequestError("--file: give a text, or --generate in its place")
    result = calibrate(
        model,
        [read_text(text) for text in texts] if texts else None,
        output,
        weights=weights,
        full=full,
        sensitivities=sensitivities,
        generate=generate,
        windows=windows,
        window=window,
        seed=seed,
        threads=threads,
        resume=resume,
        progress=sys.stderr.isatty(),
    )
    if json:
        print_json(result)
    else:
        print_rows(list(result.items()))
