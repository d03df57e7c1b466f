"""What `LLM` returns, in the shapes that vLLM's users know."""

from __future__ import annotations

import math
from dataclasses import dataclass

from intact.receipts import Receipt

_LN2_PER_UNIT = math.log(2) / 65536


@dataclass(frozen=True)
class Logprob:
    """The log-probability of one token.

    Attributes:
        logprob_q16: Base-2 logarithm in units of 2^-16, at most 0: the exact value.
        rank: 1 for the most likely token; None where it is not among those reported.
        decoded_token: The token's text.
    """

    logprob_q16: int
    rank: int | None
    decoded_token: str | None

    @property
    def logprob(self) -> float:
        """Natural logarithm, for showing."""
        return self.logprob_q16 * _LN2_PER_UNIT


@dataclass(frozen=True)
class CompletionOutput:
    """One continuation.

    Attributes:
        index: Which of the n continuations.
        text: The generated text, without a stop text or end token.
        token_ids: The generated tokens, with an end token where one was chosen.
        logprobs: For every token, the reported tokens by id; None where not asked for.
        cumulative_logprob_q16: Sum over the generated tokens, as in `Logprob`.
        finish_reason: "stop" (end token or stop text) or "length" (`max_tokens`, or the end of the context).
        stop_reason: The stop text, or the id of a token of `stop_token_ids`, that ended it.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    cumulative_logprob_q16: int | None
    finish_reason: str | None
    stop_reason: str | int | None

    @property
    def cumulative_logprob(self) -> float | None:
        """Natural logarithm of the continuation's probability, for showing."""
        return None if self.cumulative_logprob_q16 is None else self.cumulative_logprob_q16 * _LN2_PER_UNIT


@dataclass(frozen=True)
class RequestOutput:
    """A prompt with its continuations, in order of index; with a receipt where `SamplingParams` asks for one."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    receipt: Receipt | None = None


@dataclass(frozen=True)
class StreamChunk:
    """What is new in a streamed continuation.

    Attributes:
        text: Whole characters that follow the text so far; may be empty.
        token_ids: The tokens generated since the last chunk.
        index: Which of the n continuations.
        finish_reason: Set on the last chunk of a continuation: "stop" or "length".
        receipt: Set on the last chunk of all, where `SamplingParams` asks for it.
    """

    text: str
    token_ids: list[int]
    index: int
    finish_reason: str | None
    receipt: Receipt | None = None
