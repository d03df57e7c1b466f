"""`intact bench`: tokens per second in prefill and decode."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intact.cli.common import (
    CpuOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    OffloadOption,
    ProfileOption,
    open_model,
    print_json,
)

if TYPE_CHECKING:
    from intact.llm import LLM

# The largest buffer that memory bandwidth is measured on; far more than caches hold.
MAX_READ = 1 << 30


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
    device: DeviceOption = "cpu",
    offload: OffloadOption = 0,
    json: JsonOption = False,
) -> None:
    """Measure tokens per second: rows ppN (prefill of N tokens) and tgN (decode of N tokens), one sequence.

    Decoding a token reads every weight once. On a CPU, its share of the roof is these bytes times tokens per second,
    over the bytes per second of threads that only read: as many threads, on a buffer as large as the weights (at most
    1 GiB).
    """
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for count in threads or (None,):
        llm = open_model(model, count, cpu, profile, device=device, offload=offload)
        facts = _facts(llm)
        for name, length, measure in (("pp", prompt, _prefill), ("tg", generate, _decode)):
            if length:
                measure(llm, length)  # not counted: fills caches and grows buffers
                rates = [length / measure(llm, length) for _ in range(repetitions)]
                summary = _summary(rates)
                row = {"test": f"{name}{length}", "threads": llm.threads, "kernels": llm.kernels, "device": llm.device}
                rows.append(
                    {**row, **summary, **_roof(llm, facts["decode_bytes"], summary["mean"], decodes=name == "tg")}
                )
    if json:
        print_json({"model": model, **facts, "unit": "tokens/s", "repetitions": repetitions, "rows": rows})
    else:
        _print_table(model, facts["plane_bytes"], rows)


def _facts(llm: LLM) -> dict[str, Any]:
    from intact._native import decode_bytes

    model = llm._model
    return {"model_digest": llm.digest, "plane_bytes": model.plane_bytes, "decode_bytes": decode_bytes(model)}


def _summary(rates: list[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(rates),
        "stddev": statistics.stdev(rates) if len(rates) > 1 else 0.0,
        "median": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
    }


def _roof(llm: LLM, decode_bytes: int, rate: float, decodes: bool) -> dict[str, float | None]:
    from intact._native import read_bandwidth

    if not decodes or llm.device != "cpu":
        return {"read_bandwidth": None, "roof_share": None}
    bandwidth = read_bandwidth(min(decode_bytes, MAX_READ), llm.threads)
    return {"read_bandwidth": bandwidth, "roof_share": decode_bytes * rate / bandwidth}


def _print_table(model: str, plane_bytes: int, rows: list[dict[str, Any]]) -> None:
    name = model.rstrip("/").rsplit("/", 1)[-1]
    width = max(len(name), len("model"))
    size = f"{plane_bytes / 2**20:.1f}"
    print(
        f"{'model':<{width}}  {'MiB':>8}  {'kernels':<12}{'threads':>7}  {'test':<8}{'tokens/s':>16}  share of the roof"
    )
    for row in rows:
        rate = f"{row['mean']:.1f} ± {row['stddev']:.1f}"
        share = f"{row['roof_share']:.0%} of {row['read_bandwidth'] / 1e9:.1f} GB/s" if row["roof_share"] else "-"
        where = row["kernels"] if row["device"] == "cpu" else row["device"].split(":")[0]
        columns = f"{where:<12}{row['threads']:>7}  {row['test']:<8}{rate:>16}  {share}"
        print(f"{name:<{width}}  {size:>8}  {columns}")


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
