"""Several threads and streams on one `LLM`."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intact import LLM, RequestError, SamplingParams

TOKENS = SamplingParams(max_tokens=12, seed=5, ignore_eos=True)
PROMPTS = [[1], [7, 3, 250, 9], [*range(40, 73)], [5] * 100]


def tokens(llm: LLM, prompt: Any, params: SamplingParams) -> list[list[int]]:
    return [output.token_ids for output in llm.generate(prompt, params)[0].outputs]


def test_threads_share_an_llm(model: Path, llm: LLM) -> None:
    shared = LLM(model, threads=2)
    prompts = [[n, n + 1, n + 2] for n in range(8)]
    expected = [tokens(llm, prompt, TOKENS) for prompt in prompts]
    logits = llm.logits(PROMPTS[2])
    results: dict[int, Any] = {}

    def work(n: int) -> None:
        results[n] = [
            tokens(shared, prompts[n], TOKENS),
            [[chunk.token_ids[0] for chunk in shared.stream(prompts[n], TOKENS)]],
            np.array_equal(shared.logits(PROMPTS[2]), logits),
        ]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: [expected[n], expected[n], True] for n in range(8)}


def test_interleaved_streams(llm: LLM) -> None:
    expected = [tokens(llm, prompt, TOKENS)[0] for prompt in PROMPTS[:3]]
    streams = [llm.stream(prompt, TOKENS) for prompt in PROMPTS[:3]]
    turns = list(zip(*streams, strict=True))
    assert [[chunks[i].token_ids[0] for chunks in turns] for i in range(3)] == expected


@pytest.mark.parametrize("how", ["close", "drop", "error"])
def test_abandoned_stream_is_cancelled(model: Path, how: str) -> None:
    llm = LLM(model)
    stream = llm.stream([1], SamplingParams(max_tokens=250, ignore_eos=True))
    next(stream)
    if how == "close":
        stream.close()  # type: ignore[attr-defined]
    elif how == "drop":
        del stream
        gc.collect()
    else:
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    # Calls take turns with the engine's steps, and the cancellation was before this one.
    assert llm._dispatcher.call(lambda engine: engine.idle())
    assert llm._dispatcher._runner._owners == {}


def test_failing_step_reaches_every_caller(model: Path, llm: LLM) -> None:
    class Failing:
        """An engine whose first step fails."""

        def __init__(self, engine: Any) -> None:
            self.engine, self.steps = engine, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

        def step(self) -> Any:
            self.steps += 1
            if self.steps == 1:
                raise RequestError("KV cache: no memory")
            return self.engine.step()

    broken = LLM(model)
    runner = broken._dispatcher._runner
    runner.engine = Failing(broken._engine)  # type: ignore[assignment]
    errors: list[str] = []

    def work(n: int) -> None:
        try:
            broken.generate([n], TOKENS)
        except RequestError as error:
            errors.append(str(error))

    gate = threading.Event()
    runner.jobs.put(gate.wait)
    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    while runner.jobs.qsize() < 2:  # until both requests wait behind the gate, so that one step runs both
        time.sleep(0.001)
    gate.set()
    for thread in threads:
        thread.join(60)
    assert errors == ["KV cache: no memory"] * 2
    assert tokens(broken, [1], TOKENS) == tokens(llm, [1], TOKENS)


def test_engine_thread_ends_with_its_llm(model: Path) -> None:
    before = set(threading.enumerate())
    llm = LLM(model)
    [thread] = set(threading.enumerate()) - before
    assert tokens(llm, [1], TOKENS)
    assert thread.is_alive()
    del llm
    gc.collect()
    assert not thread.is_alive()
