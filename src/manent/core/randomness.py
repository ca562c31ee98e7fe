"""The two kinds of randomness, never global.

*Repeatable*: data order, initial weights, simulated drop-outs, from (seed, purpose, round, client).
*Private*: keys, rounding and noise, from the operating system; here only its protocol, in `manent.crypto.random` the source.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


def repeatable_seed(seed: int, purpose: str, *path: int | str) -> int:
    """A 128-bit number that depends on every argument."""
    digest = blake2b(digest_size=16)
    for part in (seed, purpose, *path):
        text = (f"str:{part}" if isinstance(part, str) else f"int:{int(part)}").encode()
        digest.update(len(text).to_bytes(4, "big") + text)
    return int.from_bytes(digest.digest(), "big")


def repeatable(seed: int, purpose: str, *path: int | str) -> np.random.Generator:
    """A generator for one purpose, independent of every other. Not for anything that a privacy claim rests on."""
    return np.random.Generator(np.random.Philox(key=repeatable_seed(seed, purpose, *path)))


class PrivateRandom(Protocol):
    """A cryptographic source. `secure` is False only for the one named `InsecureTestRNG`."""

    @property
    def secure(self) -> bool: ...

    def bytes(self, count: int) -> bytes: ...

    def words(self, count: int) -> NDArray[np.uint64]:
        """uint64[count], uniform."""
        ...
