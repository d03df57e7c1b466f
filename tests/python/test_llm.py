"""`LLM`: every way of running gives the same output; texts, stop texts, log-probabilities, errors."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import intact
from intact import LLM, ModelError, RequestError, SamplingParams, TokenizerError, numerics, quantize
from intact.errors import DeviceError, IntactError
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
        {"cpu": "reference", "threads": 2},
    ],
    ids=str,
)
def test_batch_equals_alone(model: Path, alone: list[CompletionOutput], options: dict[str, Any]) -> None:
    outputs = LLM(model, **options).generate(PROMPTS, per_prompt())
    assert [output.outputs[0] for output in outputs] == alone
    assert [output.prompt_token_ids for output in outputs] == PROMPTS
    assert alone[1] == alone[4]


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


def test_vectors_of_the_oracle() -> None:
    """A model of every family that the oracle wrote: logits by its digests."""
    files = sorted(VECTORS.glob("*-default.json"))
    assert files
    for file in files:
        expected = json.loads(file.read_text())
        llm = LLM(file.with_suffix(""))
        digest = hashlib.sha256(llm.logits(expected["prompt"]).astype("<i4").tobytes()).hexdigest()
        assert digest in json.dumps(expected), file.name


# --- Conversion -------------------------------------------------------------------------------------------------------


def test_directory_equals_source(model: Path, checkpoint: Path, llm: LLM) -> None:
    direct = LLM(checkpoint)
    assert direct.digest == llm.digest
    assert np.array_equal(direct.logits(PROMPTS[2]), llm.logits(PROMPTS[2]))
    assert direct.generate("The fox", TOKENS) == llm.generate("The fox", TOKENS)


def test_gguf_speaks_the_same(gguf: Path, tmp_path: Path) -> None:
    quantize(gguf, tmp_path / "model", progress=False)
    saved, direct = LLM(tmp_path / "model"), LLM(gguf)
    assert saved.digest == direct.digest
    assert saved.tokenizer.eos_ids == direct.tokenizer.eos_ids == {0, 2}
    messages = [{"role": "user", "content": "naïve 🙂"}]
    assert saved.chat_prompt(messages) == direct.chat_prompt(messages)
    assert saved.generate("The fox", TOKENS) == direct.generate("The fox", TOKENS)


def test_conversion_is_reproducible(checkpoint: Path, gguf: Path, tmp_path: Path) -> None:
    for source in (checkpoint, gguf):
        contents = []
        for threads, parent in ((1, "a"), (3, "b")):
            target = tmp_path / source.name / parent / "model"
            target.parent.mkdir(parents=True)
            quantize(source, target, threads=threads, progress=False)
            contents.append({file.name: file.read_bytes() for file in target.iterdir()})
        assert contents[0] == contents[1]
        assert {"config.json", "intact.json", "model.safetensors", "tokenizer.json"} <= set(contents[0])


def test_profiles_and_types(checkpoint: Path, tmp_path: Path, llm: LLM) -> None:
    digests = {llm.digest}
    for number, options in enumerate(
        ({"profile": "fast"}, {"profile": "fastest"}, {"type": "U4b8"}, {"head_type": "U6b8"})
    ):
        target = tmp_path / str(number)
        result = quantize(checkpoint, target, progress=False, **options)  # type: ignore[arg-type]
        other = LLM(target, **options)  # type: ignore[arg-type]
        assert other.digest == result["digest"]
        assert other.manifest["provenance"].items() >= options.items()
        assert json.loads((target / "config.json").read_text())["quantization_config"] == {
            "quant_method": "intact",
            "contract_version": intact.CONTRACT_VERSION,
            "profile": options.get("profile", "default"),
        }
        digests.add(other.digest)
    assert len(digests) == 5


def test_overwrite(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    first = quantize(checkpoint, target, progress=False)
    with pytest.raises(ModelError, match="already exists"):
        quantize(checkpoint, target, profile="fast", progress=False)
    assert LLM(target).digest == first["digest"]
    second = quantize(checkpoint, target, profile="fast", overwrite=True, progress=False)
    assert LLM(target).digest == second["digest"] != first["digest"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_stopped_conversion_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(BaseException):
        pass

    class Bar:
        def __enter__(self) -> Any:
            def report(done: int, total: int, tensor: str) -> None:
                assert 0 < done <= total
                assert tensor
                if done == 2:
                    raise Stop

            return report

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("intact.conversion.progress_bar", lambda *_: Bar())
    with pytest.raises(Stop):
        quantize(checkpoint, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_destination(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="file"):
        quantize(checkpoint, tmp_path / "file" / "model", progress=False)


def test_read_only_directory(model: Path, tmp_path: Path, llm: LLM) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    for file in copy.iterdir():
        file.chmod(0o444)
    copy.chmod(0o555)
    try:
        assert tokens(LLM(copy), [1], TOKENS) == tokens(llm, [1], TOKENS)
    finally:
        copy.chmod(0o755)


def test_verify(model: Path, tmp_path: Path) -> None:
    planes, files = LLM(model).verify()
    assert planes > 0
    assert files == 4
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    (copy / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        LLM(copy).verify()


def test_from_pretrained(model: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LLM.from_pretrained(model).digest == llm.digest
    with pytest.raises(ModelError, match="no such file"):
        LLM.from_pretrained("./nothing-here")
    fetched: list[tuple[Any, ...]] = []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        fetched.append((name, revision))
        return str(model)

    def hf_hub_download(name: str, file: str, revision: str | None) -> str:
        raise OSError(f"{name} {file} {revision}: offline\nmore")

    hub = types.ModuleType("huggingface_hub")
    hub.__dict__.update(snapshot_download=snapshot_download, hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert LLM.from_pretrained("owner/model", revision="main", threads=1).digest == llm.digest
    assert fetched == [("owner/model", "main")]
    with pytest.raises(ModelError, match=r"owner/model/a\.gguf: .*owner/model a\.gguf None: offline$"):
        LLM.from_pretrained("owner/model/a.gguf")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"pip install intact\[hub\]"):
        LLM.from_pretrained("owner/model")


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


def test_chat(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    [output] = llm.chat(messages, TOKENS)
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert output.prompt_token_ids == llm.tokenizer.encode(text, add_special_tokens=False) == llm.chat_prompt(messages)
    both = llm.chat([messages, [*messages, {"role": "assistant", "content": "ho"}]], TOKENS)
    assert both[0] == output
    assert both[1].prompt_token_ids != output.prompt_token_ids


def test_end_tokens(llm: LLM) -> None:
    free = SamplingParams(max_tokens=200, seed=11, ignore_eos=True)
    [whole] = llm.generate([1], free)[0].outputs
    at = next(i for i, token in enumerate(whole.token_ids) if token in llm.tokenizer.eos_ids)
    [ended] = llm.generate([1], SamplingParams(max_tokens=200, seed=11))[0].outputs
    assert ended.token_ids == whole.token_ids[: at + 1]
    assert ended.text == llm.tokenizer.decode(whole.token_ids[:at])
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)

    own = whole.token_ids[3]
    [stopped] = llm.generate([1], SamplingParams(max_tokens=200, seed=11, ignore_eos=True, stop_token_ids=[own]))[
        0
    ].outputs
    assert stopped.token_ids == whole.token_ids[: whole.token_ids.index(own) + 1]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", own)


def test_end_of_context(llm: LLM) -> None:
    [output] = llm.generate([[1] * (llm.context - 2)], SamplingParams(max_tokens=50, ignore_eos=True))[0].outputs
    assert len(output.token_ids) == 3
    assert output.finish_reason == "length"


def test_special_tokens_in_text(llm: LLM) -> None:
    params = {"max_tokens": 200, "seed": 11, "ignore_eos": True}
    skipped = llm.generate([1], SamplingParams(**params))[0].outputs[0]  # type: ignore[arg-type]
    shown = llm.generate([1], SamplingParams(**params, skip_special_tokens=False))[0].outputs[0]  # type: ignore[arg-type]
    assert shown.token_ids == skipped.token_ids
    assert "<|" in shown.text
    assert "<|" not in skipped.text


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
        best = sorted(range(llm.vocabulary_size), key=lambda id: (-row[id], id))[:4]  # noqa: B023
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


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "cuda"}, DeviceError, "device: 'cuda'"),
        ({"cpu": "warp"}, DeviceError, r'cpu: "warp" is not one of reference'),
        *(({"threads": value}, RequestError, "threads: ") for value in (0, -1, 1025, 1.0, True)),
        *(
            ({name: value}, RequestError, f"{name}: ")
            for name in ("chunk", "page", "max_sequences")
            for value in (0, 2**17)
        ),
        *(({"kv_tokens": value}, RequestError, "kv_tokens: ") for value in (0, -1, 2**40)),
        ({"profile": "fast"}, ModelError, "profile is 'default', not 'fast'"),
        ({"type": "U4b8"}, ModelError, "type is None, not 'U4b8'"),
    ],
)
def test_wrong_options(model: Path, options: dict[str, Any], error: type[IntactError], message: str) -> None:
    with pytest.raises(error, match=message):
        LLM(model, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"profile": "exact"}, "profile: "), ({"type": "U9"}, "type: "), ({"head_type": "U9"}, "head_type: ")],
)
def test_wrong_conversion(checkpoint: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    for attempt in (lambda: LLM(checkpoint, **options), lambda: quantize(checkpoint, tmp_path / "model", **options)):
        with pytest.raises(RequestError, match=message):
            attempt()  # type: ignore[no-untyped-call]


def test_mask_from_the_environment(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTACT_CPU", "reference")
    assert LLM(model).kernels == "reference"
    monkeypatch.setenv("INTACT_CPU", "warp")
    with pytest.raises(DeviceError, match="warp"):
        LLM(model)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[]], "prompt: it is empty"),
        ([[1, 300]], r"prompt\[1\]: token id 300"),
        ([[1, -1]], r"prompt\[1\]: -1"),
        ([[1, 2**32]], r"prompt\[1\]: 4294967296"),
        ([[1, True]], r"prompt\[1\]: True"),
        ([[1.5]], r"prompt\[0\]: 1.5"),
        ([[1] * 257], "257 tokens do not fit the context of 256"),
        (5, "prompts: 5 is not a list"),
        ([None], "prompt: None is not a list"),
    ],
)
def test_wrong_prompts(llm: LLM, prompts: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        llm.generate(prompts, TOKENS)
    if isinstance(prompts, list) and isinstance(prompts[0], list):
        with pytest.raises(RequestError, match=message):
            llm.generate([[1], *prompts], TOKENS)
        with pytest.raises(RequestError, match=message):
            llm.logits(prompts[0])
        with pytest.raises(RequestError, match=message):
            next(llm.stream(prompts[0], TOKENS))
    assert tokens(llm, [1], TOKENS)


def test_wrong_number_of_settings(llm: LLM) -> None:
    with pytest.raises(RequestError, match="params: 2 settings for 1 prompts"):
        llm.generate([[1]], [TOKENS, TOKENS])


def test_small_cache(model: Path) -> None:
    llm = LLM(model, kv_tokens=16, page=8)
    assert tokens(llm, [1] * 8, SamplingParams(max_tokens=9, ignore_eos=True))
    with pytest.raises(RequestError, match="raise kv_tokens"):
        llm.generate([[1] * 8], SamplingParams(max_tokens=10))
    with pytest.raises(RequestError, match="raise kv_tokens"):
        llm.logits([1] * 17)


def test_without_tokenizer() -> None:
    llm = LLM(VECTORS / "llama-default")
    assert llm.generate([1], TOKENS)[0].outputs[0].text == ""
    with pytest.raises(TokenizerError, match="give token ids"):
        llm.generate("text")
    with pytest.raises(TokenizerError, match="give token ids"):
        llm.chat([{"role": "user", "content": "hi"}])
    with pytest.raises(RequestError, match="stop: "):
        llm.generate([1], SamplingParams(stop="x"))


def test_no_model(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", Path(__file__)):
        with pytest.raises(ModelError, match=path.name):
            LLM(path)
    (tmp_path / "intact.json").write_text("{}")
    with pytest.raises(ModelError, match=r"intact\.json"):
        LLM(tmp_path)


# --- Sharing ----------------------------------------------------------------------------------------------------------


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
        """An engine that fails once."""

        def __init__(self, engine: Any) -> None:
            self.engine, self.left = engine, 3

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

        def step(self) -> Any:
            self.left -= 1
            if self.left == 0:
                raise RequestError("KV cache: no memory")
            return self.engine.step()

    broken = LLM(model)
    broken._dispatcher._runner.engine = Failing(broken._engine)  # type: ignore[assignment]
    streams = [broken.stream([n], TOKENS) for n in (1, 2)]
    for stream in streams:
        next(stream)
    for stream in streams:
        with pytest.raises(RequestError, match="KV cache"):
            list(stream)
    assert tokens(broken, [1], TOKENS) == tokens(llm, [1], TOKENS)


def test_engine_thread_ends_with_its_llm(model: Path) -> None:
    before = threading.active_count()
    llm = LLM(model)
    assert tokens(llm, [1], TOKENS)
    assert threading.active_count() == before + 1
    del llm
    gc.collect()
    assert threading.active_count() == before


def test_properties(llm: LLM, model: Path) -> None:
    manifest = json.loads((model / "intact.json").read_text())
    assert llm.manifest == manifest
    assert llm.digest == manifest["digest"]
    assert llm.fraction_bits == manifest["model"]["fraction_bits"]
    assert llm.contract_version == manifest["model"]["contract"] == intact.CONTRACT_VERSION
    assert (llm.vocabulary_size, llm.context, llm.threads) == (300, 256, 1)
