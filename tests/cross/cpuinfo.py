"""What this machine's CPU must be able to run, told without the program under test."""

from .shell import CrossError

X86_64_SETS = {
    "sse4.1": (frozenset({"ssse3", "sse4_1"}),),
    "avx2": (frozenset({"avx2"}),),
    "avxvnni": (frozenset({"avx2", "avx_vnni"}), frozenset({"avx2", "avx512f", "avx512vl", "avx512_vnni"})),
    "avx512vnni": (frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),),
}
"""Flags of /proc/cpuinfo that each kernel set of x86-64 needs, in one way or another, slowest set first."""


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
    return tuple(name for name, ways in X86_64_SETS.items() if any(needs <= present for needs in ways))
