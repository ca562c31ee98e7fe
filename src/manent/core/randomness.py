"""The two kinds of randomness, never global.

*Repeatable*: data order, initial weights, simulated drop-outs, from (seed, purpose, round, client).
*Private*: keys, rounding and noise, from the operating system; here only its protocol, in `manent.crypto.random` the source.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.random.bit_generator import ISeedSequence
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
    key = _Key(repeatable_seed(seed, purpose, *path))
    return np.random.Generator(np.random.Philox(key))  # type: ignore[arg-type]  # numpy's stubs leave ISeedSequence out


class _Key(ISeedSequence):
    """Philox's key itself as the seed. Given by its name, numpy would first ask the system for randomness that it then ignores,
    which takes longer than all the rest."""

    def __init__(self, key: int) -> None:
        self.words = np.frombuffer(key.to_bytes(16, "little"), "<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> NDArray[Any]:
        """The two words of the key; nothing else is asked for."""
        if (n_words, np.dtype(dtype)) != (2, np.dtype(np.uint64)):  # type: ignore[call-overload]
            raise ValueError("This seed is Philox's key; other generators have no use for it.")
        return self.words


class PrivateRandom(Protocol):
    """A cryptographic source. `secure` is False only for the one named `InsecureTestRNG`."""

    @property
    def secure(self) -> bool: ...

    def bytes(self, count: int) -> bytes: ...

    def words(self, count: int) -> NDArray[np.uint64]:
        """uint64[count], uniform."""
        ...
