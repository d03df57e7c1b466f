"""Which Rust compiler builds for a target."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tests.cross import packages
from tests.cross.__main__ import STATE
from tests.cross.sysroot import Sysroot
from tests.cross.targets import TARGETS
from tests.wheels.steps import Failure, run


class Toolchain(NamedTuple):
    """A Rust compiler that can build for a target.

    Attributes:
        rustc: The program.
        version: Its version, as in `rustc 1.95.0 (…)`.
        flags: Arguments by which it finds the target's standard library.
        settings: Environment variables that this library asks of cargo.
    """

    rustc: Path
    version: str
    flags: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


def find_toolchain(triple: str) -> Toolchain:
    """The first compiler on PATH that has the target's standard library, or else the one that `tests.cross` gave it.

    Raises:
        Failure: There is none.
    """
    tried = []
    for rustc in compilers():
        version = run([rustc, "--version"]).split()[1]
        libraries = Path(run([rustc, "--print", "target-libdir", "--target", triple]).strip())
        if any(libraries.glob("libstd-*.rlib")):
            return Toolchain(rustc, version)
        tried.append(f"{rustc} ({version})")
    target = next((target for target in TARGETS if target.triple == triple), None)
    if target is None:
        raise Failure(f"no Rust standard library for {triple}; looked at {', '.join(tried)}")
    if Path(packages.RUSTC).exists():
        sysroot = Sysroot(STATE, packages.compiler())
        if sysroot.libraries(target).exists():
            version = run([packages.RUSTC, "--version"]).split()[1]
            # Link-time optimisation needs bitcode, which a library built by cargo does not have.
            settings = (("CARGO_PROFILE_RELEASE_LTO", "off"),)
            return Toolchain(Path(packages.RUSTC), version, tuple(sysroot.flags(target)), settings)
    raise Failure(
        f"no Rust standard library for {triple}\nlooked at {', '.join(tried) or 'PATH, which has no rustc'}\n"
        f"rustup target add {triple}, or: python -m tests.cross --only {target.name} --setup-only"
    )


def compilers() -> list[Path]:
    """Every `rustc` on PATH, in its order."""
    found = (Path(directory) / "rustc" for directory in os.get_exec_path())
    return [rustc for rustc in dict.fromkeys(found) if os.access(rustc, os.X_OK)]
