"""Formats of single matrices and calibrated conversion: what is asked for is done, and faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from intact import LLM, ModelError, RequestError, calibrate, quantize
from intact._native import Source
from intact.cli import main

TEXT = "The quick brown fox jumps over the lazy dog, and user and assistant look on. " * 12


@pytest.fixture(scope="module")
def moments(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibration") / "moments"
    calibrate(model, TEXT, file, full=True, windows=2, window=64, progress=False)
    return file


def formats(directory: Path) -> dict[str, str]:
    manifest = json.loads((directory / "intact.json").read_text())
    return {name: matrix["format"] for name, matrix in manifest["model"]["matrices"].items()}


def test_the_last_pattern_that_is_found_decides(checkpoint: Path, tmp_path: Path) -> None:
    types = {r"proj$": "U6b8", r"\.(k|v)_proj$": "U8r", r"layers\.0\..*v_proj": "P30b4"}
    quantize(checkpoint, tmp_path / "model", type="N4b8", tensor_types=types, progress=False)
    found = formats(tmp_path / "model")
    body = {name: "U6b8" for name, role, *_ in Source(str(checkpoint)).matrices() if role == "body"}
    for name in body:
        if name.endswith(("k_proj", "v_proj")):
            body[name] = "U8r"
    body["model.layers.0.self_attn.v_proj"] = "P30b4"
    assert found.items() >= body.items()
    assert LLM(tmp_path / "model").manifest["provenance"]["tensor_types"].endswith("v_proj=P30b4")


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"(": "U4b8"}, "no regular expression"),
        ({"no_such_matrix": "U4b8"}, "found in no matrix's name"),
        ({"v_proj": "Q4_K"}, "Q4_K. is not one of"),
        ({"v_proj": "U4r"}, "not quantized to U4r"),
    ],
)
def test_faults_of_types_are_named(checkpoint: Path, tmp_path: Path, types: dict[str, str], message: str) -> None:
    with pytest.raises((RequestError, ModelError), match=message):
        quantize(checkpoint, tmp_path / "model", tensor_types=types, progress=False)
    assert not (tmp_path / "model").exists()


def test_calibration_decides_the_bytes_and_is_named(checkpoint: Path, moments: Path, tmp_path: Path) -> None:
    digests: dict[str, Any] = {}
    for name, calibration, threads in (("none", None, 1), ("one", moments, 1), ("three", moments, 3)):
        result = quantize(
            checkpoint, tmp_path / name, type="U3b8", calibration=calibration, threads=threads, progress=False
        )
        digests[name] = result["digest"]
    assert digests["one"] == digests["three"] != digests["none"]
    assert len(LLM(tmp_path / "one").manifest["provenance"]["calibration"]) == 64


def test_what_is_no_calibration_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no calibration")
    with pytest.raises(ModelError, match="text"):
        quantize(checkpoint, tmp_path / "model", type="U3b8", calibration=tmp_path / "text", progress=False)
    with pytest.raises(ModelError, match="missing"):
        quantize(checkpoint, tmp_path / "model", calibration=tmp_path / "missing", progress=False)


def status(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    return exit.value.code


def test_command_line(checkpoint: Path, moments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", str(checkpoint), "-o", str(tmp_path / "model"), "--type", "P20b4", "--json"]
    more = ["--tensor-type", "v_proj$=U4b8", "--tensor-type", "down_proj=N4b8", "--imatrix", str(moments)]
    assert status([*arguments, *more]) == 0
    assert len(json.loads(capsys.readouterr().out)["digest"]) == 64
    found = formats(tmp_path / "model")
    assert {found[f"model.layers.0.{name}"] for name in ("self_attn.v_proj", "mlp.down_proj")} == {"U4b8", "N4b8"}
    assert status([*arguments[:4], "--tensor-type", "v_proj"]) == 2
    assert "REGEX=FORMAT" in capsys.readouterr().err
