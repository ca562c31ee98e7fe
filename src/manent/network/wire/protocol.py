"""What both ends of the wire agree on: its version, header names, limits, and lists of messages. See `docs/network.md`."""

from __future__ import annotations

from collections.abc import Sequence

from manent.core.errors import ProtocolAbort

VERSION = 1
HEADER = "Manent-Version"
OCTETS = "application/octet-stream"
MOST_MESSAGE = 4 << 20
"""Most bytes of a message that is sent in one piece; larger ones are uploaded in parts."""
SMALL = 1 << 16
"""Most bytes of a message that is sent without asking for room first."""
PART = 4 << 20
"""Most bytes of a part of an upload."""
MOST_LISTED = 1000
"""Most messages in a list."""
LONGEST_WAIT = 30.0
"""Most seconds of a long poll."""


def check_version(text: str | None) -> None:
    """Raises ProtocolAbort for a peer that is more than one version apart. No version at all is accepted."""
    if text is None:
        return
    if not text.isascii() or not text.isdigit() or len(text) > 6 or abs(int(text) - VERSION) > 1:
        raise ProtocolAbort(f"Expected version {VERSION} of the protocol, or one beside it; found {text[:20]!r}. Update manent.")


def pack(messages: Sequence[bytes]) -> bytes:
    """Several messages as one body: u32 count, then each message after its length (u32), most significant byte first."""
    parts = [len(messages).to_bytes(4, "big")]
    for message in messages:
        parts += [len(message).to_bytes(4, "big"), message]
    return b"".join(parts)


def unpack(body: bytes) -> list[bytes]:
    """The messages in a body. Raises ProtocolAbort for anything that `pack` does not give."""
    count, at, found = int.from_bytes(body[:4], "big"), 4, []
    if count > MOST_LISTED:
        raise ProtocolAbort(f"A list has at most {MOST_LISTED} messages; this one says {count}.")
    for _ in range(count):
        length = int.from_bytes(body[at : at + 4], "big")
        message = body[at + 4 : at + 4 + length]
        if at + 4 > len(body) or len(message) != length:
            raise ProtocolAbort("The list of messages is cut short.")
        found.append(message)
        at += 4 + length
    if len(body) < 4 or at != len(body):
        raise ProtocolAbort("A list of messages has another length than it says.")
    return found
