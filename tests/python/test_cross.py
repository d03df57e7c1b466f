"""The parts of `make cross` that need neither a compiler nor an emulator."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cross import __main__ as cross
from tests.cross import cpuinfo, packages, program, shell, table, targets, verdict
from tests.cross.shell import CrossError
from tests.cross.sysroot import Sysroot
from tests.cross.targets import REFERENCE, TARGETS, Cpu, Target

CASES = {"ops/rope": "aa", "models/llama": "bb", "domains/exp2": "cc"}
# Of the lines `domains/exp2 cc`, `models/llama bb`, `ops/rope aa`, by sha256sum.
DIGEST = "74dc206fe7bd719d0dfb0342fdb790ea20005bb4d9c9a5b646ead7c2e4291797"
AVX2_CPU = "processor\t: 0\nflags\t\t: fpu sse2 avx2\n\nprocessor\t: 1\nflags\t\t: fpu sse2 avx2 avx512f\n"
AVX512_CPU = "flags : ssse3 sse4_1 avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni\n"


def backend(name: str, **changes: Any) -> dict[str, Any]:
    whole = {"cases": len(CASES), "skipped": [], "differs": [], "digest": DIGEST, "milliseconds": 1234}
    return {"name": name, "ran": True, **whole, **changes}


def absent(name: str) -> dict[str, Any]:
    return {"name": name, "ran": False, "reason": "no such CPU"}


def target(name: str) -> Target:
    return next(target for target in TARGETS if target.name == name)


def run_of(name: str, cpu: str, *backends: dict[str, Any], status: int = 0, **changes: Any) -> program.Run:
    where = target(name)
    arch, endian, bits = where.machine
    report = {
        "contract": 1,
        "machine": {"arch": arch, "endian": endian, "pointer_bits": bits},
        "backends": list(backends),
        "damaged": [],
        "cases": CASES,
        "expected": DIGEST,
        "equal": True,
    }
    (model,) = (model for model in where.cpus if model.name == cpu)
    return program.Run(where, model, report | changes, status, "what it said", 2.5)


def good() -> list[program.Run]:
    return [
        run_of("x86-64", "native", backend("reference"), backend("avx2"), absent("avx512vnni")),
        run_of("x86-64", "qemu64", backend("reference"), absent("avx2"), absent("avx512vnni")),
        run_of("s390x", "max", backend("reference")),
    ]


def judged(*runs: program.Run) -> verdict.Verdict:
    return verdict.judge(list(runs), AVX2_CPU, [])


def test_the_digest_of_all_is_that_of_sorted_lines() -> None:
    assert verdict.digest_of_all(CASES) == DIGEST
    assert verdict.digest_of_all(dict(reversed(CASES.items()))) == DIGEST


def test_targets_differ_in_name_and_triple_and_have_a_linker_among_their_packages() -> None:
    assert len({target.name for target in TARGETS}) == len({target.triple for target in TARGETS}) == len(TARGETS)
    for where in TARGETS:
        names = [cpu.name for cpu in where.cpus]
        assert names and len(set(names)) == len(names)
        assert where.linker is None or where.linker in where.packages
        assert all(cpu.command[0] in where.packages for cpu in where.cpus if cpu.command)
        assert all(cpu.backends is None or cpu.backends[0] == "reference" for cpu in where.cpus)


def test_targets_are_both_byte_orders_and_both_pointer_widths_without_full() -> None:
    machines = {target.machine[1:] for target in targets.chosen([], full=False)}
    assert {("little", 64), ("big", 64), ("little", 32)} <= machines


def test_choosing_targets() -> None:
    short, full = targets.chosen([], full=False), targets.chosen([], full=True)
    assert full == list(TARGETS)
    assert [target for target in full if not target.full] == short
    assert len(short) < len(full)
    assert [target.name for target in targets.chosen(["wasm32", "arm64"], full=False)] == ["arm64", "wasm32"]
    with pytest.raises(CrossError, match=r"--only vax: there is .*s390x"):
        targets.chosen(["arm64", "vax"], full=True)


def test_cpuinfo_names_the_sets_of_every_processor() -> None:
    assert cpuinfo.flags(AVX2_CPU) == {"fpu", "sse2", "avx2"}
    assert cpuinfo.x86_64_sets(AVX2_CPU) == ("avx2",)
    assert cpuinfo.x86_64_sets(AVX512_CPU) == ("sse4.1", "avx2", "avxvnni", "avx512vnni")
    assert cpuinfo.x86_64_sets(AVX512_CPU.replace("avx512bw", "")) == ("sse4.1", "avx2", "avxvnni")
    assert cpuinfo.x86_64_sets(AVX512_CPU.replace("avx512_vnni", "")) == ("sse4.1", "avx2")
    assert cpuinfo.x86_64_sets("flags : avx2 avx_vnni") == ("avx2", "avxvnni")
    assert cpuinfo.x86_64_sets("flags : ssse3 avx_vnni") == ()
    assert cpuinfo.x86_64_sets("flags : fpu") == ()
    with pytest.raises(CrossError, match="no flags of x86"):
        cpuinfo.flags("Features : asimd\nvmx flags : ept\n")


def test_a_model_has_the_sets_of_the_table_and_this_machine_those_of_its_cpu() -> None:
    assert targets.backends(Cpu("Haswell", ("qemu-x86_64",), (*REFERENCE, "avx2")), "") == ("reference", "avx2")
    assert targets.backends(Cpu("native", (), None), AVX512_CPU) == (
        "reference",
        "sse4.1",
        "avx2",
        "avxvnni",
        "avx512vnni",
    )


def test_equal_runs_are_no_problem() -> None:
    found = judged(*good())
    assert found.problems == ()
    assert (found.contract, found.digest, found.cases) == (1, DIGEST, CASES)
    assert found.absent == {"avx512vnni": "no such CPU"}, "avx2 ran in one place"
    assert [(row.target, row.cpu, row.backend) for row in found.rows] == [
        ("x86-64", "native", "reference"),
        ("x86-64", "native", "avx2"),
        ("x86-64", "qemu64", "reference"),
        ("s390x", "max", "reference"),
    ]
    assert found.rows[0].seconds == 1.2


FAULTS: dict[str, tuple[program.Run, str]] = {
    "a case differs": (
        run_of("s390x", "max", backend("reference", differs=[{"case": "ops/rope", "problem": "[1], not [2]"}])),
        r"s390x on max, reference: ops/rope differs: \[1\], not \[2\]",
    ),
    "the digest differs": (run_of("s390x", "max", backend("reference", digest="00")), "the digest is 00, not"),
    "a case is missing": (run_of("s390x", "max", backend("reference", cases=2)), "2 cases ran, not 3"),
    "a case was skipped": (
        run_of("s390x", "max", backend("reference", skipped=[{"case": "ops/rope", "reason": "no memory"}])),
        "ops/rope was skipped: no memory",
    ),
    "a back end did not run": (
        run_of("x86-64", "Haswell", backend("reference"), backend("sse4.1"), absent("avx2")),
        "x86-64 on Haswell: avx2 must run there and did not",
    ),
    "a back end of this machine did not run": (
        run_of("x86-64", "native", backend("reference"), absent("avx2")),
        "x86-64 on native: avx2 must run there and did not",
    ),
    "a back end ran that should not": (
        run_of("s390x", "max", backend("reference"), backend("vector")),
        "vector ran, which the table of targets does not expect there",
    ),
    "another machine": (
        run_of(
            "s390x", "max", backend("reference"), machine={"arch": "x86_64", "endian": "little", "pointer_bits": 64}
        ),
        r"the machine is \('x86_64', 'little', 64\), not \('s390x', 'big', 64\)",
    ),
    "damaged vectors": (run_of("s390x", "max", damaged=["ops.json: changed"]), "not those published: .*ops.json"),
    "other vectors": (
        run_of("s390x", "max", backend("reference"), cases=CASES | {"ops/rope": "dd"}),
        "not those of the other programs",
    ),
    "another contract": (run_of("s390x", "max", backend("reference"), contract=2), "not those of the other programs"),
    "the status alone": (run_of("s390x", "max", backend("reference"), status=1), "ended with status 1: what it said"),
    "not equal": (run_of("s390x", "max", backend("reference"), equal=False), "ended with status 0"),
    "no back ends": (run_of("s390x", "max", backends=[]), "reference must run there and did not"),
    "another form": (run_of("s390x", "max", {"name": "reference"}), "not of the form that is expected here"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault: str) -> None:
    run, message = FAULTS[fault]
    found = judged(*good()[:2], run)
    text = "\n".join(found.problems)
    assert re.search(message, text), text
    assert "PROBLEM" in table.text(found)


def test_what_gave_no_report_is_a_problem() -> None:
    found = verdict.judge(good(), AVX2_CPU, ["arm64 on max: it did not end"])
    assert found.problems == ("arm64 on max: it did not end",)
    assert "no run has published digests" in verdict.judge([], AVX2_CPU, []).problems


def test_the_table_is_aligned_and_ends_with_the_conclusion() -> None:
    lines = table.text(judged(*good())).splitlines()
    assert lines[0].split() == ["target", "CPU", "model", "back", "end", "cases", "digest", "seconds"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[1].split() == ["x86-64", "native", "reference", "3", DIGEST[:16], "1.2"]
    assert lines[5:] == [
        "ran nowhere: avx512vnni (no such CPU)",
        f"4 configurations of contract 1, one digest: {DIGEST}",
    ]


def test_the_conclusion_counts_digests_and_problems() -> None:
    found = judged(*good(), run_of("armhf", "cortex-a15", backend("reference", digest="00")))
    assert table.conclusion(found) == "5 configurations of contract 1, 2 digests; 1 PROBLEMS"


def test_markdown_has_the_same_cells() -> None:
    lines = table.markdown(judged(*good()), ["rustc 1.2.3"]).splitlines()
    assert lines[0] == "| target | CPU model | back end | cases | digest | seconds |"
    assert lines[1] == "| --- | --- | --- | ---: | --- | ---: |"
    assert lines[2] == f"| x86-64 | `native` | `reference` | 3 | `{DIGEST[:16]}` | 1.2 |"
    assert lines[-1] == "- rustc 1.2.3"


def test_missing_tools_are_named_by_package(tmp_path: Path) -> None:
    here = tmp_path / "crt1.o"
    needs = {"no-such-command": "b", str(here): "a", Path(sys.executable).as_posix(): "c"}
    assert packages.missing([needs, {"no-such-command-either": "b"}]) == ["a", "b"]
    here.touch()
    assert packages.missing([needs]) == ["b"]


def test_what_cannot_be_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: "/bin/cargo" if name == "cargo" else None)
    with pytest.raises(CrossError, match=r"apt-get is missing.*gcc-s390x-linux-gnu.*qemu-user"):
        packages.install([target("s390x")])
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(CrossError, match="cargo is missing"):
        packages.install([])


def test_an_installation_that_brings_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(packages, "COMPILER", {})
    monkeypatch.setattr(packages, "present", lambda tool: False)
    monkeypatch.setattr(packages, "run", lambda command, what: commands.append(list(command)))
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(CrossError, match="lld-22, nodejs, wasi-libc: installed, but without"):
        packages.install([target("wasm32")])
    assert commands[-1][-5:] == ["--yes", "--no-install-recommends", "lld-22", "nodejs", "wasi-libc"]


def test_compiler_and_sources_are_of_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = iter(["1.96.0-1", "1.95.0-1"])
    monkeypatch.setattr(packages, "output", lambda command, what: next(versions))
    with pytest.raises(CrossError, match=r"rustc-web 1\.96\.0-1 and rust-web-src 1\.95\.0-1 differ"):
        packages.compiler()


def test_a_sysroot_belongs_to_one_compiler(tmp_path: Path) -> None:
    one, other = Sysroot(tmp_path, "rustc 1"), Sysroot(tmp_path, "rustc 2")
    assert one.path == Sysroot(tmp_path, "rustc 1").path != other.path
    assert one.flags(target("x86-64")) == []
    assert one.flags(target("s390x")) == [f"--sysroot={one.path}"]
    assert one.flags(target("wasm32"))[0] == "-Ctarget-feature=+simd128"


def test_programs_that_fail_are_errors(tmp_path: Path) -> None:
    where = target("s390x")

    def run(code: str) -> program.Run:
        return program.run_on(where, Cpu("python", (sys.executable, "-c", code), REFERENCE), tmp_path / "program")

    found = run("import sys; print('{\"equal\": true}'); print(*sys.argv[1:], file=sys.stderr); sys.exit(1)")
    assert (found.report, found.status) == ({"equal": True}, 1)
    assert found.errors == f"{tmp_path / 'program'} machine --threads 1 --json"
    with pytest.raises(CrossError, match="s390x on python: status 3 and no report: qemu: no such CPU"):
        run("import sys; print('qemu: no such CPU', file=sys.stderr); sys.exit(3)")
    with pytest.raises(CrossError, match="status 0 and no report: it said nothing"):
        run("pass")
    with pytest.raises(CrossError, match="no report: 7"):
        run("print(7)")
    with pytest.raises(CrossError, match="no-such-emulator cannot be started"):
        program.run_on(where, Cpu("none", ("no-such-emulator",), REFERENCE), tmp_path)


def test_a_program_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "TIMEOUT", 0.2)
    cpu = Cpu("slow", (sys.executable, "-c", "import time; time.sleep(60)"), REFERENCE)
    with pytest.raises(CrossError, match=r"s390x on slow: it did not end within 0\.2 s"):
        program.run_on(target("s390x"), cpu, tmp_path)


def test_one_failure_does_not_hide_other_runs(tmp_path: Path) -> None:
    places = [(where, cpu) for where in TARGETS for cpu in where.cpus]

    def run_on(where: Target, cpu: Cpu, path: Path) -> program.Run:
        if cpu.name == "Nehalem":
            raise CrossError("no emulator")
        return program.Run(where, cpu, {"path": path}, 0, "", 0.0)

    programs = {where.triple: tmp_path / where.triple for where in TARGETS}
    runs, failures = cross.run_all(places, programs, 3, run_on)
    assert failures == ["no emulator"]
    assert [(run.target, run.cpu) for run in runs] == [place for place in places if place[1].name != "Nehalem"]
    assert all(run.report["path"] == programs[run.target.triple] for run in runs)


def test_commands_that_fail_are_errors() -> None:
    with pytest.raises(CrossError, match=r"a step: .* ended with status 3"):
        shell.run((sys.executable, "-c", "raise SystemExit(3)"), "a step")
    with pytest.raises(CrossError, match="a step: no-such-command cannot be started"):
        shell.run(("no-such-command",), "a step")
    with pytest.raises(CrossError, match=r"(?s)a step: .* ended with status 1: .*ValueError: why"):
        shell.output((sys.executable, "-c", "raise ValueError('why')"), "a step")
    assert shell.output((sys.executable, "-c", "print(5)"), "a step") == "5\n"


def test_settings_of_cargo_do_not_reach_the_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_PROFILE_RELEASE_LTO", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("CARGO_HTTP_CAINFO", "kept")
    environment = shell.cargo_environment(RUSTC="/usr/bin/rustc")
    assert environment["RUSTC"] == "/usr/bin/rustc"
    assert environment["CARGO_HTTP_CAINFO"] == "kept"
    assert [value for value in environment.values() if value == "x"] == []


def test_unknown_targets_end_with_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cross.main(["--only", "vax"]) == 1
    assert "make cross: --only vax: there is" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cross.main(["--jobs", "0"])
