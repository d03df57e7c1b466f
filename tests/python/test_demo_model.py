"""One digest for the demo model under every run option: those that README promises. `make test-full` fetches it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from intact import LLM, SamplingParams, _native
from intact.cli.identity import fixed_prompt, run_digests

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "build" / "demo" / "smollm2"

pytestmark = pytest.mark.slow

FASTEST = [entry["name"] for entry in _native.kernels() if entry["available"]][-1]

OPTIONS: list[dict[str, Any]] = [
    {"threads": 1},
    {"threads": 2},
    {"threads": 3},
    {"threads": 7},
    {"chunk": 1},
    {"chunk": 7},
    {"chunk": 64},
    {"chunk": 512},
    {"page": 1},
    {"page": 5},
    {"page": 1000},
    *({"cpu": entry["name"]} for entry in _native.kernels() if entry["available"]),
]


def promised() -> dict[str, str]:
    """The table of digests in README."""
    rows = re.findall(r"^\| (\w+) \| `([0-9a-f]{64})` \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    return dict(rows)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_keep_the_promised_digests(options: dict[str, Any]) -> None:
    llm = LLM(MODEL, **options)
    found = {"model": llm.digest, **run_digests(llm, fixed_prompt(llm.vocabulary_size))}
    assert found == promised()


@pytest.mark.parametrize("size", [2, 5, 16])
def test_ragged_batches_equal_runs_alone(size: int) -> None:
    llm = LLM(MODEL)
    start = fixed_prompt(llm.vocabulary_size)
    prompts = [start[i : 3 * i + 2] for i in range(size)]
    params = [SamplingParams(temperature=0.8 * (i % 2), seed=i, max_tokens=16) for i in range(size)]
    together = llm.generate(prompts, params)
    alone = [llm.generate([prompt], p)[0] for prompt, p in zip(prompts, params, strict=True)]
    assert together == alone


def test_the_cache_equals_recomputation() -> None:
    llm = LLM(MODEL)
    ids = fixed_prompt(llm.vocabulary_size)[:16]
    greedy = llm.generate([ids], SamplingParams(temperature=0, max_tokens=16, ignore_eos=True))[0].outputs[0].token_ids
    recomputed: list[int] = []
    for _ in range(16):
        recomputed.append(int(llm.logits([*ids, *recomputed])[-1].argmax()))
    assert recomputed == greedy
