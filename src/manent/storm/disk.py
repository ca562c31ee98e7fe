"""A party's log on a disk that may lose what was not synced yet, and nothing else.

The file only grows, and a crash may cut it anywhere after the last `sync`. Batches are framed so that recovery can tell a write
that was cut short, which nobody relied on, from damage, which it refuses: if a record were passed over in silence, the party
could answer a second time with something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from manent.core.errors import ProtocolAbort

_LENGTH, _CHECK, _DIGEST = 8, 8, 32
_HEADER = _LENGTH + _CHECK
_START = sha256(b"manent log").digest()


def _header(chain: bytes, payload: int) -> bytes:
    length = payload.to_bytes(_LENGTH, "big")
    return length + sha256(chain + length).digest()[:_CHECK]


class Disk:
    """One append-only log of batches.

    A frame is `length, 8 bytes of sha256(chain, length), payload, sha256(chain, payload)`; `chain` is the digest of the frame
    before, so that a batch that is missing, moved or repeated is noticed. The payload is each record after its length.
    """

    def __init__(self) -> None:
        self.content = bytearray()
        self._safe = 0
        self._chain = _START

    @property
    def unsafe(self) -> int:
        """Bytes that a crash may take."""
        return len(self.content) - self._safe

    def append(self, records: Sequence[bytes]) -> None:
        """Write one batch. After a crash either all of it is there or nothing. It is not safe before `sync`."""
        payload = b"".join(len(record).to_bytes(_LENGTH, "big") + record for record in records)
        header, chain = _header(self._chain, len(payload)), sha256(self._chain + payload).digest()
        self.content += header + payload + chain
        self._chain = chain

    def sync(self) -> None:
        """Make everything that was written before safe from crashes."""
        self._safe = len(self.content)

    def crash(self, rng: np.random.Generator, torn: float) -> int:
        """Lose what was not safe: all or none of it, or with probability `torn` from a random byte on. Returns how many bytes
        were lost.
        """
        lost = 0
        if self.unsafe:
            if rng.random() < torn:
                lost = int(rng.integers(1, self.unsafe + 1))
            elif rng.random() < 0.5:
                lost = self.unsafe
            del self.content[len(self.content) - lost :]
        return lost

    def recover(self) -> list[bytes]:
        """The records of all complete batches. A last batch that was cut short is removed.

        Raises:
            ProtocolAbort: if the log is damaged anywhere else.
        """
        records: list[bytes] = []
        content, at, chain = bytes(self.content), 0, _START
        while at < len(content):
            header = content[at : at + _HEADER]
            if len(header) < _HEADER:
                break
            size = int.from_bytes(header[:_LENGTH], "big")
            if header != _header(chain, size):
                raise _damaged(at)
            end = at + _HEADER + size
            payload, digest = content[at + _HEADER : end], content[end : end + _DIGEST]
            if len(digest) < _DIGEST:
                break
            if digest != sha256(chain + payload).digest():
                raise _damaged(at)
            records += _records(payload)
            at, chain = end + _DIGEST, digest
        del self.content[at:]
        self._chain = chain
        self.sync()
        return records


def _records(payload: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(payload):
        start = at + _LENGTH
        at = start + int.from_bytes(payload[at:start], "big")
        found.append(payload[start:at])
    return found


def _damaged(at: int) -> ProtocolAbort:
    return ProtocolAbort(
        f"The log is damaged at byte {at}: expected a batch that matches its checksum, or one cut short at the very end. "
        "Restore the log from a copy, or let this party start anew under another name."
    )
