"""The model inside the package: its bits, that it equals its own weights in floats, and that it learnt its text."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from intact import LLM, ModelError, SamplingParams, hub, numerics
from intact.cli import main
from intact.evaluate import evaluate, windows
from intact.reference import FloatModel
from tests.oracle.formats import row_constants

# The end of one of the novels, which took no part in training.
HELD_OUT = (Path(__file__).parent / "data" / "held_out.txt").read_text("utf-8")
DIGEST = "a230fd8b52f4c2c22aa38648f528202af68e4718c0e6c8c326495582ec659ff0"
GREEDY = "7641b6f6d52029ec4d9da256670fb3da9c00c35c339b95d8547cf65f5c1b4380"
EXACT_NLL = 341961156


@pytest.fixture(scope="module")
def tiny() -> LLM:
    return LLM("tiny", threads=1)


def float_weights(directory: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of a model directory as the numbers that its integers stand for, by Hugging Face name."""
    data = (directory / "model.safetensors").read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    planes = {
        name: data[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]]
        for name, entry in json.loads(data[8 : 8 + length]).items()
        if name != "__metadata__"
    }
    model = json.loads((directory / "intact.json").read_text("utf-8"))["model"]
    gains = {op["gain"]: op["gain_shift"] for op in model["program"]["body"] + model["program"]["head"] if "gain" in op}
    width = model["matrices"]["lm_head"]["columns"]
    tensors = {}
    for name, shift in gains.items():
        count = 640 if "ffn_sub_norm" in name else width
        tensors[f"{name.removesuffix('gain')}weight"] = np.frombuffer(planes[name], "<i2")[:count] / 2.0**shift
    for name, matrix in model["matrices"].items():
        rows, columns = matrix["rows"], matrix["columns"]
        payload = np.frombuffer(planes[f"{name}.payload"], np.uint8)
        codes = numerics.decode(matrix["format"], {"payload": payload}, rows, columns)
        units = np.array([m * 2.0**-shift for m, shift in row_constants(planes[f"{name}.row"], rows)])
        tensors[f"{name}.weight"] = codes * units[:, None]
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def test_its_bits_are_those_of_every_machine(tiny: LLM) -> None:
    assert tiny.digest == DIGEST
    assert tiny.verify()[0] > 0
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    output = tiny.generate("It is a truth universally acknowledged, that", params)[0].outputs[0]
    assert hashlib.sha256(np.array(output.token_ids, "<i4").tobytes()).hexdigest() == GREEDY


def test_it_computes_what_its_weights_compute_in_floats(tiny: LLM) -> None:
    directory = Path(hub.local("tiny"))
    tensors = float_weights(directory)
    assert {len(np.unique(np.abs(values))) for name, values in tensors.items() if "_proj" in name} == {2}  # ternary
    floats = FloatModel(json.loads((directory / "config.json").read_text("utf-8")), tensors.__getitem__)
    chosen = windows(tiny.tokenizer.encode(HELD_OUT), tiny.context, 4)

    def exact_nll(logits: NDArray[np.int32], targets: list[int], fraction_bits: int) -> int:
        rows = zip(logits, targets, strict=True)
        return -sum(int(numerics.logprobs(row, fraction_bits)[target]) for row, target in rows)

    result = evaluate(tiny, floats.logits, chosen, exact_nll)
    assert result.predictions == 4 * 255
    assert result.kld.value < 1e-4
    assert abs(result.perplexity_change.value) < 0.1
    assert result.exact_nll == EXACT_NLL
    # A guess among all tokens has the perplexity 2048.
    assert result.perplexity.value == pytest.approx(math.exp(EXACT_NLL / 65536 * math.log(2) / 1020), rel=1e-4)
    assert result.perplexity.value < 40


def test_a_path_comes_before_the_name(
    tiny: LLM, model: Path, llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.packaged() == ["tiny"]
    monkeypatch.chdir(tmp_path)
    assert LLM("tiny", threads=1).digest == LLM.from_pretrained("tiny", threads=1).digest == DIGEST
    for missing in ("./tiny", "Tiny", "models/tiny"):
        with pytest.raises(ModelError, match="No such file"):
            LLM(missing)
    (tmp_path / "tiny").symlink_to(model)
    assert LLM("tiny", threads=1).digest == LLM("./tiny", threads=1).digest == llm.digest


def test_the_command_line_needs_no_download(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", "tiny", "-p", "She was", "-n", "8", "--json"], ["info", "tiny", "--verify", "--json"]):
        with pytest.raises(SystemExit) as status:
            main(arguments)
        assert status.value.code == 0
        report = json.loads(capsys.readouterr().out)
        assert DIGEST in (report.get("model_digest"), report.get("digest"))
