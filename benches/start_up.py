"""Milliseconds from a fresh process to the first token, and the memory that takes.

    .venv/bin/python benches/start_up.py ENGINE [ENGINE …] [--llama PYTHON] [--threads N] [--rounds 5]

An ENGINE is a model directory of Intact or a GGUF file for llama.cpp, as in end_to_end.py. Every run is a process that
imports the package, loads the model and its tokenizer, and makes one token from a short text. One run of each engine is
not counted, so that files are in memory; the table has the medians of the others. Peak memory is what the kernel says
of the whole process, interpreter included, so the same after the import alone stands beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

if __package__:
    from benches.end_to_end import Engine
else:
    from end_to_end import Engine

TEXT = "Once upon a time"
COLUMNS = ("import, ms", "load, ms", "first token, ms", "load + first token, ms", "imported, MiB", "peak, MiB")


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(engine: Engine, threads: int | None) -> list[float]:
    """The figures of this process, in the order of `COLUMNS`."""
    times = [time.perf_counter()]
    if engine.intact:
        from intact import LLM, SamplingParams

        times.append(time.perf_counter())
        imported = peak()
        llm = LLM(engine.path, threads=threads)
        times.append(time.perf_counter())
        next(llm.stream(TEXT, SamplingParams(temperature=0, max_tokens=1)))
    else:
        from llama_cpp import Llama

        times.append(time.perf_counter())
        imported = peak()
        llama = Llama(engine.path, n_threads=threads, n_threads_batch=threads, verbose=False)
        times.append(time.perf_counter())
        llama(TEXT, max_tokens=1, temperature=0)
    times.append(time.perf_counter())
    steps = [1000 * (end - start) for start, end in itertools.pairwise(times)]
    return [*steps, steps[1] + steps[2], imported, peak()]


def size(engine: Engine) -> float:
    """What an engine reads, in MiB."""
    path = Path(engine.path)
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 2**20


def table(rows: dict[str, tuple[float, list[list[float]]]]) -> str:
    """Markdown: a row for each engine, of its size and the medians of its runs."""
    lines = [["", *COLUMNS, "files, MiB"], ["---"] * (2 + len(COLUMNS))]
    for label, (files, runs) in rows.items():
        lines.append(
            [label, *(f"{statistics.median(column):.0f}" for column in zip(*runs, strict=True)), f"{files:.0f}"]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Runs every engine in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", type=Engine, metavar="ENGINE")
    parser.add_argument("--llama", metavar="PYTHON")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    engines: list[Engine] = options.engines
    if options.child:
        print(json.dumps(child(engines[0], options.threads)))
        return
    if not options.llama and (files := [engine.path for engine in engines if not engine.intact]):
        parser.error(f"{files[0]}: is for llama.cpp, which needs --llama")
    rows: dict[str, tuple[float, list[list[float]]]] = {engine.label: (size(engine), []) for engine in engines}
    for round in range(1 + options.rounds):
        for engine in engines:
            command = [sys.executable if engine.intact else options.llama, __file__, engine.path, "--child"]
            command += [] if options.threads is None else ["--threads", str(options.threads)]
            result = subprocess.run(command, check=False, capture_output=True, text=True)
            if result.returncode:
                raise SystemExit(f"{engine.path}: {result.stderr.strip()}")
            if round:
                rows[engine.label][1].append(json.loads(result.stdout.splitlines()[-1]))
    print(table(rows))


if __name__ == "__main__":
    main()
