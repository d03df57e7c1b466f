"""`python -m tests.wheels build`: the source distribution, and from it the wheels, in dist/."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

from tests.wheels.audit import audit
from tests.wheels.steps import ROOT, WORK, Failure, Table, index_settings, run
from tests.wheels.toolchain import find_toolchain

# Their versions decide bytes of the wheels.
TOOLS = ("maturin==1.16.0", "ziglang==0.17.1", "auditwheel==6.8.2")
PLATFORM = "manylinux2014"
# The date of every file in a wheel where SOURCE_DATE_EPOCH is not set: the earliest that a ZIP file can hold.
EPOCH = "315532800"


def build(table: Table, machines: tuple[str, ...], dist: Path) -> None:
    """Builds and audits.

    Raises:
        Stopped: A wheel could not be built or is not as it must be.
    """
    tools, sources = WORK / "tools" / "bin", WORK / "sources"
    with table.step("build tools") as line:
        line.result = install_tools(tools)
    with table.step("source distribution") as line:
        line.result = make_sources(tools, sources, dist)
    for machine in machines:
        with table.step(f"wheel for {machine}") as line:
            line.result = make_wheel(tools, sources, dist, machine)
        with table.step(f"audit of {machine}") as line:
            private = (ROOT, Path.home(), cargo_home())
            line.result = audit(find_wheel(dist, machine), machine, f"{PLATFORM}_{machine}", tools, private)


def install_tools(tools: Path) -> str:
    """maturin, zig (a linker that knows the symbol versions of every glibc) and auditwheel."""
    stamp = tools / "installed"
    if not stamp.is_file() or stamp.read_text() != " ".join(TOOLS):
        run([sys.executable, "-m", "venv", "--clear", tools.parent])
        run([tools / "python", "-m", "pip", "install", "--quiet", "--only-binary=:all:", *TOOLS])
        stamp.write_text(" ".join(TOOLS))
    return ", ".join(TOOLS)


def make_sources(tools: Path, sources: Path, dist: Path) -> str:
    """The sdist, unpacked: wheels built from it prove that nothing is missing, and hold nothing else of the tree."""
    scratch = WORK / "sdist"
    for directory in (scratch, sources):
        shutil.rmtree(directory, ignore_errors=True)
    run([tools / "maturin", "sdist", "--out", scratch], environment=build_environment(tools))
    [archive] = scratch.iterdir()
    stray = stray_members(archive)
    if stray:
        raise Failure(f"{archive.name} holds {stray[0]}: package from a git checkout, so that ignored files stay out")
    now = time.time()

    def touched(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        # An sdist has one date for all versions of a file, and cargo rebuilds what is newer than its last build.
        return tarfile.data_filter(member.replace(mtime=now), path)

    with tarfile.open(archive) as tar:
        tar.extractall(WORK / "unpacked", filter=touched)
    (WORK / "unpacked" / archive.name.removesuffix(".tar.gz")).rename(sources)
    dist.mkdir(parents=True, exist_ok=True)
    shutil.copy(archive, dist)
    return describe(dist / archive.name)


def stray_members(archive: Path) -> list[str]:
    """What is in an sdist and was built: cargo leaves it out only where git says that it is ignored."""
    built = ("build", "dist", "target", ".venv")
    with tarfile.open(archive) as tar:
        return [name for name in tar.getnames() if name.partition("/")[2].startswith(tuple(f"{top}/" for top in built))]


def make_wheel(tools: Path, sources: Path, dist: Path, machine: str) -> str:
    """Builds one wheel."""
    target = f"{machine}-unknown-linux-gnu"
    toolchain = find_toolchain(target)
    for old in dist.glob(f"intact-*{PLATFORM}_{machine}*.whl"):
        old.unlink()
    # Panic messages name source files; the same names on every machine make the same wheel.
    remap = {sources: "/intact", cargo_home(): "/cargo"}
    flags = [*toolchain.flags, *(f"--remap-path-prefix={old}={new}" for old, new in remap.items())]
    environment = build_environment(tools) | dict(toolchain.settings)
    environment |= {
        "RUSTC": str(toolchain.rustc),
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags),
        "CARGO_TARGET_DIR": str(WORK / "target" / toolchain.version),
    }
    options = ["--release", "--strip", "--zig", "--target", target, "--compatibility", PLATFORM]
    run([tools / "maturin", "build", *options, "--out", dist], cwd=sources, environment=environment, timeout=3600)
    return f"{describe(find_wheel(dist, machine))}, rustc {toolchain.version}"


def find_wheel(dist: Path, machine: str) -> Path:
    """The one wheel for a machine.

    Raises:
        Failure: There is none, or more than one.
    """
    found = sorted(dist.glob(f"intact-*_{machine}.whl"))
    if len(found) != 1:
        raise Failure(f"{dist} holds {len(found)} wheels for {machine}: run python -m tests.wheels build")
    return found[0]


def build_environment(tools: Path) -> dict[str, str]:
    """The caller's environment without what would make maturin ask some interpreter, and with the tools on PATH."""
    dropped = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYO3_PYTHON", "RUSTFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | index_settings()
    environment["PATH"] = f"{tools}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment.setdefault("SOURCE_DATE_EPOCH", EPOCH)
    return environment


def cargo_home() -> Path:
    """Where cargo keeps the sources of dependencies."""
    return Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))


def describe(file: Path) -> str:
    """Name, size and the beginning of the digest."""
    data = file.read_bytes()
    return f"{file.name} {len(data) / 1e6:.2f} MB, SHA-256 {hashlib.sha256(data).hexdigest()[:16]}…"
