"""Saved states: what goes on from one is what goes on without, on any machine; a damaged file is refused."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intact import LLM, ModelError, RequestError, SamplingParams, State, StateError
from intact.cli import main

PROMPT = [7, 3, 250, 9, *range(40, 73)]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.9, seed=5, max_tokens=12, ignore_eos=True)
HEADER, SEAL = 64, 32


def ids(llm: LLM, prompt: list[int], params: SamplingParams, state: State | None = None) -> list[int]:
    return llm.generate([prompt], params, state=state)[0].outputs[0].token_ids


@pytest.fixture(scope="module")
def saved(llm: LLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "prompt.kv"
    llm.state(PROMPT).save(path)
    return path


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, SamplingParams(n=3, seed=9, max_tokens=7)], ids=str)
@pytest.mark.parametrize("prompt", [PROMPT, [*PROMPT, 5, 6], PROMPT[:20], [*PROMPT[:9], 1, 2], [1, 2], [7]], ids=len)
def test_going_on_changes_nothing(llm: LLM, saved: Path, prompt: list[int], params: SamplingParams) -> None:
    state = State.load(saved)
    assert llm.generate([prompt], params, state=state) == llm.generate([prompt], params)


@pytest.mark.parametrize("options", [{"page": 1}, {"page": 7, "chunk": 3}, {"page": 64, "threads": 2}], ids=str)
def test_pages_of_any_size(model: Path, llm: LLM, saved: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    other = LLM(model, **options)
    assert ids(other, PROMPT, SAMPLED, State.load(saved)) == ids(llm, PROMPT, SAMPLED)
    other.state(PROMPT).save(tmp_path / "other.kv")
    assert (tmp_path / "other.kv").read_bytes() == saved.read_bytes()


def test_extending(llm: LLM, saved: Path, tmp_path: Path) -> None:
    longer = [*PROMPT, *range(20)]
    llm.state(longer, state=State.load(saved)).save(tmp_path / "extended.kv")
    llm.state(longer).save(tmp_path / "whole.kv")
    assert (tmp_path / "extended.kv").read_bytes() == (tmp_path / "whole.kv").read_bytes()
    shorter = llm.state(PROMPT[:10], state=State.load(saved))
    assert shorter.token_ids == PROMPT[:10]
    assert shorter.model_digest == llm.digest
    assert shorter.bytes > 0


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_request_goes_on_in_another_process(model: Path, llm: LLM, tmp_path: Path, params: SamplingParams) -> None:
    whole = ids(llm, PROMPT, params)
    sequence = [*PROMPT, *whole[:5]]
    llm.state(sequence).save(tmp_path / "five.kv")
    program = f"""
from intact import LLM, SamplingParams, State
llm = LLM({str(model)!r}, threads=1, page=16)
params = SamplingParams(temperature={params.temperature}, seed=5, max_tokens=7, ignore_eos=True, first_step=5)
print(llm.generate([{sequence}], params, state=State.load({str(tmp_path / "five.kv")!r}))[0].outputs[0].token_ids)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == whole[5:]


def test_first_step_counts_random_numbers(llm: LLM) -> None:
    whole = ids(llm, PROMPT, SAMPLED)
    rest = SamplingParams(temperature=0.9, seed=5, max_tokens=7, ignore_eos=True, first_step=5)
    assert ids(llm, [*PROMPT, *whole[:5]], rest) == whole[5:]
    with pytest.raises(RequestError, match="first_step: 5 is not within 0 where a receipt is asked for"):
        llm.generate([PROMPT], SamplingParams(first_step=5, receipt="logits"))
    with pytest.raises(RequestError, match="first_step"):
        SamplingParams(first_step=-1)


def test_a_receipt_made_from_a_state(llm: LLM, saved: Path) -> None:
    params = SamplingParams(seed=3, max_tokens=4, receipt="tensors", ignore_eos=True)
    made, plain = (llm.generate([PROMPT], params, state=state)[0].receipt for state in (State.load(saved), None))
    assert made == plain
    assert made is not None
    assert llm.verify_receipt(made).status == "equal"


def test_a_full_cache_computes_again(model: Path, llm: LLM, saved: Path) -> None:
    small = LLM(model, page=16, kv_tokens=64)
    outputs = small.generate([PROMPT] * 5, SAMPLED, state=State.load(saved))
    assert [output.outputs[0].token_ids for output in outputs] == [ids(llm, PROMPT, SAMPLED)] * 5


