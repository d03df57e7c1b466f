"""`python -m tests.cross`: sets up, builds, runs, compares, and writes build/cross/table.{json,md}."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import packages, program, table
from .program import Run
from .shell import CrossError, output, say
from .sysroot import Sysroot
from .targets import Cpu, Target, chosen
from .verdict import judge

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "build" / "cross"
CPUINFO = Path("/proc/cpuinfo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 where every configuration gives the published digest, and 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.cross", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all targets, not only those of every change")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this target; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--setup-only", action="store_true", help="install and build what is kept, and stop")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    try:
        return cross(chosen(options.only, options.full), options.jobs, options.setup_only)
    except CrossError as error:
        say(f"make cross: {error}")
        return 1


def cross(targets: list[Target], jobs: int, setup_only: bool) -> int:
    """The whole of it for `targets`."""
    if not CPUINFO.exists():
        raise CrossError("there is no /proc/cpuinfo: run this on x86-64 Linux, or in a container of Debian 12")
    cpuinfo = CPUINFO.read_text(encoding="utf-8", errors="replace")
    packages.install(targets)
    sysroot = Sysroot(STATE, packages.compiler())
    sysroot.build(targets)
    if setup_only:
        return 0
    programs = program.build(ROOT, sysroot, targets)
    runs, failures = run_all([(target, cpu) for target in targets for cpu in target.cpus], programs, jobs)
    verdict = judge(runs, cpuinfo, failures)
    made_with = [sysroot.compiler.splitlines()[0], *emulators(targets)]
    document = {"made_with": made_with, **verdict.json()}
    (STATE / "table.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (STATE / "table.md").write_text(table.markdown(verdict, made_with), encoding="utf-8")
    print(table.text(verdict))
    return 1 if verdict.problems else 0


def run_all(
    places: list[tuple[Target, Cpu]],
    programs: dict[str, Path],
    jobs: int,
    run_on: Callable[[Target, Cpu, Path], Run] = program.run_on,
) -> tuple[list[Run], list[str]]:
    """Runs every place, in order of the table, and tells what could not run: one failure does not hide the others."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run_on, target, cpu, programs[target.triple]) for target, cpu in places]
    runs, failures = [], []
    for future in futures:
        try:
            runs.append(future.result())
        except CrossError as error:
            failures.append(str(error))
    return runs, failures


def emulators(targets: list[Target]) -> list[str]:
    """The version of every emulator in use, in order of name."""
    commands = sorted({cpu.command[0] for target in targets for cpu in target.cpus if cpu.command})
    versions = [output((command, "--version"), "version of an emulator").splitlines()[0] for command in commands]
    return [f"{command}: {version}" for command, version in zip(commands, versions, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
