"""The table of machines: what builds for each, what emulates it, and which back ends it must run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .cpuinfo import x86_64_sets
from .shell import CrossError

REFERENCE = ("reference",)
WASI = Path(__file__).resolve().with_name("wasi.mjs")


@dataclass(frozen=True)
class Cpu:
    """A CPU model, and how a program runs on it.

    Attributes:
        name: The model as the emulator calls it.
        command: What comes before the program's path.
        backends: Kernel sets that must run, and no others; `None` for what /proc/cpuinfo tells.
    """

    name: str
    command: tuple[str, ...]
    backends: tuple[str, ...] | None


@dataclass(frozen=True)
class Target:
    """A machine to build for.

    Attributes:
        name: As in the table; `--only` takes it.
        triple: As rustc calls it.
        machine: Architecture, byte order and pointer width that the program must report of itself.
        cpus: Models to run on.
        packages: Debian packages by a command or a file that each brings.
        linker: `None` for the compiler's own choice.
        options: Options of rustc, such as instructions that a program cannot look for when it runs.
        own_std: Whether the compiler's package has no standard library for it.
        full: Whether it is left out without `--full`.
    """

    name: str
    triple: str
    machine: tuple[str, str, int]
    cpus: tuple[Cpu, ...]
    packages: dict[str, str] = field(default_factory=dict)
    linker: str | None = None
    options: tuple[str, ...] = ()
    own_std: bool = True
    full: bool = False

    @property
    def program(self) -> str:
        """File name of the conformance program."""
        return "intact-conformance.wasm" if self.machine[0] == "wasm32" else "intact-conformance"


def _linux(
    name: str,
    triple: str,
    machine: tuple[str, str, int],
    gnu: str,
    qemu: str,
    cpus: dict[str, tuple[str, ...]],
    full: bool = False,
) -> Target:
    """A Linux machine whose C library comes from Debian's cross packages, emulated by user-mode qemu."""
    linker, emulator, root = f"{gnu}-gcc", f"qemu-{qemu}", f"/usr/{gnu}"
    packages = {linker: f"gcc-{gnu}", f"{root}/lib/crt1.o": f"libc6-dev-{name}-cross", emulator: "qemu-user"}
    models = (Cpu(cpu, (emulator, "-cpu", cpu, "-L", root), backends) for cpu, backends in cpus.items())
    return Target(name, triple, machine, tuple(models), packages, linker, full=full)


def _x86_64() -> Target:
    # qemu has AVX2 at most, so that wider sets are proven where this machine's own CPU has them.
    emulated = {
        "qemu64": REFERENCE,
        "Nehalem": (*REFERENCE, "sse4.1"),
        "Haswell": (*REFERENCE, "sse4.1", "avx2"),
    }
    models = [Cpu(cpu, ("qemu-x86_64", "-cpu", cpu), backends) for cpu, backends in emulated.items()]
    return Target(
        "x86-64",
        "x86_64-unknown-linux-gnu",
        ("x86_64", "little", 64),
        (Cpu("native", (), None), *models),
        {"cc": "gcc", "qemu-x86_64": "qemu-user"},
        own_std=False,
    )


TARGETS = (
    _x86_64(),
    _linux(
        "arm64",
        "aarch64-unknown-linux-gnu",
        ("aarch64", "little", 64),
        "aarch64-linux-gnu",
        "aarch64",
        {
            "cortex-a57": (*REFERENCE, "neon"),
            "cortex-a76": (*REFERENCE, "neon", "neon-dotprod"),
            "max": (*REFERENCE, "neon", "neon-dotprod", "neon-i8mm"),
        },
    ),
    _linux(
        "s390x",
        "s390x-unknown-linux-gnu",
        ("s390x", "big", 64),
        "s390x-linux-gnu",
        "s390x",
        {"max": REFERENCE},
    ),
    _linux(
        "armhf",
        "armv7-unknown-linux-gnueabihf",
        ("arm", "little", 32),
        "arm-linux-gnueabihf",
        "arm",
        {"cortex-a15": REFERENCE},
    ),
    _linux(
        "i386",
        "i686-unknown-linux-gnu",
        ("x86", "little", 32),
        "i686-linux-gnu",
        "i386",
        {"qemu32": REFERENCE},
        full=True,
    ),
    _linux(
        "ppc64el",
        "powerpc64le-unknown-linux-gnu",
        ("powerpc64", "little", 64),
        "powerpc64le-linux-gnu",
        "ppc64le",
        {"power9": REFERENCE},
        full=True,
    ),
    _linux(
        "riscv64",
        "riscv64gc-unknown-linux-gnu",
        ("riscv64", "little", 64),
        "riscv64-linux-gnu",
        "riscv64",
        {"rv64": REFERENCE},
        full=True,
    ),
    Target(
        "wasm32",
        "wasm32-wasip1",
        ("wasm32", "little", 32),
        (Cpu("node", ("node", "--no-warnings", str(WASI)), (*REFERENCE, "simd128")),),
        {"wasm-ld-22": "lld-22", "/usr/lib/wasm32-wasi/libc.a": "wasi-libc", "node": "nodejs"},
        linker="wasm-ld-22",
        options=("-Ctarget-feature=+simd128",),
        full=True,
    ),
)


def chosen(names: Iterable[str], full: bool) -> list[Target]:
    """The targets called `names`, or else those of a short or a full run, in order of the table.

    Raises:
        CrossError: A name is unknown.
    """
    wanted, known = set(names), {target.name for target in TARGETS}
    if unknown := sorted(wanted - known):
        raise CrossError(f"--only {unknown[0]}: there is {', '.join(sorted(known))}")
    return [target for target in TARGETS if (target.name in wanted if wanted else full or not target.full)]


def backends(cpu: Cpu, cpuinfo: str) -> tuple[str, ...]:
    """The kernel sets that must run on `cpu`, slowest first; `cpuinfo` is the text of /proc/cpuinfo."""
    if cpu.backends is not None:
        return cpu.backends
    return (*REFERENCE, *x86_64_sets(cpuinfo))
