"""Receipts: what a model answered to a request, in a form that any machine can check (docs/RECEIPTS.md)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from intact import files
from intact._native import MAX_RECEIPT_BYTES, check_receipt
from intact.errors import ReceiptError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from intact.llm import LLM


@dataclass(frozen=True)
class Receipt:
    """The claim that a model answered a request with certain tokens.

    Attributes:
        data: The content of its file: canonical JSON, UTF-8, and a newline.
    """

    data: bytes

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Receipt:
        """Reads a file; `verify_receipt` finds out whether what it says is so.

        Raises:
            ReceiptError: It is not well formed, or of an unknown version.
            OSError: The file cannot be read.
        """
        with open(path, "rb") as file:
            data = file.read(MAX_RECEIPT_BYTES + 1)
        try:
            check_receipt(data)
        except ReceiptError as error:
            raise ReceiptError(f"{os.fspath(path)}: {error}") from None
        return cls(data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file, complete or not at all; a file that exists is replaced.

        Raises:
            OSError: The file cannot be written.
        """
        files.write(path, self.data)

    @property
    def content(self) -> dict[str, Any]:
        """The fields that docs/RECEIPTS.md describes."""
        content: dict[str, Any] = json.loads(self.data)
        return content


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check of a receipt found.

    Attributes:
        status: "equal", "different", or "refused": the receipt is about another model or contract.
        message: All of it in one line.
        checked: Steps that were computed again; None unless equal, as for `steps`.
        steps: Steps of the receipt.
        what: The first thing that differs: "sha256", "request", "outputs", "chain", "tensors", "finish", "token",
            "logits" or "tensor".
        output: Index of the output in which it differs; None where it concerns the whole receipt.
        step: Index of the generated token.
        position: Position whose logits that token was chosen from.
        tensor: The first tensor that differs: its "index" in the step's list, the "part" ("body" or "head") and index
            of its "op", the op's "kind", the "slot" written, and the matrix or gain at or before it ("near").
        spot_seed: What decided which steps were checked; None where all were.
    """

    status: str
    message: str
    checked: int | None
    steps: int | None
    what: str | None
    output: int | None
    step: int | None
    position: int | None
    tensor: Mapping[str, Any] | None
    spot_seed: int | None


def verify_receipt(
    receipt: Receipt | str | os.PathLike[str],
    model: LLM | str | os.PathLike[str],
    *,
    spot: int | None = None,
    spot_seed: int | None = None,
    **options: Any,
) -> Verdict:
    """Checks whether a receipt is true.

    Args:
        receipt: A receipt, or the path of its file.
        model: An `LLM`, which is taken to be whole (see `LLM.verify`); or a model for `LLM.from_pretrained`, of which
            all hashes are compared.
        spot: Compute this many steps again, chosen by chance; by default all.
        spot_seed: Decides which, 0…2^64 - 1; by default drawn from the system.
        options: As for `LLM`, where `model` is none.

    Raises:
        ReceiptError: The receipt is not well formed, or of an unknown version.
        ModelError: The model cannot be read, or is not that of its digest.
        RequestError: An option is out of its range, or the cache is too small.
    """
    from intact.llm import LLM

    if not isinstance(receipt, Receipt):
        receipt = Receipt.load(receipt)
    if isinstance(model, LLM):
        if options:
            raise RequestError(f"{', '.join(options)}: goes with a path, the LLM has its own")
        return model.verify_receipt(receipt, spot=spot, spot_seed=spot_seed)
    llm = LLM.from_pretrained(model, **options)
    verdict = llm.verify_receipt(receipt, spot=spot, spot_seed=spot_seed)
    if verdict.status != "refused":
        llm.verify()
    return verdict
