"""Settings of a request: ranges, and the contract's integers that they stand for."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from intact import RequestError, SamplingParams


def nearest_q16(value: float) -> int:
    return math.floor(Fraction(value) * 65536 + Fraction(1, 2))


@given(st.floats(0, 65535))
@example(0.0)
@example(5e-324)
@example(0.49999999999999994 / 65536)
@example(65535.0)
def test_temperature(value: float) -> None:
    expected = 0 if value == 0 else max(1, nearest_q16(value))
    assert SamplingParams(temperature=value).to_contract()["temperature"] == expected
    assert 0 <= expected < 2**32


@given(st.floats(0, 1))
@example(0.49999999999999994 / 65536)
@example(1.0)
def test_shares(value: float) -> None:
    settings = SamplingParams(top_p=value, min_p=value).to_contract()
    assert settings["top_p"] == settings["min_p"] == nearest_q16(value)


def test_defaults() -> None:
    assert SamplingParams().to_contract() == {
        "n": 1,
        "max_tokens": 256,
        "temperature": 65536,
        "top_k": 0,
        "top_p": 65536,
        "min_p": 0,
        "seed": 0,
        "logprobs": None,
        "first_step": 0,
    }


def test_off_has_two_spellings() -> None:
    assert SamplingParams(top_k=-1).to_contract() == SamplingParams(top_k=0).to_contract()
    assert SamplingParams(seed=None).to_contract() == SamplingParams(seed=0).to_contract()
    assert SamplingParams(stop="x").stop_texts == SamplingParams(stop=["x"]).stop_texts == ("x",)
    assert SamplingParams(stop=None).stop_texts == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("temperature", value)
            for value in (-1, -1e-9, math.nan, math.inf, -math.inf, 65535.5, 10**400, "1", True, None)
        ),
        *((field, value) for field in ("top_p", "min_p") for value in (-0.1, 1.1, math.nan, "1", True)),
        *(("top_k", value) for value in (-2, 2**32, 1.0, True)),
        *(("n", value) for value in (0, 1025, 1.0, True)),
        *(("max_tokens", value) for value in (0, 2**32, 1.5, None)),
        *(("seed", value) for value in (-1, 2**64, 0.5, "0")),
        *(("logprobs", value) for value in (-1, 1025, 1.0, True)),
        *(("stop", value) for value in ("", ["a", ""], [1], ["x" * 1025], ["x"] * 65, 5)),
        *(("stop_token_ids", value) for value in ([-1], [2**32], [True], ["1"], 5)),
    ],
)
def test_out_of_range(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=rf"^{field}: ") as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_frozen() -> None:
    with pytest.raises(AttributeError):
        SamplingParams().seed = 1  # type: ignore[misc]
