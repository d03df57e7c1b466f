"""Receipts from Python and the command line: what is in them, what is accepted, with which status."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intact import LLM, ModelError, Receipt, ReceiptError, RequestError, SamplingParams, verify_receipt
from intact._native import MAX_RECEIPT_BYTES
from intact.cli import main

PARAMS = SamplingParams(temperature=0.9, top_p=0.95, seed=3, n=2, max_tokens=12, ignore_eos=True, receipt="logits")
PROMPT = [7, 3, 250, 9]


def made(llm: LLM, params: SamplingParams = PARAMS, prompt: Any = PROMPT) -> Receipt:
    receipt = llm.generate([prompt], params)[0].receipt
    assert receipt is not None
    return receipt


def canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(content: dict[str, Any]) -> bytes:
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return canonical({**rest, "sha256": hashlib.sha256(canonical(rest)).hexdigest()}) + b"\n"


@pytest.fixture(scope="module")
def receipt(llm: LLM) -> Receipt:
    return made(llm)


@pytest.fixture
def status(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """The status of a command, and what it writes."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return exit.value.code, captured.out, captured.err

    return run


# --- Making -----------------------------------------------------------------------------------------------------------


def test_what_a_receipt_says(llm: LLM, receipt: Receipt) -> None:
    output = llm.generate([PROMPT], PARAMS)[0]
    assert output.receipt == receipt
    content = receipt.content
    assert receipt.data == sealed(content)
    assert (content["model"], content["contract"]) == (llm.digest, llm.contract_version)
    assert content["request"] == {
        **{name: value for name, value in PARAMS.to_contract().items() if name not in ("logprobs", "first_step")},
        "prompt": PROMPT,
        "stop_ids": [],
    }
    assert [entry["ids"] for entry in content["outputs"]] == [entry.token_ids for entry in output.outputs]
    assert [entry["finish"] for entry in content["outputs"]] == [entry.finish_reason for entry in output.outputs]
    assert "tensors" not in content["outputs"][0]
    assert llm.generate([PROMPT], SamplingParams(max_tokens=2))[0].receipt is None


def test_options_and_company_change_no_byte(model: Path, receipt: Receipt) -> None:
    other = LLM(model, threads=2, chunk=3, page=4, kv_tokens=64, cpu="reference")
    plain = SamplingParams(max_tokens=20, ignore_eos=True)
    found = other.generate([[5] * 30, PROMPT, [1], PROMPT], [plain, PARAMS, plain, PARAMS])
    assert [output.receipt for output in found] == [None, receipt, None, receipt]


def test_end_tokens_are_in_the_request(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=2, stop_token_ids=[250, 7], receipt="logits")
    assert made(llm, params).content["request"]["stop_ids"] == sorted({250, 7} | llm.tokenizer.eos_ids)


def test_a_stop_text_cancels(llm: LLM) -> None:
    text = llm.generate([PROMPT], PARAMS)[0].outputs[0].text
    params = SamplingParams(**{**vars(PARAMS), "stop": text[3:5]})
    first = llm.generate([PROMPT], params)[0]
    entry = first.receipt.content["outputs"][0]  # type: ignore[union-attr]
    assert entry["finish"] == "cancelled" and first.outputs[0].finish_reason == "stop"
    assert entry["ids"] == first.outputs[0].token_ids and 0 < len(entry["ids"]) < 12
    assert verify_receipt(first.receipt, llm).status == "equal"  # type: ignore[arg-type]
    # However far the engine was ahead when the text was found.
    for _ in range(20):
        assert llm.generate([PROMPT, [1]], params)[0].receipt == first.receipt
        assert list(llm.stream(PROMPT, params))[-1].receipt == first.receipt


def test_streams(llm: LLM, receipt: Receipt) -> None:
    chunks = list(llm.stream(PROMPT, PARAMS))
    assert [chunk.receipt for chunk in chunks] == [None] * (len(chunks) - 1) + [receipt]


def test_nothing_is_kept_of_an_abandoned_request(model: Path) -> None:
    llm = LLM(model, threads=1)
    stream = llm.stream(PROMPT, PARAMS)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    llm.generate([PROMPT], PARAMS)
    assert [llm._dispatcher.call(lambda engine, i=i: engine.take_receipt(i, [])) for i in range(3)] == [None] * 3


