"""Sans-I/O parties: a protocol is objects that exchange envelopes, and do nothing else themselves.

The same objects run in a simulation, over HTTPS and under a storm. A party is rebuilt from what it asked to be kept: `Step.keep`
is appended to the party's own log, durably, before anything of `Step.send` leaves. So a party that dies at any moment and is
rebuilt sends again what it had sent, byte for byte, and never something else in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SERVER = "server"


@dataclass(frozen=True)
class Envelope:
    """A message on its way. `body` is bytes of the protocol's wire format; names say from whom and to whom."""

    sender: str
    recipient: str
    body: bytes


@dataclass(frozen=True)
class Step:
    """What a party asks of whoever runs it.

    Attributes:
        keep: records to append to the party's log, together or not at all, before anything is sent.
        send: envelopes to deliver; each may be lost, delayed or repeated, and the sender is asked again then.
    """

    keep: tuple[bytes, ...] = ()
    send: tuple[Envelope, ...] = ()


class Party(Protocol):
    """A named participant. It holds its state in memory and is rebuilt from its log by whoever made it."""

    @property
    def name(self) -> str: ...

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be expected of it: its part is done, or aborted."""
        ...

    def receive(self, envelope: Envelope) -> Step:
        """Take in a message. One that is repeated is answered with the same bytes; one that does not fit changes nothing."""
        ...

    def deadline(self) -> Step:
        """The time for the present phase is over (a server closes it with those who answered), or an answer is overdue
        (a client sends its last message again)."""
        ...
