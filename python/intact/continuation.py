"""The text of one continuation as its tokens arrive: characters, stop texts, log-probabilities."""

from __future__ import annotations

from intact.dispatch import Event
from intact.outputs import CompletionOutput, Logprob, StreamChunk
from intact.sampling import SamplingParams
from intact.tokenizer import Tokenizer


class Continuation:
    """Collects the tokens of one continuation and gives out text that is certain."""

    def __init__(self, index: int, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self._index = index
        self._params = params
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream(params.skip_special_tokens) if tokenizer else None
        self._stops = params.stop_texts
        self._text = ""
        self._text_given = 0
        self._token_ids: list[int] = []
        self._tokens_given = 0
        self._logprobs: list[dict[int, Logprob]] = []
        self._logprob_sum = 0
        self._finish_reason: str | None = None
        self._stop_reason: str | int | None = None

    @property
    def finished(self) -> bool:
        """Whether the continuation is over."""
        return self._finish_reason is not None

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self._token_ids)

    def push(self, event: Event) -> None:
        """Takes the next token."""
        _, _, token, logprob, top, finish = event
        self._token_ids.append(token)
        if logprob is not None:
            self._logprob_sum += logprob
            self._logprobs.append(self._report(token, logprob, top))
        self._finish_reason = finish
        if finish == "stop" and token in (self._params.stop_token_ids or ()):
            self._stop_reason = token
        if self._stream is not None:
            known = len(self._text)
            if finish != "stop":
                self._text += self._stream.push(token)
            if finish is not None:
                self._text += self._stream.flush()
            self._cut_at_stop(known)

    def take_chunk(self) -> StreamChunk:
        """What is new and certain since the last chunk."""
        end = len(self._text) if self.finished else len(self._text) - self._held_back()
        chunk = StreamChunk(
            text=self._text[self._text_given : end],
            token_ids=self._token_ids[self._tokens_given :],
            index=self._index,
            finish_reason=self._finish_reason,
        )
        self._text_given = end
        self._tokens_given = len(self._token_ids)
        return chunk

    def output(self) -> CompletionOutput:
        """The whole continuation."""
        asked = self._params.logprobs is not None
        return CompletionOutput(
            index=self._index,
            text=self._text,
            token_ids=self._token_ids,
            logprobs=self._logprobs if asked else None,
            cumulative_logprob_q16=self._logprob_sum if asked else None,
            finish_reason=self._finish_reason,
            stop_reason=self._stop_reason,
        )

    def _cut_at_stop(self, known: int) -> None:
        """Looks for the first stop text that ends in what follows the first `known` characters."""
        places = ((self._text.find(stop, max(0, known - len(stop) + 1)), stop) for stop in self._stops)
        at, stop = min((place for place in places if place[0] >= 0), default=(-1, ""))
        if stop:
            self._text = self._text[:at]
            self._finish_reason = "stop"
            self._stop_reason = stop

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(self._text)), 0, -1)
            if self._text.endswith(stop[:length])
        )
        return max(lengths, default=0)

    def _report(self, token: int, logprob: int, top: list[tuple[int, int]]) -> dict[int, Logprob]:
        ranks = {id: rank for rank, (id, _) in enumerate(top, start=1)}
        return {
            id: Logprob(logprob_q16=value, rank=ranks.get(id), decoded_token=self._decode(id))
            for id, value in {token: logprob, **dict(top)}.items()
        }

    def _decode(self, token: int) -> str | None:
        if self._tokenizer is None:
            return None
        # Not as a text of its own, whose leading space some tokenizers leave out.
        return self._tokenizer.token_bytes(token, skip_special_tokens=False).decode("utf-8", "replace")
