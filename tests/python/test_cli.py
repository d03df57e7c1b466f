"""The command line: what it prints, with which status, and that docs/CLI.md describes all of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from intact import CONTRACT_VERSION, LLM, ModelError, RequestError, SamplingParams, _native, numerics
from intact._native import read_bandwidth
from intact.cli import app, main
from tests.python.conftest import random_weights

DOCUMENT = (Path(__file__).parents[2] / "docs" / "CLI.md").read_text("utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
VECTORS = Path(__file__).parents[1] / "vectors" / "models"


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def intact(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process."""

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return Result(exit.value.code, captured.out, captured.err)

    return run


def section(command: str) -> str:
    return DOCUMENT.split(f"\n## {command}\n")[1].split("\n## ")[0]


def documented_fields(text: str) -> set[str]:
    return {
        line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and "--" not in line.split("|")[1]
    }


# --- The document -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command: str) -> None:
    names = {name for parameter in COMMANDS[command].params for name in parameter.opts if name.startswith("--")}
    shared = {"--json", "--threads", "--cpu", "--device", "--offload", "--profile", "--help"}
    assert names - shared <= {name for name in names if f"`{name}" in section(command)}
    assert shared - {"--help"} <= {name for name in shared if f"`{name}" in DOCUMENT}
    for parameter in COMMANDS[command].params:
        if isinstance(parameter.default, int) and parameter.default > 1:
            stated = rf"`{parameter.opts[0]}`[^\n]*by default {parameter.default}\b"
            assert re.search(stated, section(command)), parameter.opts[0]


def test_help(intact: Run) -> None:
    overview = intact("--help")
    assert overview.status == 0
    assert all(f"  {command}" in overview.out for command in COMMANDS)
    assert intact() == Result(2, overview.out, "")
    for command in COMMANDS:
        assert intact(command, "--help").out.startswith(f"Usage: intact {command} ")


def test_version(intact: Run) -> None:
    assert intact("--version").out.endswith(f"contract {CONTRACT_VERSION}\n")


# --- Commands ---------------------------------------------------------------------------------------------------------


def test_run(intact: Run, model: Path, llm: LLM) -> None:
    params = SamplingParams(temperature=0.7, top_k=50, top_p=0.9, min_p=0.01, seed=9, max_tokens=25)
    flags = ["--temperature", 0.7, "--top-k", 50, "--top-p", 0.9, "--min-p", 0.01, "--seed", 9, "--max-tokens", 25]
    expected = llm.generate("The fox 🙂", params)[0]
    text = expected.outputs[0].text
    assert intact("run", model, "--prompt", "The fox 🙂", *flags) == Result(0, text + "\n", "")
    assert intact("run", model, *flags, stdin="The fox 🙂".encode()) == Result(0, text + "\n", "")
    report = intact("run", model, "-p", "The fox 🙂", *flags, "--json", "--logprobs", 2).json
    assert set(report) == documented_fields(section("run"))
    assert report["model_digest"] == llm.digest
    assert report["prompt_token_ids"] == expected.prompt_token_ids
    assert report["token_ids"] == expected.outputs[0].token_ids
    assert report["text"] == text
    assert [len(step) in (2, 3) for step in report["logprobs"]] == [True] * len(report["token_ids"])
    stop = text[4:6]
    cut = intact("run", model, "-p", "The fox 🙂", *flags, "--stop", stop, "--json").json
    assert (cut["text"], cut["finish_reason"], cut["stop_reason"]) == (text[: text.index(stop)], "stop", stop)


def test_run_as_chat(intact: Run, model: Path, llm: LLM) -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    params = SamplingParams(temperature=0, max_tokens=10)
    expected = llm.chat(messages, params)[0]
    report = intact("run", model, "--chat", "--system", "be kind", "-p", "hi", "-n", 10, "--json").json
    assert report["prompt_token_ids"] == expected.prompt_token_ids
    assert report["text"] == expected.outputs[0].text


def test_chat(intact: Run, model: Path, llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=7)
    messages: list[dict[str, str]] = []
    for line in ("hi", "ho"):
        messages.append({"role": "user", "content": line})
        messages.append({"role": "assistant", "content": llm.chat(messages, params)[0].outputs[0].text})
    assert (
        intact("chat", model, "-n", 7, stdin=b"hi\n\nho\n").out
        == f"{messages[1]['content']}\n{messages[3]['content']}\n"
    )
    report = intact("chat", model, "-n", 7, "--json", stdin=b"hi\n\nho\n").json
    assert report == {"model_digest": llm.digest, "messages": messages}
    assert set(report) == documented_fields(section("chat"))


