"""Fields of fixed length, big-endian, and a reader that never reads past what is there."""

from __future__ import annotations

from manent.core.errors import ProtocolAbort


def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def short(text: bytes) -> bytes:
    """At most 255 bytes, led by their count."""
    return u8(len(text)) + text


class Reader:
    """Takes fields off bytes. Raises ProtocolAbort where there are too few, or some are left over."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise ProtocolAbort(f"A message is too short: a field of {count} bytes has {len(found)}.")
        self._at += count
        return found

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def short(self) -> bytes:
        return self.take(self.u8())

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        if self._at != len(self._data):
            raise ProtocolAbort(f"A message is too long: {len(self._data) - self._at} bytes are left over.")
