"""Random numbers for test vectors: the contract's own Philox, seeded by a label."""

from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

from .fixed import U32, philox

T = TypeVar("T")


class Draw:
    """The u32 stream of one label: the words of philox((n, 0, 0, 0), key) for n = 0, 1, ...

    The key is the first eight bytes of the label's SHA-256, as two little-endian u32.
    """

    def __init__(self, label: str) -> None:
        seed = sha256(label.encode()).digest()
        self._key = int.from_bytes(seed[:4], "little"), int.from_bytes(seed[4:8], "little")
        self._counter = 0
        self._words: list[int] = []

    def word(self) -> int:
        """The next u32."""
        if not self._words:
            self._words = philox((self._counter & U32, 0, 0, 0), self._key)[::-1]
            self._counter += 1
        return self._words.pop()

    def below(self, n: int) -> int:
        """An integer in 0..n-1, n <= 2^32, by one word."""
        return self.word() * n >> 32

    def between(self, low: int, high: int) -> int:
        """An integer in low..high, by one word."""
        return low + self.below(high - low + 1)

    def choice(self, values: Sequence[T]) -> T:
        """One of the values, by one word."""
        return values[self.below(len(values))]

    def wide(self, bits: int) -> int:
        """An integer of either sign and of a random magnitude up to 2^bits - 1, bits <= 64, by four words."""
        kept, sign, low, high = self.between(0, bits), self.below(2), self.word(), self.word()
        value = (high << 32 | low) & ((1 << kept) - 1)
        return -value if sign else value

    def vector(self, n: int, bits: int) -> list[int]:
        """n integers of up to `bits` bits of either sign; the vector has a random magnitude of its own."""
        kept = self.between(0, bits)
        return [self.wide(kept) for _ in range(n)]
