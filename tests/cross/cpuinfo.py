"""What this machine's CPU must be able to run, told without the program under test."""

from .shell import CrossError

X86_64_SETS = {
    "avx2": frozenset({"avx2"}),
    "avx512vnni": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
}
"""Flags of /proc/cpuinfo that each kernel set of x86-64 needs, slowest set first."""


def flags(text: str) -> frozenset[str]:
    """The flags that every processor of /proc/cpuinfo has.

    Raises:
        CrossError: There are none, as on another architecture.
    """
    lines = (line.partition(":") for line in text.splitlines())
    processors = [frozenset(value.split()) for key, _, value in lines if key.strip() == "flags"]
    if not processors:
        raise CrossError("/proc/cpuinfo has no flags of x86: `make cross` runs on x86-64 Linux")
    return frozenset.intersection(*processors)


def x86_64_sets(text: str) -> tuple[str, ...]:
    """The kernel sets beside the reference that this CPU has the instructions for."""
    present = flags(text)
    return tuple(name for name, needs in X86_64_SETS.items() if needs <= present)
