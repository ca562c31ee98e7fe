"""What happened, line by line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

from manent.core.parties import Envelope

# What a trace reports. The second group are faults.
STARTS, RESTARTS, BEGINS, WAKES, SENDS, RECEIVES, KEEPS, STOPS, FAILS = (
    "starts", "restarts", "begins", "wakes", "sends", "receives", "keeps", "stops", "FAILS",
)  # fmt: skip
DROPPED, REPEATED, UNANSWERED, UNREACHABLE, OUTAGE, CRASHES, TORN, GONE = (
    "dropped", "repeated", "response lost", "unreachable", "outage", "crashes", "torn write", "gone for good",
)  # fmt: skip
FAULTS = (DROPPED, REPEATED, UNANSWERED, UNREACHABLE, OUTAGE, CRASHES, TORN, GONE)


@dataclass(frozen=True, slots=True)
class Event:
    """One line: at `time` (virtual seconds), `what` happened to `who`. For an envelope, `peer` is the other end, and `body`
    its content.
    """

    time: float
    what: str
    who: str
    peer: str = ""
    body: bytes | None = None
    note: str = ""

    def __str__(self) -> str:
        line = f"{self.time:10.3f}  {self.who:<12} {self.what:<14}"
        if self.body is not None:
            arrow = "<-" if self.what == RECEIVES else "->"
            first = f"{self.body[0]:02x}" if self.body else "--"
            line += f" {arrow} {self.peer:<12} type {first} {len(self.body):>7,} B  {crc32(self.body):08x}"
        return f"{line} {self.note}".rstrip()


def of(time: float, what: str, envelope: Envelope, note: str = "") -> Event:
    """The line about an envelope: from its recipient's side if it is received, else from its sender's."""
    if what == RECEIVES:
        return Event(time, what, envelope.recipient, envelope.sender, envelope.body, note)
    return Event(time, what, envelope.sender, envelope.recipient, envelope.body, note)


def text(events: Iterable[Event], last: int | None = None) -> str:
    """The lines, or the `last` of them with a note of how many are left out.

    The line of an envelope shows the first byte of its body, its size and a checksum, so that equal bodies can be seen to be
    equal.
    """
    lines = [str(event) for event in events]
    if last is not None and len(lines) > last:
        lines = [f"... {len(lines) - last:,} earlier lines", *lines[len(lines) - last :]]
    return "\n".join(lines)
