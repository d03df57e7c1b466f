"""`intact bench`: tokens per second in prefill and decode."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intact.cli.common import CpuOption, JsonOption, ModelArgument, ProfileOption, open_model, print_json

if TYPE_CHECKING:
    from intact.llm import LLM


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("bench")(bench)


def bench(
    model: ModelArgument,
    prompt: Annotated[int, typer.Option("--prompt", "-p", min=0, help="Tokens of prefill; 0 leaves it out.")] = 512,
    generate: Annotated[int, typer.Option("--generate", "-n", min=0, help="Tokens of decode; 0 leaves it out.")] = 128,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1)] = 5,
    threads: Annotated[list[int] | None, typer.Option("--threads", "-t", help="Repeatable.")] = None,
    profile: ProfileOption = None,
    cpu: CpuOption = None,
    json: JsonOption = False,
) -> None:
    """Measure tokens per second: rows ppN (prefill of N tokens) and tgN (decode of N tokens), one sequence."""
    rows: list[dict[str, Any]] = []
    digest = ""
    for count in threads or (None,):
        llm = open_model(model, count, cpu, profile)
        digest = llm.digest
        tests = [("pp", prompt, _prefill), ("tg", generate, _decode)]
        for name, length, measure in tests:
            if length:
                measure(llm, length)  # not counted: fills caches and grows buffers
                rates = sorted(length / measure(llm, length) for _ in range(repetitions))
                row = {"test": f"{name}{length}", "threads": llm.threads, "kernels": llm.kernels}
                rows.append({**row, "median": statistics.median(rates), "min": rates[0], "max": rates[-1]})
    if json:
        print_json({"model_digest": digest, "unit": "tokens/s", "repetitions": repetitions, "rows": rows})
        return
    print(f"{'test':<8}{'threads':>8}  {'kernels':<12}{'tokens/s':>10}{'min':>10}{'max':>10}")
    for row in rows:
        rates_text = "".join(f"{row[key]:>10.1f}" for key in ("median", "min", "max"))
        print(f"{row['test']:<8}{row['threads']:>8}  {row['kernels']:<12}{rates_text}")


def _tokens(llm: LLM, count: int) -> list[int]:
    return [(i * 7919 + 13) % llm.vocabulary_size for i in range(count)]


def _prefill(llm: LLM, length: int) -> float:
    return _timed(llm, _tokens(llm, length), 1)


def _decode(llm: LLM, length: int) -> float:
    # The first token comes out of the prompt; its time is in the one-token prefill, which counts as a decode step.
    return _timed(llm, _tokens(llm, 1), length)


def _timed(llm: LLM, prompt: list[int], tokens: int) -> float:
    from intact.sampling import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    start = time.perf_counter()
    llm.generate([prompt], params)
    return time.perf_counter() - start
