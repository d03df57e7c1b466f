"""Whether every run did what it must, told from the reports alone."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from .program import Run
from .targets import backends

LONGEST = 400
"""Characters of one problem; those of whole vectors are long."""


@dataclass(frozen=True)
class Row:
    """One back end on one CPU model: a configuration.

    Attributes:
        target: Name of the target.
        cpu: Name of the CPU model.
        backend: Name of the kernel set.
        cases: How many ran.
        digest: SHA-256 over the digests of those.
        seconds: Wall time of the back end.
    """

    target: str
    cpu: str
    backend: str
    cases: int
    digest: str
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """Everything that the runs show.

    Attributes:
        contract: Version of the contract; 0 where no run tells.
        digest: Of all published cases; "" where no run tells.
        cases: Digest of every published case.
        rows: What ran.
        absent: Back ends that ran nowhere, each with the reason that a program gave.
        problems: What is not as it must be; empty where all is well.
    """

    contract: int
    digest: str
    cases: dict[str, str]
    rows: tuple[Row, ...]
    absent: dict[str, str]
    problems: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)


def digest_of_all(cases: dict[str, str]) -> str:
    """SHA-256 over `name`, a space, the digest and a newline of every case, in order of name."""
    return hashlib.sha256("".join(f"{name} {cases[name]}\n" for name in sorted(cases)).encode()).hexdigest()


def judge(runs: list[Run], cpuinfo: str, failures: list[str]) -> Verdict:
    """Compares all that ran with what is published and with the table of targets.

    Args:
        runs: Reports of the programs.
        cpuinfo: The text of /proc/cpuinfo.
        failures: Why others gave no report; each is a problem.
    """
    contract, cases = 0, dict[str, str]()
    rows: list[Row] = []
    absent: dict[str, str] = {}
    problems = list(failures)
    for run in runs:
        place = f"{run.target.name} on {run.cpu.name}"
        try:
            if not cases:
                contract, cases = run.report["contract"], run.report["cases"]
            problems += (f"{place}: {problem}" for problem in _whole(run, contract, cases, cpuinfo))
            for backend in run.report["backends"]:
                if not backend["ran"]:
                    absent[backend["name"]] = backend["reason"]
                    continue
                problems += (f"{place}, {backend['name']}: {problem}" for problem in _one(backend, cases))
                rows.append(_row(run, backend))
        except (AttributeError, KeyError, TypeError) as error:
            problems.append(f"{place}: its report is not of the form that is expected here: {error!r}")
    if not cases:
        problems.append("no run has published digests")
    ran = {row.backend for row in rows}
    absent = {name: reason for name, reason in sorted(absent.items()) if name not in ran}
    digest = digest_of_all(cases) if cases else ""
    return Verdict(contract, digest, cases, tuple(rows), absent, tuple(problems))


def _row(run: Run, backend: dict[str, Any]) -> Row:
    seconds = round(backend["milliseconds"] / 1000, 1)
    return Row(run.target.name, run.cpu.name, backend["name"], backend["cases"], backend["digest"], seconds)


def _whole(run: Run, contract: int, cases: dict[str, str], cpuinfo: str) -> list[str]:
    """What is wrong with a run, whatever its back ends computed."""
    problems = []
    found = tuple(run.report["machine"][key] for key in ("arch", "endian", "pointer_bits"))
    if found != run.target.machine:
        problems.append(f"the machine is {found}, not {run.target.machine}")
    if run.report["damaged"]:
        problems.append(f"its vectors are not those published: {run.report['damaged']}")
    if (run.report["contract"], run.report["cases"]) != (contract, cases):
        problems.append("its contract and published digests are not those of the other programs")
    ran = [backend["name"] for backend in run.report["backends"] if backend["ran"]]
    expected = backends(run.cpu, cpuinfo)
    if missing := [name for name in expected if name not in ran]:
        problems.append(f"{', '.join(missing)} must run there and did not")
    if more := [name for name in ran if name not in expected]:
        problems.append(f"{', '.join(more)} ran, which the table of targets does not expect there")
    if run.status != 0 or run.report["equal"] is not True:
        problems.append(f"the program ended with status {run.status}: {run.errors[-LONGEST:] or 'it said nothing'}")
    return problems


def _one(backend: dict[str, Any], cases: dict[str, str]) -> list[str]:
    """What is wrong with what a back end computed. Every case must run: no target has a reason to skip one."""
    problems = [f"{case['case']} differs: {case['problem'][:LONGEST]}" for case in backend["differs"]]
    problems += (f"{case['case']} was skipped: {case['reason'][:LONGEST]}" for case in backend["skipped"])
    if backend["cases"] != len(cases):
        problems.append(f"{backend['cases']} cases ran, not {len(cases)}")
    if backend["digest"] != digest_of_all(cases):
        problems.append(f"the digest is {backend['digest']}, not {digest_of_all(cases)}")
    return problems
