"""The server's part in one attempt at one masked sum, as a sans-I/O party.

It is rebuilt by replaying its log: the messages and deadlines that it took in, in order. It adds uploads as they arrive, so it
holds one vector whatever the size of the cohort. The log holds the uploads until the sum is released.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Literal, final

from manent.core.errors import ProtocolAbort
from manent.core.parties import SERVER, Envelope, KeyRoster, Step, StoredMessage
from manent.core.vectors import Array
from manent.crypto.digest import digest
from manent.crypto.identity import verify
from manent.summation.parties import wire
from manent.summation.parties.fields import Reader, u8, u32
from manent.summation.parties.wire import Kind
from manent.summation.secagg import bodies, ring
from manent.summation.secagg.bodies import Advert, Parcel, Table
from manent.summation.secagg.terms import Call
from manent.summation.secagg.unmask import Known, unmask

Phase = Literal["advertise", "share", "upload", "consent", "reveal", "done", "aborted"]
_AWAITED: dict[Phase, Kind] = {
    "advertise": Kind.ADVERTISE,
    "share": Kind.SHARES,
    "upload": Kind.UPLOAD,
    "consent": Kind.CONSENT,
    "reveal": Kind.REVEAL,
}
_DEADLINE = 2**32 - 1


@final
class SecAggServer:
    """The server in one attempt; see `ServerParty`.

    Args:
        call: what the clients are called to.
        roster: the identities that the call names.
        records: its log, where it is rebuilt.
        threads: how many take masks off side by side.

    When `phase` is "done", `total` is the sum of the survivors' vectors and `survivors` their identities. When it is "aborted",
    there is no sum, and `reason` says why. `notes` says what it did not take in.
    """

    name = SERVER

    def __init__(self, call: Call, roster: KeyRoster, records: Sequence[bytes] = (), threads: int = 1) -> None:
        self.call, self.threads = call, threads
        self.cohort = call.cohort(roster)
        self._await("advertise", frozenset(range(len(self.cohort))))
        self.reason = ""
        self.notes: list[str] = []
        self._places = {key.hex(): position for position, key in enumerate(self.cohort)}
        self._adverts: dict[int, Advert] = {}
        self._advert_bodies: dict[int, bytes] = {}
        self._shares: dict[int, Table] = {}
        self._uploaded: set[int] = set()
        self._consents: dict[int, bytes] = {}
        self._reveals: dict[int, tuple[bytes, Table]] = {}
        self._lost: set[int] = set()
        self._keys: set[bytes] = set()
        self._advertised: frozenset[int] = frozenset()
        self._shared: frozenset[int] = frozenset()
        self._alive: frozenset[int] = frozenset()
        self._survivors = b""
        self._running = ring.PackedSum(call.terms.size, call.terms.bits)
        self._total: Array | None = None
        self.catch_up(records)

    @property
    def finished(self) -> bool:
        """Whether there is a sum, or there will be none."""
        return self.phase in ("done", "aborted")

    @property
    def total(self) -> Array:
        """int64[d], the sum of the survivors' vectors. Raises ProtocolAbort where there is none."""
        if self._total is None:
            raise ProtocolAbort(self.reason or f"There is no sum yet: the attempt is at {self.phase!r}.")
        return self._total

    @property
    def parted(self) -> Array:
        """The total, whole: the masks are removed from all of it at once. Raises ProtocolAbort where there is none."""
        return self.total

    @property
    def survivors(self) -> tuple[bytes, ...]:
        """The identities whose vectors are in the sum."""
        return tuple(self.cohort[position] for position in sorted(self._alive))

    @property
    def uploads(self) -> int:
        """How many clients have uploaded."""
        return len(self._uploaded)

    def catch_up(self, records: Sequence[bytes]) -> None:
        """Take in further records of its log."""
        for record in records:
            self._load(record)

    def message(self, name: str) -> bytes | None:
        """What a client needs to go on, or None."""
        position = self._places.get(name)
        if position is None or not (self.finished or position in self._pending):
            return None
        return self._message(position)

    def start(self) -> Step:
        """The calls. They may be sent any number of times."""
        message = wire.frame(Kind.CALL, self.call.context, self.call.body)
        return Step(send=tuple(Envelope(self.name, key.hex(), message) for key in self.cohort))

    def receive(self, envelope: Envelope) -> Step:
        """See `Party`. What does not fit is noted and changes nothing."""
        position = self._places.get(envelope.sender)
        try:
            kind, context = wire.head(envelope.body)
            if position is None:
                raise ProtocolAbort(f"{envelope.sender[:16]!r} is not in the cohort.")
            if kind is Kind.ASK:
                return self._again(position, kind)
            if context != self.call.context:
                raise ProtocolAbort(f"{kind.name} of position {position} belongs to another attempt.")
            if kind is Kind.ABORT:
                return self._leaves(position, envelope.body, wire.read_reason(envelope.body[wire.HEAD :]))
            if kind is not _AWAITED.get(self.phase) or position not in self._pending:
                return self._again(position, kind)
            take_in = self._checked(position, kind, envelope.body)
        except ProtocolAbort as error:
            self.notes.append(str(error))
            return Step()
        record = u32(position) + envelope.body
        was = self.phase
        take_in()
        self._taken_in(position, kind)
        ack = [self._to(position, wire.frame(Kind.RECEIVED, self.call.context, b""))] if kind is Kind.UPLOAD else []
        return Step((record,), (*ack, *(self._news() if self.phase != was else ())))

    def receive_stored(self, name: str, message: StoredMessage, examined: bytes) -> Step:
        """Take in an upload message that is stored, read whole by `Call.examine`. What does not fit is noted."""
        return self.receive(Envelope(name, SERVER, examined))

    def deadline(self) -> Step:
        """Close the present phase with those who answered. Nothing happens where the attempt is over."""
        if self.finished:
            return Step()
        record = u32(_DEADLINE) + u8(list(_AWAITED).index(self.phase))
        self._load(record)
        return Step((record,), self._news())

    def _leaves(self, position: int, message: bytes, reason: str) -> Step:
        """A client gives up, before or after its upload."""
        self.notes.append(f"Position {position} leaves: {reason}")
        if position in self._lost or self.finished:
            return Step()
        record, was = u32(position) + message, self.phase
        self._load(record)
        return Step((record,), self._news() if self.phase != was else ())

    # Which message is awaited, and from whom.

    def _await(self, phase: Phase, whom: frozenset[int]) -> None:
        """Begin a phase in which these positions are to answer."""
        self.phase, self._asked, self._pending = phase, whom, set(whom)

    # Messages to clients follow from the state, so a lost message is made again with the same bytes.

    def _message(self, position: int) -> bytes | None:
        """What the client at a position needs to go on, or None."""
        context = self.call.context
        if self.finished:
            return wire.frame(Kind.CLOSED, context, u8(self.phase == "aborted"))
        if position not in self._asked:
            return None
        match self.phase:
            case "advertise":
                return wire.frame(Kind.CALL, context, self.call.body)
            case "share":
                near = self._near(position, self._advertised)
                return wire.frame(Kind.DIRECTORY, context, u32(len(near)) + b"".join([self._advert_bodies[v] for v in near]))
            case "upload":
                near = self._near(position, self._shared)
                hybrid = self.call.terms.hybrid
                records = [bodies.delivered(self._shares[v].record(position), v, hybrid and v < position) for v in near]
                return wire.frame(Kind.DELIVERIES, context, u32(len(near)) + b"".join(records))
            case "consent":
                return wire.frame(Kind.SURVIVORS, context, self._survivors)
            case "reveal" if self.call.terms.adversary == "curious":
                return wire.frame(Kind.SURVIVORS, context, self._survivors)
            case "reveal":
                near = sorted(v for v in (*self.call.neighbours(position), position) if v in self._consents)
                return wire.frame(Kind.CONSENTS, context, u32(len(near)) + b"".join([u32(v) + self._consents[v] for v in near]))
        return None

    def _near(self, position: int, of: Container[int]) -> list[int]:
        """The neighbours of a position that are among these positions."""
        return [v for v in self.call.neighbours(position) if v in of]

    def _news(self) -> tuple[Envelope, ...]:
        """The present phase's message to each client that it concerns."""
        whom = range(len(self.cohort)) if self.finished else sorted(self._pending)
        return tuple(self._to(p, message) for p in whom if (message := self._message(p)) is not None)

    def _again(self, position: int, kind: Kind) -> Step:
        """Answer a repeated message, or one that came too late, with what its sender needs now.

        A client that has answered in the present phase needs nothing: any message would only make it answer again.
        """
        message = self._message(position) if self.finished or position in self._pending else None
        self.notes.append(f"{kind.name} of position {position} is not awaited while the attempt is at {self.phase!r}.")
        ack = kind is Kind.UPLOAD and position in self._uploaded
        found = [wire.frame(Kind.RECEIVED, self.call.context, b"")] if ack else []
        return Step(send=tuple(self._to(position, m) for m in (*found, *([message] if message else ()))))

    def _to(self, position: int, message: bytes) -> Envelope:
        return Envelope(self.name, self.cohort[position].hex(), message)

    # A message from a client is checked first, then taken in.

    def _checked(self, position: int, kind: Kind, message: bytes) -> Callable[[], object]:
        """A function that takes the message in. Raises ProtocolAbort for a message that does not fit."""
        body = b"" if kind is Kind.UPLOAD else message[wire.HEAD :]  # an upload is not copied
        reader, terms = Reader(body), self.call.terms
        match kind:
            case Kind.ABORT:
                return partial(self._lost.add, position)
            case Kind.ADVERTISE:
                advert = Advert.read(reader, terms.hybrid)
                reader.end()
                self._check_advert(position, advert)
                return partial(self._advertise, position, advert, body)
            case Kind.SHARES:
                wanted = self._near(position, self._advertised)
                table = bodies.shares_table(position, body, wanted, terms.hybrid)
                return partial(self._shares.__setitem__, position, table)
            case Kind.UPLOAD:
                packed, masked = bodies.split_upload(memoryview(message)[wire.HEAD :])
                ring.check_packed(packed, terms.size, terms.bits)
                near = self._near(position, self._shared)
                if masked != bodies.masked_with(self.call.context, near, terms.clients, self._shares[position].digest):
                    raise ProtocolAbort(f"Position {position} has masked with others than those that shared, or by other shares.")
                return partial(self._add, position, packed)
            case Kind.CONSENT:
                if not verify(self.cohort[position], digest("manent survivors", self.call.context, self._survivors), body):
                    raise ProtocolAbort(f"The consent of position {position} is no signature of the survivors.")
                return partial(self._consents.__setitem__, position, body)
            case Kind.REVEAL:
                near = self._near(position, self._shared)
                opened = Table(body, 32, near, (bodies.OPENED, bodies.OPENED))
                return partial(self._reveals.__setitem__, position, (body[:32], opened))
        raise ProtocolAbort(f"{kind.name} is no message of a client.")

    def _check_advert(self, position: int, advert: Advert) -> None:
        """Raises ProtocolAbort for an advert in another's name, without its signature, or with a key that was seen before."""
        if advert.position != position:
            raise ProtocolAbort(f"The advert of position {position} is in another's name.")
        if not verify(self.cohort[position], advert.signed_text(self.call.context), advert.signature):
            raise ProtocolAbort(f"The advert of position {position} is not signed by its identity.")
        if self._keys & set(advert.keys) or len(set(advert.keys)) < len(advert.keys):
            raise ProtocolAbort(f"The advert of position {position} repeats a key.")

    def _advertise(self, position: int, advert: Advert, body: bytes) -> None:
        self._adverts[position], self._advert_bodies[position] = advert, body
        self._keys.update(advert.keys)

    def _add(self, position: int, packed: memoryview) -> None:
        self._running.add(packed)
        self._uploaded.add(position)

    def _load(self, record: bytes) -> None:
        position = int.from_bytes(record[:4], "big")
        if position == _DEADLINE:
            if self.phase == list(_AWAITED)[record[4]]:
                self._close()
            return
        message = record[4:]
        kind, _ = wire.head(message)
        self._checked(position, kind, message)()
        self._taken_in(position, kind)

    def _taken_in(self, position: int, kind: Kind) -> None:
        """Close the phase where no further answer can come."""
        if kind is not Kind.ABORT:
            self._pending.discard(position)
        if not self.finished and self._pending <= self._lost:
            self._close()

    def _close(self) -> None:
        """End the present phase with those who answered."""
        got, curious = self._asked - self._pending, self.call.terms.adversary == "curious"
        minimum = self.call.terms.threshold if self.phase in ("consent", "reveal") else self.call.terms.minimum
        if len(got) < minimum:
            self._stop(f"{len(got)} of {len(self._asked)} clients answered to {self.phase!r}; at least {minimum} are needed.")
            return
        match self.phase:
            case "advertise":
                self._advertised = got
                self._await("share", got)
            case "share":
                self._shared = got
                self._await("upload", got)
            case "upload":
                self._alive, self._survivors = got, bodies.bitmap(got, len(self.cohort))
                self._await("reveal" if curious else "consent", got)
            case "consent":
                self._await("reveal", got)
            case "reveal":
                self._form()
        if not self.finished and self._pending <= self._lost:
            self._close()

    def _stop(self, reason: str) -> None:
        self.phase, self.reason = "aborted", reason
        self._forget()

    def _form(self) -> None:
        try:
            total = unmask(self._running.total(), self._known(), self.threads)
        except ProtocolAbort as error:
            self._stop(str(error))
            return
        self._total = ring.centre(total, self.call.terms.bits)
        self.phase = "done"
        self._forget()

    def _known(self) -> Known:
        seeds = {position: seed for position, (seed, _) in self._reveals.items()}
        return Known(self.call, self._adverts, self._shared, self._alive, seeds, self._opened, self._parcel)

    def _forget(self) -> None:
        """Drop what is no longer needed, so that nobody can have it."""
        self._shares.clear()
        self._reveals.clear()
        self._running = ring.PackedSum(0, self.call.terms.bits)

    def _parcel(self, sender: int, recipient: int) -> Parcel:
        return bodies.shares_reader(sender, self.call.terms.hybrid)(Reader(self._shares[sender].record(recipient)))

    def _opened(self, opener: int, owner: int) -> bytes:
        return self._reveals[opener][1].record(owner)[4:]
