"""How tokens are chosen: real-valued settings, and the contract's integers that they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from intact.errors import RequestError

_ONE = 1 << 16  # 1.0 in Q16
_MAX_STOPS = 64
_MAX_STOP_CHARS = 1024


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Settings of one request; the same request gives the same tokens, on every machine and every time.

    Attributes:
        n: Continuations of the prompt, 1…1024; the i-th draws from random stream i.
        temperature: 0 chooses the most likely token, larger values flatten the distribution; 0…65535.
        top_p: Keep the shortest prefix of tokens with this share of the probability, 0…1.
        top_k: Keep this many of the most likely tokens; 0 or -1 keeps all.
        min_p: Keep tokens with at least this share of the largest probability, 0…1.
        seed: Key of the random numbers, 0…2^64 - 1; None is 0, so that no request depends on chance.
        max_tokens: Tokens to generate at most.
        stop: A text or texts that end a continuation; they are not part of its text. At most 64, of at most 1024
            characters.
        stop_token_ids: Tokens that end a continuation, besides the model's own.
        ignore_eos: Go on after the model's own end tokens.
        logprobs: Report this many of the most likely tokens of every step, 0…1024; None reports nothing.
        skip_special_tokens: Leave special tokens out of the text.
        first_step: Number of the first token to generate, from which random numbers count. A request that was stopped
            after k tokens goes on with them at the end of its prompt and k here.
        receipt: Make a receipt that any machine can verify: "logits" binds every token to a hash of its logits,
            "tensors" also to digests of all that was computed for it; None makes none.

    Raises:
        RequestError: A setting is out of its range.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int = 256
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True
    first_step: int = 0
    receipt: Literal["logits", "tensors"] | None = None

    def __post_init__(self) -> None:
        _integer("n", self.n, 1, 1024)
        _real("temperature", self.temperature, 0, 65535)
        _real("top_p", self.top_p, 0, 1)
        _integer("top_k", self.top_k, -1, 2**32 - 1)
        _real("min_p", self.min_p, 0, 1)
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**64 - 1)
        _integer("max_tokens", self.max_tokens, 1, 2**32 - 1)
        _integer("first_step", self.first_step, 0, 2**32 - 1)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, 1024)
        for text in self.stop_texts:
            if not isinstance(text, str) or not 1 <= len(text) <= _MAX_STOP_CHARS:
                raise RequestError(f"stop: {_show(text)} is not a text of 1…{_MAX_STOP_CHARS} characters")
        if len(self.stop_texts) > _MAX_STOPS:
            raise RequestError(f"stop: {len(self.stop_texts)} texts are more than {_MAX_STOPS}")
        for token in _tuple("stop_token_ids", self.stop_token_ids):
            _integer("stop_token_ids", token, 0, 2**32 - 1)

        if self.receipt not in (None, "logits", "tensors"):
            raise RequestError(f"receipt: {_show(self.receipt)} is not one of 'logits', 'tensors', None")

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The texts of `stop`, none to many."""
        return (self.stop,) if isinstance(self.stop, str) else _tuple("stop", self.stop)

    def to_contract(self) -> dict[str, int | None]:
        """The settings as the contract's integers (docs/NUMERICS.md, section 4), by the engine's names."""
        return {
            "n": self.n,
            "max_tokens": self.max_tokens,
            "temperature": max(1, _q16(self.temperature)) if self.temperature > 0 else 0,
            "top_k": max(0, self.top_k),
            "top_p": _q16(self.top_p),
            "min_p": _q16(self.min_p),
            "seed": self.seed or 0,
            "logprobs": self.logprobs,
            "first_step": self.first_step,
        }


def _q16(value: float) -> int:
    # In doubles the sum would round: 0.49999999999999994 + 0.5 is 1.
    return math.floor(Fraction(value) * _ONE + Fraction(1, 2))


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name}: {_show(value)} is not an integer within {low}…{high}")


def _real(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RequestError(f"{name}: {_show(value)} is not a number within {low}…{high}")


def _tuple(name: str, values: Iterable[Any] | None) -> tuple[Any, ...]:
    if values is None:
        return ()
    if not isinstance(values, Sequence):
        raise RequestError(f"{name}: {_show(values)} is not a list")
    return tuple(values)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
