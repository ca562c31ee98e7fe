"""The private source of randomness: the keystream of AES-256 in counter mode, under a key from the operating system.

| case                          | what happens                                                           |
|-------------------------------|------------------------------------------------------------------------|
| two sources, or two processes | independent keys, so independent streams                               |
| a process forks               | the child takes a new key at its first draw                            |
| the same process draws again  | the stream goes on; no byte is given twice                             |
| `InsecureTestRNG`             | the key follows from the seed: no epsilon holds, and `secure` is False |
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

# A short run of zeros that is encrypted again and again stays in the cache, so large draws are as fast a byte as small ones.
_ZEROS = memoryview(bytes(1 << 16))
_BLOCK = 16  # bytes; the cipher needs that much space behind its output


class _Keystream:
    """AES-256 in counter mode (NIST SP 800-38A) from counter zero. Each key serves one stream."""

    def __init__(self, key: bytes) -> None:
        self._key(key)

    def _key(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(_BLOCK))).encryptor()

    def _draw(self, count: int) -> NDArray[np.uint8]:
        """uint8[count], the next bytes of the stream, in fresh memory."""
        drawn = np.empty(count + _BLOCK, np.uint8)
        for start in range(0, count, len(_ZEROS)):
            self._stream.update_into(_ZEROS[: min(len(_ZEROS), count - start)], drawn[start:].data)
        return drawn[:count]

    def bytes(self, count: int) -> bytes:
        """`count` uniform bytes."""
        return self._draw(count).tobytes()

    def words(self, count: int) -> NDArray[np.uint64]:
        """uint64[count], uniform."""
        return self._draw(8 * count).view(np.uint64)


@final
class SystemRandom(_Keystream):
    """A stream under a fresh 256-bit key from the operating system, which is never stored or logged. It cannot be seeded.

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
    """A stream from a seed, for tests. Whoever knows the seed can remove every mask and all noise, so no epsilon holds."""

    secure = False

    def __init__(self, seed: int) -> None:
        super().__init__(sha256(f"insecure test {seed}".encode()).digest())
