"""Runs probe.py in some interpreter, and compares what it reports with what this machine reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.wheels.steps import ROOT, WORK, Failure, Table, run

PROBE = Path(__file__).with_name("probe.py")
SOURCES = WORK / "probe-sources"
# What the probe reported on this machine: the value of each check by its name.
NATIVE = WORK / "native.json"


class Report(NamedTuple):
    """What one run of the probe printed.

    Attributes:
        machine: `machine`, `byteorder` and `python`.
        kernels: The kernel sets that run there, slowest first.
        checks: An object for each check, with `check`, `seconds`, and `value` or `error`.
    """

    machine: dict[str, str]
    kernels: list[str]
    checks: list[dict[str, Any]]


def probe(interpreter: Sequence[str | Path], site: Path, environment: Mapping[str, str]) -> Report:
    """Runs the probe, in a directory that holds no package.

    Raises:
        Failure: The interpreter or the import failed.
    """
    scratch = WORK / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    command = [*interpreter, PROBE, site, SOURCES, ROOT / "tests" / "vectors", scratch]
    return parse(run(command, cwd=scratch, environment=environment))


def parse(printed: str) -> Report:
    """Reads what the probe printed.

    Raises:
        Failure: It printed nothing.
    """
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    if not lines:
        raise Failure(f"the probe printed no report\n{printed}")
    return Report(lines[0]["machine"], lines[0]["kernels"], lines[1:])


def problem_of(check: dict[str, Any], native: Mapping[str, Any] | None) -> str:
    """Why a check failed, or nothing. `native` holds the values of this machine; None where this is it."""
    name = check["check"]
    if "error" in check:
        lines = check["error"].strip().splitlines()
        return f"{lines[-1]}\n{check['error'].strip()}"
    if native is None or native.get(name) == check["value"]:
        return ""
    if name not in native:
        return "this machine has no value to compare with: run python -m tests.wheels bare"
    return f"differs from this machine\nhere:  {json.dumps(native[name])}\nthere: {json.dumps(check['value'])}"


def add_checks(table: Table, report: Report, native: Mapping[str, Any] | None, where: str) -> None:
    """One line for each check of a report."""
    for check in report.checks:
        with table.check(f"{where}: {check['check']}") as line:
            line.seconds = check["seconds"]
            line.result = "passed" if native is None else "equal"
            problem = problem_of(check, native)
            if problem:
                raise Failure(problem)


def native_values() -> dict[str, Any]:
    """The values that `python -m tests.wheels bare` found on this machine.

    Raises:
        Failure: It did not run yet.
    """
    if not NATIVE.is_file() or not SOURCES.is_dir():
        raise Failure("no values of this machine to compare with: run python -m tests.wheels bare")
    values: dict[str, Any] = json.loads(NATIVE.read_text("utf-8"))
    return values
