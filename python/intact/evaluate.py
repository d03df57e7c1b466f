"""How far a model's logits are from the float reference: KL divergence, perplexity, agreement of the best token.

The figures describe a conversion to people; they take no part in inference. A text is cut into windows, each run on
its own, and the token at every position but the last predicts the next one. A figure is the mean over all predictions.

Predictions of one window share their text, so they are not independent, while windows nearly are. The standard error
of a mean is therefore that of the windows: with w windows, s the sum of a quantity over a window of n predictions and
m its mean over all N predictions, it is sqrt(w / (w − 1) · Σ (s − m·n)²) / N, which for windows of one length is the
standard deviation of their means over sqrt(w). Perplexities are exponentials of such a mean m, and their errors are
exp(m) times that of m. The change of perplexity comes from the paired differences of the negative log-likelihoods, so
that what is hard about the text for both cancels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError, RequestError

_ROWS = 16  # predictions turned into probabilities at once, so that their float64 values stay in a CPU's cache


class FloatModel(Protocol):
    """A model whose logits are floats, such as `intact.reference.FloatModel`."""

    def logits(self, token_ids: Sequence[int], /) -> NDArray[np.floating[Any]]:
        """The logits after every token, shape (len(token_ids), vocabulary)."""
        ...


class IntegerModel(Protocol):
    """A model whose logits are integers, such as `intact.LLM`."""

    @property
    def fraction_bits(self) -> int:
        """A logit stands for its integer divided by 2**fraction_bits."""
        ...

    def logits(self, token_ids: Sequence[int], /) -> NDArray[np.int32]:
        """The logits after every token, shape (len(token_ids), vocabulary)."""
        ...


Logits: TypeAlias = NDArray[np.floating[Any]] | NDArray[np.int32]
ExactNll: TypeAlias = Callable[[NDArray[np.int32], list[int], int], int]
"""Given n rows of integer logits, the n tokens that they predict and the logits' fraction bits, the sum of the
contract's negative log-probabilities."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, which is None for a single window."""

    value: float
    error: float | None

    def __str__(self) -> str:
        return self._text("")

    def signed(self) -> str:
        """The same as text, with a plus sign before a value above 0."""
        return self._text("+")

    def _text(self, sign: str) -> str:
        if self.error is None:
            return f"{self.value:{sign}.6g}"
        digits = 3 if self.error <= 0 else min(12, max(3, 1 - math.floor(math.log10(self.error))))
        return f"{self.value:{sign}.{digits}f} ± {self.error:.{digits}f}"