# --- Refusals ---------------------------------------------------------------------------------------------------------


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def test_every_truncation_and_damage_is_refused(saved: Path, tmp_path: Path) -> None:
    data, path = saved.read_bytes(), tmp_path / "bad.kv"
    lengths = [*range(100), *range(100, len(data), 997), len(data) - 1]
    for damaged in [data[:length] for length in lengths] + [data + b"\0"]:
        path.write_bytes(damaged)
        with pytest.raises(StateError, match=r"bad\.kv: .*; the file is damaged or is no state"):
            State.load(path)
    for at in [*range(HEADER), *range(HEADER, len(data), 501)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(StateError, match=r"bad\.kv: "):
            State.load(path)


@pytest.mark.parametrize(
    ("count", "size"), [(2**64 - 1, 0), (2**62, 0), (2**24, 2**40), (0, 2**64 - 1), (5, 2**63)], ids=str
)
def test_claimed_sizes_allocate_nothing(saved: Path, tmp_path: Path, count: int, size: int) -> None:
    path = tmp_path / "huge.kv"
    path.write_bytes(sealed(saved.read_bytes()[:48] + struct.pack("<QQ", count, size)))
    with pytest.raises(StateError, match="do not make 96 bytes"):
        State.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:8] + struct.pack("<I", 2) + c[12:], "layout version 2 is not 1"),
        (lambda c: c[:12] + struct.pack("<I", 9) + c[16:], "contract version 9 is not 1"),
        (lambda c: b"notastat" + c[8:], "does not begin as a state does"),
    ],
    ids=["layout", "contract", "magic"],
)
def test_versions(saved: Path, tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "version.kv"
    path.write_bytes(sealed(change(saved.read_bytes()[:-SEAL])))
    with pytest.raises(StateError, match=message):
        State.load(path)


def forged(saved: Path, tmp_path: Path, change: Any) -> State:
    """A state that is whole, with other content: tokens and cache may be anything."""
    content = saved.read_bytes()[:-SEAL]
    count, size = struct.unpack("<QQ", content[48:HEADER])
    tokens, cache = content[HEADER : HEADER + 4 * count], bytearray(content[HEADER + 4 * count :])
    assert len(cache) == size
    tokens, cache = change(tokens, cache)
    header = content[:48] + struct.pack("<QQ", len(tokens) // 4, len(cache))
    path = tmp_path / "forged.kv"
    path.write_bytes(sealed(header + tokens + bytes(cache)))
    return State.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, c: (t, c[:-1]), "too few bytes"),
        (lambda t, c: (t, c + b"\0"), "more bytes than its tokens need"),
        (lambda t, c: (t[:-4], c), "more bytes|outside the contract"),
        (lambda t, c: (t, bytearray(b"\x80\x80") + c[2:]), "a key is outside the contract's range"),
        (lambda t, c: (t, c[:-4] + bytes([0, 1, 128, 1])), "a scale is outside the contract's range"),
        (lambda t, c: (t, c[:-1] + b"\xff"), "a scale is outside the contract's range"),
    ],
    ids=["short", "long", "tokens", "key", "d", "t"],
)
def test_content_outside_the_contract(llm: LLM, saved: Path, tmp_path: Path, change: Any, message: str) -> None:
    state = forged(saved, tmp_path, change)
    for use in (lambda: llm.state(PROMPT, state=state), lambda: llm.generate([PROMPT], GREEDY, state=state)):
        with pytest.raises(StateError, match=message):
            use()
    assert ids(llm, PROMPT, GREEDY)  # nothing is left behind


def test_tokens_outside_the_model(llm: LLM, saved: Path, tmp_path: Path) -> None:
    state = forged(saved, tmp_path, lambda t, c: (struct.pack("<I", 300) + t[4:], c))
    with pytest.raises(RequestError, match="300 is not below the vocabulary"):
        llm.state(PROMPT, state=state)


def test_random_content_within_range_does_no_harm(llm: LLM, saved: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):

        def change(tokens: bytes, cache: bytearray) -> tuple[bytes, bytearray]:
            flips = rng.integers(0, len(cache), 200)
            for at in flips:
                cache[at] ^= 1
            return tokens, cache

        try:
            llm.generate([PROMPT], GREEDY, state=forged(saved, tmp_path, change))
        except StateError:
            continue


def test_another_model(llm: LLM, checkpoint: Path, saved: Path) -> None:
    other = LLM(checkpoint, profile="fast")
    for use in (
        lambda: other.state(PROMPT, state=State.load(saved)),
        lambda: ids(other, PROMPT, GREEDY, State.load(saved)),
    ):
        with pytest.raises(StateError, match=f"it is of model {llm.digest}, not of {other.digest}"):
            use()


def test_files(llm: LLM, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"missing\.kv: cannot read"):
        State.load(tmp_path / "missing.kv")
    with pytest.raises(StateError, match="cannot write"):
        llm.state([1]).save(tmp_path / "no" / "directory.kv")
    with pytest.raises(StateError):
        State.load(tmp_path)
    with pytest.raises(StateError):
        llm.state([1]).save(tmp_path)
    with pytest.raises(RequestError, match="is not a State"):
        llm.generate([PROMPT], GREEDY, state=saved)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="empty"):
        llm.state([])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# --- Command line -----------------------------------------------------------------------------------------------------


def cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main([*arguments])
    return int(exit.value.code or 0)


def test_prompt_cache(model: Path, llm: LLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "chat.kv")
    command = ["run", str(model), "--prompt", "The quick brown fox", "-n", "6"]
    assert cli(*command) == 0
    plain = capsys.readouterr().out
    for _ in range(2):
        assert cli(*command, "--prompt-cache", path) == 0
        assert capsys.readouterr().out == plain
    state = State.load(path)
    start = llm.tokenizer.encode("The quick brown fox")
    assert state.token_ids[: len(start)] == start
    assert len(state.token_ids) > len(start)
    Path(path).write_bytes(b"no state")
    assert cli(*command, "--prompt-cache", path) == 2
    assert "is no state" in capsys.readouterr().err
    assert not issubclass(StateError, ModelError)
