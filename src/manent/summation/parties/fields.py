"""Fields of fixed length, big-endian, and a reader that never reads past the end."""

from __future__ import annotations

from manent.core.errors import ProtocolAbort


def u8(value: int) -> bytes:
    """One byte. Raises OverflowError for a value below 0 or above 255."""
    return value.to_bytes(1, "big")


def u32(value: int) -> bytes:
    """Four bytes, the most significant first. Raises OverflowError for a value that they do not hold."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Eight bytes, the most significant first. Raises OverflowError for a value that they do not hold."""
    return value.to_bytes(8, "big")


def short(text: bytes) -> bytes:
    """At most 255 bytes, preceded by their count. Raises OverflowError for more."""
    return u8(len(text)) + text


class Reader:
    """Takes fields off the front of bytes. Raises ProtocolAbort where there are too few, or some are left over."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises ProtocolAbort where there are fewer."""
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise ProtocolAbort(f"A message is too short: a field of {count} bytes has {len(found)}.")
        self._at += count
        return found

    def u8(self) -> int:
        """A field written by `u8`. Raises ProtocolAbort where it is cut short."""
        return self.take(1)[0]

    def u32(self) -> int:
        """A field written by `u32`. Raises ProtocolAbort where it is cut short."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """A field written by `u64`. Raises ProtocolAbort where it is cut short."""
        return int.from_bytes(self.take(8), "big")

    def short(self) -> bytes:
        """A field written by `short`. Raises ProtocolAbort where it is cut short."""
        return self.take(self.u8())

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Raises ProtocolAbort where bytes are left."""
        if self._at != len(self._data):
            raise ProtocolAbort(f"A message is too long: {len(self._data) - self._at} bytes are left over.")
