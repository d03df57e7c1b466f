"""Tokens per second of Intact and of llama.cpp, in alternating runs.

    .venv/bin/python benches/end_to_end.py ENGINE [ENGINE …] --llama PYTHON [--threads 1 2] [--rounds 5] [--record NAME]

An ENGINE is a model directory of Intact or a GGUF file for llama.cpp. PYTHON is an interpreter whose environment has
the package `llama-cpp-python`; its llama.cpp runs with default settings. Tests:

    pp512      prefill of 512 tokens (--prefill)
    tg128      decode of 128 tokens after one (--decode)
    tg128 x 8  eight sequences that decode together, all their tokens (--sequences 8; Intact only)
    tg128 @ C  decode after a context of C tokens (--context C …; Intact only)
    GB/s       bytes of weights that tg128 reads, and what threads that only read reach right after it (Intact only)

Every process measures one engine with one number of threads: a run that is not counted, then the median of three. The
table has the median over the rounds, and what it is to the best llama.cpp file's. `--record NAME` also writes the
figures, with machine, commit and date, to benches/record/NAME.json and NAME.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

RUNS = 3
RECORD = Path(__file__).parent / "record"


class Engine(NamedTuple):
    """One thing to compare."""

    path: str

    @property
    def intact(self) -> bool:
        return (Path(self.path) / "intact.json").is_file()

    @property
    def label(self) -> str:
        return f"{'Intact' if self.intact else 'llama.cpp'} {Path(self.path).resolve().name}"


def tokens(count: int, vocabulary: int) -> list[int]:
    """Some token ids, the same for every engine."""
    return [(i * 7919 + 13) % vocabulary for i in range(count)]


def rate(count: int, work: Callable[[], object]) -> float:
    """Tokens per second where `work` is `count` tokens."""
    work()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return count / statistics.median(seconds)


def run_intact(path: str, options: argparse.Namespace, threads: int) -> dict[str, float]:
    """Every test by name."""
    from intact import LLM, SamplingParams
    from intact._native import decode_bytes, read_bandwidth
    from intact.cli.bench import MAX_READ

    llm = LLM(path, threads=threads)
    ids = tokens(options.prefill, llm.vocabulary_size)
    prefill, decode, sequences = options.prefill, options.decode, options.sequences

    def generate(prompts: list[list[int]], count: int) -> None:
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=count, ignore_eos=True))

    rates = {f"pp{prefill}": rate(prefill, lambda: generate([ids], 1))}
    rates[f"tg{decode}"] = rate(decode, lambda: generate([ids[:1]], decode))
    weights = decode_bytes(llm._model)
    rates[f"tg{decode}, GB/s"] = rates[f"tg{decode}"] * weights / 1e9
    rates["read, GB/s"] = read_bandwidth(min(weights, MAX_READ), threads) / 1e9
    if sequences:
        prompts = [[id] for id in tokens(sequences, llm.vocabulary_size)]
        rates[f"tg{decode} x {sequences}"] = rate(decode * sequences, lambda: generate(prompts, decode))
    for context in options.context:
        count = 1 + RUNS * decode
        if context + count > llm.context:
            print(f"{path}: no room for {context} tokens and {count} more", file=sys.stderr)
            continue
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        # The first token comes with the prefill; the others are the runs, one after the other.
        times = [time.perf_counter() for _ in llm.stream(tokens(context, llm.vocabulary_size), params)]
        seconds = [end - start for start, end in itertools.pairwise(times[::decode])]
        rates[f"tg{decode} @ {context}"] = decode / statistics.median(seconds)
    return rates


def run_llama(path: str, options: argparse.Namespace, threads: int) -> dict[str, float]:
    """The tests that both engines have, by name."""
    from llama_cpp import Llama

    prefill, decode = options.prefill, options.decode
    llama: Any = Llama(
        path,
        n_ctx=max(prefill, decode) + 1,
        n_batch=prefill,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    ids = tokens(max(prefill, decode), llama.n_vocab())

    def run_prefill() -> None:
        llama.reset()
        llama.eval(ids[:prefill])

    def run_decode() -> None:
        llama.reset()
        for id in ids[:decode]:
            llama.eval([id])

    return {f"pp{prefill}": rate(prefill, run_prefill), f"tg{decode}": rate(decode, run_decode)}


def measure(engine: Engine, options: argparse.Namespace, threads: int) -> dict[str, float]:
    """Runs one engine in a process of its own."""
    own = ["--prefill", options.prefill, "--decode", options.decode, "--sequences", options.sequences]
    own += ["--context", *options.context, "--threads", threads, "--child"]
    python = sys.executable if engine.intact else options.llama
    command = [python, __file__, engine.path, *map(str, own)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{engine.path}: {result.stderr.strip()}")
    if engine.intact:
        print(result.stderr, end="", file=sys.stderr)
    rates: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return rates


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    cpu = "unknown"
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = (line.partition(":") for line in info.read_text("utf-8").splitlines())
        cpu = next((value.strip() for name, _, value in lines if name.strip() == "model name"), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "system": f"{os.uname().sysname} {os.uname().machine}", "cores": cores}


def commit() -> str:
    """The commit of this tree; with a plus sign where files differ from it."""
    directory = Path(__file__).parent
    git = ["git", "-C", str(directory)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode != 0
    return head + "+" * changed


class Row(NamedTuple):
    """The rounds of one test."""

    engine: str
    threads: int
    test: str
    rates: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def table(rows: list[Row]) -> str:
    """Markdown: a row for each engine, a column for each test and number of threads."""
    tests, engines = list(dict.fromkeys(row.test for row in rows)), list(dict.fromkeys(row.engine for row in rows))
    columns = sorted({(row.test, row.threads) for row in rows}, key=lambda column: (tests.index(column[0]), column[1]))
    medians = {(row.engine, row.test, row.threads): row.median for row in rows}
    best: dict[tuple[str, int], float] = {}
    for (engine, test, threads), rate in medians.items():
        if _llama(engine):
            best[test, threads] = max(rate, best.get((test, threads), 0.0))

    def cell(engine: str, column: tuple[str, int]) -> str:
        rate = medians.get((engine, *column))
        if rate is None:
            return "–"
        ratio = f" ({rate / best[column]:.2f})" if column in best and not _llama(engine) else ""
        return f"{rate:.1f}{ratio}"

    lines = [
        ["tokens/s", *(f"{test}, {threads} thread{'s' * (threads > 1)}" for test, threads in columns)],
        ["---"] * (1 + len(columns)),
        *([engine, *(cell(engine, column) for column in columns)] for engine in engines),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _llama(engine: str) -> bool:
    return engine.startswith("llama.cpp")


def record(name: str, rows: list[Row], options: argparse.Namespace) -> None:
    """Writes NAME.json and NAME.md."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    facts = {"date": date, "commit": commit(), "machine": machine(), "rounds": options.rounds}
    figures = [{**row._asdict(), "rates": [round(rate, 2) for rate in row.rates]} for row in rows]
    RECORD.mkdir(exist_ok=True)
    text = json.dumps({**facts, "unit": "tokens/s", "rows": figures}, indent=2, ensure_ascii=False)
    (RECORD / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    note = (
        f"{', '.join(map(str, machine().values()))} cores; commit {facts['commit']}; {facts['date']}. Medians of "
        f"{options.rounds} alternating rounds; in brackets, the ratio to the best llama.cpp file."
    )
    (RECORD / f"{name}.md").write_text(f"# {name}\n\n{note}\n\n{table(rows)}\n", encoding="utf-8")


def main() -> None:
    """Runs every engine in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", type=Engine, metavar="ENGINE")
    parser.add_argument("--llama", metavar="PYTHON")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=0)
    parser.add_argument("--context", type=int, nargs="*", default=[])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", metavar="NAME")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    engines: list[Engine] = options.engines
    if options.child:
        run = run_intact if engines[0].intact else run_llama
        print(json.dumps(run(engines[0].path, options, options.threads[0])))
        return
    if not options.llama and (files := [engine.path for engine in engines if not engine.intact]):
        parser.error(f"{files[0]}: is for llama.cpp, which needs --llama")
    if len({engine.label for engine in engines}) < len(engines):
        parser.error("two engines have the same name")
    from tqdm import tqdm

    rates: dict[tuple[str, int, str], list[float]] = {}
    runs = [(engine, threads) for threads in options.threads for engine in engines] * options.rounds
    for engine, threads in tqdm(runs, unit="run", disable=not sys.stderr.isatty()):
        for test, found in measure(engine, options, threads).items():
            rates.setdefault((engine.label, threads, test), []).append(found)
    rows = [Row(*at, found) for at, found in rates.items()]
    print(table(rows))
    if options.record:
        record(options.record, rows, options)


if __name__ == "__main__":
    main()
