"""Intact: transformer language models in integer arithmetic, the same bits on every machine.

>>> from intact import LLM, SamplingParams
>>> llm = LLM("tiny")
>>> llm.generate("She was", SamplingParams(temperature=0, max_tokens=8))[0].outputs[0].text
"""

from typing import TYPE_CHECKING, Any

from intact._native import CONTRACT_VERSION, __version__
from intact.conversion import quantize
from intact.errors import (
    DeviceError,
    DeviceWarning,
    IntactError,
    ModelError,
    ReceiptError,
    RequestError,
    StateError,
    TokenizerError,
)
from intact.llm import LLM
from intact.outputs import CompletionOutput, Logprob, RequestOutput, StreamChunk
from intact.receipts import Receipt, Verdict, verify_receipt
from intact.sampling import SamplingParams
from intact.state import State

if TYPE_CHECKING:
    from intact.calibration import calibrate

__all__ = [
    "CONTRACT_VERSION",
    "LLM",
    "CompletionOutput",
    "DeviceError",
    "DeviceWarning",
    "IntactError",
    "Logprob",
    "ModelError",
    "Receipt",
    "ReceiptError",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "State",
    "StateError",
    "StreamChunk",
    "TokenizerError",
    "Verdict",
    "__version__",
    "calibrate",
    "quantize",
    "verify_receipt",
]


def __getattr__(name: str) -> Any:
    """What needs numpy, which takes longer to import than a small model takes to its first token."""
    if name == "calibrate":
        from intact.calibration import calibrate

        return calibrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
