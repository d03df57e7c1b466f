"""What a wheel is, compared with what it must be: contents, machine, C library, and no trace of the build machine."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from tests.wheels.steps import ROOT, Failure, run

# The oldest C library that a wheel may ask for: manylinux2014.
GLIBC = (2, 17)
# The most bytes that a wheel may have, with the GPU executor and the model in it.
SIZE = 15_000_000
# e_machine in the ELF header, by the name in the wheel's tag.
MACHINES = {"x86_64": 62, "aarch64": 183, "s390x": 22}
LICENSES = ("LICENSE", "LICENSE-APACHE", "LICENSE-MIT")
# Shared libraries that every manylinux2014 system has and that Rust's standard library needs.
SYSTEM = re.compile(r"(libc|libdl|libpthread|librt|libm|libgcc_s|ld-linux-[\w-]+|ld64)\.so\.\d+")


class WheelName(NamedTuple):
    """The parts of a wheel's file name, PEP 427."""

    distribution: str
    version: str
    python: str
    abi: str
    platforms: tuple[str, ...]


def parse_name(name: str) -> WheelName:
    """Takes a file name apart.

    Raises:
        Failure: It is not the name of a wheel without build number.
    """
    parts = name.removesuffix(".whl").split("-")
    if not name.endswith(".whl") or len(parts) != 5:
        raise Failure(f"{name}: not the name of a wheel")
    distribution, version, python, abi, platforms = parts
    return WheelName(distribution, version, python, abi, tuple(platforms.split(".")))


def package_files(sources: Path = ROOT) -> set[str]:
    """What a wheel must hold below `intact/`: the Python sources, stubs and marker, and the native module."""
    root = sources / "python"
    files = (path for path in (root / "intact").rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix() for path in files if path.suffix not in (".so", ".pyc")}
    return names | {"intact/_native.abi3.so"}


def content_problems(actual: Collection[str], version: str, expected: Iterable[str]) -> list[str]:
    """Files that are missing and files that nobody asked for."""
    info = f"intact-{version}.dist-info"
    names = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    names |= {f"{info}/licenses/{name}" for name in LICENSES} | set(expected)
    return [f"lacks {name}" for name in sorted(names - set(actual))] + [
        f"holds {name}, which is no part of the package" for name in sorted(set(actual) - names)
    ]


def elf_machine(file: bytes) -> int:
    """e_machine of an ELF file; 0 for anything else."""
    if len(file) < 20 or file[:4] != b"\x7fELF" or file[5] not in (1, 2):
        return 0
    return int.from_bytes(file[18:20], "little" if file[5] == 1 else "big")


def symbol_problems(report: dict[str, dict[str, list[str]]], limit: tuple[int, int] = GLIBC) -> list[str]:
    """What `auditwheel show --json` says of libraries and symbol versions beyond `limit`."""
    problems = [f"needs the library {name}" for name in report["external_libs"]]
    for library, symbols in sorted(report["versioned_symbols"].items()):
        if not SYSTEM.fullmatch(library):
            problems.append(f"needs the library {library}")
        for symbol in symbols:
            family, _, version = symbol.rpartition("_")
            if family == "GLIBC" and tuple(map(int, version.split("."))) > limit:
                problems.append(f"needs {symbol} of {library}")
    return problems


def newest_glibc(report: dict[str, dict[str, list[str]]]) -> str:
    """The newest version of glibc that a symbol asks for."""
    symbols = [symbol for symbols in report["versioned_symbols"].values() for symbol in symbols]
    versions = [tuple(map(int, symbol[6:].split("."))) for symbol in symbols if symbol.startswith("GLIBC_")]
    return ".".join(map(str, max(versions, default=(0,))))


def audit(wheel: Path, machine: str, platform: str, tools: Path, private: Iterable[Path]) -> str:
    """Checks a wheel for `machine` with the platform tag `platform`; it must not name the directories `private`.

    Raises:
        Failure: It is not as it must be; the message has one line for each reason.
    """
    name = parse_name(wheel.name)
    report = json.loads(run([tools / "auditwheel", "show", "--json", wheel]))
    with zipfile.ZipFile(wheel) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    native = members.get("intact/_native.abi3.so", b"")
    problems = content_problems(members, name.version, package_files()) + symbol_problems(report)
    if name.abi != "abi3" or platform not in name.platforms:
        problems.append(f"is tagged {name.abi}, {', '.join(name.platforms)}; expected abi3, {platform}")
    if report["overall_tag"] not in name.platforms:
        problems.append(f"keeps {report['overall_tag']}, not {', '.join(name.platforms)}")
    if elf_machine(native) != MACHINES[machine]:
        problems.append(f"holds a module for ELF machine {elf_machine(native)}, not {MACHINES[machine]} ({machine})")
    size = wheel.stat().st_size
    if size > SIZE:
        problems.append(f"has {size} bytes, more than {SIZE}")
    for directory in private:
        within = f"{directory}/".encode()
        problems += [f"{member} names {directory}" for member, data in members.items() if within in data]
    if problems:
        raise Failure("\n".join([f"{wheel.name}: {problems[0]}", *problems[1:]]))
    return f"{size / 1e6:.1f} MB, {len(members)} files, glibc {newest_glibc(report)}, no other library"
