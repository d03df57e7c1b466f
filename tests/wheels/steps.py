"""What the commands share: places, running programs, and the table of results."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "wheels"


class Failure(Exception):
    """A step that did not succeed; the message is for people."""


class Stopped(Exception):
    """A failure that is printed already, and without which nothing that follows can run."""


class Line:
    """One line of the table.

    Attributes:
        result: What came out, in a few words.
        seconds: How long it took; None for as long as the `with` block.
    """

    def __init__(self) -> None:
        self.result = "done"
        self.seconds: float | None = None


class Table:
    """One line for each step as it ends: what, seconds, result."""

    def __init__(self) -> None:
        self.failed = 0

    @contextmanager
    def check(self, what: str) -> Iterator[Line]:
        """Prints the line of a `with` block; a Failure in it is counted and stops the block alone."""
        line, details, start = Line(), "", time.monotonic()
        try:
            yield line
        except Failure as failure:
            self.failed += 1
            first, _, details = str(failure).partition("\n")
            line.result = f"FAILED: {first}"
        seconds = time.monotonic() - start if line.seconds is None else line.seconds
        print(f"{what:<34} {seconds:>6.1f} s  {line.result}", flush=True)
        if details:
            print(details, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[Line]:
        """The same for work that the following lines stand on.

        Raises:
            Stopped: There was a Failure.
        """
        before = self.failed
        with self.check(what) as line:
            yield line
        if self.failed > before:
            raise Stopped(what)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    timeout: float = 1800,
) -> str:
    """The standard output of a program.

    Raises:
        Failure: It is not there, does not end in time, or ends with another status than 0.
    """
    words = [str(word) for word in command]
    try:
        result = subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise Failure(f"{words[0]}: not found; CONTRIBUTING.md lists what the wheels need") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{words[0]}: still running after {timeout:.0f} s\n{' '.join(words)}") from None
    if result.returncode:
        output = (result.stdout + result.stderr).strip()
        raise Failure(f"{Path(words[0]).name} ended with {result.returncode}\n{' '.join(words)}\n{output[-6000:]}")
    return result.stdout


def index_settings() -> dict[str, str]:
    """Where this machine finds the package index; nothing else of the caller's environment."""
    names = ("http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir", "requests_ca_bundle")
    return {k: v for k, v in os.environ.items() if k.lower() in names or k.startswith("PIP_")}


def environment_of(python: Path, home: Path) -> dict[str, str]:
    """An environment that holds this interpreter's directory and nothing more: no compiler, no source tree."""
    home.mkdir(parents=True, exist_ok=True)
    return {"PATH": str(python.parent), "HOME": str(home), "LANG": "C.UTF-8", "TMPDIR": str(home)}


def make_environment(path: Path, requirements: Sequence[str | Path]) -> Path:
    """A new virtual environment with `requirements` from binary packages only. Returns its interpreter."""
    run([sys.executable, "-m", "venv", "--clear", path])
    python = path / "bin" / "python"
    environment = environment_of(python, WORK / "home") | index_settings()
    run([python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *requirements], environment=environment)
    return python
