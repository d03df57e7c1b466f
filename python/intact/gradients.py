"""What an error at a matrix's outputs costs: gradients of the float reference, for weights of tokens.

The loss is the negative log-likelihood of tokens that the model itself draws, so the mean square of its gradient is
the curvature of the KL divergence: a change δ of the outputs y of a matrix at token t costs ½ (∂L/∂y_t · δ)² on
average. Taken as equal in all of the R outputs, that is ½ ‖∂L/∂y_t‖² ‖δ‖² / R. See docs/CALIBRATION.md.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from intact.errors import RequestError
from intact.reference import FloatModel, Floats, _rotate, _softmax

LARGEST = 300.0
"""A token's energy counts at most so many times the window's mean."""
LEAST = 0.1
"""What every token counts besides, in units of the mean."""
EMBEDDING = "model.embed_tokens"
_ROWS = 64  # tokens whose probabilities are in memory at once


class Gradient(NamedTuple):
    """Of one matrix over a window, as `intact._native.Calibration.add` takes it."""

    weights: NDArray[np.float64]
    """Of each token."""
    rows: NDArray[np.int32]
    """Vectors that the matrix meets as an embedding, in QF; empty for another one."""
    sensitivity: float
    """What a unit of relative error energy costs, in nats per token."""


class _Linear(NamedTuple):
    """A matrix's outputs, and the gradient there."""

    outputs: Floats
    gradient: Floats