def test_chat_outlives_a_message_that_is_too_long(intact: Run, model: Path) -> None:
    report = intact("chat", model, "-n", 7, "--json", stdin=b"x" * 2000 + b"\nhi\n")
    assert [message["content"] for message in report.json["messages"]][:1] == ["hi"]
    assert report.err.startswith("intact: prompt: ")


def test_quantize(intact: Run, checkpoint: Path, model: Path, tmp_path: Path, llm: LLM) -> None:
    target = tmp_path / "model"
    report = intact("quantize", checkpoint, "-o", target, "--json", "--threads", 2)
    assert report.json["digest"] == llm.digest
    assert set(report.json) == documented_fields(section("quantize"))
    assert {file.name: file.read_bytes() for file in target.iterdir()} == {
        file.name: file.read_bytes() for file in model.iterdir()
    }
    again = intact("quantize", checkpoint, "-o", target)
    assert (again.status, again.out) == (2, "")
    options = ["--profile", "fast", "--type", "U4b8", "--head-type", "U6b8"]
    other = intact("quantize", checkpoint, "-o", target, "--overwrite", *options)
    assert other.status == 0
    assert LLM(target).digest in other.out
    assert LLM(target).manifest["provenance"].items() >= {"type": "U4b8", "head_type": "U6b8"}.items()


def sha256(values: Any) -> str:
    return hashlib.sha256(b"".join(int(value).to_bytes(4, "little", signed=True) for value in values)).hexdigest()


def test_hash(intact: Run, model: Path, llm: LLM) -> None:
    ids = [int(numerics.philox([i, 0, 0, 0], [0, 0])[0]) % llm.vocabulary_size for i in range(64)]
    shared = {"max_tokens": 64, "ignore_eos": True}
    greedy = llm.generate([ids], SamplingParams(temperature=0, **shared))[0].outputs[0]  # type: ignore[arg-type]
    sampled = llm.generate([ids], SamplingParams(temperature=0.8, seed=42, **shared))[0].outputs[0]  # type: ignore[arg-type]
    expected = {
        "model": llm.digest,
        "logits": sha256(llm.logits(ids).ravel()),
        "greedy": sha256(greedy.token_ids),
        "sampled": sha256(sampled.token_ids),
    }
    lines = "\n".join(f"{name} {digest}" for name, digest in expected.items())
    expected["all"] = hashlib.sha256(lines.encode()).hexdigest()

    printed = intact("hash", model)
    assert dict(line.split() for line in printed.out.splitlines()) == expected
    for options in (["--chunk", 7], ["--page", 5, "--threads", 3], ["--cpu", "reference"]):
        assert intact("hash", model, *options) == printed
    report = intact("hash", model, "--json", "--expect", expected["all"]).json
    assert report == {**expected, "contract_version": CONTRACT_VERSION, "expected": expected["all"], "equal": True}
    assert set(report) == documented_fields(section("hash"))
    different = intact("hash", model, "--expect", "0" * 64)
    assert (different.status, different.out) == (1, printed.out)
    assert different.err.startswith("intact: ")
    other = intact("hash", model, "--prompt", "The fox", "--json").json
    assert other["model"] == expected["model"]
    assert other["logits"] == sha256(llm.logits(llm.tokenizer.encode("The fox")).ravel())


def test_info(intact: Run, model: Path, checkpoint: Path, gguf: Path, tmp_path: Path, llm: LLM) -> None:
    report = intact("info", model, "--verify", "--json").json
    assert set(report) == documented_fields(section("info"))
    assert report["digest"] == llm.digest
    assert report["architecture"] == "llama"
    assert (report["vocabulary"], report["context"]) == (300, 256)
    assert sum(report["formats"].values()) == report["weights"]
    assert report["verified"] == {"planes": llm.verify()[0], "files": 4, "error": None}
    for source, kind in ((checkpoint, "safetensors"), (gguf, "gguf")):
        facts = intact("info", source, "--json").json
        assert facts["kind"] == kind
        assert set(facts) < set(report)
        assert facts["formats"] == {"F32": facts["weights"]}
    assert llm.digest in intact("info", model).out
    assert intact("info", checkpoint, "--verify").status == 2

    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    planes = bytearray((copy / "model.safetensors").read_bytes())
    planes[-1] ^= 1
    (copy / "model.safetensors").write_bytes(planes)
    damaged = intact("info", copy, "--verify")
    assert damaged.status == 1
    assert "model.safetensors: SHA-256" in damaged.out


