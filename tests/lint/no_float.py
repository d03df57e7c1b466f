#!/usr/bin/env python3
"""Proves that the compiled engine holds no floating-point instruction.

    no_float.py python/intact/_native.abi3.so      check a shared library or executable
    no_float.py --self-test                        check this checker, on crates with planted floats

The file is disassembled whole, and every floating-point instruction in it (arithmetic, comparison, conversion, x87;
x86-64 and AArch64) and every call of a libm or soft-float routine is put down to the crate whose source it comes
from. DWARF line tables say which: an instruction has a stack of inlined frames, and the innermost one outside the
standard library owns it. So engine code that was inlined into a standard iterator, or monomorphised in another crate,
is found, and a closure of the quantizer that runs on the engine's thread pool is the quantizer's. Code without line
tables belongs to the crate that its symbol names. One instruction owned by `intact_core` or `intact` is an error.

What is left out, and why that is sound:
* Moves, shuffles, blends and bitwise operations on vector registers: integer code uses them too, and they are exact.
* Other crates. The quantizer computes with floats before a model is written. serde_json reads decimal fractions of
  foreign JSON files; tests/tidy.rs sees to it that the engine's sources have no type to take one in.
* Code that is not in the file: the Python extension links every kernel of the machine that builds it and everything
  that Python can call. `make test-full` checks the engine as a dylib too, which holds every public function.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Where a crate's sources lie, below the repository root.
SOURCES = {
    "rust/core/": "intact_core",
    "rust/engine/": "intact",
    "rust/quantize/": "intact_quantize",
    "rust/python/": "_native",
}
INTEGER_ONLY = ("intact_core", "intact")

X86 = re.compile(
    r"""
    f(?!xsave|xrstor|wait)\w+                                       # x87
    | v(?:f|fn)m(?:add|sub)\w+ | v?cvt\w+                           # fused multiply-add, conversion
    | v?(?: add | sub | mul | div | min | max | r?sqrt\w* | rcp\w* | u?comi | cmp\w* | round | addsub | hadd
        | hsub | dp | rndscale | scalef | reduce | range | get(?:exp|mant) | fixupimm | minmax | fc?mulc | fc?maddc )
      (?: [sp][sdh] | [np]?e?p?bf16 | sbf16 )
    | vfpclass\w+ | vdpbf16ps | vdpphps | tdp(?:bf16|fp16)ps | tcmm\w+fp16ps | pf\w+ | pi2f\w
    """,
    re.VERBOSE,
)
AARCH64 = re.compile(r"f(?!mov$)\w+ | [su]cvtf\w* | bf(?:dot|mmla|mlal|mlsl|cvt|add|sub|mul|m(?:ax|in))\w*", re.VERBOSE)
MNEMONICS = {"x86-64": X86, "aarch64": AARCH64}
ROUTINE = re.compile(
    r"""<(
      (?: a?(?:sin|cos|tan)h? | sincos | atan2 | exp(?:2|10|m1)? | log(?:2|10|1p)? | pow | sqrt | cbrt | hypot | fma
        | fmod | remainder | round(?:even)? | floor | ceil | trunc | n?rint | nearbyint | ldexp | scalbn | [tl]gamma
        | erfc? | fmin | fmax | fdim )[fl]?
      | __(?: add | sub | mul | div | neg | pow | fix(?:uns)? | floatun | float | extend | trunc | eq | ne | [lg][te] )
          (?:[sd]i|ti|[hsdt]f){1,2}[2-4]? | __powi[sdt]f2
    )(?:@[\w.@]*)?>""",
    re.VERBOSE,
)
FUNCTION = re.compile(r"([0-9a-f]+) <(.*)>:")
PREFIX = r"(?:\{\w+\}|rex\S*|rep\w*|data16|addr32|lock|bnd|notrack|[c-gs]s)\s+"
INSTRUCTION = re.compile(rf"\s*([0-9a-f]+):\t(?:{PREFIX})*(\S+)\s*(.*)")
CALL = re.compile(r"call|jmp|bl?$")
STANDARD_LIBRARY = re.compile(r"/rustc/|/rust/deps/|.*/lib/rustlib/src/")
REGISTRY = re.compile(r".*/registry/src/[^/]+/([^/]+?)-\d[^/]*/")


class CheckError(Exception):
    """The file cannot be checked; nothing is known about its floats."""


@dataclass(frozen=True)
class Finding:
    """One floating-point instruction."""

    address: int
    instruction: str
    symbol: str
    owner: str
    place: str


@dataclass(frozen=True)
class Report:
    """What a file holds: floating-point instructions by owner, and how many functions of each integer crate."""

    findings: list[Finding]
    functions: Counter[str]

    def faults(self) -> list[Finding]:
        """The instructions that must not be there."""
        return [finding for finding in self.findings if finding.owner in INTEGER_ONLY]


def check(binary: Path, root: Path) -> Report:
    """Reads the shared library or executable `binary`, which was built from the sources below `root`."""
    hits: list[tuple[int, str, str]] = []
    functions: Counter[str] = Counter()
    entries: dict[str, list[int]] = {crate: [] for crate in INTEGER_ONLY}
    symbol = ""
    mnemonics = MNEMONICS[_machine(binary)]
    for line in _lines(["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", *_syntax(binary), str(binary)]):
        if (function := FUNCTION.match(line)) is not None:
            symbol = function[2]
            crate = _crate_of_symbol(symbol)
            functions[crate] += 1
            if crate in entries:
                entries[crate].append(int(function[1], 16))
        elif (found := INSTRUCTION.match(line)) is not None:
            mnemonic, operands = found[2], found[3]
            if mnemonics.fullmatch(mnemonic) or (CALL.match(mnemonic) and ROUTINE.search(operands)):
                hits.append((int(found[1], 16), f"{mnemonic} {operands}".strip(), symbol))
    for crate, addresses in entries.items():
        if not addresses:
            raise CheckError(f"{binary} has no function of {crate}: give the unstripped file that `make build` makes")
        if not any(place is not None and place[0] in INTEGER_ONLY for place in _places(binary, addresses, root)):
            raise CheckError(f"{binary} has no line table for {crate}, or was built from other sources than {root}")
    places = _places(binary, [address for address, _, _ in hits], root)
    findings = [
        Finding(address, instruction, symbol, *(place or (_crate_of_symbol(symbol), "?")))
        for (address, instruction, symbol), place in zip(hits, places, strict=True)
    ]
    return Report(findings, functions)


def _machine(binary: Path) -> str:
    header = "".join(_lines(["objdump", "--file-headers", str(binary)]))
    for machine in MNEMONICS:
        if machine in header:
            return machine
    raise CheckError(f"{binary} is for another machine than {' and '.join(MNEMONICS)}")


def _syntax(binary: Path) -> list[str]:
    return ["--disassembler-options=intel"] if _machine(binary) == "x86-64" else []


def _crate_of_symbol(symbol: str) -> str:
    """`intact_core` for `intact_core::ops::f` and for `<intact_core::T as core::fmt::Debug>::fmt`."""
    found = re.match(r"[<&*\[(]*(?:mut |dyn |const )*(\w+)(?:\[[0-9a-f]+\])?::", symbol)
    return found[1] if found is not None else ""


def _places(binary: Path, addresses: list[int], root: Path) -> list[tuple[str, str] | None]:
    """The owning crate and the source line of each address; None where the line tables do not tell."""
    if not addresses:
        return []
    # A file, not a pipe: addr2line answers while it reads, and a full pipe on either side would stop both.
    with tempfile.TemporaryFile("w+") as questions:
        questions.writelines(f"{address:#x}\n" for address in addresses)
        questions.seek(0)
        answers = list(_lines(["addr2line", "--addresses", "--inlines", "--exe", str(binary)], questions.fileno()))
    stacks: list[list[str]] = []
    for line in answers:
        if line.startswith("0x"):
            stacks.append([])
        else:
            stacks[-1].append(line.rsplit(":", 1)[0] + ":" + line.rsplit(":", 1)[1].split(" ")[0])
    return [_owner(stack, root) for stack in stacks]


def _owner(stack: list[str], root: Path) -> tuple[str, str] | None:
    """The innermost frame outside the standard library; the standard library itself where there is no other.

    A frame without a line (`fixed.rs:?`) is left out: the compiler made the instruction up from several places, and the
    file is whatever the table named last. The call that the next frame stands for does have a line.
    """
    frames = [frame for frame in stack if not frame.startswith("?") and not frame.endswith((":?", ":0"))]
    for frame in frames:
        if STANDARD_LIBRARY.match(frame):
            continue
        if (registry := REGISTRY.match(frame)) is not None:
            return registry[1].replace("-", "_"), frame
        path = os.path.relpath(frame, root)
        for directory, crate in SOURCES.items():
            if path.startswith(directory):
                return crate, path
        return None
    return ("std", frames[-1]) if frames else None


def _lines(command: list[str], stdin: int | None = None) -> Iterator[str]:
    """The output of a command, line by line."""
    if shutil.which(command[0]) is None:
        raise CheckError(f"{command[0]} is not installed (it is part of binutils)")
    with (
        tempfile.TemporaryFile("w+", errors="replace") as messages,
        subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=messages, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            yield line.rstrip("\n")
        if process.wait() != 0:
            messages.seek(0)
            raise CheckError(f"{command[0]}: {messages.read().strip()}")


def main() -> int:
    """The command line; 0 = no float, 1 = floats found, 2 = could not check."""
    parser = argparse.ArgumentParser(description="Proves that the compiled engine holds no floating-point instruction.")
    parser.add_argument("binary", type=Path, nargs="?", help="a release build with symbols and line tables")
    parser.add_argument("--self-test", action="store_true", help="check the checker on crates with planted floats")
    arguments = parser.parse_args()
    if arguments.self_test:
        from no_float_self_test import self_test

        return self_test()
    if arguments.binary is None:
        parser.error("name the file to check")
    try:
        report = check(arguments.binary, ROOT)
    except CheckError as error:
        print(f"no_float: {error}", file=sys.stderr)
        return 2
    for fault in report.faults():
        print(f"{fault.place}: {fault.instruction}  [{fault.symbol}, at {fault.address:#x}]", file=sys.stderr)
    counts = ", ".join(f"{crate} {report.functions[crate]}" for crate in INTEGER_ONLY)
    elsewhere = Counter(finding.owner for finding in report.findings if finding.owner not in INTEGER_ONLY)
    print(
        f"no_float: {arguments.binary}: functions read: {counts}; float instructions in them: {len(report.faults())}; "
        f"in other crates: {', '.join(f'{crate} {count}' for crate, count in sorted(elsewhere.items())) or 'none'}"
    )
    return 1 if report.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
