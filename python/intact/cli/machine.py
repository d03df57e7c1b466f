"""`intact verify --machine`: the conformance suite on the back ends of this machine."""

from __future__ import annotations

import json
import sys

import typer

from intact.cli.common import print_json
from intact.errors import DeviceError


def verify_machine(cpu: str | None, threads: int | None, as_json: bool) -> int:
    """Runs every case on every back end, or on that of `cpu`; the status is 1 where anything differs.

    Without `cpu`, the self-test runs on every GPU adapter as well, whatever is known of it.
    """
    from intact._native import adapters, conformance

    try:
        report = json.loads(conformance([cpu] if cpu else None, threads or 1))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cpu") from None
    report["adapters"] = [_adapter(entry["name"], entry["driver"]) for entry in ([] if cpu else adapters())]
    report["equal"] = report["equal"] and all(entry["problem"] is None for entry in report["adapters"])
    if as_json:
        print_json(report)
    else:
        machine = report["machine"]
        bits = f"{machine['pointer_bits']} bits"
        print(f"contract {report['contract']}; {machine['arch']} ({machine['endian']}-endian, {bits})")
        for problem in report["damaged"]:
            print(f"tests/vectors/{problem}", file=sys.stderr)
        for backend in report["backends"]:
            if not backend["ran"]:
                print(f"{backend['name']:<14} did not run: {backend['reason']}")
                continue
            seconds = f"{backend['milliseconds'] / 1000:.1f} s"
            verdict = "DIFFERS" if backend["differs"] else "equal"
            print(f"{backend['name']:<14} {backend['cases']} cases  {backend['digest']}  {seconds:>6}  {verdict}")
            for problem in backend["differs"]:
                print(f"  {problem['case']}: {problem['problem'][:400]}")
            for skipped in backend["skipped"]:
                print(f"  {skipped['case']}: skipped: {skipped['reason']}")
        for entry in report["adapters"]:
            verdict = "DIFFERS" if entry["problem"] else "equal"
            print(f"{entry['name']}, driver {entry['driver']}: self-test, {entry['programs']} programs, {verdict}")
            if entry["problem"]:
                print(f"  {entry['problem']}")
        print(f"{'published':<14} {len(report['cases'])} cases  {report['expected']}")
    return 0 if report["equal"] else 1


def _adapter(name: str, driver: str) -> dict[str, object]:
    from intact._native import self_test

    programs, problem = 0, None
    try:
        programs = self_test(name)
    except DeviceError as error:
        problem = str(error)
    return {"name": name, "driver": driver, "programs": programs, "problem": problem}
