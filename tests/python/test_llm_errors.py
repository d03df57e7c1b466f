"""What `LLM` says to wrong options and requests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intact import LLM, ModelError, RequestError, SamplingParams, TokenizerError, quantize
from intact.errors import DeviceError, IntactError

VECTORS = Path(__file__).parents[1] / "vectors" / "models"

TOKENS = SamplingParams(max_tokens=12, seed=5, ignore_eos=True)
PROMPTS = [[1], [7, 3, 250, 9], [*range(40, 73)], [5] * 100]


def tokens(llm: LLM, prompt: Any, params: SamplingParams) -> list[list[int]]:
    return [output.token_ids for output in llm.generate(prompt, params)[0].outputs]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "cuda"}, DeviceError, 'no GPU adapter "cuda"'),
        *(({"offload": value}, RequestError, "offload: ") for value in (-1, True, 1.5)),
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
        ([[[1]]], r"prompt\[0\]: \[1\]"),
        ([1, [2]], r"prompt\[1\]: \[2\]"),
        (["text", 1], "prompt: 1 is not a list"),
        (5, "prompts: 5 is not a list"),
        (b"text", "prompts: b'text' is not a list"),
        ({1: 2}, "prompts: {1: 2} is not a list"),
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
    with pytest.raises(RequestError, match=r"params\[1\]: None is not a SamplingParams"):
        llm.generate([[1], [2]], [TOKENS, None])  # type: ignore[list-item]
    with pytest.raises(RequestError, match=r"params\[0\]: 't' is not a SamplingParams"):
        next(llm.stream([1], "text"))  # type: ignore[arg-type]


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


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def other_digit(content: bytes) -> bytes:
    """Changes the model digest, of which the text is `"digest": "…"`."""
    at = content.index(b'"digest"') + 12
    return content[:at] + (b"0" if content[at : at + 1] != b"0" else b"1") + content[at + 1 :]


@pytest.mark.parametrize(
    ("file", "damage", "error"),
    [
        ("intact.json", cut, ModelError),
        ("intact.json", lambda _: b"", ModelError),
        ("intact.json", lambda content: content.replace(b'"A16"', b'"A17"', 1), ModelError),
        ("intact.json", other_digit, ModelError),
        ("model.safetensors", cut, ModelError),
        ("model.safetensors", lambda _: b"", ModelError),
        ("model.safetensors", lambda content: b"\xff" * 8 + content[8:], ModelError),
        ("model.safetensors", None, ModelError),
        ("tokenizer.json", cut, TokenizerError),
        ("tokenizer_config.json", cut, TokenizerError),
    ],
)
def test_damaged_directory(
    model: Path, tmp_path: Path, file: str, damage: Callable[[bytes], bytes] | None, error: type[IntactError]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    content = (copy / file).read_bytes()
    (copy / file).unlink()
    if damage is not None:
        assert damage(content) != content
        (copy / file).write_bytes(damage(content))
    with pytest.raises(error, match=file):
        LLM(copy)


def test_a_model_is_no_source(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tiny"):
        quantize(model, tmp_path / "again", progress=False)
    assert list(tmp_path.iterdir()) == []