class GradientModel(FloatModel):
    """The float reference with its gradients, for the families whose activation is SiLU."""

    def gradients(self, token_ids: Sequence[int], seed: int, fraction_bits: int) -> dict[str, Gradient]:
        """What each matrix's outputs mean for a window of tokens, by matrix; a tied head is the embedding.

        Args:
            token_ids: The window.
            seed: Decides which tokens the model draws.
            fraction_bits: F.

        Raises:
            RequestError: The model is of another family.
            ModelError: A missing or misshapen tensor.
        """
        config = self._config
        if config.bitnet:
            raise RequestError("weights: there are no gradients for BitNet models; choose auto")
        ids = np.asarray(token_ids, dtype=np.int64)
        angles = np.arange(ids.size)[:, None] * self._frequencies
        rotation = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
        embedding = self._required(f"{EMBEDDING}.weight", config.vocabulary, config.hidden)
        hidden = embedding[ids]
        layers = []
        for layer in range(config.layers):
            saved, hidden = self._layer(layer, hidden, rotation)
            layers.append(saved)

        found: dict[str, _Linear] = {}
        head = None if config.tied else self._tensor("lm_head.weight", config.vocabulary, config.hidden)
        matrix = embedding if head is None else head
        final = self._norm("model.norm", hidden)
        gradient, energy, square = _loss(final, matrix, seed)
        gradient = self._norm_back("model.norm", hidden, gradient)
        for layer in reversed(range(config.layers)):
            gradient = self._layer_back(layer, layers[layer], rotation, gradient, found)

        out = {name: _gradient(linear) for name, linear in found.items()}
        # Errors of logits cost ½ Σ p (1 − p) δ² less what is common to all of them.
        weights, mean = _weights(energy)
        sensitivity = mean * float(np.mean(weights * square)) / (2 * config.vocabulary)
        rows: NDArray[np.int32] = np.empty(0, np.int32)
        squares = np.einsum("tk,kl,tl->t", gradient, self._gram(EMBEDDING), gradient, optimize=True)
        lookup = float(np.mean(squares)) / (2 * config.vocabulary)
        if head is None:
            scaled = np.rint(gradient.astype(np.float64) * 2.0**fraction_bits / np.sqrt(mean))
            rows = np.clip(scaled, -(2**31) + 1, 2**31 - 1).astype(np.int32).reshape(-1)
            out[EMBEDDING] = Gradient(weights, rows, sensitivity + lookup)
        else:
            out["lm_head"] = Gradient(weights, rows, sensitivity)
            out[EMBEDDING] = Gradient(np.ones(ids.size), rows, lookup)
        return out

    @functools.cache  # noqa: B019 - one matrix of one model
    def _gram(self, name: str) -> Floats:
        """WᵀW."""
        config = self._config
        matrix = self._required(f"{name}.weight", config.vocabulary, config.hidden)
        gram: Floats = matrix.T @ matrix
        return gram

    def _layer(self, layer: int, hidden: Floats, rotation: Any) -> tuple[dict[str, Floats], Floats]:
        """What the way back needs of a layer, and the layer's result."""
        config, n, name = self._config, len(hidden), f"model.layers.{layer}"
        saved = {"hidden": hidden}
        x = self._norm(f"{name}.input_layernorm", hidden)
        for projection, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
            rows = heads * config.head_width
            saved[projection] = self._linear(f"{name}.self_attn.{projection}_proj", x, rows).reshape(n, heads, -1)
        query, key = self._rotated(name, saved, rotation)
        joined = np.empty_like(query)
        for head in range(config.heads):
            joined[:, head] = (
                self._shares(layer, query, key, head) @ saved["v"][:, head * config.kv_heads // config.heads]
            )
        saved["o"] = self._linear(f"{name}.self_attn.o_proj", joined.reshape(n, -1), config.hidden)
        saved["between"] = hidden = hidden + saved["o"]
        x = self._norm(f"{name}.post_attention_layernorm", hidden)
        for projection in ("gate", "up"):
            saved[projection] = self._linear(f"{name}.mlp.{projection}_proj", x, config.feed_forward)
        gated = _silu(saved["gate"])[0] * saved["up"]
        saved["down"] = self._linear(f"{name}.mlp.down_proj", gated, config.hidden)
        return saved, hidden + saved["down"]

    def _rotated(self, name: str, saved: dict[str, Floats], rotation: Any) -> tuple[Floats, Floats]:
        """Queries and keys as the scores take them."""
        query, key = saved["q"], saved["k"]
        if self._normed(name):
            query = self._norm(f"{name}.self_attn.q_norm", query)
            key = self._norm(f"{name}.self_attn.k_norm", key)
        return _rotate(query, rotation) * np.float32(self._config.head_width**-0.5), _rotate(key, rotation)

    def _normed(self, name: str) -> bool:
        return self._tensor(f"{name}.self_attn.q_norm.weight", self._config.head_width) is not None

    def _shares(self, layer: int, query: Floats, key: Floats, head: int) -> Floats:
        """The attention of one head, shape (n, n)."""
        config, position = self._config, np.arange(len(query))
        distance = position[:, None] - position[None, :]
        visible = (distance >= 0) & (distance < (config.windows[layer] or len(query)))
        scores = query[:, head] @ key[:, head * config.kv_heads // config.heads].T
        return _softmax(np.where(visible, scores, np.float32(-np.inf)))

    def _layer_back(
        self, layer: int, saved: dict[str, Floats], rotation: Any, gradient: Floats, found: dict[str, _Linear]
    ) -> Floats:
        """The gradient before a layer, of that after it; puts those of its matrices into `found`."""
        config, n, name = self._config, len(gradient), f"model.layers.{layer}"

        def back(matrix: str, outputs: Floats, at: Floats, columns: int) -> Floats:
            found[f"{name}.{matrix}"] = _Linear(outputs, at)
            below: Floats = at @ self._required(f"{name}.{matrix}.weight", at.shape[-1], columns)
            return below

        at = back("mlp.down_proj", saved["down"], gradient, config.feed_forward)
        value, slope = _silu(saved["gate"])
        x = back("mlp.gate_proj", saved["gate"], at * saved["up"] * slope, config.hidden)
        x += back("mlp.up_proj", saved["up"], at * value, config.hidden)
        gradient = gradient + self._norm_back(f"{name}.post_attention_layernorm", saved["between"], x)

        width = config.heads * config.head_width
        at = back("self_attn.o_proj", saved["o"], gradient, width).reshape(n, config.heads, -1)
        parts = self._attention_back(layer, saved, rotation, at)
        x = np.zeros_like(gradient)
        for projection, part in zip("qkv", parts, strict=True):
            outputs = saved[projection].reshape(n, -1)
            x += back(f"self_attn.{projection}_proj", outputs, part.reshape(n, -1), config.hidden)
        return gradient + self._norm_back(f"{name}.input_layernorm", saved["hidden"], x)

    def _attention_back(
        self, layer: int, saved: dict[str, Floats], rotation: Any, gradient: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """The gradients at queries, keys and values, of that at what the heads give."""
        config, name = self._config, f"model.layers.{layer}"
        query, key = self._rotated(name, saved, rotation)
        d_query, d_key, d_value = np.empty_like(query), np.zeros_like(key), np.zeros_like(key)
        for head in range(config.heads):
            kv_head, at = head * config.kv_heads // config.heads, gradient[:, head]
            shares = self._shares(layer, query, key, head)
            d_value[:, kv_head] += shares.T @ at
            moved = shares * (at @ saved["v"][:, kv_head].T)
            scores = moved - shares * moved.sum(axis=-1, keepdims=True)
            d_query[:, head] = scores @ key[:, kv_head]
            d_key[:, kv_head] += scores.T @ query[:, head]
        cos, sin = rotation
        d_query = _rotate(d_query, (cos, -sin)) * np.float32(config.head_width**-0.5)
        d_key = _rotate(d_key, (cos, -sin))
        if self._normed(name):
            d_query = self._norm_back(f"{name}.self_attn.q_norm", saved["q"], d_query)
            d_key = self._norm_back(f"{name}.self_attn.k_norm", saved["k"], d_key)
        return d_query, d_key, d_value

    def _norm_back(self, name: str, x: Floats, gradient: Floats) -> Floats:
        """The gradient before a norm of `x`, of that after it."""
        at = gradient * self._required(f"{name}.weight", x.shape[-1])
        mean_square = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
        scale = (1 / np.sqrt(mean_square + self._config.epsilon)).astype(np.float32)
        common = np.mean(at * x, axis=-1, keepdims=True) * np.square(scale)
        before: Floats = scale * (at - x * common)
        return before


def _loss(final: Floats, matrix: Floats, seed: int) -> tuple[Floats, NDArray[np.float64], NDArray[np.float64]]:
    """For tokens drawn after every token: the gradient at the head's inputs; Σ p (1 − p); and the logits' squares."""
    random = np.random.default_rng(seed)
    gradient = np.empty_like(final)
    energy, square = np.empty(len(final)), np.empty(len(final))
    for start in range(0, len(final), _ROWS):
        rows = slice(start, min(start + _ROWS, len(final)))
        logits = final[rows] @ matrix.T
        square[rows] = np.sum(np.square(logits), axis=-1)
        shares = _softmax(logits)
        energy[rows] = 1 - np.sum(np.square(shares, dtype=np.float64), axis=-1)
        sums = np.cumsum(shares, axis=-1, dtype=np.float64)
        drawn = np.sum(sums < random.random(len(sums))[:, None] * sums[:, -1:], axis=-1)
        shares[np.arange(len(shares)), np.minimum(drawn, shares.shape[-1] - 1)] -= 1
        gradient[rows] = shares @ matrix
    return gradient, energy, square


def _silu(x: Floats) -> tuple[Floats, Floats]:
    """SiLU and its slope."""
    with np.errstate(over="ignore"):
        share: Floats = np.reciprocal(1 + np.exp(-x))
    value: Floats = x * share
    slope: Floats = share * (1 + x * (1 - share))
    return value, slope


def _weights(energy: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Weights of tokens by their energies, and the mean of these."""
    mean = float(np.mean(energy))
    if mean <= 0:
        return np.ones(len(energy)), 0.0
    weights = np.minimum(energy / mean, LARGEST) + LEAST
    return weights / np.mean(weights), mean


def _gradient(linear: _Linear) -> Gradient:
    weights, mean = _weights(np.sum(np.square(linear.gradient, dtype=np.float64), axis=-1))
    square = np.sum(np.square(linear.outputs, dtype=np.float64), axis=-1)
    rows = linear.outputs.shape[-1]
    return Gradient(weights, np.empty(0, np.int32), mean * float(np.mean(weights * square)) / (2 * rows))
