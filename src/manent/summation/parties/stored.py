"""A record of a log that names an upload which is stored elsewhere. Whoever removes what nobody names finds the digest here.

    reference = u32 position ‖ u8 mark (1) ‖ digest (32) ‖ u8 tag

No other record of a party may have this length and this mark: those that hold a message have the frame's "M" in its place.
"""

from __future__ import annotations

from manent.summation.parties.fields import u8, u32

STORED = 1
_LENGTH = 4 + 1 + 32 + 1


def reference(position: int, digest: bytes, tag: int) -> bytes:
    """The record of an upload by the client at a position; the tag is the summation's own."""
    return u32(position) + u8(STORED) + digest + u8(tag)


def referenced(record: bytes) -> tuple[bytes, int] | None:
    """The digest that a record names, and its tag; None where the record names no stored upload."""
    return (record[5:37], record[37]) if len(record) == _LENGTH and record[4] == STORED else None