@dataclass(frozen=True)
class EvalResult:
    """The figures of one evaluation. All logarithms are natural."""

    windows: int
    predictions: int
    kld: Estimate
    """KL(reference ‖ model) in nats, of the distributions over the next token."""
    reference_perplexity: Estimate
    perplexity: Estimate
    """Of the model."""
    perplexity_change: Estimate
    """Of the model against the reference, in percent."""
    top1_agreement: Estimate
    """Predictions for which both have the same most likely token, in percent."""
    logits_sha256: str | None
    """Of the integer logits of every window in order, as little-endian i32: the same on every machine. None for a model
    whose logits are floats."""
    exact_nll: int | None
    """The negative log-likelihood of the predicted tokens by the contract's integer log-probabilities, in units of
    2**-16 bits: the same on every machine. None where it was not asked for, and for a model whose logits are floats."""

    def to_json(self) -> str:
        """One JSON object with the fields of this class, an estimate being {"value": …, "error": …}."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)


def windows(token_ids: Sequence[int], size: int = 512, count: int = 24, bos: int | None = None) -> list[list[int]]:
    """At most `count` windows of `size` tokens each, evenly spread over a text and without overlap.

    `bos` is the id of the beginning-of-sequence token if the tokenizer puts one before a text, and None if it does not
    (SmolLM2's does not). It takes the place of the first token of each window, as in llama.cpp's perplexity tool, so
    `token_ids` is the text encoded without special tokens. Unlike that tool, which counts only the second half of a
    window, `evaluate` counts all of a window's predictions.

    Raises:
        RequestError: A size below 2, a count below 1, or a text shorter than one window.
    """
    if size < 2:
        raise RequestError(f"size: {size} tokens predict nothing; a window needs at least 2")
    if count < 1:
        raise RequestError(f"count: is {count}; at least 1 window is needed")
    count = min(count, len(token_ids) // size)
    if count == 0:
        raise RequestError(f"token_ids: {len(token_ids)} tokens are less than one window of {size}; give a longer text")
    stride = len(token_ids) // count
    cut = [list(token_ids[start : start + size]) for start in range(0, count * stride, stride)]
    return cut if bos is None else [[bos, *window[1:]] for window in cut]


def evaluate(
    llm: IntegerModel,
    reference_logits: Callable[[list[int]], NDArray[np.floating[Any]]],
    windows: Iterable[list[int]],
    exact_nll: ExactNll | None = None,
) -> EvalResult:
    """Measures one integer model against a float reference; arguments and errors are those of `compare`."""
    [result] = compare([llm], reference_logits, windows, exact_nll)
    return result


def compare(
    models: Sequence[IntegerModel | FloatModel],
    reference_logits: Callable[[list[int]], NDArray[np.floating[Any]]],
    windows: Iterable[list[int]],
    exact_nll: ExactNll | None = None,
) -> list[EvalResult]:
    """Measures any number of models against one float reference, which reads each window once.

    Args:
        models: Conversions of one checkpoint. One that has `fraction_bits` has integer logits, any other has floats.
        reference_logits: Given a window, the float logits after every token, shape (len(window), vocabulary).
        windows: Texts as token ids. They are taken one by one, and of one window only the reference's logits and one
            model's are in memory.
        exact_nll: For the field of that name.

    Returns:
        A result for each model, in order.

    Raises:
        RequestError: No models, no windows, or a window of fewer than 2 tokens.
        ModelError: Logits of the wrong shape or type, or not finite, or a perplexity beyond float64.
    """
    if not models:
        raise RequestError("models: there is none; at least 1 is needed")
    tallies = [_Tally(model, exact_nll) for model in models]
    empty = True
    for window in windows:
        if len(window) < 2:
            raise RequestError(f"windows: one has {len(window)} tokens; at least 2 are needed to predict one")
        expected = reference_logits(window)
        for tally in tallies:
            tally.add(window, expected)
        empty = False
    if empty:
        raise RequestError("windows: there is none; at least 1 is needed")
    return [tally.result() for tally in tallies]


class _Tally:
    """The sums of one model over the windows so far."""

    def __init__(self, model: IntegerModel | FloatModel, exact_nll: ExactNll | None) -> None:
        self._model = model
        self._fraction_bits: int | None = getattr(model, "fraction_bits", None)
        self._exact_nll = None if self._fraction_bits is None else exact_nll
        self._nll = 0
        self._digest = hashlib.sha256()
        self._totals: list[_Totals] = []

    def add(self, window: list[int], expected: NDArray[np.floating[Any]]) -> None:
        """Runs the model on a window of which these are the reference's logits."""
        actual: Any = self._model.logits(window)
        if self._fraction_bits is not None and actual.dtype != np.int32:
            raise ModelError(f"integer logits: have type {actual.dtype}, not int32")
        if expected.shape != actual.shape or expected.ndim != 2 or len(expected) != len(window):
            raise ModelError(
                f"logits: the reference's have shape {expected.shape}, the model's {actual.shape}, for a window"
                f" of {len(window)} tokens; the two must be conversions of one model"
            )
        if self._fraction_bits is not None:
            self._digest.update(actual.astype("<i4", copy=False).tobytes())
            if self._exact_nll is not None:
                self._nll += self._exact_nll(actual[:-1], window[1:], self._fraction_bits)
        self._totals.append(_compare(expected, actual, self._fraction_bits or 0, np.asarray(window[1:])))

    def result(self) -> EvalResult:
        """The figures over all windows."""
        columns = _Totals(*np.array(self._totals).T)
        sizes = columns.predictions
        change = _mean(columns.nll - columns.reference_nll, sizes)
        return EvalResult(
            windows=len(self._totals),
            predictions=int(sizes.sum()),
            kld=_mean(columns.kld, sizes),
            reference_perplexity=_exponential(_mean(columns.reference_nll, sizes)),
            perplexity=_exponential(_mean(columns.nll, sizes)),
            perplexity_change=_percent(_exponential(change), minus=1),
            top1_agreement=_percent(_mean(columns.agreements, sizes)),
            logits_sha256=None if self._fraction_bits is None else self._digest.hexdigest(),
            exact_nll=None if self._exact_nll is None else self._nll,
        )


class _Totals(NamedTuple):
    """Sums over the predictions of a window; or of each window, as one array per field."""

    predictions: Any
    kld: Any
    reference_nll: Any
    nll: Any
    agreements: Any


def _compare(
    expected: NDArray[np.floating[Any]], actual: Logits, fraction_bits: int, targets: NDArray[np.int64]
) -> _Totals:
    """The sums of one window: logits of shape (n + 1, vocabulary) and the n tokens that the first n rows predict."""
    kld, reference_nll, nll, agreements = 0.0, 0.0, 0.0, 0
    for rows in _blocks(len(targets)):
        log_p = _log_softmax(expected[rows].astype(np.float64))
        log_q = _log_softmax(np.ldexp(actual[rows].astype(np.float64), -fraction_bits))
        if not np.isfinite(log_p).all():
            raise ModelError("reference logits: are not finite; the float model overflows or its weights are damaged")
        if not np.isfinite(log_q).all():
            raise ModelError("model's logits: are not finite; the float model overflows or its weights are damaged")
        row = np.arange(len(log_p))
        kld += float(np.sum(np.exp(log_p) * (log_p - log_q)))
        reference_nll -= float(np.sum(log_p[row, targets[rows]]))
        nll -= float(np.sum(log_q[row, targets[rows]]))
        agreements += int(np.sum(expected[rows].argmax(axis=1) == actual[rows].argmax(axis=1)))
    return _Totals(len(targets), kld, reference_nll, nll, agreements)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis; changes its argument."""
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def _mean(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> Estimate:
    """The mean per prediction of a quantity with these sums over windows of these sizes."""
    predictions, count = float(sizes.sum()), len(sizes)
    mean = float(sums.sum()) / predictions
    if count == 1:
        return Estimate(mean, None)
    squares = float(np.sum(np.square(sums - mean * sizes)))
    return Estimate(mean, math.sqrt(count / (count - 1) * squares) / predictions)


def _exponential(mean: Estimate) -> Estimate:
    try:
        value = math.exp(mean.value)
    except OverflowError:
        raise ModelError(f"perplexity: exp({mean.value:.6g}) is beyond float64; the model is damaged") from None
    return Estimate(value, None if mean.error is None else value * mean.error)


def _percent(ratio: Estimate, minus: int = 0) -> Estimate:
    return Estimate(100 * (ratio.value - minus), None if ratio.error is None else 100 * ratio.error)
