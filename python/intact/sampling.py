"""How tokens are chosen: real-valued settings, and the contract's integers that they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from intact.errors import RequestError

_ONE = 1 << 16  # 1.0 in Q16


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Settings of one request; the same request gives the same tokens, on every machine.

    Attributes:
        n: Continuations of the prompt, 1…1024; the i-th draws from random stream i.
        temperature: 0 chooses the most likely token, larger values flatten the distribution; below 65536.
        top_p: Keep the shortest prefix of tokens with this share of the probability, 0…1.
        top_k: Keep this many of the most likely tokens; 0 or -1 keeps all.
        min_p: Keep tokens with at least this share of the largest probability, 0…1.
        seed: Key of the random numbers, 0…2^64 - 1.
        max_tokens: Tokens to generate at most.
        stop: Texts that end a continuation; they are not part of its text.
        stop_token_ids: Tokens that end a continuation, besides the model's own.
        ignore_eos: Go on after the model's own end tokens.
        logprobs: Report this many of the most likely tokens of every step, 0…1024; None reports nothing.
        skip_special_tokens: Leave special tokens out of the text.

    Raises:
        RequestError: A setting is out of its range.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    max_tokens: int = 256
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = field(default_factory=tuple)
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        _integer("n", self.n, 1, 1024)
        _real("temperature", self.temperature, 0, 65535)
        _real("top_p", self.top_p, 0, 1)
        _integer("top_k", self.top_k, -1, 2**32 - 1)
        _real("min_p", self.min_p, 0, 1)
        _integer("seed", self.seed, 0, 2**64 - 1)
        _integer("max_tokens", self.max_tokens, 1, 2**32 - 1)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, 1024)
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise RequestError(f"stop: {text!r} is not a text of at least one character")
        for token in self.stop_token_ids:
            _integer("stop_token_ids", token, 0, 2**32 - 1)

    @property
    def temperature_q16(self) -> int:
        """Temperature as the contract takes it: 0, or at least 1."""
        return max(1, _q16(self.temperature)) if self.temperature > 0 else 0

    @property
    def top_p_q16(self) -> int:
        """The share top_p in Q16."""
        return _q16(self.top_p)

    @property
    def min_p_q16(self) -> int:
        """The share min_p in Q16."""
        return _q16(self.min_p)


def _q16(value: float) -> int:
    # Exact: multiplying a double by a power of two does not round, and neither does adding 1/2 to what is below 2^52.
    return math.floor(value * _ONE + 0.5)


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name}: {value!r} is not an integer within {low}…{high}")


def _real(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RequestError(f"{name}: {value!r} is not a number within {low}…{high}")
