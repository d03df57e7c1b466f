"""`device=`: adapters give the CPU's bits, sequences move between devices at any token, errors say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intact import LLM, DeviceError, DeviceWarning, RequestError, SamplingParams, State, _native, devices
from intact.cli import main

PROMPT = [7, 3, 250, 9, *range(40, 73)]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=12, logprobs=2, ignore_eos=True),
    SamplingParams(temperature=0.9, seed=5, max_tokens=12, n=2, ignore_eos=True),
]
ADAPTERS = _native.adapters()
WANTED = os.environ.get("INTACT_GPU_EXPECT")


def test_expected_adapters_are_there() -> None:
    if WANTED is None:
        pytest.skip("INTACT_GPU_EXPECT does not say what must be there")
    assert ",".join(entry["backend"] for entry in ADAPTERS) == WANTED


needs_adapter = pytest.mark.skipif(not ADAPTERS, reason="no GPU adapter on this machine")
each_adapter = pytest.mark.parametrize(
    "adapter", [entry["name"] for entry in ADAPTERS] or [pytest.param("", marks=needs_adapter)]
)


@each_adapter
def test_equal_to_the_cpu(model: Path, llm: LLM, adapter: str) -> None:
    gpu = LLM(model, device=adapter)
    assert gpu.device == adapter
    assert llm.device == "cpu"
    prompts = [PROMPT, [1], [*range(100)]]
    for params in PARAMS:
        assert gpu.generate(prompts, params) == llm.generate(prompts, params)
    assert np.array_equal(gpu.logits(PROMPT), llm.logits(PROMPT))
    [output] = llm.generate([PROMPT], SamplingParams(max_tokens=3, receipt="tensors"))
    assert output.receipt is not None
    assert gpu.verify_receipt(output.receipt).status == "equal"


@each_adapter
def test_moving_at_any_token(model: Path, llm: LLM, adapter: str) -> None:
    """GPU prefill, CPU decode, GPU decode and so on, step by step, with two requests on their way."""
    opened = _native.Model.open(model)
    settings = {"top_k": 0, "top_p": 65536, "min_p": 0, "n": 2, "stop_ids": [], "logprobs": 0}

    def run(devices: list[str | None]) -> list[Any]:
        engine = _native.Engine(opened, device=devices[0], page=16, chunk=16)
        engine.add(PROMPT, max_tokens=9, temperature=0, seed=0, **settings)
        engine.add(PROMPT[:20], max_tokens=11, temperature=60000, seed=5, **settings)
        events, step = [], 0
        while not engine.idle():
            events += engine.step()
            step += 1
            engine.to(devices[step % len(devices)])
        return events

    expected = run([None])
    assert len(expected) == 40
    for route in ([adapter, None], [None, adapter, adapter], [adapter, adapter, adapter, None, None]):
        assert run(route) == expected


@each_adapter
def test_moving_while_streaming(model: Path, llm: LLM, adapter: str) -> None:
    params = SamplingParams(temperature=0.9, seed=5, max_tokens=40, ignore_eos=True)
    moving = LLM(model)
    tokens = []
    for i, chunk in enumerate(moving.stream(PROMPT, params)):
        tokens += chunk.token_ids
        moving.to([adapter, "cpu"][i % 2])
    assert tokens == llm.generate([PROMPT], params)[0].outputs[0].token_ids


@each_adapter
def test_states_are_the_same_file(model: Path, llm: LLM, adapter: str, tmp_path: Path) -> None:
    gpu = LLM(model, device=adapter, page=16)
    gpu.state(PROMPT).save(tmp_path / "gpu.kv")
    llm.state(PROMPT).save(tmp_path / "cpu.kv")
    assert (tmp_path / "gpu.kv").read_bytes() == (tmp_path / "cpu.kv").read_bytes()
    state = State.load(tmp_path / "cpu.kv")
    for params in PARAMS:
        expected = llm.generate([PROMPT], params)
        assert gpu.generate([PROMPT], params, state=state) == expected
        assert llm.generate([PROMPT], params, state=State.load(tmp_path / "gpu.kv")) == expected


@needs_adapter
def test_the_result_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runs = []
    monkeypatch.setattr(_native, "self_test", lambda name: runs.append(name) or 6)
    entry = ADAPTERS[0]
    file = tmp_path / "intact" / "adapters.json"
    assert devices.check(entry) == 6
    assert devices.check(entry) is None
    assert json.loads(file.read_text()) == {"passed": [entry["identity"]]}
    # Another driver or version is another identity.
    assert devices.check({**entry, "identity": "another"}) == 6
    for damage in (b"", b"[]", b"{}", b'{"passed": 3}', b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20)):
        file.write_bytes(damage)
        assert devices.check(entry) == 6
    file.unlink()
    file.mkdir()
    assert devices.check(entry) == 6
    assert len(runs) == 10


def test_failing_adapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path, llm: LLM) -> None:
    """A driver that computes something else is refused every time; "auto" then is the CPU, and says so."""

    def fail(name: str) -> int:
        raise DeviceError(f"{name} fails the self-test and is not used: models/x: op 3 differs")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_native, "self_test", fail)
    entry = {"name": "vulkan:bad", "backend": "vulkan", "driver": "d", "software": False, "identity": "i"}
    monkeypatch.setattr(_native, "choose_adapter", lambda wanted: entry)
    for device in ("gpu", "vulkan", "bad"):
        with pytest.raises(DeviceError, match="vulkan:bad fails the self-test"):
            LLM(model, device=device)
    with pytest.warns(DeviceWarning, match="device='auto' is the CPU: vulkan:bad fails the self-test"):
        automatic = LLM(model, device="auto")
    assert automatic.device == "cpu"
    assert automatic.generate([PROMPT], PARAMS[0]) == llm.generate([PROMPT], PARAMS[0])
    assert not (tmp_path / "intact").exists()


def test_automatic_means_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    software = {"name": "gl:cpu", "backend": "gl", "driver": "d", "software": True, "identity": "i"}
    monkeypatch.setattr(devices, "check", lambda entry: None)
    monkeypatch.setattr(_native, "choose_adapter", lambda wanted: software)
    with pytest.warns(DeviceWarning, match="device='auto' is the CPU: gl:cpu is software"):
        assert devices.adapter("auto") is None
    monkeypatch.setattr(_native, "choose_adapter", lambda wanted: {**software, "name": "gl:real", "software": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert devices.adapter("auto") == "gl:real"
        assert devices.adapter("cpu") is None


def test_unknown_devices(model: Path) -> None:
    with pytest.raises(DeviceError, match=r'no GPU adapter "teapot"; this machine has .*: use device="cpu"'):
        LLM(model, device="teapot")
    for device in (None, 3, ["cpu"]):
        with pytest.raises(DeviceError, match="is not a text such as"):
            LLM(model, device=device)  # type: ignore[arg-type]


def test_a_lost_device_falls_back(model: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in the middle goes on on the CPU with "auto", from the same token; else it is an error."""

    class Failing:
        """An engine whose device is lost after some steps."""

        def __init__(self, engine: Any) -> None:
            self.engine, self.left = engine, 5

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

        @property
        def device(self) -> str:
            return "cpu" if self.left > 1000 else "vulkan:x"

        def to(self, adapter: str | None, offload: int) -> None:
            pass

        def start_again(self) -> None:
            self.left = 1_000_000
            self.engine.start_again()

        def step(self) -> Any:
            self.left -= 1
            if self.left < 0:
                raise DeviceError("vulkan:x: the device failed")
            return self.engine.step()

    def failing() -> LLM:
        lost = LLM(model)
        lost._engine = lost._dispatcher._runner.engine = Failing(lost._engine)  # type: ignore[assignment]
        return lost

    expected = llm.generate([PROMPT], PARAMS[1])
    lost = failing()
    with pytest.raises(DeviceError, match="the device failed"):
        lost.generate([PROMPT], PARAMS[1])
    lost = failing()
    said: list[str] = []
    lost._dispatcher.move("x", 0, said.append)
    assert lost.generate([PROMPT], PARAMS[1]) == expected
    assert said == ["vulkan:x: the device failed"]
    assert lost.device == "cpu"


def cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main([*arguments])
    return int(exit.value.code or 0)


def test_kernels_lists_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("kernels", "--json") == 0
    found = json.loads(capsys.readouterr().out)["adapters"]
    assert [entry["name"] for entry in found] == [entry["name"] for entry in ADAPTERS]
    assert all(entry["passed"] and entry["problem"] is None for entry in found)
    assert cli("kernels") == 0
    assert ("passed" in capsys.readouterr().out) == bool(ADAPTERS)


@each_adapter
def test_layers_on_the_cpu(model: Path, llm: LLM, adapter: str) -> None:
    """Two layers, of which none, one or both stay on the CPU; a sequence moves through all of these."""
    for layers in (1, 2):
        split = LLM(model, device=adapter, offload=layers)
        for params in PARAMS:
            assert split.generate([PROMPT, [1]], params) == llm.generate([PROMPT, [1]], params)
        assert np.array_equal(split.logits(PROMPT), llm.logits(PROMPT))
    moving, tokens = LLM(model, page=16), []
    for i, chunk in enumerate(moving.stream(PROMPT, PARAMS[0])):
        tokens += chunk.token_ids
        moving.to([adapter, "cpu"][i % 2], offload=i // 2 % 3)
    assert tokens == llm.generate([PROMPT], PARAMS[0])[0].outputs[0].token_ids
    with pytest.raises(RequestError, match="offload: 3 is not within 0…2, the layers of the model"):
        LLM(model, device=adapter, offload=3)


@each_adapter
def test_hash(model: Path, adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    digests = []
    for device in ("cpu", adapter):
        assert cli("hash", str(model), "--device", device) == 0
        digests.append(capsys.readouterr().out)
    assert digests[0] == digests[1]


def test_verify_machine_includes_adapters(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    machine = {"arch": "x", "endian": "little", "pointer_bits": 64}
    report = {"contract": 1, "machine": machine, "backends": [], "damaged": [], "cases": {}, "expected": "e"}
    entry = {"name": "vulkan:bad", "backend": "vulkan", "driver": "d", "software": False, "identity": "i"}
    monkeypatch.setattr(_native, "conformance", lambda *options: json.dumps({**report, "equal": True}))
    monkeypatch.setattr(_native, "adapters", lambda: [entry])

    def fail(name: str) -> int:
        raise DeviceError(f"{name} fails the self-test")

    for test, status in ((lambda name: 6, 0), (fail, 1)):
        monkeypatch.setattr(_native, "self_test", test)
        assert cli("verify", "--machine", "--json") == status
        found = json.loads(capsys.readouterr().out)
        assert found["equal"] == (status == 0)
        problem = "vulkan:bad fails the self-test" if status else None
        [adapter] = found["adapters"]
        assert adapter == {"name": "vulkan:bad", "driver": "d", "programs": 0 if status else 6, "problem": problem}
        assert cli("verify", "--machine") == status
        assert ("DIFFERS" if status else "equal") in capsys.readouterr().out
    assert cli("verify", "--machine", "--cpu", "reference", "--json") == 0
    assert json.loads(capsys.readouterr().out)["adapters"] == []


def test_auto_says_so_on_stderr(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(wanted: str) -> None:
        raise DeviceError("no GPU adapter")

    monkeypatch.setattr(_native, "choose_adapter", none)
    assert cli("hash", str(model), "--device", "auto") == 0
    assert capsys.readouterr().err == "intact: device='auto' is the CPU: no GPU adapter\n"


def test_without_any_driver(model: Path) -> None:
    """The package works where there is neither a Vulkan loader nor EGL; the drivers are hidden from a child."""
    program = f"""
import intact
llm = intact.LLM({str(model)!r})
assert llm.generate([[1]], intact.SamplingParams(max_tokens=2))
assert intact._native.adapters() == [], intact._native.adapters()
try:
    intact.LLM({str(model)!r}, device="gpu")
except intact.DeviceError as error:
    print(error)
"""
    libraries = "ldconfig -p | grep -E 'lib(vulkan|EGL|GL|GLX)[.]so' | sed 's/.*=> //'"
    hide = f"for f in $({libraries}); do mount --bind /dev/null $f; done"
    command = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        f'{hide}; exec "$0" -c "$1"',
        sys.executable,
        program,
    ]
    try:
        subprocess.run(["unshare", "--mount", "--map-root-user", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system gives no mount namespace to hide the drivers in")
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith('no GPU adapter; this machine has none: use device="cpu", or install a driver')
