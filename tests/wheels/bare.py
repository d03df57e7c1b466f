"""`python -m tests.wheels bare`: the wheel of this machine in an environment without Rust, compiler or source tree."""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.wheels.build import find_wheel
from tests.wheels.installed import NATIVE, SOURCES, add_checks, probe
from tests.wheels.steps import ROOT, WORK, Failure, Table, environment_of, make_environment, run

# Of the source tree, what the Python tests read. The package is not among it.
TEST_FILES = ("tests/python", "tests/vectors", "tests/oracle", "benches/data", "docs", "README.md", "pyproject.toml")
# conftest.py beside the copied tests: they must not find another package than the installed one.
GUARD = '''"""The tests run against the installed package."""

import sys
from pathlib import Path

import hypothesis
import intact

assert Path(intact.__file__).is_relative_to(sys.prefix), intact.__file__
hypothesis.settings.register_profile("busy", deadline=None)  # other builds may run beside the tests
hypothesis.settings.load_profile("busy")
'''
# Through these a program finds the GPU drivers of a machine; the probe runs where there are none.
LOADERS = ("libvulkan.so", "libvulkan.so.1", "libEGL.so", "libEGL.so.1")
COMPILERS = ("rustc", "cargo", "maturin", "cc", "gcc", "clang", "ld", "zig")


def bare(table: Table, dist: Path) -> None:
    """Installs, probes and tests the wheel.

    Raises:
        Stopped: A step failed on which the following ones stand.
    """
    runtime, tests = WORK / "runtime", WORK / "tests"
    python = runtime / "bin" / "python"
    environment = environment_of(python, WORK / "home")
    with table.step("install, runtime dependencies") as line:
        wheel = find_wheel(dist, platform.machine())
        line.result = install(runtime, str(wheel))
    with table.step("install, with test and hub") as line:
        line.result = install(tests, f"{wheel}[hub,test]")
    with table.step("sources for conversion") as line:
        line.result = write_sources(tests / "bin" / "python")
    with table.check("command intact") as line:
        line.result = console_script(runtime / "bin" / "intact", environment)
    with table.step("probe") as line:
        hidden = environment | {"LD_LIBRARY_PATH": str(hide_loaders(WORK / "no-loaders"))}
        report = probe([python], site_packages(runtime), hidden)
        line.result = f"Python {report.machine['python']}, kernels {', '.join(report.kernels)}"
    add_checks(table, report, None, platform.machine())
    values = {check["check"]: check["value"] for check in report.checks if "value" in check}
    NATIVE.write_text(json.dumps(values, indent=1), "utf-8")
    with table.check("tests/python") as line:
        line.result = python_tests(tests / "bin" / "python")


def install(path: Path, requirement: str) -> str:
    """A new environment with the wheel; its programs must be the only ones on PATH."""
    python = make_environment(path, [requirement])
    environment = environment_of(python, WORK / "home")
    found = [name for name in COMPILERS if shutil.which(name, path=environment["PATH"])]
    if found:
        raise Failure(f"the environment holds {', '.join(found)}")
    packages = json.loads(run([python, "-m", "pip", "list", "--format=json"], environment=environment))
    return f"{len(packages)} packages"


def hide_loaders(directory: Path) -> Path:
    """A directory for LD_LIBRARY_PATH whose empty files stand before the loaders: they cannot be loaded."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name in LOADERS:
        (directory / name).touch()
    return directory


def write_sources(python: Path) -> str:
    """The tiny checkpoint and GGUF file of tests/python/conftest.py, written once for all machines."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    SOURCES.mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from conftest import write_checkpoint, write_gguf;"
        "out = Path(sys.argv[1]); write_checkpoint(out / 'checkpoint'); write_gguf(out / 'tiny.gguf')"
    )
    environment = environment_of(python, WORK / "home") | {"PYTHONPATH": str(ROOT / "tests" / "python")}
    run([python, "-c", code, SOURCES], cwd=SOURCES, environment=environment)
    return f"{sum(path.is_file() for path in SOURCES.rglob('*'))} files"


def console_script(script: Path, environment: Mapping[str, str]) -> str:
    """The installed command starts and names the wheel's version."""
    printed = run([script, "--version"], cwd=SOURCES, environment=environment).strip()
    kernels = json.loads(run([script, "kernels", "--json"], cwd=SOURCES, environment=environment))["kernels"]
    chosen = [entry["name"] for entry in kernels if entry["chosen"]]
    if not re.fullmatch(r"intact \d+\.\d+\.\d+\S*, contract \d+", printed) or len(chosen) != 1:
        raise Failure(f"it printed {printed!r} and chose {chosen}")
    return f"{printed}, kernels {chosen[0]}"


def python_tests(python: Path) -> str:
    """tests/python in a copy outside of the source tree, against the installed package."""
    copy = WORK / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    for name in TEST_FILES:
        if (ROOT / name).is_dir():
            # Some test the programs beside them, which a wheel does not have.
            ignored = shutil.ignore_patterns(
                "__pycache__",
                "test_wheels.py",
                "test_cross.py",
                "test_faults.py",
                "test_start_up.py",
                "test_*_bench.py",
            )
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    (copy / "conftest.py").write_text(GUARD, "utf-8")
    environment = environment_of(python, WORK / "home")
    printed = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=copy, environment=environment)
    return printed.strip().splitlines()[-1].strip("= ")


def site_packages(environment: Path) -> Path:
    """Where a virtual environment keeps its packages."""
    [found] = environment.glob("lib/python3.*/site-packages")
    return found
