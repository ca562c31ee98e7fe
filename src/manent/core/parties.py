"""Sans-I/O parties: objects that exchange envelopes, and do nothing else themselves. Here too is what all sums' parties share.

The same objects run in a simulation, over HTTPS and under a storm. Whoever runs a party appends `Step.keep` to the party's log,
durably, before any envelope of `Step.send` leaves. A party is rebuilt from its log. So a party that dies at any moment and is
rebuilt sends the same bytes as before, and never other bytes in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from manent.core.layers import Form
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array

SERVER = "server"

Read = Callable[[bytes, int, int], bytes]
"""The bytes from start to stop of what is stored under a digest."""


@dataclass(frozen=True)
class Envelope:
    """A message on its way. `body` is bytes of the protocol's wire format; the names say from whom and to whom."""

    sender: str
    recipient: str
    body: bytes


@dataclass(frozen=True)
class Step:
    """What a party asks of whoever runs it.

    Attributes:
        keep: records to append to the party's log, all of them or none, before anything is sent.
        send: envelopes to deliver. Each may be lost, delayed or repeated; then the sender is asked again.
    """

    keep: tuple[bytes, ...] = ()
    send: tuple[Envelope, ...] = ()


class Party(Protocol):
    """A named participant. It holds its state in memory; whoever made it rebuilds it from its log."""

    @property
    def name(self) -> str:
        """The server is `SERVER`; a client is named by its public key, in hexadecimal."""
        ...

    @property
    def finished(self) -> bool:
        """Whether its part is done or aborted, so that nothing more is to be expected of it."""
        ...

    def receive(self, envelope: Envelope) -> Step:
        """Take in a message. A repeated message is answered with the same bytes; one that does not fit changes nothing."""
        ...

    def deadline(self) -> Step:
        """Time is up. A server closes its phase with those who answered; a client, whose answer is overdue, sends its last
        message again."""
        ...


@dataclass(frozen=True)
class SumRef:
    """Which sum is meant. Server and clients each know it by themselves.

    Attributes:
        study: hash of the study, 32 bytes.
        sum: name of the sum.
        round: counted from 1.
        model: digest of what the clients are sent to work on, 32 bytes.
    """

    study: bytes
    sum: str
    round: int
    model: bytes


@dataclass(frozen=True)
class StoredMessage:
    """A message that lies in a store, because it is large.

    Attributes:
        digest: SHA-256 of it, 32 bytes.
        size: its length in bytes.
        read: its bytes from start to stop, in pieces of so many bytes.
    """

    digest: bytes
    size: int
    read: Callable[[int, int, int], Iterator[bytes]]


class Signer(Protocol):
    """A long-term signing key; `manent.crypto.identity.SigningKey` is one."""

    @property
    def public(self) -> bytes:
        """32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        ...


class KeyRoster(Protocol):
    """The identities that may take part; `manent.summation.parties.call.Roster` is one."""

    @property
    def number(self) -> int:
        """Which roster of the consortium it is; a newer one has a larger number."""
        ...

    @property
    def identities(self) -> tuple[bytes, ...]:
        """Public keys, 32 bytes each, in the order of the roster."""
        ...

    @property
    def root(self) -> bytes:
        """32 bytes that stand for the whole roster."""
        ...


class AnyTerms(Protocol):
    """How one sum is formed, of whichever summation. Server and clients derive the terms from the study by themselves."""

    @property
    def clients(self) -> int:
        """How many are asked; 0 where that is secret."""
        ...


class AnyCall(Protocol):
    """The server's call to one attempt at a sum, of whichever summation."""

    @property
    def terms(self) -> AnyTerms:
        """How the sum is formed."""
        ...

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        ...

    @property
    def roster_number(self) -> int:
        """The number of the roster whose members are asked."""
        ...

    @property
    def secret(self) -> bool:
        """Whether the call says neither who is asked nor how many, so that only the server knows."""
        ...

    @property
    def beacon(self) -> bytes:
        """The randomness that the cohort is drawn from; empty where the cohort is secret."""
        ...

    @property
    def body(self) -> bytes:
        """The bytes that are hashed and sent."""
        ...

    @property
    def context(self) -> bytes:
        """32 bytes that stand for everything the call says."""
        ...

    @property
    def first_phase(self) -> str:
        """The `phase` in which its server begins."""
        ...

    @property
    def largest_upload(self) -> int:
        """Bytes of an upload message, at most."""
        ...

    @property
    def stores_uploads(self) -> bool:
        """Whether uploads of every size are stored beside the log, and read from there while the sum is formed."""
        ...

    def cohort(self, roster: KeyRoster) -> tuple[bytes, ...]:
        """The identities of the cohort by position. Raises ProtocolAbort for another roster than the call names, and
        where the cohort is secret.
        """
        ...

    def examine(self, message: StoredMessage) -> bytes:
        """Check an upload message that is stored, as far as that needs no party; what `ServerParty.receive_stored` needs of it.

        Raises ProtocolAbort for a message that cannot be summed.
        """
        ...


