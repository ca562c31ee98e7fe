"""A source of randomness that returns chosen words."""

from __future__ import annotations

import numpy as np


class Scripted:
    """Returns the words it was given, in order; fails where more are asked for. `left` counts those not yet asked for."""

    secure = False

    def __init__(self, *words: int) -> None:
        self._words = list(words)

    @property
    def left(self) -> int:
        return len(self._words)

    def words(self, count: int):
        assert count <= len(self._words), "more random words were drawn than the test foresaw"
        drawn, self._words = self._words[:count], self._words[count:]
        return np.array(drawn, np.uint64)

    def bytes(self, count: int) -> bytes:
        return self.words(-(-count // 8)).tobytes()[:count]


def split(number: int, bits: int) -> list[int]:
    """The 64-bit words of a number of that many bits, most significant first."""
    return [(number >> at) & (2**64 - 1) for at in range(bits - 64, -1, -64)]
