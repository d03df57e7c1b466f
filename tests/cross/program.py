"""Building the conformance program for every target, and running it on a CPU model."""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import packages
from .shell import CrossError, cargo_environment, run, say
from .sysroot import Sysroot
from .targets import Cpu, Target

PACKAGE = "intact-conformance"
THREADS = "1"
"""Runs share the cores, so that threads which wait for one another would take turns; tests/equality.rs varies them."""
TIMEOUT = 3600
"""Seconds after which a run is taken for hanging; the slowest takes a few minutes of one core."""

# For a short build and a short run together: without any link-time optimisation, programs take twice as long.
PROFILE = {"codegen-units": "16", "debug": "false", "lto": "false"}


@dataclass(frozen=True)
class Run:
    """What the program said.

    Attributes:
        target: Where it was built for.
        cpu: Where it ran.
        report: Its JSON object.
        status: Its exit status.
        errors: What it wrote to standard error.
        seconds: Wall time.
    """

    target: Target
    cpu: Cpu
    report: dict[str, Any]
    status: int
    errors: str
    seconds: float


def build(root: Path, sysroot: Sysroot, targets: list[Target]) -> dict[str, Path]:
    """Builds the program for all targets at once; returns where it is, by triple.

    Args:
        root: The repository.
        sysroot: Has the standard libraries.
        targets: What to build for.

    Raises:
        CrossError: The build fails.
    """
    directory = sysroot.base / "target"
    command = ["cargo", "build", "--locked", "--release", "--package", PACKAGE, "--target-dir", str(directory)]
    for key, value in PROFILE.items():
        command += ("--config", f"profile.release.{key}={value}")
    for target in targets:
        command += ("--target", target.triple)
        # JSON strings are TOML strings.
        command += ("--config", f"target.{target.triple}.rustflags={json.dumps(sysroot.flags(target))}")
        if target.linker is not None:
            command += ("--config", f"target.{target.triple}.linker={json.dumps(target.linker)}")
    run(command, "the conformance program", env=cargo_environment(RUSTC=packages.RUSTC), directory=root)
    return {target.triple: directory / target.triple / "release" / target.program for target in targets}


def run_on(target: Target, cpu: Cpu, program: Path) -> Run:
    """Runs the program with one CPU model.

    Raises:
        CrossError: It does not start, does not end, or does not say what it found.
    """
    name = f"{target.name} on {cpu.name}"
    command = [*cpu.command, str(program), "machine", "--threads", THREADS, "--json"]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except OSError as error:
        raise CrossError(f"{name}: {command[0]} cannot be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise CrossError(f"{name}: it did not end within {TIMEOUT} s: {command}") from error
    seconds = time.monotonic() - start
    say(f"{name}: status {done.returncode} after {seconds:.0f} s")
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    if not isinstance(report, dict):
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise CrossError(f"{name}: status {done.returncode} and no report: {said or 'it said nothing'}")
    return Run(target, cpu, report, done.returncode, done.stderr.strip(), seconds)
