"""The self-test of no_float.py: each planted float is found where it hides, and integer code passes.

A scratch workspace is compiled in which `rust/core` (crate intact_core) holds one way of using floats at a time.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

from no_float import AARCH64, X86, CheckError, Finding, check

FLOAT = {
    X86: "addss mulsd vaddps vfmadd231ps vfnmadd132sd cvtsi2sd vcvttps2dq ucomisd vcmpneqps cmpltss divps sqrtsd rcpps "
    "vrsqrt14ps roundss maxps vminsd haddpd fadd fild fstp vdpbf16ps vaddph vrndscaleps dpps subsd vcomish",
    AARCH64: "fadd fmla fcvtzs scvtf ucvtf fcmp fmul fdiv fsqrt fmadd frintn bfdot bfmmla bfcvt fmaxnm",
}
INTEGER = {
    X86: "add sub imul idiv cmp cmps cmpxchg16b movss movsd movaps vmovups vxorps andps orpd vpermilps unpcklps shufps "
    "vblendvps vpmaxsd pminsd vpaddd vpmaddwd vpdpbusd vphaddd vpsubd vbroadcastss vinsertf128 fxsave cmovs divb",
    AARCH64: "add mul sdot udot smmla fmov sqrdmulh bfi bfxil bfc sbfx uxtb addv smaxv",
}

INTEGERS = """
#[inline(never)]
pub fn sum(x: &[i32]) -> i64 { x.iter().map(|&v| i64::from(v) * 3).sum::<i64>() >> 2 }
#[inline]
pub fn apply<F: Fn(u32) -> u32>(n: u32, f: F) -> u32 { (0..n).map(f).fold(0, u32::wrapping_add) }
"""
PLANTED = {
    "a function of its own": """
        #[inline(never)]
        pub fn planted(x: u32) -> u32 { (f32::from_bits(x) * 1.5).to_bits() }
    """,
    "a conversion": """
        #[inline(never)]
        pub fn planted(x: u32) -> u32 { (x as f32).to_bits() }
    """,
    "a comparison": """
        #[inline(never)]
        pub fn planted(x: u32) -> u32 { u32::from(f32::from_bits(x) < f32::from_bits(!x)) }
    """,
    "inlined into another crate": """
        #[inline(always)]
        pub fn planted(x: u32) -> u32 { (f32::from_bits(x) + 1.5).to_bits() }
    """,
    "a closure that the standard library runs": """
        #[inline(never)]
        pub fn planted(x: u32) -> u32 {
            let mut keys: Vec<u32> = (0..x).collect();
            keys.sort_by(|a, b| f32::from_bits(*a).total_cmp(&(f32::from_bits(*b) / 3.0)));
            keys[0]
        }
    """,
    "a call of libm": """
        #[inline(never)]
        pub fn planted(x: u64) -> u64 { f64::from_bits(x).exp().to_bits() }
    """,
}
CALLER = """
#[unsafe(no_mangle)]
pub extern "C" fn entry(x: u32) -> u32 { intact_core::planted(x.into()) as u32 ^ intact::hash(x) }
#[unsafe(no_mangle)]
pub extern "C" fn total(x: &[i32; 64]) -> i64 { intact_core::sum(x) }
"""
# The quantizer's own floats, even where the engine runs its closures, are no fault.
QUANTIZER = """
#[unsafe(no_mangle)]
pub extern "C" fn entry(n: u32) -> u32 {
    intact_core::apply(n, |i| (f32::from_bits(i) * 1.5).to_bits()) ^ intact::hash(n)
}
#[unsafe(no_mangle)]
pub extern "C" fn total(x: &[i32; 64]) -> i64 { intact_core::sum(x) }
"""
ENGINE = "#[inline(never)]\npub fn hash(x: u32) -> u32 { intact_core::apply(x, |i| i.wrapping_mul(0x9E37_79B9)) }"


def self_test() -> int:
    """0 when the checker reports every planted float and nothing else."""
    faults = [
        f"{mnemonic}: not taken for a float instruction"
        for machine, mnemonics in FLOAT.items()
        for mnemonic in mnemonics.split()
        if not machine.fullmatch(mnemonic)
    ]
    faults += [
        f"{mnemonic}: taken for a float instruction"
        for machine, mnemonics in INTEGER.items()
        for mnemonic in mnemonics.split()
        if machine.fullmatch(mnemonic)
    ]
    for name, source in PLANTED.items():
        found = {fault.owner for fault in _check_scratch(INTEGERS + source, CALLER, "rust/python/lib.rs")}
        if found != {"intact_core"}:
            faults.append(f"{name}: reported for {sorted(found) or 'no crate'} instead of intact_core")
    for fault in _check_scratch(INTEGERS, QUANTIZER, "rust/quantize/lib.rs"):
        faults.append(f"a closure of the quantizer: reported as {fault}")
    for name, option in {"without symbols": "-Cstrip=symbols", "without line tables": "-Cstrip=debuginfo"}.items():
        with contextlib.suppress(CheckError):
            _check_scratch(INTEGERS, QUANTIZER, "rust/quantize/lib.rs", option)
            faults.append(f"a file {name}: accepted")
    for line in faults:
        print(f"no_float --self-test: {line}", file=sys.stderr)
    print(f"no_float --self-test: {len(PLANTED) + 3} crates, {len(faults)} faults")
    return 1 if faults else 0


def _check_scratch(core: str, top: str, top_path: str, *options: str) -> list[Finding]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve()
        for path, source in {"rust/core/lib.rs": core, "rust/engine/lib.rs": ENGINE, top_path: top}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(source)
        library = root / "library.so"
        _compile(root, "rust/core/lib.rs", "--crate-name=intact_core", "--crate-type=rlib")
        _compile(root, "rust/engine/lib.rs", "--crate-name=intact", "--crate-type=rlib")
        _compile(root, top_path, "--crate-name=top", "--crate-type=cdylib", f"-o{library}", *options)
        return check(library, root).faults()


def _compile(root: Path, source: str, *options: str) -> None:
    command = ["rustc", "--edition=2024", "-Copt-level=3", "-Cdebuginfo=line-tables-only", "-L.", source, *options]
    if "intact_core" not in options[0]:
        command += ["--extern=intact_core=libintact_core.rlib"]
    if "top" in options[0]:
        command += ["--extern=intact=libintact.rlib"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckError(f"rustc {source}: {done.stderr}")
