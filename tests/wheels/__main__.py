"""`python -m tests.wheels build|bare|arm64|s390x …`, from the root of the repository; steps run in the order given.

    build    the source distribution and the manylinux2014 wheels for x86-64 and AArch64, audited
    bare     this machine's wheel in an environment without Rust or a compiler; values to compare others with
    arm64    the AArch64 wheel under Debian's Python for arm64 and QEMU: the same values
    s390x    the same on a big-endian machine

Prints what was done, how long it took, and the result. Exit status: 0 all succeeded, 1 not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.wheels.bare import bare
from tests.wheels.build import build
from tests.wheels.foreign import MACHINES, foreign
from tests.wheels.steps import ROOT, Stopped, Table


def main() -> int:
    """Runs the commands."""
    parser = argparse.ArgumentParser(prog="python -m tests.wheels", description=__doc__, formatter_class=Raw)
    parser.add_argument("commands", nargs="+", choices=["build", "bare", *MACHINES], metavar="COMMAND")
    parser.add_argument("--machine", action="append", help="build for this one only: x86_64, aarch64, s390x")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the wheels are; by default dist/")
    options = parser.parse_args()
    table, dist = Table(), options.dist.resolve()
    try:
        for command in options.commands:
            if command == "build":
                build(table, tuple(options.machine or ("x86_64", "aarch64")), dist)
            elif command == "bare":
                bare(table, dist)
            else:
                foreign(table, MACHINES[command], dist)
    except Stopped as stopped:
        print(f"tests.wheels: stopped at: {stopped}", file=sys.stderr)
    return 1 if table.failed else 0


class Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    sys.exit(main())
