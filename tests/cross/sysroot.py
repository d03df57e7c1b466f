"""The standard library of other targets, built once per compiler from its own sources.

Debian has it as packages for some of these targets only, and those are packages of foreign architectures, whose lists
may stop `apt-get update` for the whole machine. A build takes about a minute of one core, and no network.
"""

import hashlib
import json
import shutil
from pathlib import Path

from . import packages
from .shell import CrossError, cargo_environment, run, say
from .targets import Target

SOURCE = Path(__file__).resolve().parent / "additions.rs"

# Backtraces are left out: they are a quarter of the crates, and nothing compares them.
MANIFEST = """\
[package]
name = "additions"
version = "0.0.0"
edition = "2024"

[workspace]

[profile.release]
codegen-units = 16
debug = false
opt-level = 2
"""
BUILD = ("-Zbuild-std=std,panic_unwind,panic_abort", "-Zbuild-std-features=panic-unwind")

WASI = "wasm32-wasip1"
WASI_LIBC = Path("/usr/lib/wasm32-wasi")
ADDITIONS = "libadditions.a"


class Sysroot:
    """A directory that `rustc --sysroot` takes, for one compiler and one way of building.

    Attributes:
        compiler: What the compiler tells of itself.
        base: Everything of this compiler, the project's own build as well.
        path: The sysroot.
    """

    def __init__(self, state: Path, compiler: str):
        recipe = json.dumps([compiler, MANIFEST, BUILD, SOURCE.read_text(encoding="utf-8")])
        self.compiler = compiler
        self.base = state / f"rust-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
        self.path = self.base / "sysroot"

    def libraries(self, target: Target) -> Path:
        """Where rustc looks for those of `target`; there as soon as they are complete."""
        return self.path / "lib" / "rustlib" / target.triple / "lib"

    def flags(self, target: Target) -> list[str]:
        """Options of rustc for programs of `target`."""
        options = list(target.options)
        if target.own_std:
            options.append(f"--sysroot={self.path}")
        if target.triple == WASI:
            options.append(f"-Clink-arg={self.libraries(target) / 'self-contained' / ADDITIONS}")
        return options

    def build(self, targets: list[Target]) -> None:
        """Builds what is missing for `targets`, all at once; continues where an earlier build was interrupted.

        Raises:
            CrossError: The build fails.
        """
        absent = [target for target in targets if target.own_std and not self.libraries(target).exists()]
        if not absent:
            return
        say(f"building the standard library for {', '.join(target.name for target in absent)} into {self.path}")
        work = self.base / "std"
        (work / "src").mkdir(parents=True, exist_ok=True)
        shutil.copy2(SOURCE, work / "src" / "lib.rs")
        (work / "Cargo.toml").write_text(MANIFEST, encoding="utf-8")
        command = ["cargo", "build", "--release", "--offline", *BUILD, "--target-dir", str(work / "target")]
        command += ("--config", 'source.crates-io.replace-with="vendored"')
        command += ("--config", f'source.vendored.directory="{packages.SOURCES}/vendor"')
        for target in absent:
            command += ("--target", target.triple)
        # Building a standard library is for nightly compilers; this one is told to be such.
        environment = cargo_environment(RUSTC=packages.RUSTC, RUSTC_BOOTSTRAP="1")
        run(command, "the standard library", env=environment, directory=work)
        for target in absent:
            self._collect(target, work / "target" / target.triple / "release" / "deps")
        shutil.rmtree(work)

    def _collect(self, target: Target, built: Path) -> None:
        libraries = self.libraries(target)
        # A name of its own until it is complete, so that an interrupted copy is not taken for a sysroot.
        partial = libraries.parent.with_name(f"{target.triple}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "lib").mkdir(parents=True)
        for path in built.glob("lib*.rlib"):
            shutil.copy2(path, partial / "lib")
        for crate in ("std", "additions"):
            if len(list((partial / "lib").glob(f"lib{crate}-*.rlib"))) != 1:
                raise CrossError(f"{built} has not one library called {crate}: cargo changed its layout")
        (additions,) = (partial / "lib").glob("libadditions-*.rlib")
        if target.triple == WASI:
            contained = partial / "lib" / "self-contained"
            contained.mkdir()
            for name in ("crt1-command.o", "crt1-reactor.o", "libc.a"):
                shutil.copy2(WASI_LIBC / name, contained)
            shutil.copy2(additions, contained / ADDITIONS)
        additions.unlink()
        partial.rename(libraries.parent)
