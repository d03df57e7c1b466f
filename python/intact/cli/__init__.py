"""The command line `intact`. docs/CLI.md describes it."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from intact.cli import bench, calibrate, evaluate, generate, identity, inspect, quantize, verify
from intact.errors import DeviceWarning, IntactError

# Typer brings click along, as a package or inside itself, and names only some of its exceptions.
UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="intact",
    help="Language models in integer arithmetic: the same bits on every machine.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (generate, quantize, calibrate, evaluate, bench, identity, verify, inspect):
    module.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        from intact._native import CONTRACT_VERSION, __version__

        print(f"intact {__version__}, contract {CONTRACT_VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 something differs, 2 wrong usage or input, 130 interrupted."""
    for stream, newline in ((sys.stdin, None), (sys.stdout, "\n"), (sys.stderr, None)):
        if isinstance(stream, io.TextIOWrapper):
            # The same bytes whatever the system's encoding and ends of lines.
            stream.reconfigure(encoding="utf-8", errors="replace", newline=newline)
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        status = typer.main.get_command(app).main(args=arguments, prog_name="intact", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        status = 130
    except UsageError as error:
        status = _say(error.format_message())
    except (IntactError, OSError, UnicodeError) as error:
        if os.environ.get("INTACT_TRACEBACK"):
            raise
        status = _say(str(error))
    sys.exit(status if isinstance(status, int) else 0)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, DeviceWarning):
        _say(str(message))
    else:
        _show(message, category, *place)


_show = warnings.showwarning


def _say(message: str) -> int:
    print("intact:", " ".join(message.splitlines()), file=sys.stderr)
    return 2
