"""Plants one fault at a time in a copy of the sources and demands that the suite finds it.

Run from the root of the repository: `python -m tests.faults.planted`. Prints which test or case found which fault; exit
status 1 when one goes unseen. Part of `make test-full`, because every fault is a build of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Fault(NamedTuple):
    """One wrong change.

    Attributes:
        what: For the report.
        path: The file.
        right: Text that stands there exactly once.
        wrong: What replaces it.
        tests: Arguments of `cargo test`; none for the conformance suite, which names its cases.
        target: Where `make cross` runs the conformance suite; this machine where it is empty.
    """

    what: str
    path: str
    right: str
    wrong: str
    tests: tuple[str, ...] = ()
    target: str = ""


FAULTS = (
    Fault(
        "kernel: AVX-512 multiplies the second half of a group by the codes of the first",
        "rust/core/kernels/x86_64/avx512vnni.rs",
        "_mm512_dpbusd_epi32(acc, codes[from + i], x)",
        "_mm512_dpbusd_epi32(acc, codes[i], x)",
        ("-p", "intact", "--test", "check_kernels"),
    ),
    Fault(
        "kernel: AVX2 adds up pairs with a bit too many",
        "rust/core/kernels/x86_64/avx2.rs",
        "acc = _mm256_add_epi32(acc, _mm256_madd_epi16(short, _mm256_set1_epi16(1)));",
        "acc = _mm256_add_epi32(acc, _mm256_madd_epi16(short, _mm256_set1_epi16(3)));",
    ),
    Fault(
        "kernel: NEON rounds powers of two down",
        "rust/core/kernels/aarch64/neon_math.rs",
        "let m = vrsraq_n_u32::<16>(",
        "let m = vsraq_n_u32::<16>(",
        target="arm64",
    ),
    Fault(
        "kernel: the reference drops the last bit of attention weights",
        "rust/core/ops/attention.rs",
        "let (high, low) = (w >> 11, w & 2047);",
        "let (high, low) = (w >> 11, w & 2046);",
    ),
    Fault(
        "rule: shifts round half down",
        "rust/core/fixed.rs",
        "if s == 0 { v } else { (v + (1i64 << (s - 1))) >> s }",
        "if s == 0 { v } else { (v + (1i64 << (s - 1)) - 1) >> s }",
    ),
    Fault(
        "vectors: one bit of one result",
        "tests/vectors/primitives.json",
        '{"args":{"v":4611686018427387904},"result":2147483647}',
        '{"args":{"v":4611686018427387904},"result":2147483646}',
    ),
    Fault(
        "vectors: one digit of one published digest",
        "tests/vectors/conformance.json",
        '"ops/rope": "',
        '"ops/rope": "0',
    ),
    Fault(
        "op: rms_norm rounds its mean of squares down",
        "rust/core/ops/rms_norm.rs",
        "let v = rshr(i64::from(x), t) as i32;",
        "let v = (x >> t) as i32;",
    ),
    Fault(
        "op: rope turns the other way",
        "rust/core/ops/rope.rs",
        "(sat(rshr(a * c - b * s, 30)), sat(rshr(a * s + b * c, 30)))",
        "(sat(rshr(a * c + b * s, 30)), sat(rshr(b * c - a * s, 30)))",
    ),
    Fault(
        "converter: transcribed scales are rounded down",
        "rust/quantize/encode/transcribe.rs",
        "from.map_or(0, |scale| round(scale / unit) as i32)",
        "from.map_or(0, |scale| (scale / unit) as i32)",
        ("-p", "intact", "-p", "intact-quantize"),
    ),
    Fault(
        "sampler: the threshold is inclusive",
        "rust/core/ops/sample.rs",
        "ranked.shortest(|sum| sum > x)",
        "ranked.shortest(|sum| sum >= x)",
    ),
    Fault(
        "scheduler: a continuation shares one page of its prompt too many",
        "rust/engine/scheduler.rs",
        "let full = (prompt - 1) / page;",
        "let full = prompt.div_ceil(page);",
        ("-p", "intact", "--test", "equality"),
    ),
)


def main() -> int:
    """Tries every fault."""
    unseen = 0
    with tempfile.TemporaryDirectory(prefix="intact-faults-") as scratch:
        copy = Path(scratch) / "copy"
        ignore = shutil.ignore_patterns("target", ".venv", ".git", "build", "dist", "*.so", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignore)
        environment = {**os.environ, "CARGO_TARGET_DIR": str(Path(scratch) / "target")}
        for fault in FAULTS:
            file = copy / fault.path
            text = file.read_text()
            if text.count(fault.right) != 1:
                print(f"{fault.what}: {fault.path} holds {text.count(fault.right)} times {fault.right!r}")
                return 2
            file.write_text(text.replace(fault.right, fault.wrong))
            found = run(fault, copy, environment)
            file.write_text(text)
            print(f"{fault.what}: {found or 'NOT FOUND'}", flush=True)
            unseen += not found
    return 1 if unseen else 0


def run(fault: Fault, copy: Path, environment: dict[str, str]) -> str:
    """The names of the tests or cases that fail, or nothing when all pass."""
    if fault.target:
        return emulated(fault.target, copy)
    if not fault.tests:
        return differing(copy, environment)
    command = ["cargo", "test", "--locked", *fault.tests]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    if result.returncode and "test result: FAILED" not in output:
        raise SystemExit(f"{fault.what}: the suite did not run\n{output[-2000:]}")
    failed = [line.split()[1] for line in output.splitlines() if line.startswith("test ") and line.endswith("FAILED")]
    return ", ".join(failed) if result.returncode else ""


def differing(copy: Path, environment: dict[str, str]) -> str:
    """The cases of the conformance suite that differ, with the back ends that they differ on."""
    command = ["cargo", "run", "--quiet", "--locked", "--package", "intact-conformance", "--", "machine", "--json"]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if not result.stdout.startswith("{"):
        raise SystemExit(f"the conformance suite did not run\n{result.stderr[-2000:]}")
    report = json.loads(result.stdout)
    if report["equal"]:
        return ""
    backends = [backend for backend in report["backends"] if backend["ran"]]
    cases = {problem["case"] for backend in backends for problem in backend["differs"]}
    where = [backend["name"] for backend in backends if backend["differs"]]
    return f"{summary(sorted(cases) + report['damaged'])} (on {', '.join(where) or 'every back end'})"


def emulated(target: str, copy: Path) -> str:
    """The problems that `make cross` finds on a target; standard libraries that were built for it are used again."""
    for sysroot in (ROOT / "build" / "cross").glob("rust-*/sysroot"):
        link = copy / sysroot.relative_to(ROOT)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sysroot)
    table = copy / "build" / "cross" / "table.json"
    command = [sys.executable, "-m", "tests.cross", "--only", target]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if not table.is_file():
        raise SystemExit(f"make cross did not run\n{result.stderr[-2000:]}")
    problems = json.loads(table.read_text())["problems"]
    return summary([problem.split(" differs: ")[0] for problem in problems if " differs: " in problem])


def summary(found: list[str]) -> str:
    """The first of what was found, and how many there are."""
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")


if __name__ == "__main__":
    sys.exit(main())
