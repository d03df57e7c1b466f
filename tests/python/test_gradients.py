"""Gradients of the float reference against differences, and what a calibration makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intact import RequestError, calibrate
from intact._native import Calibration, Engine, Model, Source
from intact.gradients import GradientModel, _loss, _weights
from intact.reference import source_model

TEXT = "The quick brown fox jumps over the lazy dog, and user and assistant look on. " * 12
IDS = [5, 17, 200, 3, 3, 90, 41, 7]


@pytest.mark.parametrize("matrix", [None, "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
def test_gradients_are_slopes(checkpoint: Path, matrix: str | None) -> None:
    """Of a random function of a layer's results: by the layer's inputs, and by the outputs of each matrix."""
    model = source_model(str(checkpoint), GradientModel)
    random = np.random.default_rng(1)
    config, layer = model._config, 1
    hidden = random.standard_normal((6, config.hidden)).astype(np.float32)
    at = random.standard_normal(hidden.shape).astype(np.float32)
    angles = np.arange(6)[:, None] * model._frequencies
    rotation = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    saved, _ = model._layer(layer, hidden, rotation)
    found: dict[str, Any] = {}
    below = model._layer_back(layer, saved, rotation, at, found)

    names = [name for name in found if matrix is not None and name.endswith(matrix)]
    shape = hidden.shape if matrix is None else found[names[0]].outputs.shape
    step = (random.standard_normal(shape) * 2e-3).astype(np.float32)
    linear = model._linear

    def value(sign: int) -> float:
        def moved(name: str, x: Any, rows: int) -> Any:
            return linear(name, x, rows) + (sign * step if name in names else 0)

        model._linear = moved  # type: ignore[method-assign]
        _, after = model._layer(layer, hidden + (sign * step if matrix is None else 0), rotation)
        return float(np.sum(after.astype(np.float64) * at))

    slope = below if matrix is None else found[names[0]].gradient
    assert (value(1) - value(-1)) / 2 == pytest.approx(float(np.sum(slope * step)), rel=0.01, abs=1e-4)


def test_drawn_tokens_follow_the_probabilities() -> None:
    random = np.random.default_rng(2)
    final, head = (random.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (5, 4)))
    logits = final.astype(np.float64) @ head.T.astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradients, energies = [], []
    for seed in range(4000):
        gradient, energy, square = _loss(final, head, seed)
        gradients.append(gradient)
        energies.append(np.sum(np.square(gradient @ np.linalg.pinv(head)), axis=1))
    np.testing.assert_allclose(energy, 1 - np.sum(shares**2, axis=1), rtol=1e-5)
    np.testing.assert_allclose(square, np.sum(logits**2, axis=1), rtol=1e-5)
    # A draw that follows the probabilities leaves no gradient on average.
    assert np.abs(np.mean(gradients, axis=0)).max() < 5 * np.std(gradients) / np.sqrt(len(gradients))


def test_weights_have_the_mean_one_and_a_bound() -> None:
    weights, mean = _weights(np.array([1e6] + [1.0] * 999))
    assert weights.mean() == pytest.approx(1) and mean == pytest.approx(1000.999)
    assert weights[0] == pytest.approx(weights[1] * 300.1 / (0.1 + 1 / 1000.999))
    assert _weights(np.zeros(3))[0].tolist() == [1, 1, 1]


def test_a_calibration_has_sensitivities(gguf: Path, model: Path, tmp_path: Path) -> None:
    def run(path: str, threads: int, source: Path = gguf, text: str | None = None, weights: str = "gradient") -> str:
        result = calibrate(
            source, text, tmp_path / path, weights=weights, full=True, windows=3, window=24, threads=threads,
            progress=False,
        )  # fmt: skip
        digest: str = result["digest"]
        return digest

    assert run("one", 1) == run("two", 2) != run("text", 1, text=TEXT)
    read = Calibration.read(tmp_path / "one")
    known = {name: read.sensitivity(name) for name, *_ in Source(str(gguf)).matrices()}
    assert all(value is not None and value > 0 for value in known.values()), known
    with pytest.raises(RequestError, match="no float weights"):
        run("model", 1, source=model)
    loaded = Model.convert(str(gguf))
    sums, engine = Calibration(loaded, "0" * 64, 2, "gradient", False), Engine(loaded)
    with pytest.raises(RequestError, match="gradients of"):
        sums.add(engine, [1, 2])
