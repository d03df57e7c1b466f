"""`python -m tests.wheels arm64|s390x`: a wheel under another CPU's Python, which QEMU runs without any privilege.

The interpreter and the C library are Debian's, fetched and verified by apt into a directory; the packages are the
wheels that pip finds for that machine. Nothing is installed on this machine and nothing is registered with its kernel.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.cross.targets import TARGETS
from tests.wheels.build import find_wheel
from tests.wheels.installed import SOURCES, Report, add_checks, native_values, probe
from tests.wheels.steps import WORK, Failure, Table, index_settings, run

SUITE = "bookworm"
# The platform tags of packages that run on Debian 12, whose glibc is 2.36.
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34")


class Machine(NamedTuple):
    """A machine under emulation.

    Attributes:
        debian: Debian's name of the architecture, which is also that of `tests.cross`.
        machine: Its name in wheels, and in `qemu-NAME`.
        cpus: CPU models of `tests.cross`, which names the kernel sets that must run on each.
        packages: What Debian brings besides Python, where the index has no wheel.
        absent: Packages, in small letters, that have no wheel for the machine: Debian's, or done without.
    """

    debian: str
    machine: str
    cpus: tuple[str, ...]
    packages: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def kernels(self, cpu: str) -> tuple[str, ...] | None:
        """The kernel sets that must run on a CPU model, slowest first."""
        models = next(target.cpus for target in TARGETS if target.name == self.debian)
        return next(model.backends for model in models if model.name == cpu)


MACHINES = {
    machine.debian: machine
    for machine in (
        Machine("arm64", "aarch64", ("cortex-a57", "max")),
        Machine("s390x", "s390x", ("max",), ("python3-numpy", "python3-markupsafe"), ("numpy", "markupsafe", "hf-xet")),
    )
}


def foreign(table: Table, machine: Machine, dist: Path) -> None:
    """Runs the probe on every CPU model of a machine.

    Raises:
        Stopped: A step failed on which the following ones stand.
    """
    root, site = WORK / f"root-{machine.debian}", WORK / f"site-{machine.debian}"
    with table.step(f"Debian's Python for {machine.debian}") as line:
        native = native_values()
        line.result = make_root(machine, root)
    with table.step(f"packages for {machine.machine}") as line:
        line.result = install(machine, root, site, find_wheel(dist, machine.machine))
    environment = {"PYTHONPATH": str(site), "HOME": str(WORK / "home"), "LANG": "C.UTF-8"}
    for cpu in machine.cpus:
        where = f"{machine.debian} {cpu}"
        with table.step(f"{where}: probe") as line:
            report = probe(emulated(machine, root, cpu), site, environment)
            line.result = describe(report, machine)
        with table.check(f"{where}: kernel sets") as line:
            line.result = ", ".join(report.kernels)
            if tuple(report.kernels) != machine.kernels(cpu):
                raise Failure(f"{line.result}; expected {', '.join(machine.kernels(cpu) or ())}")
        add_checks(table, report, native, where)
    with table.check(f"{machine.debian}: intact hash") as line:
        command = [*emulated(machine, root, machine.cpus[0]), "-m", "intact"]
        line.result = hash_command(command, environment, native)


def describe(report: Report, machine: Machine) -> str:
    """Where a report comes from, which must be the machine that was asked for."""
    if report.machine["machine"] != machine.machine:
        raise Failure(f"the interpreter runs on {report.machine['machine']}, not {machine.machine}")
    return f"Python {report.machine['python']}, {report.machine['byteorder']}-endian"


def hash_command(command: list[str | Path], environment: Mapping[str, str], native: Mapping[str, object]) -> str:
    """The command line as a process of its own prints the digests of this machine."""
    printed = run([*command, "hash", SOURCES / "tiny.gguf", "--json"], cwd=SOURCES, environment=environment)
    if json.loads(printed) != native.get("hash_command"):
        raise Failure(f"differs from this machine\nhere:  {native.get('hash_command')}\nthere: {printed}")
    return "equal"


def make_root(machine: Machine, root: Path) -> str:
    """A directory with Debian's Python; made once."""
    if not root.is_dir():
        scratch = root.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)
        include = ",".join(("python3", "libstdc++6", *machine.packages))
        options = ["--variant=extract", f"--architectures={machine.debian}", f"--include={include}"]
        run(["mmdebstrap", "--quiet", *options, SUITE, scratch, mirror()])
        scratch.rename(root)
    return f"Debian {SUITE}, {interpreter(root).name}"


def mirror() -> str:
    """Where this machine has the suite from, as a line of sources.list.

    Raises:
        Failure: It is no Debian of that suite.
    """
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"])
    for line in listed.splitlines():
        uri, _, codename = line.partition(" ")
        if codename == SUITE:
            return f"deb {uri} {SUITE} main"
    raise Failure(f"apt knows no mirror of Debian {SUITE}: add it to its sources, and run `apt-get update`")


def install(machine: Machine, root: Path, site: Path, wheel: Path) -> str:
    """The wheel and its dependencies as pip chooses them for the machine; the same versions as here where it cannot."""
    shutil.rmtree(site, ignore_errors=True)
    version = interpreter(root).name.removeprefix("python")
    options: list[str | Path] = [
        "--target",
        site,
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={version}",
    ]
    options += [f"--platform={name}_{machine.machine}" for name in PLATFORMS]
    options += [f"--abi={abi}" for abi in ("cp" + version.replace(".", ""), "abi3", "none")]
    requirements: list[str | Path] = [wheel]
    if machine.absent:
        options.append("--no-deps")
        requirements += [line for line in native_packages() if line.partition("==")[0].lower() not in machine.absent]
    python = WORK / "runtime" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", *options, *requirements], environment=pip_environment())
    return f"{len(list(site.glob('*.dist-info')))} packages"


def native_packages() -> list[str]:
    """Names and versions of the runtime dependencies on this machine."""
    python = WORK / "runtime" / "bin" / "python"
    frozen = run([python, "-m", "pip", "freeze", "--exclude=intact"], environment=pip_environment())
    return frozen.split("\n")[:-1]


def pip_environment() -> dict[str, str]:
    """An environment for pip alone."""
    return {"HOME": str(WORK / "home"), "LANG": "C.UTF-8"} | index_settings()


def emulated(machine: Machine, root: Path, cpu: str) -> list[str | Path]:
    """The interpreter in `root` on a CPU model. Paths that `root` does not hold are this machine's."""
    # Debian's linear algebra lies in directories of its own, between which an installed system chooses.
    choices = sorted(path for name in ("blas", "lapack") for path in (root / "usr" / "lib").glob(f"*/{name}"))
    libraries = ":".join(f"/{path.relative_to(root)}" for path in choices)
    options = ["-E", f"LD_LIBRARY_PATH={libraries}"] if libraries else []
    emulator = f"qemu-{machine.machine}"
    return [shutil.which(emulator) or emulator, "-cpu", cpu, *options, "-L", root, interpreter(root)]


def interpreter(root: Path) -> Path:
    """Debian's Python under its full name, `python3.N`.

    Raises:
        Failure: There is none.
    """
    link = root / "usr" / "bin" / "python3"
    if not link.is_symlink():
        raise Failure(f"{root} holds no Python: remove it and run again")
    return link.parent / link.readlink().name
