"""Running programs, and the one exception of this package."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class CrossError(Exception):
    """What went wrong and what helps, for people."""


def say(text: str) -> None:
    """Tells what is being done; standard output is kept for results."""
    print(text, file=sys.stderr, flush=True)


def run(command: Sequence[str], what: str, *, env: dict[str, str] | None = None, directory: Path | None = None) -> None:
    """Runs `command`, whose output goes to standard error.

    Raises:
        CrossError: It cannot be started or fails; `what` says what it was for.
    """
    say(f"+ {shlex.join(command)}")
    try:
        status = subprocess.run(command, env=env, cwd=directory, stdout=sys.stderr, check=False).returncode
    except OSError as error:
        raise CrossError(f"{what}: {command[0]} cannot be started: {error}") from error
    if status != 0:
        raise CrossError(f"{what}: {command[0]} ended with status {status}; the reason is above")


def output(command: Sequence[str], what: str) -> str:
    """Standard output of `command`.

    Raises:
        CrossError: It cannot be started or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CrossError(f"{what}: {command[0]} cannot be started: {error}") from error
    if done.returncode != 0:
        raise CrossError(f"{what}: {shlex.join(command)} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def cargo_environment(**more: str) -> dict[str, str]:
    """This environment without what would change how cargo compiles, and with `more`."""
    ours = ("CARGO_BUILD_", "CARGO_ENCODED_", "CARGO_PROFILE_", "CARGO_TARGET_", "RUSTC", "RUSTDOC", "RUSTFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more
