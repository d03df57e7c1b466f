"""Tokens per second of Intact and of llama.cpp on the same GGUF file, in alternating runs.

    .venv/bin/python benches/end_to_end.py SOURCE.gguf MODEL [MODEL …] [--llama PYTHON] [--threads 1 2] [--rounds 5]

MODEL are directories that `intact quantize SOURCE.gguf` made. PYTHON is an interpreter whose environment has the
package `llama-cpp-python`; without it only Intact runs. Every figure is a process of its own: one uncounted run, then
the median of three. The table shows the median, smallest and largest figure over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

PREFILL, DECODE, RUNS = 512, 128, 3


def tokens(count: int, vocabulary: int) -> list[int]:
    """Some token ids, the same for every engine."""
    return [(i * 7919 + 13) % vocabulary for i in range(count)]


def rates(prefill: Callable[[], object], decode: Callable[[], object]) -> dict[str, float]:
    """Tokens per second of both."""
    out = {}
    for name, count, work in ((f"pp{PREFILL}", PREFILL, prefill), (f"tg{DECODE}", DECODE, decode)):
        work()
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        out[name] = count / statistics.median(seconds)
    return out


def run_intact(model: str, threads: int) -> dict[str, float]:
    """Intact on a model directory."""
    from intact import LLM, SamplingParams

    llm = LLM(model, threads=threads)
    ids = tokens(PREFILL, llm.vocabulary_size)

    def generate(prompt: list[int], count: int) -> None:
        llm.generate([prompt], SamplingParams(temperature=0, max_tokens=count, ignore_eos=True))

    return rates(lambda: generate(ids, 1), lambda: generate(ids[:1], DECODE))


def run_llama(source: str, threads: int) -> dict[str, float]:
    """llama.cpp with its default settings."""
    from llama_cpp import Llama

    llama: Any = Llama(
        source, n_ctx=2 * PREFILL, n_batch=PREFILL, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    ids = tokens(PREFILL, llama.n_vocab())

    def decode() -> None:
        llama.reset()
        for id in ids[:DECODE]:
            llama.eval([id])

    def prefill() -> None:
        llama.reset()
        llama.eval(ids)

    return rates(prefill, decode)


def main() -> None:
    """Runs every engine in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--llama", metavar="PYTHON")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=("intact", "llama"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run = run_llama if arguments.one == "llama" else run_intact
        print(json.dumps(run(arguments.source, arguments.threads[0])))
        return
    engines = [("llama", arguments.source, arguments.llama)] if arguments.llama else []
    engines += [("intact", model, sys.executable) for model in arguments.models]
    figures: defaultdict[tuple[str, int, str], list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for threads in arguments.threads:
            for kind, path, python in engines:
                command = [python, __file__, path, "--one", kind, "--threads", str(threads)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
                for test, rate in json.loads(output.splitlines()[-1]).items():
                    figures[f"{kind} {path}", threads, test].append(rate)
    for (engine, threads, test), values in figures.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        print(f"{engine:<48} {threads} threads {test} {middle:7.1f} ({low:.1f} to {high:.1f}) tokens/s")


if __name__ == "__main__":
    main()
