"""The private source of randomness: AES-256-CTR under a key from the operating system."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray


class _Keystream:
    """AES-256 in counter mode from a zero counter; a key is used for one stream."""

    def __init__(self, key: bytes) -> None:
        self._key(key)

    def _key(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def bytes(self, count: int) -> bytes:
        """`count` bytes of the stream."""
        return self._stream.update(bytes(count))

    def words(self, count: int) -> NDArray[np.uint64]:
        """uint64[count], uniform."""
        return np.frombuffer(self.bytes(8 * count), np.uint64)


@final
class SystemRandom(_Keystream):
    """A fresh 256-bit key from the operating system. It cannot be seeded, and is neither stored nor logged.

    A forked child takes a new key at its first draw: two processes never share a stream.
    """

    secure = True

    def __init__(self) -> None:
        self._process = os.getpid()
        super().__init__(os.urandom(32))

    def bytes(self, count: int) -> bytes:
        if os.getpid() != self._process:
            self._process = os.getpid()
            self._key(os.urandom(32))
        return super().bytes(count)


@final
class InsecureTestRNG(_Keystream):
    """The same stream from a seed, for tests. Whoever knows the seed removes every mask and noise: no epsilon holds."""

    secure = False

    def __init__(self, seed: int) -> None:
        super().__init__(sha256(f"insecure test {seed}".encode()).digest())
