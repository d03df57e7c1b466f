"""What comes from Debian: found by the commands and files that are needed, installed where they are missing."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .shell import CrossError, output, run, say
from .targets import Target

RUSTC = "/usr/bin/rustc"
SOURCES = "/usr/lib/rustlib/src/rust/library"
COMPILER = {RUSTC: "rustc-web", f"{SOURCES}/std/Cargo.toml": "rust-web-src"}
"""The compiler, and the sources of its standard library, that Debian keeps current for web browsers."""


def present(tool: str) -> bool:
    """Whether there is the command, or the file where it is a path."""
    return Path(tool).exists() if tool.startswith("/") else shutil.which(tool) is not None


def missing(needs: Iterable[dict[str, str]]) -> list[str]:
    """The packages without which a tool is missing, in order of name."""
    return sorted({package for tools in needs for tool, package in tools.items() if not present(tool)})


def install(targets: list[Target]) -> None:
    """Installs what the targets need and is missing.

    Raises:
        CrossError: It cannot be installed, or does not bring what it should.
    """
    if shutil.which("cargo") is None:
        raise CrossError("cargo is missing: install Rust from https://rustup.rs")
    needs = [COMPILER, *(target.packages for target in targets)]
    packages = missing(needs)
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise CrossError(f"apt-get is missing: run this in a container of Debian 12; needed are {', '.join(packages)}")
    root = () if os.geteuid() == 0 else ("sudo",)
    if root and shutil.which("sudo") is None:
        raise CrossError(f"not root, and sudo is missing: install as root: apt-get install {' '.join(packages)}")
    say(f"installing {' '.join(packages)}")
    apt = (*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get")
    try:
        run((*apt, "update"), "the package lists")
    except CrossError as error:
        # One of many repositories may be out of reach; what counts is whether the packages can be installed.
        say(str(error))
    run((*apt, "install", "--yes", "--no-install-recommends", *packages), f"installing {' '.join(packages)}")
    if packages := missing(needs):
        raise CrossError(f"{', '.join(packages)}: installed, but without what is needed of it; see {__name__}")


def compiler() -> str:
    """What `rustc -vV` tells, and the version of the sources of its standard library.

    Raises:
        CrossError: The compiler and the sources are of different versions.
    """
    versions = [
        output(("dpkg-query", "--show", "--showformat=${Version}", package), "version of a package").strip()
        for package in COMPILER.values()
    ]
    if len(set(versions)) != 1:
        raise CrossError(f"rustc-web {versions[0]} and rust-web-src {versions[1]} differ: run apt-get upgrade")
    return f"{output((RUSTC, '-vV'), 'version of the compiler').strip()}\npackage: {versions[0]}"
