"""Converting: to a directory or in memory, the same bits; whole or not at all."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pytest

import intact
from intact import LLM, ModelError, SamplingParams, quantize

TOKENS = SamplingParams(max_tokens=12, seed=5, ignore_eos=True)
PROMPTS = [[1], [7, 3, 250, 9], [*range(40, 73)], [5] * 100]


def tokens(llm: LLM, prompt: Any, params: SamplingParams) -> list[list[int]]:
    return [output.token_ids for output in llm.generate(prompt, params)[0].outputs]


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
        for threads, parent in ((1, "a"), (2, "b"), (7, "c")):
            target = tmp_path / source.name / parent / "model"
            target.parent.mkdir(parents=True)
            quantize(source, target, threads=threads, progress=False)
            contents.append({file.name: file.read_bytes() for file in target.iterdir()})
        assert contents[0] == contents[1] == contents[2]
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


def test_a_rotated_head_computes_the_same(checkpoint: Path, tmp_path: Path) -> None:
    for name, rotate in (("plain", False), ("rotated", True)):
        quantize(checkpoint, tmp_path / name, head_type="W16r", rotate=rotate, progress=False)
    plain, rotated = LLM(tmp_path / "plain"), LLM(tmp_path / "rotated")
    assert plain.digest != rotated.digest and rotated.manifest["provenance"]["rotated"]
    program = rotated.manifest["model"]["program"]
    ops = [op["op"] for op in [*program["body"], *program["head"]]]
    assert ops.count("hadamard") == 2
    one, two = (llm.logits(PROMPTS[2]).astype(np.float64) / 2**llm.fraction_bits for llm in (plain, rotated))
    assert np.abs(one - two).max() < 0.02 * np.abs(one).max()


def test_widths_that_cannot_be_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "HIDDEN", 32)
    monkeypatch.setitem(conftest.CONFIG, "hidden_size", 32)
    source = conftest.write_checkpoint(tmp_path / "source")
    with pytest.raises(ModelError, match=r"rotate: .*32 columns, no multiple of 64"):
        quantize(source, tmp_path / "model", rotate=True, progress=False)
    assert not (tmp_path / "model").exists()


def test_overwrite(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    first = quantize(checkpoint, target, progress=False)
    with pytest.raises(ModelError, match="already exists"):
        quantize(checkpoint, target, profile="fast", progress=False)
    assert LLM(target).digest == first["digest"]
    second = quantize(checkpoint, target, profile="fast", overwrite=True, progress=False)
    assert LLM(target).digest == second["digest"] != first["digest"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_overwrite_spares_what_is_no_model(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("…", "utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for target in (tmp_path / "letters", tmp_path / "letters" / "dear.txt", tmp_path / "link", checkpoint):
        with pytest.raises(ModelError, match=f"{target.name}: is no model directory"):
            quantize(checkpoint, target, overwrite=True, progress=False)
    assert (tmp_path / "letters" / "dear.txt").read_text("utf-8") == "…"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters", "link"]


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
