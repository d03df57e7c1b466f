"""The float reference: what a model's logits are in ordinary arithmetic, to measure the integer engine against.

A plain forward pass of the Llama family in numpy, written to be read beside the definition of each model. It is for
figures that are shown to people and takes no part in inference.

Precision: matrix products are float32 BLAS; the softmax and everything element by element are float32; the mean
square of a norm and the angles of a rotation are float64, rounded to float32 at the end. Logits therefore agree to
about six digits with other float32 implementations, and to about as many between machines.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._native import Source
from .errors import ModelError, RequestError

Floats: TypeAlias = NDArray[np.float32]

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "bitnet")
_MAX_SIZE = 1 << 24  # of any count in a configuration, so that a hostile one cannot ask for endless memory
_MAX_NUMBER = 1e30  # of any other number, so that float64 arithmetic with it stays finite


class FloatModel:
    """A Llama, Mistral, SmolLM2, Qwen2, Qwen3 or BitNet model in float32; BitNet's activations are not rounded.

    A tensor is asked for each time it is used and not kept, so that one matrix at a time is in memory. Wrap `tensors`
    in `functools.cache` where memory holds all of them, 4 bytes per weight.

    Args:
        config: The model's `config.json`.
        tensors: Given a Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`, the float32 weights: shape
            (rows, columns) of a matrix, (n,) of a norm or bias. Raises KeyError for a tensor that the model lacks.
            Biases, the norms of queries and keys, and `lm_head.weight` (else the embedding serves) are optional.
            `rope_freqs`, shape (head_dim / 2,), divides the rotation frequencies if `config` has
            `"rope_scaling": {"rope_type": "llama3_factors"}`, as a converted GGUF file may.

    Raises:
        ModelError: `config` is of no family known here or asks for an unknown variant.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Callable[[str], Floats]) -> None:
        self._config = _Config.read(config)
        self._tensors = tensors
        self._frequencies = self._rotation_frequencies()

    def logits(self, token_ids: Sequence[int]) -> Floats:
        """The logits after every token of one text, shape (len(token_ids), vocabulary).

        Raises:
            RequestError: No tokens, or an id outside the vocabulary.
            ModelError: A missing or misshapen tensor.
        """
        config = self._config
        ids = np.asarray(token_ids, dtype=np.int64)
        if ids.ndim != 1 or ids.size == 0:
            raise RequestError("token_ids: at least one token id is needed")
        if ids.min() < 0 or ids.max() >= config.vocabulary:
            raise RequestError(f"token_ids: ids are in 0 … {config.vocabulary - 1}")
        angles = np.arange(ids.size)[:, None] * self._frequencies
        rotation = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))

        hidden = self._required("model.embed_tokens.weight", config.vocabulary, config.hidden)[ids]
        for layer in range(config.layers):
            name = f"model.layers.{layer}"
            hidden = hidden + self._attention(layer, self._norm(f"{name}.input_layernorm", hidden), rotation)
            hidden = hidden + self._feed_forward(name, self._norm(f"{name}.post_attention_layernorm", hidden))
        hidden = self._norm("model.norm", hidden)
        head = None if config.tied else self._tensor("lm_head.weight", config.vocabulary, config.hidden)
        if head is None:
            head = self._required("model.embed_tokens.weight", config.vocabulary, config.hidden)
        out: Floats = hidden @ head.T
        return out

    def _attention(self, layer: int, hidden: Floats, rotation: tuple[Floats, Floats]) -> Floats:
        """Causal self-attention; `hidden` and the result have shape (n, hidden)."""
        config, n = self._config, len(hidden)
        name = f"model.layers.{layer}.self_attn"

        def project(projection: str, heads: int) -> Floats:
            flat = self._linear(f"{name}.{projection}", hidden, heads * config.head_width)
            return flat.reshape(n, heads, config.head_width)

        query = project("q_proj", config.heads)
        key = project("k_proj", config.kv_heads)
        value = project("v_proj", config.kv_heads)
        if self._tensor(f"{name}.q_norm.weight", config.head_width) is not None:
            query = self._norm(f"{name}.q_norm", query)
            key = self._norm(f"{name}.k_norm", key)
        query, key = _rotate(query, rotation), _rotate(key, rotation)

        position = np.arange(n)
        distance = position[:, None] - position[None, :]
        visible = (distance >= 0) & (distance < (config.windows[layer] or n))
        mask = np.where(visible, np.float32(0), np.float32(-np.inf))
        query *= np.float32(1 / math.sqrt(config.head_width))
        out = np.empty_like(query)
        for head in range(config.heads):
            kv_head = head // (config.heads // config.kv_heads)
            scores = query[:, head] @ key[:, kv_head].T + mask
            out[:, head] = _softmax(scores) @ value[:, kv_head]
        joined = out.reshape(n, -1)
        if config.bitnet:
            joined = self._norm(f"{name}.attn_sub_norm", joined)
        return self._linear(f"{name}.o_proj", joined, config.hidden)

    def _feed_forward(self, name: str, hidden: Floats) -> Floats:
        """down(act(gate(x)) · up(x)); `hidden` and the result have shape (n, hidden)."""
        gate = self._linear(f"{name}.mlp.gate_proj", hidden, self._config.feed_forward)
        up = self._linear(f"{name}.mlp.up_proj", hidden, self._config.feed_forward)
        if self._config.bitnet:
            gated = self._norm(f"{name}.mlp.ffn_sub_norm", np.square(np.maximum(gate, np.float32(0))) * up)
            return self._linear(f"{name}.mlp.down_proj", gated, hidden.shape[-1])
        with np.errstate(over="ignore"):  # exp of a large number is inf, and x / inf is the 0 that is meant
            gated = gate / (1 + np.exp(-gate)) * up
        return self._linear(f"{name}.mlp.down_proj", gated, self._config.hidden)

    def _linear(self, name: str, x: Floats, rows: int) -> Floats:
        """The product x · Wᵀ, shape (n, rows), plus the bias where the model has one."""
        out: Floats = x @ self._required(f"{name}.weight", rows, x.shape[-1]).T
        bias = self._tensor(f"{name}.bias", rows)
        return out if bias is None else out + bias

    def _norm(self, name: str, x: Floats) -> Floats:
        """RMS norm over the last axis."""
        gain = self._required(f"{name}.weight", x.shape[-1])
        mean_square = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
        scaled: Floats = (x / np.sqrt(mean_square + self._config.epsilon)).astype(np.float32)
        return scaled * gain

    def _required(self, name: str, *shape: int) -> Floats:
        tensor = self._tensor(name, *shape)
        if tensor is None:
            raise ModelError(f"{name}: the model has no such tensor; its files do not fit its config.json")
        return tensor

    def _tensor(self, name: str, *shape: int) -> Floats | None:
        """The tensor, which has this shape; None where the model has no such tensor."""
        try:
            tensor = np.asarray(self._tensors(name), dtype=np.float32)
        except KeyError:
            return None
        if tensor.shape != shape:
            raise ModelError(f"{name}: has shape {tensor.shape}, but config.json asks for {shape}")
        return tensor

    def _rotation_frequencies(self) -> NDArray[np.float64]:
        """Radians per position of each pair of a head, shape (head_width / 2,)."""
        config = self._config
        pairs = config.head_width // 2
        frequencies = config.rope_base ** (-np.arange(pairs, dtype=np.float64) / pairs)
        if config.rope_type == "linear":
            return frequencies / config.rope["factor"]
        if config.rope_type == "llama3":
            return _llama3_frequencies(frequencies, config.rope)
        if config.rope_type == "llama3_factors":
            return frequencies / self._required("rope_freqs", pairs).astype(np.float64)
        return frequencies


Model = TypeVar("Model", bound=FloatModel)


def source_model(path: str, kind: type[Model], keep: bool = True) -> Model:
    """A float model of a source; `keep` holds all its tensors in memory, 4 bytes a weight."""
    source = Source(path)
    names = frozenset(source.tensor_names())

    def tensor(name: str) -> Floats:
        if name not in names:
            raise KeyError(name)
        return source.tensor(name)

    return kind(json.loads(source.config()), functools.cache(tensor) if keep else tensor)


def _llama3_frequencies(frequencies: NDArray[np.float64], rope: Mapping[str, float]) -> NDArray[np.float64]:
    """Llama 3.1's rule: divide slow rotations by `factor`, keep fast ones, and blend in between."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    blended: NDArray[np.float64] = frequencies * (kept + (1 - kept) / rope["factor"])
    return blended


def _rotate(x: Floats, rotation: tuple[Floats, Floats]) -> Floats:
    """Rotary embedding of x, shape (n, heads, head_width): element i of a head pairs with i + head_width / 2."""
    cos, sin = (part[:, None, :] for part in rotation)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _softmax(scores: Floats) -> Floats:
    """Softmax over the last axis; every row has a finite score."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    normalized: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return normalized


# What each way of stretching the rotation takes from config.json besides its name.
_ROPE_FACTS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "llama3_factors": (),
}


@dataclass(frozen=True)
class _Config:
    """The facts of a `config.json` that the forward pass needs."""

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    windows: tuple[int, ...]  # of each layer: positions that a token sees, itself included; 0 = all before it
    epsilon: float
    tied: bool
    rope_base: float
    rope_type: str
    rope: Mapping[str, float]
    bitnet: bool  # squared ReLU, and norms before the two output projections

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> _Config:
        if config.get("model_type") not in FAMILIES:
            raise ModelError(f"config.json: model_type {config.get('model_type')!r} is none of {', '.join(FAMILIES)}")
        bitnet = config["model_type"] == "bitnet"
        activation = "relu2" if bitnet else "silu"
        if config.get("hidden_act", activation) != activation:
            raise ModelError(f"config.json: hidden_act {config['hidden_act']!r}: this family uses {activation}")
        if config.get("partial_rotary_factor", 1) != 1:
            raise ModelError("config.json: partial_rotary_factor: only 1 is supported")
        hidden, layers = _count(config, "hidden_size"), _count(config, "num_hidden_layers")
        heads = _count(config, "num_attention_heads")
        kv_heads = _count(config, "num_key_value_heads", default=heads)
        head_width = _count(config, "head_dim", default=hidden // heads)
        if heads % kv_heads:
            raise ModelError(f"config.json: {heads} attention heads do not share {kv_heads} key-value heads evenly")
        if head_width == 0 or head_width % 2:
            raise ModelError(f"config.json: head_dim {head_width} is not a positive even number")
        rope_base, rope_type, rope = _rope(config)
        return cls(
            vocabulary=_count(config, "vocab_size"),
            hidden=hidden,
            feed_forward=_count(config, "intermediate_size"),
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_width=head_width,
            windows=_windows(config, layers),
            epsilon=_positive(config, "rms_norm_eps", default=1e-6),
            tied=bool(config.get("tie_word_embeddings", False)),
            rope_base=rope_base,
            rope_type=rope_type,
            rope=rope,
            bitnet=bitnet,
        )


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """The sliding window of each layer, 0 for none. The Qwen families have the field but must switch it on."""
    qwen = config["model_type"].startswith("qwen")
    if config.get("sliding_window") is None or (qwen and not config.get("use_sliding_window", False)):
        return (0,) * layers
    window = _count(config, "sliding_window")
    if (types := config.get("layer_types")) is not None:
        if not isinstance(types, Sequence) or len(types) != layers:
            raise ModelError(f"config.json: layer_types does not name {layers} layers")
        return tuple(window if kind == "sliding_attention" else 0 for kind in types)
    if config["model_type"] in ("llama", "bitnet"):
        return (0,) * layers
    first = _count(config, "max_window_layers", default=28) if qwen else 0
    return tuple(window if layer >= first else 0 for layer in range(layers))


def _rope(config: Mapping[str, Any]) -> tuple[float, str, Mapping[str, float]]:
    """Base, kind and the numbers of the rotary embedding. Newer configurations keep all of it in `rope_parameters`."""
    field = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    scaling = config.get(field) or {}
    if not isinstance(scaling, Mapping):
        raise ModelError(f"config.json: {field} is not an object")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_FACTS:
        raise ModelError(f"config.json: rope_type {kind!r} of {field} is none of {', '.join(_ROPE_FACTS)}")
    facts = {name: _positive(scaling, name) for name in _ROPE_FACTS[kind]}
    if kind == "llama3" and facts["low_freq_factor"] >= facts["high_freq_factor"]:
        raise ModelError(f"config.json: low_freq_factor of {field} is not below high_freq_factor")
    base = 500000.0 if config["model_type"] == "bitnet" else 10000.0
    return _positive({**config, **scaling}, "rope_theta", default=base), kind, facts


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_SIZE:
        raise ModelError(f"config.json: {key} is {value!r}, which is no whole number in 0 … {_MAX_SIZE}")
    if value == 0 and default is None:
        raise ModelError(f"config.json: {key} is 0")
    return value


def _positive(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _MAX_NUMBER:
        raise ModelError(f"config.json: {key} is {value!r}, which is no positive number")
    return float(value)
