"""The frame that every message between the parties of a sum has: typed and versioned. `docs/secagg.md` specifies it."""

from __future__ import annotations

from enum import IntEnum

from manent.core.errors import ProtocolAbort
from manent.summation.parties.fields import Reader, u8

MAGIC, VERSION = b"MSA", 1
HEAD = len(MAGIC) + 2 + 32
_MOST_REASON = 500


class Kind(IntEnum):
    """Types of messages."""

    CALL = 1
    ADVERTISE = 2
    DIRECTORY = 3
    SHARES = 4
    DELIVERIES = 5
    UPLOAD = 6
    SURVIVORS = 7
    CONSENT = 8
    CONSENTS = 9
    REVEAL = 10
    CLOSED = 11
    RECEIVED = 12
    ABORT = 13
    ASK = 14


def frame(kind: Kind, context: bytes, body: bytes) -> bytes:
    """A whole message: magic, version, kind, the 32 bytes of the context, and the body."""
    return b"".join((MAGIC, u8(VERSION), u8(kind), context, body))


def unframe(message: bytes) -> tuple[Kind, bytes, bytes]:
    """Kind, context and body of a message. Raises ProtocolAbort for bytes that are no message of this version."""
    return (*head(message), message[HEAD:])


def head(message: bytes) -> tuple[Kind, bytes]:
    """Kind and context, without copying the body. Raises ProtocolAbort for bytes that are no message of this version."""
    reader = Reader(message)
    magic, version, kind, context = reader.take(3), reader.u8(), reader.u8(), reader.take(32)
    if magic != MAGIC or version != VERSION:
        raise ProtocolAbort(f"Expected a message of secure aggregation, version {VERSION}; found {magic!r}, version {version}.")
    if kind not in set(Kind):
        raise ProtocolAbort(f"Expected a known type of message; found {kind}.")
    return Kind(kind), context


def reason_bytes(reason: str) -> bytes:
    """A reason as the body of an abort: UTF-8, cut to 500 bytes between two characters."""
    return reason.encode()[:_MOST_REASON].decode(errors="ignore").encode()


def read_reason(body: bytes) -> str:
    """The reason in an abort, for people. Bytes that are no text are replaced."""
    return body[:_MOST_REASON].decode(errors="replace")
