"""`LLM`: every way of running gives the same output; texts, stop texts, log-probabilities, errors."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import intact
from intact import LLM, SamplingParams, numerics
from intact.outputs import CompletionOutput

VECTORS = Path(__file__).parents[1] / "vectors" / "models"
TOKENS = SamplingParams(max_tokens=12, seed=5, ignore_eos=True)
PROMPTS = [[1], [7, 3, 250, 9], [*range(40, 73)], [5] * 100, [7, 3, 250, 9]]


def tokens(llm: LLM, prompt: Any, params: SamplingParams) -> list[list[int]]:
    return [output.token_ids for output in llm.generate(prompt, params)[0].outputs]


# --- The same output whatever the run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(llm: LLM) -> list[CompletionOutput]:
    """Every prompt by itself, with settings of its own."""
    return [llm.generate(prompt, params)[0].outputs[0] for prompt, params in zip(PROMPTS, per_prompt(), strict=True)]


def per_prompt() -> list[SamplingParams]:
    return [
        SamplingParams(max_tokens=20, temperature=0, logprobs=3, ignore_eos=True),
        SamplingParams(max_tokens=9, seed=1, logprobs=0, ignore_eos=True),
        SamplingParams(max_tokens=30, temperature=0.7, top_k=40, seed=2**64 - 1, ignore_eos=True),
        SamplingParams(max_tokens=5, top_p=0.9, min_p=0.01, seed=3, ignore_eos=True),
        SamplingParams(max_tokens=9, seed=1, logprobs=0, ignore_eos=True),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk": 1},
        {"chunk": 7, "page": 1},
        {"chunk": 64, "page": 16, "threads": 3},
        {"kv_tokens": 128, "page": 16},
        {"max_sequences": 2},
        {"threads": 7},
        {"cpu": "reference", "threads": 2},
    ],
    ids=str,
)
def test_batch_equals_alone(model: Path, alone: list[CompletionOutput], options: dict[str, Any]) -> None:
    outputs = LLM(model, **options).generate(PROMPTS, per_prompt())
    assert [output.outputs[0] for output in outputs] == alone
    assert [output.prompt_token_ids for output in outputs] == PROMPTS
    assert alone[1] == alone[4]


@pytest.mark.parametrize("count", [2, 5, 16])
def test_ragged_batches(llm: LLM, count: int) -> None:
    prompts = [[(13 * i + j) % 300 for j in range(1 + 17 * i % 50)] for i in range(count)]
    params = [SamplingParams(max_tokens=1 + 5 * i % 12, seed=i, ignore_eos=True) for i in range(count)]
    alone = [llm.generate(prompt, setting)[0] for prompt, setting in zip(prompts, params, strict=True)]
    assert llm.generate(prompts, params) == alone


@pytest.mark.parametrize("entry", intact._native.kernels(), ids=lambda entry: entry["name"])
def test_kernels_agree(model: Path, llm: LLM, entry: dict[str, Any]) -> None:
    if not entry["available"]:
        pytest.skip(f"this machine lacks {entry['needs']}")
    other = LLM(model, cpu=entry["name"])
    assert other.kernels == entry["name"]
    assert np.array_equal(other.logits(PROMPTS[2]), llm.logits(PROMPTS[2]))


def test_n_is_n_streams_of_one_seed(llm: LLM) -> None:
    many = tokens(llm, PROMPTS[1], SamplingParams(max_tokens=12, seed=5, n=6, ignore_eos=True))
    assert tokens(llm, PROMPTS[1], TOKENS) == many[:1]
    assert tokens(llm, PROMPTS[1], SamplingParams(max_tokens=12, seed=5, n=3, ignore_eos=True)) == many[:3]
    assert len(set(map(tuple, many))) == 6


def test_seeds_differ_and_repeat(llm: LLM) -> None:
    by_seed = [tokens(llm, [1], SamplingParams(max_tokens=12, seed=seed, ignore_eos=True))[0] for seed in (0, 1, 0)]
    assert by_seed[0] == by_seed[2] != by_seed[1]


def test_continuing_is_repeating(llm: LLM) -> None:
    """Greedy tokens are those of the largest logits, and a longer prompt gives the rest of them."""
    greedy = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    [chosen] = tokens(llm, PROMPTS[1], greedy)
    logits = llm.logits([*PROMPTS[1], *chosen])
    assert chosen == [int(numerics.greedy(row)) for row in logits[len(PROMPTS[1]) - 1 : -1]]
    assert tokens(llm, [*PROMPTS[1], *chosen[:4]], SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)) == [
        chosen[4:]
    ]


def test_logits(llm: LLM) -> None:
    logits = llm.logits(PROMPTS[1])
    assert logits.dtype == np.int32
    assert logits.shape == (4, llm.vocabulary_size)
    assert np.array_equal(llm.logits(np.array(PROMPTS[1])), logits)  # type: ignore[arg-type]
    assert np.array_equal(llm.logits(PROMPTS[1][:2]), logits[:2])


@pytest.mark.parametrize("name", sorted(path.stem for path in VECTORS.glob("*.json")))
def test_models_of_the_oracle(name: str) -> None:
    expected = json.loads((VECTORS / f"{name}.json").read_text())
    llm = LLM(VECTORS / name)
    digest = hashlib.sha256(llm.logits(expected["prompt"]).astype("<i4").tobytes()).hexdigest()
    assert digest == expected["logits"]["sha256"]
    count = len(expected["greedy"]["ids"])
    [greedy] = llm.generate([expected["prompt"]], SamplingParams(temperature=0, max_tokens=count, logprobs=0))[
        0
    ].outputs
    assert greedy.token_ids == expected["greedy"]["ids"]
    assert greedy.logprobs is not None
    reported = [step[token].logprob_q16 for step, token in zip(greedy.logprobs, greedy.token_ids, strict=True)]
    assert reported == expected["greedy"]["logprobs"]


# --- Texts ------------------------------------------------------------------------------------------------------------


def test_text_prompts(llm: LLM) -> None:
    ids = llm.tokenizer.encode("The fox")
    [output] = llm.generate("The fox", TOKENS)
    assert output.prompt == "The fox"
    assert output.prompt_token_ids == ids
    [completion] = output.outputs
    assert completion == llm.generate(ids, TOKENS)[0].outputs[0]
    assert completion.text == llm.tokenizer.decode(completion.token_ids)
    assert (completion.finish_reason, completion.stop_reason) == ("length", None)
    mixed = llm.generate(["The fox", ids, tuple(ids), np.array(ids)], TOKENS)  # type: ignore[list-item]
    assert [entry.outputs[0] for entry in mixed] == [completion] * 4
    assert [entry.prompt for entry in mixed] == ["The fox", None, None, None]
    assert llm.generate([], TOKENS) == []


def test_array_prompts(llm: LLM) -> None:
    expected = llm.generate([[7, 3], [5, 9]], TOKENS)
    for dtype in (np.uint8, np.int32, np.int64):
        array = np.array([[7, 3], [5, 9]], dtype)
        assert llm.generate(array, TOKENS) == expected  # type: ignore[arg-type]
        assert llm.generate(list(array), TOKENS) == expected
        assert llm.generate(array[0], TOKENS) == expected[:1]  # type: ignore[arg-type]
        assert [chunk.token_ids[0] for chunk in llm.stream(array[1], TOKENS)] == expected[1].outputs[0].token_ids  # type: ignore[arg-type]


def test_chat(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    [output] = llm.chat(messages, TOKENS)
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert output.prompt_token_ids == llm.tokenizer.encode(text, add_special_tokens=False) == llm.chat_prompt(messages)
    both = llm.chat([messages, [*messages, {"role": "assistant", "content": "ho"}]], TOKENS)
    assert both[0] == output
    assert both[1].prompt_token_ids != output.prompt_token_ids


def test_end_tokens(llm: LLM) -> None:
    eos = llm.tokenizer.eos_ids
    assert eos == {0, 2}
    seeds = (SamplingParams(max_tokens=200, seed=seed, ignore_eos=True) for seed in itertools.count())
    outputs = (llm.generate([1], params)[0].outputs[0] for params in seeds)
    seed, whole = next((seed, output) for seed, output in enumerate(outputs) if eos & set(output.token_ids[4:]))
    at = next(i for i, token in enumerate(whole.token_ids) if token in eos)
    [ended] = llm.generate([1], SamplingParams(max_tokens=200, seed=seed))[0].outputs
    assert ended.token_ids == whole.token_ids[: at + 1]
    assert ended.text == llm.tokenizer.decode(whole.token_ids[:at])
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)

    own = whole.token_ids[3]
    params = SamplingParams(max_tokens=200, seed=seed, ignore_eos=True, stop_token_ids=[own])
    [stopped] = llm.generate([1], params)[0].outputs
    assert stopped.token_ids == whole.token_ids[: whole.token_ids.index(own) + 1]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", own)


def test_end_of_context(llm: LLM) -> None:
    [output] = llm.generate([[1] * (llm.context - 2)], SamplingParams(max_tokens=50, ignore_eos=True))[0].outputs
    assert len(output.token_ids) == 3
    assert output.finish_reason == "length"


def test_special_tokens_in_text(llm: LLM) -> None:
    for seed in itertools.count():
        params = SamplingParams(max_tokens=200, seed=seed, ignore_eos=True)
        [skipped] = llm.generate([1], params)[0].outputs
        [shown] = llm.generate([1], replace(params, skip_special_tokens=False))[0].outputs
        assert shown.token_ids == skipped.token_ids
        assert "<|" not in skipped.text
        if {0, 1, 2} & set(shown.token_ids):
            assert "<|" in shown.text
            return


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 5), places=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), min_size=1, max_size=3)
)
def test_stop_texts(llm: LLM, seed: int, places: list[tuple[int, int]]) -> None:
    """A text is cut before the first occurrence of a stop text, wherever tokens end, streamed or not."""
    free = SamplingParams(max_tokens=60, seed=seed, ignore_eos=True)
    [whole] = llm.generate("The", free)[0].outputs
    stops = [stop for at, length in places if (stop := whole.text[at : at + length])] + ["not in there"]
    params = SamplingParams(max_tokens=60, seed=seed, ignore_eos=True, stop=stops)
    [cut] = llm.generate("The", params)[0].outputs
    chunks = list(llm.stream("The", params))

    assert "".join(chunk.text for chunk in chunks) == cut.text
    assert [token for chunk in chunks for token in chunk.token_ids] == cut.token_ids
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [cut.finish_reason]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    if len(stops) == 1:
        assert cut == whole
    else:
        assert cut.finish_reason == "stop"
        assert cut.stop_reason in stops
        assert not any(stop in cut.text for stop in stops)
        assert whole.text.startswith(cut.text + str(cut.stop_reason))


def test_stop_text_of_many_tokens_is_held_back(llm: LLM) -> None:
    [whole] = llm.generate("The", SamplingParams(max_tokens=30, seed=1, ignore_eos=True))[0].outputs
    stop = whole.text[5:] + "never"
    params = SamplingParams(max_tokens=30, seed=1, ignore_eos=True, stop=stop)
    chunks = list(llm.stream("The", params))
    assert "".join(chunk.text for chunk in chunks[:-1]) == whole.text[:5]
    assert chunks[-1].text == whole.text[5:]
    assert chunks[-1].finish_reason == "length"


def test_stream_of_several(llm: LLM) -> None:
    params = SamplingParams(max_tokens=20, seed=5, n=3, ignore_eos=True)
    texts = [""] * 3
    for chunk in llm.stream("The", params):
        texts[chunk.index] += chunk.text
    assert texts == [output.text for output in llm.generate("The", params)[0].outputs]


def test_logprobs(llm: LLM) -> None:
    [output] = llm.generate([7, 3], SamplingParams(max_tokens=6, seed=5, logprobs=4, ignore_eos=True))[0].outputs
    assert output.logprobs is not None
    rows = llm.logits([7, 3, *output.token_ids])[1:-1]
    total = 0
    for token, reported, row in zip(output.token_ids, output.logprobs, rows, strict=True):
        exact = numerics.logprobs(row, llm.fraction_bits)
        best = sorted(range(llm.vocabulary_size), key=lambda id: (-row[id], id))[:4]
        assert {id: entry.logprob_q16 for id, entry in reported.items()} == {
            id: int(exact[id]) for id in {token, *best}
        }
        assert [reported[id].rank for id in best] == [1, 2, 3, 4]
        assert token in best or reported[token].rank is None
        assert reported[token].decoded_token == llm.tokenizer.decode([token], skip_special_tokens=False)
        assert reported[token].logprob == pytest.approx(int(exact[token]) / 65536 * np.log(2))
        total += int(exact[token])
    assert output.cumulative_logprob_q16 == total
    assert output.cumulative_logprob == pytest.approx(total / 65536 * np.log(2))
    [plain] = llm.generate([7, 3], SamplingParams(max_tokens=6, seed=5, ignore_eos=True))[0].outputs
    assert plain.token_ids == output.token_ids
    assert plain.logprobs is plain.cumulative_logprob_q16 is plain.cumulative_logprob is None


def test_progress_bar(llm: LLM, capfd: pytest.CaptureFixture[str]) -> None:
    assert llm.generate([[1], [2]], TOKENS, use_tqdm=True) == llm.generate([[1], [2]], TOKENS)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "generating" in captured.err


def test_properties(llm: LLM, model: Path) -> None:
    manifest = json.loads((model / "intact.json").read_text())
    assert llm.manifest == manifest
    assert llm.digest == manifest["digest"]
    assert llm.fraction_bits == manifest["model"]["fraction_bits"]
    assert llm.contract_version == manifest["model"]["contract"] == intact.CONTRACT_VERSION
    assert (llm.vocabulary_size, llm.context, llm.threads) == (300, 256, 1)


def test_example_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    code = readme.split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert LLM("tiny").digest in capsys.readouterr().out