def test_bench(intact: Run, model: Path) -> None:
    options = ["-p", 16, "-n", 8, "-r", 3, "-t", 1, "-t", 2]
    report = intact("bench", model, *options, "--json").json
    assert set(report) | set(report["rows"][0]) == documented_fields(section("bench"))
    assert [(row["test"], row["threads"]) for row in report["rows"]] == [
        ("pp16", 1),
        ("tg8", 1),
        ("pp16", 2),
        ("tg8", 2),
    ]
    for row in report["rows"]:
        assert 0 < row["min"] <= row["median"] <= row["max"]
        assert row["min"] <= row["mean"] <= row["max"]
        assert row["stddev"] <= row["max"] - row["min"]
        decodes = row["test"] == "tg8"
        assert (row["read_bandwidth"] is not None, row["roof_share"] is not None) == (decodes, decodes)
        if decodes:
            assert row["roof_share"] == pytest.approx(report["decode_bytes"] * row["mean"] / row["read_bandwidth"])
    # The head is the embedding, which a token reads whole.
    assert 0.9 * report["plane_bytes"] < report["decode_bytes"] <= report["plane_bytes"]
    heading, row, *rest = intact("bench", model, "-p", 0, "-n", 8, "-r", 1).out.splitlines()
    assert (heading.split()[:5], rest) == (["model", "MiB", "kernels", "threads", "test"], [])
    assert row.split()[4] == "tg8"
    assert "GB/s" in row


def test_read_bandwidth_checks_its_arguments() -> None:
    for size, threads in ((7, 1), (1 << 20, 0), (1 << 20, 1025)):
        with pytest.raises(RequestError, match=r"size|threads"):
            read_bandwidth(size, threads)
    with pytest.raises(MemoryError, match="no room"):
        read_bandwidth(1 << 62, 1)


def test_eval(intact: Run, model: Path, checkpoint: Path, tmp_path: Path, llm: LLM) -> None:
    (tmp_path / "text").write_text("The quick brown fox jumps over the lazy dog. " * 20, "utf-8")
    options = ["--reference", checkpoint, "--text", tmp_path / "text", "--windows", 3, "--size", 32]
    report = intact("eval", model, *options, "--json").json
    [row] = report["rows"]
    assert set(report) | set(row) == documented_fields(section("eval"))
    assert (report["windows"], report["predictions"]) == (3, 93)
    assert row["model_digest"] == llm.digest
    assert row["bytes"] == sum(file.stat().st_size for file in model.iterdir())
    weights = sum(values.size for values in random_weights().values())
    assert row["bits_per_weight"] == pytest.approx(8 * row["bytes"] / weights, abs=1e-3)
    assert row["tokens_per_second"] > 0
    assert 0 < row["kld"]["value"] < 0.01
    # The exact figure and the float one are the same quantity, one rounded to 2^-16 bits a token.
    nats = row["exact_nll"] / 65536 * 0.6931471805599453 / report["predictions"]
    assert row["perplexity"]["value"] == pytest.approx(2.718281828459045**nats, rel=1e-3)
    short = intact("eval", model, *options[:-2], "--size", 4096)
    assert (short.status, short.out) == (2, "")


