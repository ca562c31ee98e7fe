"""The private source of randomness: AES-256-CTR under a key from the operating system."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

# A short run of zeros, encrypted again and again, stays in the cache: large draws cost what small ones do.
_ZEROS = memoryview(bytes(1 << 16))
_BLOCK = 16  # bytes; the cipher wants that much room behind what it writes


class _Keystream:
    """AES-256 in counter mode from a zero counter; a key is used for one stream."""

    def __init__(self, key: bytes) -> None:
        self._key(key)

    def _key(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(_BLOCK))).encryptor()

    def _draw(self, count: int) -> NDArray[np.uint8]:
        """uint8[count], the next bytes of the stream, in memory of their own."""
        drawn = np.empty(count + _BLOCK, np.uint8)
        for start in range(0, count, len(_ZEROS)):
            self._stream.update_into(_ZEROS[: min(len(_ZEROS), count - start)], drawn[start:].data)
        return drawn[:count]

    def bytes(self, count: int) -> bytes:
        """`count` bytes of the stream."""
        return self._draw(count).tobytes()

    def words(self, count: int) -> NDArray[np.uint64]:
        """uint64[count], uniform."""
        return self._draw(8 * count).view(np.uint64)


@final
class SystemRandom(_Keystream):
    """A fresh 256-bit key from the operating system. It cannot be seeded, and is neither stored nor logged.

    A forked child takes a new key at its first draw: two processes never share a stream.
    """

    secure = True

    def __init__(self) -> None:
        self._process = os.getpid()
        super().__init__(os.urandom(32))

    def _draw(self, count: int) -> NDArray[np.uint8]:
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._key(os.urandom(32))
        return super()._draw(count)


@final
class InsecureTestRNG(_Keystream):
    """The same stream from a seed, for tests. Whoever knows the seed removes every mask and noise: no epsilon holds."""

    secure = False

    def __init__(self, seed: int) -> None:
        super().__init__(sha256(f"insecure test {seed}".encode()).digest())
