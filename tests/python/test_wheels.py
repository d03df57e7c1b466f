"""`tests.wheels`: what it calls a good wheel and an equal machine; building and emulating are `make wheels-test`."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.wheels import audit, installed, steps

SYMBOLS: dict[str, Any] = {"external_libs": {}, "versioned_symbols": {"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.17"]}}


def test_names() -> None:
    name = "intact-0.1.0-cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    assert audit.parse_name(name) == audit.WheelName(
        "intact", "0.1.0", "cp310", "abi3", ("manylinux2014_x86_64", "manylinux_2_17_x86_64")
    )
    for wrong in ("intact-0.1.0.tar.gz", "intact-0.1.0-cp310-abi3.whl", name.removesuffix(".whl")):
        with pytest.raises(steps.Failure, match="not the name of a wheel"):
            audit.parse_name(wrong)


def test_contents() -> None:
    package = audit.package_files()
    assert {"intact/py.typed", "intact/_native.pyi", "intact/_native.abi3.so", "intact/cli/__init__.py"} <= package
    assert not [name for name in package if "__pycache__" in name]
    info = "intact-1.dist-info"
    members = package | {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    members |= {f"{info}/licenses/{name}" for name in audit.LICENSES}
    assert audit.content_problems(members, "1", package) == []
    assert audit.content_problems(members - {"intact/py.typed"}, "1", package) == ["lacks intact/py.typed"]
    [problem] = audit.content_problems(members | {"intact/secret.txt"}, "1", package)
    assert problem.startswith("holds intact/secret.txt")


def test_symbols() -> None:
    assert audit.symbol_problems(SYMBOLS) == []
    assert audit.newest_glibc(SYMBOLS) == "2.17"
    newer = {**SYMBOLS, "versioned_symbols": {"libc.so.6": ["GLIBC_2.18"], "libpthread.so.0": ["GLIBC_2.3.4"]}}
    assert audit.symbol_problems(newer) == ["needs GLIBC_2.18 of libc.so.6"]
    assert audit.newest_glibc(newer) == "2.18"
    other = {"external_libs": {"libz.so.1": None}, "versioned_symbols": {"libssl.so.3": ["OPENSSL_3.0.0"]}}
    assert audit.symbol_problems(other) == ["needs the library libz.so.1", "needs the library libssl.so.3"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("order", "machine"), [("little", "aarch64"), ("little", "x86_64"), ("big", "s390x")])
def test_elf(order: Any, machine: str) -> None:
    number = audit.MACHINES[machine]
    header = b"\x7fELF\2" + (b"\1" if order == "little" else b"\2") + bytes(12) + number.to_bytes(2, order)
    assert audit.elf_machine(header) == number
    assert audit.elf_machine(header[:-1]) == audit.elf_machine(b"MZ" + header) == audit.elf_machine(b"") == 0


def test_comparison() -> None:
    native = {"hash": {"all": "ab"}}
    assert installed.problem_of({"check": "hash", "value": {"all": "ab"}}, native) == ""
    assert installed.problem_of({"check": "hash", "value": 1}, None) == ""
    assert "differs" in installed.problem_of({"check": "hash", "value": {"all": "ac"}}, native)
    assert "no value" in installed.problem_of({"check": "text", "value": 1}, native)
    for values in (native, None):
        assert installed.problem_of({"check": "hash", "error": "Traceback\nValueError: x"}, values).startswith("ValueE")


def test_reports() -> None:
    printed = 'a warning\n{"machine": {"machine": "m"}, "kernels": ["reference"]}\n{"check": "a", "value": 1}\n'
    report = installed.parse(printed)
    assert (report.machine, report.kernels) == ({"machine": "m"}, ["reference"])
    assert report.checks == [{"check": "a", "value": 1}]
    with pytest.raises(steps.Failure, match="no report"):
        installed.parse("a warning\n")


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    table = steps.Table()
    with table.check("one") as line:
        line.result, line.seconds = "fine", 1.5
    with table.check("two"):
        raise steps.Failure("broken\nbecause")
    with pytest.raises(steps.Stopped), table.step("three"):
        raise steps.Failure("broken too")
    assert table.failed == 2
    out, err = capsys.readouterr()
    rows = [" ".join(row.split()) for row in out.splitlines()]
    assert rows == ["one 1.5 s fine", "two 0.0 s FAILED: broken", "three 0.0 s FAILED: broken too"]
    assert err == "because\n"


def test_programs() -> None:
    python = sys.executable
    assert steps.run([python, "-c", "print(1)"]) == "1\n"
    with pytest.raises(steps.Failure, match="ended with 3"):
        steps.run([python, "-c", "raise SystemExit(3)"])
    with pytest.raises(steps.Failure, match="not found"):
        steps.run(["no-such-program-anywhere"])
    with pytest.raises(steps.Failure, match="still running after 0 s"):
        steps.run([python, "-c", "import time; time.sleep(60)"], timeout=0.2)
