"""Calibration: the same bytes however it is run, moments that are what they say, and clear refusals."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from intact import LLM, ModelError, RequestError, calibrate, calibration
from intact._native import Calibration, Model

TEXT = "The quick brown fox jumps over the lazy dog, and user and assistant look on. " * 12


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("weights", ["auto", "none"])
@pytest.mark.parametrize("full", [False, True])
def test_threads_do_not_change_the_file(model: Path, tmp_path: Path, weights: str, full: bool) -> None:
    made = [
        calibrate(
            model,
            TEXT,
            tmp_path / f"{n}",
            weights=weights,
            full=full,
            windows=3,
            window=40,
            threads=n,
            progress=False,
        )
        for n in (1, 3)
    ]
    assert made[0]["digest"] == made[1]["digest"] == digest(tmp_path / "1")
    assert made[0]["windows"] == 3 and made[0]["tokens"] == 120


def test_an_interrupted_run_resumes_to_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "CHECKPOINT_WINDOWS", 2)

    def run(path: Path, resume: bool) -> None:
        calibrate(model, TEXT, path, full=True, windows=5, window=32, resume=resume, progress=False)

    run(tmp_path / "whole", False)
    written: list[Path] = []

    class Killed:
        """Stops after the first write."""

        def __init__(self, *arguments: object) -> None:
            self.inner = Calibration(*arguments)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def write(self, path: Path) -> None:
            self.inner.write(path)
            written.append(path)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "Calibration", Killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "part", False)
    assert len(written) == 1 and Calibration.read(tmp_path / "part").windows == 2
    run(tmp_path / "part", True)
    assert digest(tmp_path / "part") == digest(tmp_path / "whole")


def test_several_texts_give_equally_many_windows(model: Path, tmp_path: Path) -> None:
    def run(name: str, text: str | list[str] | None, windows: int, generate: bool = False) -> Calibration:
        settings = {"weights": "none", "generate": generate, "windows": windows, "window": 24, "progress": False}
        calibrate(model, text, tmp_path / name, **settings)  # type: ignore[arg-type]
        return Calibration.read(tmp_path / name)

    other = "Assistant and user jump over the quick dog. " * 20
    both = run("both", [TEXT, other], 5)
    alone = run("first", TEXT, 3), run("second", [other], 2)
    for name in both.matrices():
        first, second = (read.importance(name) for read in alone)
        assert first is not None and second is not None
        np.testing.assert_array_equal(both.importance(name), first + second)
    assert run("written", TEXT, 3, generate=True).windows == 3
    with pytest.raises(RequestError, match="too few for 3 texts"):
        run("few", [TEXT, other], 2, generate=True)
    with pytest.raises(RequestError, match="empty"):
        run("none", [], 2)


def test_sensitivities_are_measured_once(model: Path, tmp_path: Path) -> None:
    def run(name: str, **options: object) -> Calibration:
        settings = {"full": True, "windows": 3, "window": 40, "progress": False} | options
        calibrate(model, TEXT, tmp_path / name, **settings)  # type: ignore[arg-type]
        return Calibration.read(tmp_path / name)

    whole, without = run("whole"), run("part", sensitivities=False)
    found = {name: whole.sensitivity(name) for name in whole.matrices()}
    assert all(value is not None and value > 0 for value in found.values()), found
    assert {without.sensitivity(name) for name in found} == {None}
    run("part", resume=True, threads=1)
    assert digest(tmp_path / "part") == digest(tmp_path / "whole")
    assert run("diagonal", full=False).sensitivity(next(iter(found))) is None
    # Of so few tokens none is looked at.
    few = run("few", window=6)
    assert {few.sensitivity(name) for name in found} == {None}
    # By other moments, but of the same model: what a matrix costs is about the same.
    other = run("asked", full=False, sensitivities=True)
    ratios = [(other.sensitivity(name) or 0) / (value or 1) for name, value in found.items()]
    assert all(0.2 < ratio < 5 for ratio in ratios), ratios


def test_sensitivities_are_of_the_sums_own_model(model: Path, checkpoint: Path, tmp_path: Path) -> None:
    calibrate(model, TEXT, tmp_path / "c", windows=2, window=32, progress=False)
    other = Model.convert(str(checkpoint), body="U4b8")
    with pytest.raises(ModelError, match="another model"):
        Calibration.read(tmp_path / "c").try_matrices(other, [[1] * 16])


def test_the_triangle_has_the_diagonal(model: Path, tmp_path: Path) -> None:
    for full in (False, True):
        calibrate(model, TEXT, tmp_path / str(full), full=full, windows=2, window=32, progress=False)
    diagonal, full_sums = Calibration.read(tmp_path / "False"), Calibration.read(tmp_path / "True")
    assert diagonal.matrices() == full_sums.matrices()
    for name in diagonal.matrices():
        columns = diagonal.importance(name)
        triangle = full_sums.moments(name)
        assert columns is not None and triangle is not None and diagonal.moments(name) is None
        assert len(triangle) == len(columns) * (len(columns) + 1) // 2
        np.testing.assert_allclose(full_sums.importance(name), columns, rtol=0.01)


def test_weights_change_attention_inputs_only(model: Path, tmp_path: Path) -> None:
    for weights in ("none", "auto"):
        calibrate(model, TEXT, tmp_path / weights, weights=weights, windows=2, window=32, progress=False)
    even, weighed = Calibration.read(tmp_path / "none"), Calibration.read(tmp_path / "auto")
    differ = {n for n in even.matrices() if not np.array_equal(even.importance(n), weighed.importance(n))}
    assert differ == {n for n in even.matrices() if n.split(".")[-1] in ("q_proj", "k_proj", "v_proj")} != set()


def test_refusals(model: Path, tmp_path: Path) -> None:
    def run(text: str = TEXT, path: str = "new", **options: object) -> None:
        settings = {"windows": 2, "window": 32, "progress": False} | options
        calibrate(model, text, tmp_path / path, **settings)  # type: ignore[arg-type]

    with pytest.raises(RequestError, match="empty"):
        run(" \n")
    with pytest.raises(RequestError, match="less than one window"):
        run("short")
    with pytest.raises(RequestError, match="context"):
        run(window=LLM(model).context + 1)
    with pytest.raises(RequestError, match="weighting"):
        run(weights="gradients")
    run(path="there")
    with pytest.raises(RequestError, match="already exists"):
        run(path="there")
    for other, options in (
        ("text", {"text": TEXT[5:]}),
        ("window", {"window": 33}),
        ("weighting", {"weights": "none"}),
    ):
        with pytest.raises(RequestError, match=other):
            run(path="there", resume=True, **options)
    (tmp_path / "there").write_bytes((tmp_path / "there").read_bytes()[:-1])
    with pytest.raises(ModelError, match="header"):
        run(path="there", resume=True)
