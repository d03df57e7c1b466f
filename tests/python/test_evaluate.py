"""The evaluation's figures against closed forms, and the float reference against loops over the models' definitions."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from intact.errors import ModelError, RequestError
from intact.evaluate import Estimate, EvalResult, compare, evaluate, windows
from intact.reference import FloatModel

DATA = Path(__file__).resolve().parents[2] / "benches" / "data"


class Model:
    """An integer model whose logits after token t are `rows[t]`, in units of 2**-fraction_bits."""

    def __init__(self, rows: Any, fraction_bits: int = 12) -> None:
        self.rows = np.asarray(rows, dtype=np.int32)
        self.fraction_bits = fraction_bits

    def logits(self, token_ids: Any, /) -> NDArray[np.int32]:
        logits: NDArray[np.int32] = self.rows[token_ids]
        return logits

    def real(self, token_ids: list[int]) -> NDArray[np.float64]:
        """The same logits as numbers."""
        return np.ldexp(self.rows[token_ids].astype(np.float64), -self.fraction_bits)


class FloatTable:
    """A float model of these logits."""

    def __init__(self, logits: Callable[[list[int]], NDArray[np.float64]]) -> None:
        self.logits = logits


def table_of(rows: Any) -> Callable[[list[int]], NDArray[np.float64]]:
    """A reference whose logits after token t are `rows[t]`."""
    return lambda token_ids: np.asarray(rows, dtype=np.float64)[token_ids]


# --- evaluate -----------------------------------------------------------------------------------------------------


def test_a_model_has_no_distance_from_itself() -> None:
    random = np.random.default_rng(1)
    model = Model(random.integers(-(1 << 16), 1 << 16, (50, 50)))
    result = evaluate(model, model.real, random.integers(0, 50, (3, 50)).tolist())
    assert result.kld.value == 0 and result.kld.error == 0
    assert result.perplexity == result.reference_perplexity
    assert result.perplexity.value > 50  # random logits predict random tokens worse than chance
    assert result.perplexity_change.value == 0 and result.perplexity_change.error == 0
    assert result.top1_agreement.value == 100
    assert (result.windows, result.predictions) == (3, 3 * 49)


def test_two_token_distributions_have_the_figures_of_their_closed_forms() -> None:
    # Reference (3/4, 1/4) after either token, integer model (1/2, 1/2); the text is 0 0 0 1.
    reference = table_of([[math.log(3), 0], [math.log(3), 0]])
    result = evaluate(Model([[5, 5], [-7, -7]]), reference, [[0, 0, 0, 1]])
    assert result.kld.value == pytest.approx(0.75 * math.log(3) - math.log(2), rel=1e-12)
    assert result.perplexity.value == pytest.approx(2, rel=1e-12)
    expected = (4 / 3 * 4 / 3 * 4) ** (1 / 3)
    assert result.reference_perplexity.value == pytest.approx(expected, rel=1e-12)
    assert result.perplexity_change.value == pytest.approx(100 * (2 / expected - 1), rel=1e-12)
    assert result.top1_agreement.value == 100  # equal logits: the lower id


def test_divergence_is_of_the_reference_from_the_integer_model_and_not_the_reverse() -> None:
    model, reference = Model([[1 << 12, 0]], 12), table_of([[3, 0]])
    p, q = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    reverse = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert evaluate(model, reference, [[0, 0]]).kld.value == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(reverse, rel=0.1)


def test_logits_are_read_in_units_of_the_fraction_bits() -> None:
    reference, text = table_of([[0, 2], [1, 0]]), [[0, 1, 1, 0]]
    coarse = evaluate(Model([[0, 2 << 8], [1 << 8, 0]], 8), reference, text)
    fine = evaluate(Model([[0, 2 << 20], [1 << 20, 0]], 20), reference, text)
    assert coarse.kld.value == fine.kld.value == 0
    assert evaluate(Model([[0, 2 << 8], [1 << 8, 0]], 9), reference, text).kld.value > 0.01


def test_agreement_counts_predictions_and_not_the_last_row() -> None:
    model = Model([[9, 0, 0], [0, 9, 0], [0, 0, 9]])
    result = evaluate(model, table_of([[9, 0, 0], [9, 0, 0], [9, 0, 0]]), [[0, 0, 1, 0, 2]])
    assert result.top1_agreement.value == 75


@pytest.mark.parametrize("length", [2, 16, 17, 18, 34])
def test_figures_do_not_depend_on_how_rows_are_grouped(length: int) -> None:
    random = np.random.default_rng(length)
    model = Model(random.integers(-(1 << 14), 1 << 14, (30, 30)))
    reference = random.normal(size=(30, 30))
    text = random.integers(0, 30, length)
    result = evaluate(model, table_of(reference), [text.tolist()])
    logits = [x - np.log(np.exp(x).sum(axis=1))[:, None] for x in (reference[text], model.real(text.tolist()))]
    p, q = (x[:-1] for x in logits)
    assert result.kld.value == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), rel=1e-9)
    nll = -q[np.arange(length - 1), text[1:]].mean()
    assert result.perplexity.value == pytest.approx(math.exp(nll), rel=1e-9)


def test_standard_errors_are_those_of_the_windows() -> None:
    # Token 0 predicts with divergence d, token 1 with none; windows hold 1 and 3 parts in 4 of token 0's rows.
    model, reference = Model([[0, 0], [0, 0]]), table_of([[math.log(3), 0], [0, 0]])
    d = 0.75 * math.log(3) - math.log(2)
    result = evaluate(model, reference, [[0, 1, 1, 1, 0], [0, 0, 0, 1, 0]])
    assert result.kld.value == pytest.approx(d / 2)
    assert result.kld.error == pytest.approx(np.std([d / 4, 3 * d / 4], ddof=1) / math.sqrt(2))
    assert result.perplexity.error == 0
    nll = {(0, 0): math.log(4 / 3), (0, 1): math.log(4), (1, 0): math.log(2), (1, 1): math.log(2)}
    means = [
        (nll[0, 1] + 2 * nll[1, 1] + nll[1, 0]) / 4,
        (2 * nll[0, 0] + nll[0, 1] + nll[1, 0]) / 4,
    ]
    error = np.std(means, ddof=1) / math.sqrt(2)
    assert result.reference_perplexity.error == pytest.approx(math.exp(np.mean(means)) * error)
    change = 2 / math.exp(np.mean(means))
    assert result.perplexity_change.value == pytest.approx(100 * (change - 1))
    assert result.perplexity_change.error == pytest.approx(100 * change * error)


def test_windows_of_unequal_length_weigh_by_their_predictions() -> None:
    model, reference = Model([[0, 0], [0, 0]]), table_of([[math.log(3), 0], [0, 0]])
    d = 0.75 * math.log(3) - math.log(2)
    result = evaluate(model, reference, [[0, 0], [1, 1, 1, 1]])
    assert result.kld.value == pytest.approx(d / 4)
    assert result.kld.error == pytest.approx(math.sqrt(2 / 1 * ((d - d / 4) ** 2 + (d / 4 * 3) ** 2)) / 4)


def test_one_window_has_no_standard_error() -> None:
    result = evaluate(Model([[1, 0], [0, 1]]), table_of([[1, 0], [0, 1]]), [[0, 1, 0]])
    assert result.kld.error is result.perplexity.error is result.perplexity_change.error is None
    assert json.loads(result.to_json())["kld"]["error"] is None


def test_the_exact_fields_come_from_the_integers_alone() -> None:
    model = Model([[1, -2], [3, 4]])
    calls: list[tuple[list[list[int]], list[int]]] = []

    def exact_nll(logits: NDArray[np.int32], targets: list[int], fraction_bits: int) -> int:
        assert fraction_bits == 12
        calls.append((logits.tolist(), targets))
        return 1 << 60

    result = evaluate(model, table_of([[0, 1], [2, 3]]), iter([[0, 1, 1], [1, 0]]), exact_nll)
    assert calls == [([[1, -2], [3, 4]], [1, 1]), ([[3, 4]], [0])]
    assert result.exact_nll == 1 << 61
    rows = [[1, -2], [3, 4], [3, 4], [3, 4], [1, -2]]
    assert result.logits_sha256 == hashlib.sha256(np.array(rows, dtype="<i4").tobytes()).hexdigest()


def test_result_as_json() -> None:
    result = evaluate(Model([[1, 0], [0, 1]]), table_of([[3, 0], [0, 1]]), [[0, 1, 0], [1, 1, 0]], lambda *_: 7)
    fields = json.loads(result.to_json())
    assert list(fields) == list(EvalResult.__dataclass_fields__)
    assert fields["kld"] == {"value": result.kld.value, "error": result.kld.error}
    assert (fields["predictions"], fields["windows"], fields["exact_nll"]) == (4, 2, 14)


def test_an_estimate_as_text_has_two_digits_of_its_error() -> None:
    assert str(Estimate(1.23456789, 0.00321)) == "1.2346 ± 0.0032"
    assert str(Estimate(1.23456789, None)) == "1.23457"
    assert (Estimate(1.5, 0.0).signed(), Estimate(-1.5, 0.5).signed()) == ("+1.500 ± 0.000", "-1.500 ± 0.500")


def test_models_are_compared_as_if_each_were_alone() -> None:
    random = np.random.default_rng(3)
    exact, other = (Model(random.integers(-(1 << 14), 1 << 14, (30, 30))) for _ in range(2))
    text = random.integers(0, 30, (3, 20)).tolist()
    floats = FloatTable(other.real)
    results = compare([exact, floats, other], exact.real, text, lambda *_: 1)
    assert [results[0], results[2]] == [evaluate(model, exact.real, text, lambda *_: 1) for model in (exact, other)]
    assert results[0].kld.value == 0 < results[2].kld.value
    assert results[1] == replace(results[2], logits_sha256=None, exact_nll=None)
    with pytest.raises(RequestError, match="models"):
        compare([], exact.real, text)


def test_float_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ModelError, match="model's logits"):
        compare([FloatTable(table_of([[0, math.nan]]))], table_of([[0, 0]]), [[0, 0]])


@pytest.mark.parametrize(
    ("reference", "text", "error"),
    [
        ([[0, 0]], [], RequestError),
        ([[0, 0]], [[0]], RequestError),
        ([[0, 0, 0]], [[0, 0]], ModelError),
        ([[0, math.nan]], [[0, 0]], ModelError),
        ([[0, -math.inf]], [[0, 0]], ModelError),
    ],
)
def test_unusable_input_is_refused(reference: Any, text: list[list[int]], error: type[Exception]) -> None:
    with pytest.raises(error):
        evaluate(Model([[1, 2]]), table_of(reference), text)


def test_float_logits_are_not_taken_for_integer_ones() -> None:
    model = Model([[1, 2]])
    model.rows = model.rows.astype(np.float32)
    with pytest.raises(ModelError, match="int32"):
        evaluate(model, table_of([[1, 2]]), [[0, 0]])


def test_a_perplexity_beyond_float64_is_an_error() -> None:
    with pytest.raises(ModelError, match="perplexity"):
        evaluate(Model([[1 << 30, 0]] * 2, 8), table_of([[0, 0]] * 2), [[0, 1]])


# --- windows ------------------------------------------------------------------------------------------------------


@given(length=st.integers(2, 400), size=st.integers(2, 60), count=st.integers(1, 30))
def test_windows_are_disjoint_pieces_spread_over_the_text(length: int, size: int, count: int) -> None:
    if length < size:
        with pytest.raises(RequestError, match="longer text"):
            windows(range(length), size, count)
        return
    cut = windows(range(length), size, count)
    assert len(cut) == min(count, length // size)
    for window in cut:
        assert window == list(range(window[0], window[0] + size))
    starts = [window[0] for window in cut]
    gaps = {after - before for before, after in itertools.pairwise(starts)}
    assert len(gaps) <= 1 and all(gap >= size for gap in gaps)
    assert starts[0] == 0
    assert length - starts[-1] < length // len(cut) + len(cut)  # no stretch of the text longer than a gap is left out
    assert cut[-1][-1] < length


@given(length=st.integers(10, 100), size=st.integers(2, 10), count=st.integers(1, 10))
def test_bos_takes_the_place_of_each_windows_first_token(length: int, size: int, count: int) -> None:
    plain = windows(range(length), size, count)
    assert windows(range(length), size, count, bos=777) == [[777, *window[1:]] for window in plain]


@pytest.mark.parametrize(("size", "count"), [(1, 1), (0, 1), (-4, 1), (2, 0), (2, -1)])
def test_windows_need_a_size_and_a_count(size: int, count: int) -> None:
    with pytest.raises(RequestError):
        windows(range(100), size, count)


def test_the_held_out_prose_is_the_published_text() -> None:
    content = (DATA / "prose.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() in (DATA / "README.md").read_text(encoding="utf-8")
    assert len(content.decode("utf-8").split()) > 24 * 512  # no fewer tokens than words


# --- the float reference ------------------------------------------------------------------------------------------

TINY: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 8,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "rms_norm_eps": 0.01,
    "rope_theta": 50.0,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 20}
TOKENS = [3, 1, 12, 0, 7, 7, 2, 11, 5, 9, 4, 1]


def tiny_tensors(
    *, biases: bool = False, head_norms: bool = False, sub_norms: bool = False, head: bool = True
) -> dict[str, Any]:
    """Random weights that fit TINY."""
    random = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (13, 8), "model.norm.weight": (8,)}
    if head:
        shapes["lm_head.weight"] = (13, 8)
    for layer in range(2):
        name = f"model.layers.{layer}"
        matrices = {"self_attn.q_proj": (24, 8), "self_attn.k_proj": (12, 8), "self_attn.v_proj": (12, 8)}
        matrices |= {"self_attn.o_proj": (8, 24), "mlp.gate_proj": (10, 8), "mlp.up_proj": (10, 8)}
        matrices |= {"mlp.down_proj": (8, 10)}
        for matrix, shape in matrices.items():
            shapes[f"{name}.{matrix}.weight"] = shape
            if biases:
                shapes[f"{name}.{matrix}.bias"] = shape[:1]
        shapes |= {f"{name}.input_layernorm.weight": (8,), f"{name}.post_attention_layernorm.weight": (8,)}
        if head_norms:
            shapes |= {f"{name}.self_attn.q_norm.weight": (6,), f"{name}.self_attn.k_norm.weight": (6,)}
        if sub_norms:
            shapes |= {f"{name}.self_attn.attn_sub_norm.weight": (24,), f"{name}.mlp.ffn_sub_norm.weight": (10,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def naive_logits(tensors: Mapping[str, Any], tokens: list[int], rates: list[float], window: int) -> list[list[float]]:
    """The model of TINY's shape, token by token, in loops over Python's floats.

    `rates` are the radians per position of each pair of a head; `window` is 0 or how many positions a token sees.
    """
    weights = {name: tensor.tolist() for name, tensor in tensors.items()}

    def linear(name: str, x: list[float]) -> list[float]:
        bias = weights.get(f"{name}.bias", [0.0] * len(weights[f"{name}.weight"]))
        return [dot(row, x) + b for row, b in zip(weights[f"{name}.weight"], bias, strict=True)]

    def norm(name: str, x: list[float]) -> list[float]:
        root = math.sqrt(sum(v * v for v in x) / len(x) + 0.01)
        return [v / root * gain for v, gain in zip(x, weights[f"{name}.weight"], strict=True)]

    def heads(layer: str, which: str, x: list[float], position: int) -> list[list[float]]:
        flat = linear(f"{layer}.self_attn.{which}_proj", x)
        split = [flat[start : start + 6] for start in range(0, len(flat), 6)]
        if which == "v":
            return split
        if f"{layer}.self_attn.{which}_norm.weight" in weights:
            split = [norm(f"{layer}.self_attn.{which}_norm", head) for head in split]
        for head in split:
            for i, rate in enumerate(rates):
                a, b, angle = head[i], head[i + 3], position * rate
                head[i] = a * math.cos(angle) - b * math.sin(angle)
                head[i + 3] = b * math.cos(angle) + a * math.sin(angle)
        return split

    cache: list[list[tuple[list[list[float]], list[list[float]]]]] = [[], []]
    logits = []
    for position, token in enumerate(tokens):
        x = list(weights["model.embed_tokens.weight"][token])
        for number in range(2):
            layer = f"model.layers.{number}"
            h = norm(f"{layer}.input_layernorm", x)
            cache[number].append((heads(layer, "k", h, position), heads(layer, "v", h, position)))
            out: list[float] = []
            for head, query in enumerate(heads(layer, "q", h, position)):
                seen = cache[number][-window:] if window else cache[number]
                mass = [math.exp(dot(query, keys[head // 2]) / math.sqrt(6)) for keys, _ in seen]
                for i in range(6):
                    values = [values[head // 2][i] for _, values in seen]
                    out.append(dot(mass, values) / sum(mass))
            bitnet = f"{layer}.mlp.ffn_sub_norm.weight" in weights
            if bitnet:
                out = norm(f"{layer}.self_attn.attn_sub_norm", out)
            x = [a + b for a, b in zip(x, linear(f"{layer}.self_attn.o_proj", out), strict=True)]
            h = norm(f"{layer}.post_attention_layernorm", x)
            gates, ups = linear(f"{layer}.mlp.gate_proj", h), linear(f"{layer}.mlp.up_proj", h)
            gated = [gate / (1 + math.exp(-gate)) * up for gate, up in zip(gates, ups, strict=True)]
            if bitnet:
                gated = [max(gate, 0.0) ** 2 * up for gate, up in zip(gates, ups, strict=True)]
                gated = norm(f"{layer}.mlp.ffn_sub_norm", gated)
            x = [a + b for a, b in zip(x, linear(f"{layer}.mlp.down_proj", gated), strict=True)]
        head_name = "lm_head" if "lm_head.weight" in weights else "model.embed_tokens"
        logits.append(linear(head_name, norm("model.norm", x)))
    return logits


RATES = [50 ** (-i / 3) for i in range(3)]
# Turns within the original 20 positions: 3.18, 0.86, 0.23. So: two thirds of the way from low to high; below; below.
KEPT = (20 / (2 * math.pi) - 1) / 3
LLAMA3_RATES = [RATES[0] * (KEPT + (1 - KEPT) / 8), RATES[1] / 8, RATES[2] / 8]


@pytest.mark.parametrize(
    ("config", "options", "rates", "window"),
    [
        ({}, {}, RATES, 0),
        ({}, {"head": False}, RATES, 0),
        ({}, {"biases": True}, RATES, 0),
        ({"rope_scaling": {"type": "linear", "factor": 3}}, {}, [rate / 3 for rate in RATES], 0),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, {}, LLAMA3_RATES, 0),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 50}}, {}, RATES, 0),
        ({"model_type": "mistral", "sliding_window": 4}, {}, RATES, 4),
        ({"model_type": "mistral", "sliding_window": None}, {}, RATES, 0),
        ({"model_type": "qwen2", "sliding_window": 4}, {"biases": True}, RATES, 0),
        (
            {"model_type": "qwen2", "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0},
            {"biases": True},
            RATES,
            4,
        ),
        ({"model_type": "qwen3"}, {"head_norms": True}, RATES, 0),
        ({"model_type": "bitnet"}, {"sub_norms": True}, RATES, 0),
    ],
)
def test_reference_agrees_with_the_definition(
    config: dict[str, Any], options: dict[str, bool], rates: list[float], window: int
) -> None:
    tensors = tiny_tensors(**options)
    actual = FloatModel({**TINY, **config}, tensors.__getitem__).logits(TOKENS)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, naive_logits(tensors, TOKENS, rates, window), rtol=2e-5, atol=5e-5)


def test_rope_freqs_divide_the_frequencies_that_llama3_would_scale() -> None:
    tensors = tiny_tensors()
    scaled = FloatModel({**TINY, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, tensors.__getitem__)
    tensors["rope_freqs"] = np.array(RATES, dtype=np.float32) / np.array(LLAMA3_RATES, dtype=np.float32)
    divided = FloatModel({**TINY, "rope_scaling": {"rope_type": "llama3_factors"}}, tensors.__getitem__)
    np.testing.assert_allclose(divided.logits(TOKENS), scaled.logits(TOKENS), rtol=2e-5, atol=5e-5)


def test_tied_models_ignore_a_head_of_their_own() -> None:
    tensors = tiny_tensors()
    tied = FloatModel({**TINY, "tie_word_embeddings": True}, tensors.__getitem__).logits(TOKENS)
    del tensors["lm_head.weight"]
    assert np.array_equal(tied, FloatModel(TINY, tensors.__getitem__).logits(TOKENS))


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"model_type": None},
        {"hidden_act": "gelu"},
        {"hidden_act": "relu2"},
        {"partial_rotary_factor": 0.5},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 1 << 62},
        {"hidden_size": "8"},
        {"vocab_size": -1},
        {"num_key_value_heads": 3},
        {"head_dim": 5},
        {"rms_norm_eps": math.nan},
        {"rope_theta": 10**400},
        {"rope_scaling": [1]},
        {"rope_scaling": {"rope_type": ["yarn"]}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "linear"}},
        {"rope_scaling": {"rope_type": "linear", "factor": 0}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 4.0}},
        {"model_type": "mistral", "sliding_window": 4, "layer_types": ["sliding_attention"]},
    ],
)
def test_configurations_that_mean_something_else_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        FloatModel({**TINY, **change}, tiny_tensors().__getitem__)


@pytest.mark.parametrize("token_ids", [[], [-1], [13], [[1, 2]]])
def test_token_ids_outside_the_vocabulary_are_refused(token_ids: Any) -> None:
    with pytest.raises(RequestError):
        FloatModel(TINY, tiny_tensors().__getitem__).logits(token_ids)


def test_missing_and_misshapen_tensors_are_named() -> None:
    tensors = tiny_tensors()
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((8, 10), dtype=np.float32)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight.*\(8, 10\).*\(10, 8\)"):
        FloatModel(TINY, tensors.__getitem__).logits([1])
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        FloatModel(TINY, tensors.__getitem__).logits([1])
