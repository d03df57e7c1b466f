"""What a model still knows: the share of the float reference's accuracy that conversions keep, on three tasks.

    .venv/bin/python benches/recovery.py SOURCE MODEL [MODEL …] [--text benches/data/prose.txt] [--threads 2]

SOURCE has the true weights, which run in float32; each MODEL is a directory that was made of it. The tasks are built
from a text whose paragraphs are single lines:

* `next token`: the most likely token is the one that comes, at every position of 24 windows of 512 tokens;
* `cloze`: the last word of a sentence of the same windows is what greedy decoding gives, every token of it;
* `multiple choice`: of four continuations of 16 tokens of a paragraph's first 32, one is its own and the others are
  those of other paragraphs, and its own is the likeliest: 16 windows of questions.

Recovery is the model's accuracy over the reference's. Its standard error comes from the windows, as those of
`intact eval` do, with the paired difference s − r·t of a window's right answers s and the reference's t.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import intact
from intact.evaluate import windows
from intact.reference import FloatModel, source_model

PROSE = Path(__file__).parent / "data" / "prose.txt"
WINDOWS = 24
BLOCKS = 16
BEGINNING, CONTINUATION, CHOICES = 32, 16, 4

Logits = Callable[[list[int]], Any]
Task = Callable[[list[Logits]], Iterator[tuple[int, list[int]]]]
"""Yields the questions of a window and the right answers of each model."""


def read(tokens: list[list[int]], text: Callable[[list[int]], str]) -> dict[str, Task]:
    """The tasks on windows: next token, and cloze."""

    def right(logits: Logits, window: list[int]) -> np.ndarray[Any, Any]:
        return np.asarray(logits(window)[:-1].argmax(axis=1) == np.asarray(window[1:]))

    def tasks(models: list[Logits], words: bool) -> Iterator[tuple[int, list[int]]]:
        for window in tokens:
            spans = last_words([text([token]) for token in window]) if words else [(i, i + 1) for i in range(1, 512)]
            hits = [right(model, window) for model in models]
            if spans:
                yield len(spans), [sum(bool(hit[a - 1 : b - 1].all()) for a, b in spans) for hit in hits]

    return {"next token": lambda models: tasks(models, False), "cloze": lambda models: tasks(models, True)}


def last_words(pieces: list[str]) -> list[tuple[int, int]]:
    """The spans of tokens that are the last words of sentences: a blank, letters, and then the mark of the end."""
    found = []
    for end in range(2, len(pieces)):
        if pieces[end][:1] not in (".", "!", "?"):
            continue
        start = end - 1
        while start > 0 and pieces[start].isalpha():
            start -= 1
        if start > 0 and pieces[start][:1] == " " and pieces[start][1:].isalpha():
            found.append((start, end))
    return found


def choose(paragraphs: list[list[int]]) -> Task:
    """The task of multiple choice, from the paragraphs that are long enough."""
    size = BEGINNING + CONTINUATION
    long = [paragraph[:size] for paragraph in paragraphs if len(paragraph) >= size]

    def likelihood(logits: Logits, beginning: list[int], continuation: list[int]) -> float:
        rows = np.asarray(logits([*beginning, *continuation]), dtype=np.float64)[BEGINNING - 1 : -1]
        return float((rows[np.arange(CONTINUATION), continuation] - log_sum(rows)).sum())

    def log_sum(rows: Any) -> Any:
        top = rows.max(axis=1, keepdims=True)
        return (top + np.log(np.exp(rows - top).sum(axis=1, keepdims=True)))[:, 0]

    def answers(model: Logits, question: int) -> bool:
        # The other continuations come from paragraphs at fixed distances, so that nothing is drawn by chance.
        step = len(long) // CHOICES
        ends = [long[(question + choice * step) % len(long)][BEGINNING:] for choice in range(CHOICES)]
        scores = [likelihood(model, long[question][:BEGINNING], end) for end in ends]
        return scores.index(max(scores)) == 0

    def task(models: list[Logits]) -> Iterator[tuple[int, list[int]]]:
        for block in range(BLOCKS):
            questions = range(block * len(long) // BLOCKS, (block + 1) * len(long) // BLOCKS)
            yield len(questions), [sum(answers(model, question) for question in questions) for model in models]

    return task


def recovery(right: Any, reference: Any) -> tuple[float, float]:
    """The ratio of right answers, by window, and its standard error."""
    ratio, count = right.sum() / reference.sum(), len(right)
    squares = float(np.square(right - ratio * reference).sum())
    return float(ratio), math.sqrt(count / (count - 1) * squares) / float(reference.sum())


def integers(llm: intact.LLM) -> Logits:
    """The logits in nats."""
    return lambda tokens: np.ldexp(llm.logits(tokens).astype(np.float32), -llm.fraction_bits)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--text", type=Path, default=PROSE)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()

    llms = [intact.LLM(model, threads=options.threads) for model in options.models]
    tokenizer = llms[0].tokenizer
    prose = options.text.read_text("utf-8")
    whole = tokenizer.encode(prose, add_special_tokens=False)
    paragraphs = [tokenizer.encode(line, add_special_tokens=False) for line in prose.splitlines() if line]
    tasks = read(windows(whole, count=WINDOWS), tokenizer.decode)
    tasks["multiple choice"] = choose(paragraphs)

    models = [source_model(options.source, FloatModel).logits, *map(integers, llms)]
    print("| task | questions | right in float32, % | model | right, % | recovery, % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, task in tasks.items():
        counts = []
        for questions, right in task(models):
            counts.append([questions, *right])
            if sys.stderr.isatty():
                print(f"{name}: {len(counts)}", end="\r", file=sys.stderr)
        columns = np.array(counts).T
        total = columns[0].sum()
        for path, column in zip(options.models, columns[2:], strict=True):
            ratio, error = recovery(column, columns[1])
            shares = [f"{100 * part.sum() / total:.1f}" for part in (columns[1], column)]
            row = [name, str(total), shares[0], Path(path).name, shares[1], f"{100 * ratio:.1f} ± {100 * error:.1f}"]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
