"""Saved states: what a cache holds about the beginning of a sequence (docs/STATE.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from intact._native import State as NativeState


@dataclass(frozen=True)
class State:
    """Keys and values of the first tokens of a sequence, which any device and machine takes up again with equal bits.

    `LLM.state` computes one, `LLM.generate` and `LLM.stream` go on from one.
    """

    native: NativeState

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Reads a file.

        Raises:
            StateError: It cannot be read, is damaged, or of an unknown version.
        """
        return cls(NativeState.read(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file, complete or not at all; a file that exists is replaced.

        Raises:
            StateError: The file cannot be written.
        """
        self.native.write(path)

    @property
    def token_ids(self) -> list[int]:
        """The tokens."""
        return self.native.tokens

    @property
    def model_digest(self) -> str:
        """The digest of the model that computed it, and that alone goes on from it."""
        return self.native.model_digest

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return self.native.bytes
