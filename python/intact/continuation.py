"""The text of one continuation as its tokens arrive: characters, stop texts, log-probabilities."""

from __future__ import annotations

from intact.dispatch import Event
from intact.outputs import CompletionOutput, Logprob, StreamChunk
from intact.sampling import SamplingParams
from intact.tokenizer import Tokenizer


class Continuation:
    """Collects the tokens of one continuation and gives out text that is certain."""

    def __init__(self, index: int, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self._params = params
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream(params.skip_special_tokens) if tokenizer else None
        self._stops = tuple(params.stop)
        self._text = ""
        self._given = 0
        self._token_ids: list[int] = []
        self._tokens_given = 0
        self._logprobs: list[dict[int, Logprob]] = []
        self._logprob_sum = 0
        self._stop_reason: str | int | None = None

    @property
    def finished(self) -> bool:
        """Whether the continuation is over."""
        return self.finish_reason is not None

    def push(self, event: Event) -> None:
        """Takes the next token; what comes after the end is ignored."""
        _, _, token, logprob, top, finish = event
        if self.finished:
            return
        self._token_ids.append(token)
        if logprob is not None:
            self._logprob_sum += logprob
            self._logprobs.append(self._report(token, logprob, top))
        ended = finish == "stop"
        if ended and token in self._params.stop_token_ids:
            self._stop_reason = token
        if self._stream is not None:
            if not ended:
                self._text += self._stream.push(token)
            if finish is not None:
                self._text += self._stream.flush()
        self.finish_reason = finish
        self._find_stop()

    def take_chunk(self) -> StreamChunk:
        """What is new and certain since the last chunk."""
        end = len(self._text) if self.finished else len(self._text) - self._held_back()
        end = max(end, self._given)
        chunk = StreamChunk(
            text=self._text[self._given : end],
            token_ids=self._token_ids[self._tokens_given :],
            index=self.index,
            finish_reason=self.finish_reason,
        )
        self._given = end
        self._tokens_given = len(self._token_ids)
        return chunk

    def output(self) -> CompletionOutput:
        """The whole continuation."""
        asked = self._params.logprobs is not None
        return CompletionOutput(
            index=self.index,
            text=self._text,
            token_ids=list(self._token_ids),
            logprobs=self._logprobs if asked else None,
            cumulative_logprob_q16=self._logprob_sum if asked else None,
            finish_reason=self.finish_reason or "length",
            stop_reason=self._stop_reason,
        )

    def _find_stop(self) -> None:
        found = [(at, stop) for stop in self._stops if (at := self._text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self._text = self._text[:at]
            self.finish_reason = "stop"
            self._stop_reason = stop

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._text)), longest, -1):
                if self._text.endswith(stop[:length]):
                    longest = length
                    break
        return longest

    def _report(self, token: int, logprob: int, top: list[tuple[int, int]]) -> dict[int, Logprob]:
        ranks = {id: rank for rank, (id, _) in enumerate(top, start=1)}
        return {
            id: Logprob(logprob_q16=value, rank=ranks.get(id), decoded_token=self._decode(id))
            for id, value in {token: logprob, **dict(top)}.items()
        }

    def _decode(self, token: int) -> str | None:
        return self._tokenizer.decode([token], skip_special_tokens=False) if self._tokenizer else None
