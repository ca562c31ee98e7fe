"""The two kinds of randomness. Neither is global.

| kind       | used for                                              | drawn from                     | repeatable |
|------------|-------------------------------------------------------|--------------------------------|------------|
| repeatable | data order, initial weights, simulated drop-outs      | (seed, purpose, round, client) | yes        |
| private    | keys, rounding, noise, whatever a privacy claim needs | the operating system           | never      |

This file has the repeatable source, and the protocol of the private one. `manent.crypto.random` implements that protocol.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray


def repeatable_seed(seed: int, purpose: str, *path: int | str) -> int:
    """A 128-bit number that depends on every argument, and on whether each is a number or text."""
    digest = blake2b(digest_size=16)
    for part in (seed, purpose, *path):
        text = (f"str:{part}" if isinstance(part, str) else f"int:{int(part)}").encode()
        digest.update(len(text).to_bytes(4, "big") + text)
    return int.from_bytes(digest.digest(), "big")


def repeatable(seed: int, purpose: str, *path: int | str) -> np.random.Generator:
    """A generator for one purpose, independent of the generators for all other purposes and paths.

    Never use it for anything that a privacy claim rests on: whoever knows the seed can repeat it.
    """
    key = _Key(repeatable_seed(seed, purpose, *path))
    return np.random.Generator(np.random.Philox(key))  # type: ignore[arg-type]  # numpy's stubs leave ISeedSequence out


class _Key(ISeedSequence):
    """Hands Philox its key. With `Philox(key=...)` numpy would first draw a seed from the system and then ignore it, which takes
    longer than everything else here."""

    def __init__(self, key: int) -> None:
        self.words = np.frombuffer(key.to_bytes(16, "little"), "<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> NDArray[Any]:
        """The key as two words, uint64[2]. Raises ValueError for any other request; Philox makes none."""
        if (n_words, np.dtype(dtype)) != (2, np.dtype(np.uint64)):  # type: ignore[call-overload]
            raise ValueError("This seed is a key for Philox; it cannot seed another generator.")
        return self.words


class PrivateRandom(Protocol):
    """A cryptographic source of uniform randomness."""

    @property
    def secure(self) -> bool:
        """Whether privacy may rest on it. False only for `InsecureTestRNG`."""
        ...

    def bytes(self, count: int) -> bytes:
        """`count` uniform bytes."""
        ...

    def words(self, count: int) -> NDArray[np.uint64]:
        """uint64[count], uniform."""
        ...