def test_eval_of_several_models(intact: Run, model: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("The quick brown fox jumps over the lazy dog. " * 20, "utf-8")
    assert intact("quantize", checkpoint, "-o", tmp_path / "small", "--type", "U4b8").status == 0
    options = ["--reference", checkpoint, "--text", tmp_path / "text", "--windows", 2, "--size", 32]
    models = [model, tmp_path / "small"]
    alone = [intact("eval", path, *options, "--json").json["rows"][0] for path in models]
    report = intact("eval", *models, *options, "--peer", checkpoint, "--json").json
    *rows, peer = report["rows"]
    for row, single in zip(rows, alone, strict=True):
        assert {**row, "tokens_per_second": 0} == {**single, "tokens_per_second": 0}
    assert rows[0]["bytes"] > rows[1]["bytes"]
    assert rows[0]["kld"]["value"] < rows[1]["kld"]["value"]
    # The reference as its own peer.
    assert peer["kld"]["value"] == 0
    assert peer["top1_agreement"] == {"value": 100, "error": 0}
    assert {name for name, value in peer.items() if value is None} == {
        "model_digest",
        "tokens_per_second",
        "logits_sha256",
        "exact_nll",
    }

    plot = tmp_path / "plot.svg"
    out = intact("eval", *models, *options, "--peer", checkpoint, "--plot", plot).out
    heading, first, second, third, *_ = out.splitlines()
    # The first model's folder and the peer have one name.
    assert [line.split()[0] for line in (first, second, third)] == [str(model), str(models[1]), str(checkpoint)]
    assert "KL divergence" in heading and third.endswith(" -")
    assert all(row["logits_sha256"] in out and str(row["exact_nll"]) in out for row in rows)
    assert plot.read_text("utf-8").count("<circle") == 2


def test_eval_refuses_early(intact: Run, model: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("The quick brown fox jumps over the lazy dog. " * 20, "utf-8")
    options = ["--reference", checkpoint, "--text", tmp_path / "text", "--windows", 1, "--size", 32]
    assert ".svg" in intact("eval", model, *options, "--plot", tmp_path / "plot.png").err
    assert intact("eval", model, *options, "--plot", tmp_path / "no" / "plot.svg").status == 2
    other = tmp_path / "other"
    shutil.copytree(model, other)
    content = json.loads((other / "tokenizer.json").read_text("utf-8"))
    content["model"]["merges"] = content["model"]["merges"][:1]
    (other / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert "other tokens" in intact("eval", model, other, *options).err


def test_kernels(intact: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_native, "self_test", lambda name: 6)
    report = intact("kernels", "--json").json
    adapter = {"name", "backend", "driver", "software", "passed", "problem"}
    assert set(report) | set(report["kernels"][0]) | adapter == documented_fields(section("kernels"))
    assert all(set(entry) == adapter for entry in report["adapters"])
    assert sum(entry["chosen"] for entry in report["kernels"]) == 1
    assert intact("kernels").out.startswith("reference ")
    monkeypatch.setenv("INTACT_CPU", "reference")
    assert [entry["name"] for entry in intact("kernels", "--json").json["kernels"] if entry["chosen"]] == ["reference"]
    monkeypatch.setenv("INTACT_CPU", "warp")
    assert intact("kernels").status == 2


# --- Errors and interruptions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "./nothing", "-p", "x"],
        ["run", "{model}", "-p", "x", "--unknown"],
        ["run", "{model}", "-p", "x", "--temperature", "hot"],
        ["run", "{model}", "-p", "x", "--temperature", "nan"],
        ["run", "{model}", "-p", "x", "--max-tokens", "0"],
        ["run", "{model}", "-p", "x", "--stop", ""],
        ["run", "{model}", "-p", "x", "--logprobs", "2"],
        ["run", "{model}", "-p", "x", "--system", "y"],
        ["run", "{model}", "-p", "x", "--threads", "0"],
        ["run", "{model}", "-p", "x", "--cpu", "warp"],
        ["run", "{model}", "-p", "x", "--profile", "fast"],
        ["run", "{vectors}/llama-default", "-p", "x"],
        ["run", "{model}", "-p", ""],
        ["chat", "./nothing"],
        ["quantize", "./nothing", "-o", "./somewhere"],
        ["quantize", "{model}"],
        ["bench", "{model}", "-p", "100000"],
        ["eval", "{model}", "--reference", "{checkpoint}", "--text", "./nothing"],
        ["hash", "./nothing"],
        ["info", "./nothing"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line(intact: Run, model: Path, checkpoint: Path, arguments: list[str]) -> None:
    filled = [argument.format(model=model, vectors=VECTORS, checkpoint=checkpoint) for argument in arguments]
    status, out, err = intact(*filled)
    assert (status, out) == (2, "")
    assert err.startswith("intact: ")
    assert err.count("\n") == 1


def test_not_utf8(intact: Run, model: Path) -> None:
    status, out, err = intact("run", model, stdin=b"abc\xff")
    assert (status, out) == (2, "")
    assert err == "intact: -: byte 3 is not UTF-8; convert the text to UTF-8\n"


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTACT_TRACEBACK", "1")
    with pytest.raises(ModelError, match=r"\./nothing: "):
        main(["info", "./nothing"])


def start(*arguments: object, code: str = "from intact.cli import main; main()") -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **pipes)


def test_output_is_utf8_whatever_the_locale(model: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    out, err = start("run", model, "-n", "20", "--seed", "9", "--temperature", "1").communicate(
        "🙂".encode(), timeout=60
    )
    params = SamplingParams(seed=9, max_tokens=20)
    assert (out, err) == (llm.generate("🙂", params)[0].outputs[0].text.encode() + b"\n", b"")


def test_reader_that_leaves(model: Path) -> None:
    process = start("run", model, "-p", "The", "-n", "200")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupt_ends_a_command(model: Path) -> None:
    process = start("run", model, code="from intact.cli import main; print('ready', flush=True); main()")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr is not None
    assert process.stderr.read() == b""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupt_leaves_a_usable_llm(model: Path, llm: LLM) -> None:
    shared = LLM(model)
    long, short = SamplingParams(max_tokens=250, ignore_eos=True), SamplingParams(max_tokens=9, ignore_eos=True)
    others: list[list[int]] = []
    other = threading.Thread(target=lambda: others.append(shared.generate([9], long)[0].outputs[0].token_ids))
    other.start()
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    timer = threading.Timer(0.5, signal.pthread_kill, (main_thread, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        shared.generate([[1]] * 3000, long)
    other.join(60)
    assert others == [llm.generate([9], long)[0].outputs[0].token_ids]
    assert shared.generate([1], short) == llm.generate([1], short)
    assert shared._dispatcher.call(lambda engine: engine.idle())
