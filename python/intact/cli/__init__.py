"""The command line `intact`. docs/CLI.md describes it."""

from __future__ import annotations

import os
import sys

import click
import typer

from intact.cli import bench, evaluate, generate, identity, inspect, quantize
from intact.errors import IntactError

app = typer.Typer(
    name="intact",
    help="Language models in integer arithmetic: the same bits on every machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (generate, quantize, evaluate, bench, identity, inspect):
    module.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 something differs or failed, 2 wrong usage or input, 130 interrupted."""
    try:
        status = typer.main.get_command(app).main(args=arguments, prog_name="intact", standalone_mode=False)
    except click.exceptions.Abort:
        status = 130
    except KeyboardInterrupt:
        status = 130
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except BrokenPipeError:
        # The reader of our output is gone, which is no fault; Python must not try to flush into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (IntactError, OSError) as error:
        if os.environ.get("INTACT_TRACEBACK"):
            raise
        print(f"intact: {error}", file=sys.stderr)
        status = 2
    sys.exit(status if isinstance(status, int) else 0)