@pytest.mark.parametrize("value", ["", "all", True, 1, b"logits"])
def test_wrong_trace(value: Any) -> None:
    with pytest.raises(RequestError, match="receipt: "):
        SamplingParams(receipt=value)


def test_too_large(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"receipt: it could grow to .* lower max_tokens or n"):
        llm.generate([PROMPT], SamplingParams(n=1024, max_tokens=5000, receipt="tensors"))


# --- Files ------------------------------------------------------------------------------------------------------------


def test_files_are_whole_or_absent(receipt: Receipt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "receipt.json"
    receipt.save(path)
    assert path.read_bytes() == receipt.data and Receipt.load(path) == receipt
    other = Receipt(receipt.data[:-1])
    other.save(path)
    assert path.read_bytes() == other.data

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        receipt.save(path)
    assert path.read_bytes() == other.data and os.listdir(tmp_path) == ["receipt.json"]
    with pytest.raises(OSError, match="is no file"):
        receipt.save(tmp_path)
    with pytest.raises(OSError, match="missing"):
        receipt.save(tmp_path / "missing" / "receipt.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_special_files_stay(receipt: Receipt, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no file"):
        receipt.save(tmp_path / "pipe")


# --- Checking ---------------------------------------------------------------------------------------------------------


def test_verdicts(llm: LLM, model: Path, receipt: Receipt, tmp_path: Path) -> None:
    receipt.save(tmp_path / "receipt.json")
    for file, target in [(receipt, llm), (receipt, model), (tmp_path / "receipt.json", llm)]:
        verdict = verify_receipt(file, target)
        assert (verdict.status, verdict.checked, verdict.steps) == ("equal", 24, 24)
        assert verdict.message == "equal: 24 of 24 steps checked" and verdict.spot_seed is None
    content = receipt.content
    content["outputs"][1]["ids"][5] ^= 1
    verdict = verify_receipt(Receipt(sealed(content)), llm)
    assert (verdict.status, verdict.what, verdict.output, verdict.step) == ("different", "token", 1, 5)
    assert verdict.position == len(PROMPT) + 4 and verdict.checked is None and verdict.tensor is None
    assert verify_receipt(Receipt(canonical(content)), llm).what == "sha256"


def test_tensors_name_the_difference(llm: LLM) -> None:
    receipt = made(llm, SamplingParams(temperature=0, max_tokens=3, receipt="tensors"))
    assert verify_receipt(receipt, llm).status == "equal"
    content = receipt.content
    step = content["outputs"][0]["tensors"][1]
    step[4] = step[3]
    tensor = verify_receipt(Receipt(sealed(content)), llm).tensor
    assert tensor is not None
    assert set(tensor) == {"index", "part", "op", "kind", "slot", "near"}
    assert (tensor["index"], tensor["part"]) == (4, "body") and "layers.0" in tensor["near"]


def test_an_llm_has_its_own_options(llm: LLM, receipt: Receipt) -> None:
    with pytest.raises(RequestError, match="threads: goes with a path"):
        verify_receipt(receipt, llm, threads=2)


def test_spot_checks(llm: LLM, receipt: Receipt) -> None:
    verdict = verify_receipt(receipt, llm, spot=3)
    assert (verdict.checked, verdict.steps) == (3, 24)
    assert verify_receipt(receipt, llm, spot=3, spot_seed=verdict.spot_seed) == verdict
    assert verify_receipt(receipt, llm, spot=2**32 - 1).checked == 24
    for value in (0, -1, 1.0, True, 2**32):
        with pytest.raises(RequestError, match="spot: "):
            verify_receipt(receipt, llm, spot=value)  # type: ignore[arg-type]
    for value in (-1, 2**64, 1.0, True, "1"):
        with pytest.raises(RequestError, match="spot_seed: "):
            verify_receipt(receipt, llm, spot=1, spot_seed=value)  # type: ignore[arg-type]


def test_other_weights_under_the_same_digest(model: Path, receipt: Receipt, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    planes = bytearray((copy / "model.safetensors").read_bytes())
    planes[-1] ^= 1  # padding, so that every logit is as it was
    (copy / "model.safetensors").write_bytes(planes)
    with pytest.raises(ModelError, match="SHA-256"):
        verify_receipt(receipt, copy)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damaged_receipt_passes(data: st.DataObject, llm: LLM, receipt: Receipt) -> None:
    text = bytearray(receipt.data[:-1])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        verdict = verify_receipt(Receipt(bytes(text)), llm)
    except ReceiptError:
        return
    assert verdict.status == "different" or bytes(text).strip() == receipt.data.strip()


# --- The command line -------------------------------------------------------------------------------------------------


def test_run_and_verify(model: Path, llm: LLM, tmp_path: Path, status: Callable[..., tuple[int, str, str]]) -> None:
    path = tmp_path / "receipt.json"
    flags = ["--prompt", "The fox", "--temperature", 0.7, "--max-tokens", 9, "--receipt", path]
    code, text, _ = status("run", model, *flags)
    plain = path.read_bytes()
    params = SamplingParams(temperature=0.7, max_tokens=9, receipt="logits")
    expected = llm.generate("The fox", params)[0]
    assert (code, text, plain) == (0, expected.outputs[0].text + "\n", expected.receipt.data)  # type: ignore[union-attr]
    assert status("run", model, *flags, "--json")[0] == 0 and path.read_bytes() == plain
    assert status("verify", path, model) == (0, "equal: 9 of 9 steps checked\n", "")
    code, text, _ = status("verify", path, model, "--spot", 2, "--spot-seed", 5)
    assert (code, text) == (0, "equal: 2 of 9 steps checked, spot seed 5\n")
    assert "spot seed " in status("verify", path, model, "--spot", 2)[1]
    assert status("run", model, *flags, "--receipt-trace", "tensors")[0] == 0
    assert json.loads(path.read_bytes())["trace"] == "tensors"
    report = json.loads(status("verify", path, model, "--json", "--threads", 1, "--cpu", "reference")[1])
    assert (report["status"], report["checked"], report["spot_seed"]) == ("equal", 9, None)


def test_wrong_usage(
    model: Path, receipt: Receipt, tmp_path: Path, status: Callable[..., tuple[int, str, str]]
) -> None:
    receipt.save(tmp_path / "receipt.json")
    for arguments, message in [
        (["run", model, "-p", "x", "--receipt-trace", "logits"], "goes with --receipt"),
        (["run", model, "-p", "x", "--receipt", tmp_path / "r", "--receipt-trace", "all"], "receipt: 'all'"),
        (["run", model, "-p", "x", "--receipt", tmp_path / "no" / "r"], "there is no such directory"),
        (["run", model, "-p", "x", "-n", 1, "--receipt", tmp_path], "is no file"),
        (["verify", tmp_path / "receipt.json", model, "--spot", 0], "--spot"),
        (["verify", tmp_path / "receipt.json", model, "--spot-seed", 1], "goes with --spot"),
        (["verify", tmp_path / "receipt.json", model, "--spot", 1, "--spot-seed", 2**64], "spot_seed"),
        (["verify", tmp_path / "receipt.json", tmp_path / "nothing"], "nothing"),
        (["verify", tmp_path / "receipt.json"], "model"),
    ]:
        code, out, err = status(*arguments)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1, (arguments, err)


def test_differences_have_status_1(
    model: Path, receipt: Receipt, tmp_path: Path, status: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "receipt.json"
    for what, change in [
        ("sha256", lambda r: r.update(sha256="0" * 64)),
        ("request", lambda r: r["request"].update(prompt=[300])),
        ("outputs", lambda r: r["outputs"].pop()),
        ("chain", lambda r: r["outputs"][0]["chain"].pop()),
        ("finish", lambda r: r["outputs"][1].update(finish="stop")),
        ("token", lambda r: r["outputs"][0]["ids"].__setitem__(0, r["outputs"][0]["ids"][0] ^ 1)),
        ("logits", lambda r: r["outputs"][0]["chain"].__setitem__(0, "0" * 64)),
        ("tensors", lambda r: r.update(trace="tensors")),
    ]:
        content = receipt.content
        change(content)
        path.write_bytes(canonical(content) if what == "sha256" else sealed(content))
        code, out, _ = status("verify", path, model)
        assert code == 1 and out.startswith("different: ") and f"{what}" in out and out.count("\n") == 1, out
        report = json.loads(status("verify", path, model, "--json")[1])
        assert (report["what"], report["message"] + "\n") == (what, out)


def test_another_model_or_contract_has_status_2(
    model: Path, receipt: Receipt, tmp_path: Path, status: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "receipt.json"
    for field, value in [("model", "0" * 64), ("contract", 2)]:
        path.write_bytes(sealed({**receipt.content, field: value}))
        code, out, _ = status("verify", path, model)
        assert code == 2 and out.startswith(f"refused: {field}: the receipt is for {value}, this is ")
        assert json.loads(status("verify", path, model, "--json")[1])["status"] == "refused"


def edited(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return edit


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("empty", lambda _: b""),
        ("no JSON", lambda _: b"receipt"),
        ("a list", lambda _: b"[]"),
        ("no fields", lambda _: b"{}"),
        ("NaN alone", lambda _: b"NaN"),
        ("not UTF-8", lambda data: data.replace(b"logits", b"log\xfft", 1)),
        ("UTF-16", lambda data: data.decode().encode("utf-16")),
        ("a byte order mark", lambda data: b"\xef\xbb\xbf" + data),
        ("truncated", lambda data: data[: len(data) // 2]),
        ("twice", lambda data: data * 2),
        ("deep", lambda _: b"[" * 1_000_000),
        ("deep objects", lambda _: b'{"a":' * 1_000_000),
        ("deep within", edited(b'"contract":1', b'"contract":' + b"[" * 100_000)),
        ("many items", edited(b'"prompt":[', b'"prompt":[' + b"1," * 5_000_000 + b"-1,")),
        ("many outputs", edited(b'"outputs":[', b'"outputs":[' + b"[]," * 2_000_000)),
        ("a long text", edited(b'"trace":"', b'"trace":"' + b"x" * 1_000_000)),
        ("pretty", lambda data: json.dumps(json.loads(data), indent=1).encode()),
        ("unsorted", lambda data: json.dumps(dict(reversed(json.loads(data).items())), separators=(",", ":")).encode()),
        ("escaped", edited(b"logits", b"l\\u006fgits")),
        ("a field twice", edited(b'"contract":1', b'"contract":1,"contract":1')),
        ("an unknown field", edited(b'"contract":1', b'"contract":1,"date":1')),
        ("a missing field", edited(b'"contract":1,', b"")),
        ("another version", edited(b'"receipt":1', b'"receipt":2')),
        ("version 0", edited(b'"receipt":1', b'"receipt":0')),
        ("a version in text", edited(b'"receipt":1', b'"receipt":"1"')),
        ("null", edited(b'"contract":1', b'"contract":null')),
        ("a truth value", edited(b'"contract":1', b'"contract":true')),
        ("a float", edited(b'"contract":1', b'"contract":1.0')),
        ("NaN", edited(b'"contract":1', b'"contract":NaN')),
        ("Infinity", edited(b'"contract":1', b'"contract":Infinity')),
        ("1e400", edited(b'"contract":1', b'"contract":1e400')),
        ("a huge integer", edited(b'"contract":1', b'"contract":' + b"9" * 100_000)),
        ("a negative number", edited(b'"contract":1', b'"contract":-1')),
        ("wide digits", edited(b'"contract":1', '"contract":１'.encode())),
        ("a lookalike", edited(b'"contract"', '"сontract"'.encode())),
        ("no prompt", edited(b'"prompt":[7,3,250,9]', b'"prompt":[]')),
        ("upper case", lambda data: data.replace(b"a", b"A")),
    ],
)
def test_bad_files_have_status_2(
    name: str,
    edit: Callable[[bytes], bytes],
    model: Path,
    receipt: Receipt,
    tmp_path: Path,
    status: Callable[..., tuple[int, str, str]],
) -> None:
    path = tmp_path / "receipt.json"
    path.write_bytes(edit(receipt.data))
    code, out, err = status("verify", path, model)
    assert (code, out) == (2, ""), name
    assert err.startswith(f"intact: {path}: ") and err.count("\n") == 1 and len(err) < 1000


def test_paths_that_are_no_receipts(model: Path, tmp_path: Path, status: Callable[..., tuple[int, str, str]]) -> None:
    large = tmp_path / "large.json"
    with open(large, "wb") as file:
        file.truncate(100 << 20)
    for path, message in [
        (large, f"more than {MAX_RECEIPT_BYTES} bytes"),
        (tmp_path, "directory"),
        (tmp_path / "nothing", "No such file"),
        (model / "intact.json", "receipt"),
    ]:
        code, out, err = status("verify", path, model)
        assert (code, out) == (2, "") and message in err and str(path) in err, err