class ServerParty(Party, Protocol):
    """The server in one attempt at a sum, rebuilt by replaying its log.

    `phase` is "upload" while clients compute and upload, "done" once there is a total, and "aborted" where there is none. A
    summation may have further phases.
    """

    @property
    def cohort(self) -> tuple[bytes, ...]:
        """The identities that are asked, by position."""
        ...

    @property
    def phase(self) -> str:
        """What the party waits for now; "done" or "aborted" at the end."""
        ...

    @property
    def reason(self) -> str:
        """Why the attempt was aborted; empty where it was not."""
        ...

    @property
    def notes(self) -> list[str]:
        """Why messages were not taken in."""
        ...

    @property
    def uploads(self) -> int:
        """How many clients have uploaded."""
        ...

    @property
    def survivors(self) -> tuple[bytes, ...]:
        """The identities whose vectors are in the total."""
        ...

    @property
    def total(self) -> Array:
        """[d], float64 or int64. Raises ProtocolAbort where there is none."""
        ...

    @property
    def parted(self) -> Array:
        """The total as something that forms a slice of it when the slice is asked for, where the summation can; else `total`.

        Raises ProtocolAbort where there is none.
        """
        ...

    def catch_up(self, records: Sequence[bytes]) -> None:
        """Take in further records of its log."""
        ...

    def message(self, name: str) -> bytes | None:
        """What a client needs to go on, or None."""
        ...

    def start(self) -> Step:
        """The calls. They may be sent any number of times."""
        ...

    def receive_stored(self, name: str, message: StoredMessage, examined: bytes) -> Step:
        """Take in an upload message that is stored.

        Args:
            name: of the client that sent it.
            examined: what `AnyCall.examine` found.

        Raises ProtocolAbort for a sender or a message that does not fit.
        """
        ...


class ClientParty(Party, Protocol):
    """One client in one sum, over as many attempts as the server makes."""

    @property
    def refusals(self) -> list[str]:
        """Why it did not go along with messages."""
        ...

    @property
    def uploaded_in(self) -> int | None:
        """The attempt in which it uploaded, or None."""
        ...

    @property
    def needs_vector(self) -> bool:
        """Whether its vector is still to be given."""
        ...

    @property
    def awaits_vector(self) -> bool:
        """Whether the protocol has come to its vector, which is still to be given."""
        ...

    @property
    def survivors(self) -> int | None:
        """How many vectors are in the sum, where the client can tell; else None."""
        ...

    def contribute(self, vector: Array) -> Step:
        """Give the [d] vector, once. Raises InvalidInput for another shape or type, and for a second vector."""
        ...


Terms = TypeVar("Terms", bound=AnyTerms)
Call = TypeVar("Call", bound=AnyCall)


class NetworkSum(Protocol[Terms, Call]):
    """How a summation runs between a server and clients: it makes the terms, the calls and both parties."""

    @property
    def first_answers_do(self) -> bool:
        """Whether a sum may be closed with the answers that came first. Then more clients can be asked than are needed."""
        ...

    @property
    def tells_cohort(self) -> bool:
        """Whether its members learn who else is in a cohort. Then nothing is amplified against them by the draw."""
        ...

    @property
    def messages(self) -> int:
        """How many messages a client sends to a sum where none is lost."""
        ...

    def check(self) -> None:
        """Raises Refused for settings with which it does not run over a network."""
        ...

    def terms(self, form: Form, count: int, minimum: int, enough: int) -> Terms:
        """The terms of a sum of vectors of this form. Raises Refused where there are none.

        Args:
            count: how many clients are asked; 0 for a secret cohort, of which everyone is waited for.
            minimum: the fewest answers with which the sum is formed.
            enough: with so many answers it is formed at once, where the first answers do.
        """
        ...

    def call(self, terms: Terms, ref: SumRef, attempt: int, roster: KeyRoster, beacon: bytes) -> Call:
        """The call to one attempt. The beacon is the server's own; empty for a secret cohort."""
        ...

    def read_call(self, body: bytes) -> Call:
        """Raises ProtocolAbort for bytes that are no call of this summation."""
        ...

    def server(
        self, call: Call, roster: KeyRoster, records: Sequence[bytes], read: Read, members: Sequence[bytes] = ()
    ) -> ServerParty:
        """The server's party, rebuilt from its log.

        Args:
            read: reads uploads that are stored.
            members: the identities of a secret cohort, by position; of any other the call tells them.
        """
        ...

    def client(
        self, terms: Terms, ref: SumRef, identity: Signer, roster: KeyRoster, random: PrivateRandom, records: Sequence[bytes]
    ) -> ClientParty:
        """A client's party, rebuilt from its log. It goes along with no other terms and no other sum."""
        ...
