"""The sum in the clear between a server and clients over a network, as sans-I/O parties with the face of secure aggregation's.

A client is called, uploads its vector, and is told how the sum ended. Frames are those of `secagg.wire`; a call is another one:

    terms = u32 n ‖ u64 d ‖ u8 whole ‖ u64 largest ‖ u32 minimum ‖ u32 enough
    call  = terms ‖ study (32) ‖ u8 length ‖ sum ‖ u32 round ‖ u32 attempt ‖ u64 roster number ‖ roster root (32)
            ‖ model digest (32) ‖ u8 beacon kind ‖ u8 length ‖ beacon
    context = digest("manent plain call", call)
    upload  = u8 type (0 float32, 1 float64, 2 int64) ‖ d numbers, least significant byte first

The server adds the vectors along the tree of `core.sums` in order of position, a stretch of coordinates at a time, so that it
holds little more than the total, wherever the uploads lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import numpy as np

from manent.core.errors import InvalidInput, ManentError, ProtocolAbort
from manent.core.parties import SERVER, Envelope, Step
from manent.core.sums import TreeSum
from manent.core.vectors import Array
from manent.crypto.digest import digest
from manent.crypto.identity import SigningKey
from manent.summation.parties import wire
from manent.summation.parties.fields import Reader, short, u8, u32, u64
from manent.summation.parties.wire import Kind
from manent.summation.secagg import graph
from manent.summation.secagg.terms import BEACONS, Beacon, Roster

TYPES: tuple[np.dtype[np.generic], ...] = (np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i8"))
STRETCH = 1 << 16  # coordinates that are added at a time
_DEADLINE = 2**32 - 1
_INLINE, _STORED = 0, 1
Read = Callable[[bytes, int, int], bytes]
"""Bytes from start to stop of what is stored under a digest."""


@dataclass(frozen=True)
class PlainTerms:
    """What a sum in the clear is of.

    Attributes:
        clients: n, how many are asked.
        size: d, the length of the vectors.
        whole: whether they hold whole numbers, of size at most `largest` (0: no bound is declared); else real ones.
        minimum: the fewest answers with which it is formed; 0 where noise hides that there are none.
        enough: with so many it is formed at once.
    """

    clients: int
    size: int
    whole: bool
    largest: int
    minimum: int
    enough: int

    def encode(self) -> bytes:
        head = u32(self.clients) + u64(self.size) + u8(self.whole) + u64(self.largest)
        return head + u32(self.minimum) + u32(self.enough)

    @classmethod
    def read(cls, reader: Reader) -> PlainTerms:
        clients, size, whole, largest = reader.u32(), reader.u64(), reader.u8(), reader.u64()
        minimum, enough = reader.u32(), reader.u32()
        if whole > 1 or not 0 <= minimum <= enough <= clients:
            raise ProtocolAbort(f"Expected terms with 0 <= minimum <= enough <= clients; found {minimum}, {enough}, {clients}.")
        return cls(clients, size, bool(whole), largest, minimum, enough)


@dataclass(frozen=True)
class PlainCall:
    """The server's call to one attempt at one sum in the clear; see `secagg.Call`."""

    terms: PlainTerms
    study: bytes
    sum: str
    round: int
    attempt: int
    roster_number: int
    roster_root: bytes
    model: bytes
    beacon: bytes
    beacon_kind: Beacon = "public"

    @cached_property
    def body(self) -> bytes:
        """The bytes that are hashed and sent."""
        of = (self.terms.encode(), self.study, short(self.sum.encode()), u32(self.round), u32(self.attempt))
        drawn = u8(BEACONS.index(self.beacon_kind)) + short(self.beacon)
        return b"".join((*of, u64(self.roster_number), self.roster_root, self.model, drawn))

    @cached_property
    def context(self) -> bytes:
        """32 bytes that stand for everything agreed on."""
        return digest("manent plain call", self.body)

    @classmethod
    def read(cls, body: bytes) -> PlainCall:
        """Raises ProtocolAbort for bytes that are no call."""
        reader = Reader(body)
        terms, study = PlainTerms.read(reader), reader.take(32)
        try:
            name = reader.short().decode()
        except UnicodeDecodeError as error:
            raise ProtocolAbort("The name of the sum is not UTF-8.") from error
        round, attempt, number, root, model = reader.u32(), reader.u32(), reader.u64(), reader.take(32), reader.take(32)
        kind, beacon = reader.u8(), reader.short()
        reader.end()
        if kind >= len(BEACONS):
            raise ProtocolAbort(f"Expected a kind of beacon below {len(BEACONS)}; found {kind}.")
        return cls(terms, study, name, round, attempt, number, root, model, beacon, BEACONS[kind])

    def cohort(self, roster: Roster) -> tuple[bytes, ...]:
        """The identities of the cohort by position, as every client recomputes them."""
        if roster.root != self.roster_root or roster.number != self.roster_number:
            raise ProtocolAbort("The call names another roster than the one at hand.")
        if not 1 <= self.terms.clients <= len(roster.identities):
            raise ProtocolAbort(f"A cohort of {self.terms.clients} cannot be drawn from {len(roster.identities)} identities.")
        drawn = u8(BEACONS.index(self.beacon_kind)) + self.beacon
        seed = digest("manent cohort", drawn, self.study, self.sum.encode(), u32(self.round), self.roster_root)
        return tuple(roster.identities[i] for i in graph.draw_cohort(len(roster.identities), seed, self.terms.clients))


@dataclass(frozen=True)
class PlainExpected:
    """What a client knows by itself of the sum that it is called to."""

    study: bytes
    sum: str
    round: int
    model: bytes
    terms: PlainTerms

    def check(self, call: PlainCall) -> None:
        """Raises ProtocolAbort where the call names anything else, saying what."""
        for what in ("study", "sum", "round", "terms", "model"):
            known, found = getattr(self, what), getattr(call, what)
            if known != found:
                raise ProtocolAbort(
                    f"The server calls to another {what} than this client's: expected {known!r}, found {found!r}."
                )


def upload_message(context: bytes, vector: Array, terms: PlainTerms) -> bytes:
    """An upload, the one copy of the vector. Raises InvalidInput for another shape or type."""
    tag = _tag(vector, terms)
    numbers = np.ascontiguousarray(vector, TYPES[tag])
    return b"".join((wire.frame(Kind.UPLOAD, context, u8(tag)), numbers.view(np.uint8).data))


def _tag(vector: Array, terms: PlainTerms) -> int:
    """Of the type of a vector's numbers."""
    kinds = {np.dtype(np.int64): 2} if terms.whole else {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
    if vector.shape != (terms.size,) or vector.dtype not in kinds:
        raise InvalidInput(
            f"Expected {'int64' if terms.whole else 'float32 or float64'}[{terms.size}], found {vector.dtype}"
            f"{list(vector.shape)}."
        )
    return kinds[vector.dtype]


def upload_type(tag: int, length: int, terms: PlainTerms) -> np.dtype[np.generic]:
    """The type of an upload's numbers, from its first byte and its length in bytes. Raises ProtocolAbort where it has another."""
    if tag not in ((2,) if terms.whole else (0, 1)):
        raise ProtocolAbort(f"An upload holds {'whole' if terms.whole else 'real'} numbers; found type {tag}.")
    if length != 1 + terms.size * TYPES[tag].itemsize:
        raise ProtocolAbort(
            f"An upload of {terms.size} numbers has {1 + terms.size * TYPES[tag].itemsize} bytes; found {length}."
        )
    return TYPES[tag]


def check_numbers(numbers: Array, terms: PlainTerms) -> None:
    """Raises ProtocolAbort for numbers that are not finite, or beyond the declared bound."""
    if not terms.whole:
        if not np.isfinite(numbers).all():
            raise ProtocolAbort("An upload holds NaN or infinity; every number must be finite.")
    elif terms.largest and (int(numbers.max(initial=0)) > terms.largest or int(numbers.min(initial=0)) < -terms.largest):
        raise ProtocolAbort(f"An upload holds a number beyond the bound of {terms.largest} that the study declares.")


@dataclass(frozen=True)
class _Upload:
    """Where the numbers of an upload are: at hand, or stored under a digest."""

    kind: np.dtype[np.generic]
    data: bytes
    stored: bool


@final
class PartedTotal:
    """A total of which a slice is formed when it is asked for: of a large model, whoever takes it in parts never holds it whole.

    numpy takes it for an array, and forms all of it.
    """

    def __init__(self, terms: PlainTerms, form: Callable[[int, int], Array]) -> None:
        self.size, self.shape = terms.size, (terms.size,)
        self.dtype = np.dtype(np.int64 if terms.whole else np.float64)
        self._form = form

    def __getitem__(self, where: slice) -> Array:
        start, stop, step = where.indices(self.size)
        if step != 1:
            raise InvalidInput(f"A total is formed by runs of coordinates; found a step of {step}.")
        found: Array = np.empty(max(0, stop - start), self.dtype)
        for at in range(start, stop, STRETCH):
            end = min(at + STRETCH, stop)
            found[at - start : end - start] = self._form(at, end)
        return found

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Array:
        return self[:]


@final
class PlainServer:
    """The server in one attempt: the fold of its log.

    Args:
        call: what the clients are called to.
        roster: the identities that the call names.
        records: its log, where it is rebuilt.
        read: how to read uploads that are stored; see `stored`.

    When `phase` is "done", `total` is the sum of the vectors of the `survivors`; when it is "aborted", `reason` says why.
    """

    name = SERVER

    def __init__(
        self, call: PlainCall, roster: Roster, records: Sequence[bytes] = (), read: Read = lambda digest, start, stop: b""
    ) -> None:
        self.call, self.cohort = call, call.cohort(roster)
        self.phase: Literal["upload", "done", "aborted"] = "upload"
        self.reason = ""
        self.notes: list[str] = []
        self._read = read
        self._places = {key.hex(): position for position, key in enumerate(self.cohort)}
        self._uploads: dict[int, _Upload] = {}
        self._lost: set[int] = set()
        self.catch_up(records)

    @property
    def finished(self) -> bool:
        return self.phase != "upload"

    @property
    def uploads(self) -> int:
        """How many have uploaded."""
        return len(self._uploads)

    @property
    def survivors(self) -> tuple[bytes, ...]:
        """The identities whose vectors are in the sum."""
        return tuple(self.cohort[position] for position in sorted(self._uploads))

    @property
    def total(self) -> Array:
        """float64[d], or int64[d] of whole numbers. Raises ProtocolAbort where there is none."""
        return self.parted[:]

    @property
    def parted(self) -> PartedTotal:
        """The same, formed where it is looked at. Raises ProtocolAbort where there is none."""
        if self.phase != "done":
            raise ProtocolAbort(self.reason or "There is no sum yet: clients are still answering.")
        return PartedTotal(self.call.terms, self._formed)

    def _formed(self, start: int, stop: int) -> Array:
        part = TreeSum(stop - start, len(self.cohort), np.int64 if self.call.terms.whole else np.float64)
        for position in range(len(self.cohort)):
            upload = self._uploads.get(position)
            if upload is None:
                part.skip(position)
            else:
                part.add(position, self._stretch(upload, start, stop))
        return part.finish()

    def catch_up(self, records: Sequence[bytes]) -> None:
        """Take in further records of its log."""
        for record in records:
            self._load(record)

    def message(self, name: str) -> bytes | None:
        """What a client needs to go on, or None."""
        position, context = self._places.get(name), self.call.context
        if position is None:
            return None
        if self.finished:
            return wire.frame(Kind.CLOSED, context, u8(self.phase == "aborted"))
        if position in self._uploads:
            return wire.frame(Kind.RECEIVED, context, b"")
        return wire.frame(Kind.CALL, context, self.call.body)

    def start(self) -> Step:
        """The calls. They may be sent any number of times."""
        message = wire.frame(Kind.CALL, self.call.context, self.call.body)
        return Step(send=tuple(Envelope(self.name, key.hex(), message) for key in self.cohort))

    def receive(self, envelope: Envelope) -> Step:
        """See `Party`. What does not fit is noted and changes nothing."""
        position = self._places.get(envelope.sender)
        try:
            kind, context, body = wire.unframe(envelope.body)
            if position is None:
                raise ProtocolAbort(f"{envelope.sender[:16]!r} is not in the cohort.")
            if kind is Kind.ABORT:
                self.notes.append(f"Position {position} leaves: {wire.read_reason(body)}")
                known = position in self._lost or position in self._uploads or self.finished
                return Step() if known else self._keep(u32(position) + u8(_INLINE) + envelope.body)
            if context != self.call.context:
                raise ProtocolAbort(f"{kind.name} of position {position} belongs to another attempt.")
            if kind is not Kind.UPLOAD or position in self._uploads or self.finished:
                return self._answer(position)
            number = upload_type(body[0] if body else 255, len(body), self.call.terms)
            check_numbers(np.frombuffer(body, number, offset=1), self.call.terms)
        except ProtocolAbort as error:
            self.notes.append(str(error))
            return Step()
        return self._keep(u32(position) + u8(_INLINE) + envelope.body)

    def stored(self, name: str, digest: bytes, size: int, tag: int) -> Step:
        """Take in an upload message whose `size` bytes are stored under their digest; its numbers were checked already.

        Raises ProtocolAbort for another size or type.
        """
        position = self._places.get(name)
        if position is None:
            raise ProtocolAbort(f"{name[:16]!r} is not in the cohort.")
        upload_type(tag, size - wire.HEAD, self.call.terms)
        if position in self._uploads or self.finished:
            return self._answer(position)
        return self._keep(u32(position) + u8(_STORED) + digest + u8(tag))

    def deadline(self) -> Step:
        """Close the sum with those who answered."""
        return Step() if self.finished else self._keep(u32(_DEADLINE))

    def _answer(self, position: int) -> Step:
        message = self.message(self.cohort[position].hex())
        return Step(send=(Envelope(self.name, self.cohort[position].hex(), message),) if message else ())

    def _keep(self, record: bytes) -> Step:
        self._load(record)
        position = int.from_bytes(record[:4], "big")
        if self.finished:
            messages = ((key.hex(), self.message(key.hex())) for key in self.cohort)
            return Step((record,), tuple(Envelope(self.name, key, message) for key, message in messages if message))
        return Step((record,), self._answer(position).send if position in self._uploads else ())

    def _load(self, record: bytes) -> None:
        position = int.from_bytes(record[:4], "big")
        if self.finished:
            return
        if position == _DEADLINE:
            self._close()
            return
        if record[4] == _STORED:
            self._uploads[position] = _Upload(TYPES[record[37]], record[5:37], stored=True)
        else:
            kind, _, body = wire.unframe(record[5:])
            if kind is Kind.ABORT:
                self._lost.add(position)
            else:
                self._uploads[position] = _Upload(TYPES[body[0]], body[1:], stored=False)
        settled = len(self._uploads) + len(self._lost - set(self._uploads))
        if len(self._uploads) >= self.call.terms.enough or settled == len(self.cohort):
            self._close()

    def _close(self) -> None:
        minimum = self.call.terms.minimum
        if len(self._uploads) >= minimum:
            self.phase = "done"
        else:
            self.phase = "aborted"
            self.reason = f"{len(self._uploads)} of {len(self.cohort)} clients answered; at least {minimum} are needed."

    def _stretch(self, upload: _Upload, start: int, stop: int) -> Array:
        width = upload.kind.itemsize
        if not upload.stored:
            return np.frombuffer(upload.data, upload.kind, stop - start, start * width)
        head = wire.HEAD + 1
        return np.frombuffer(self._read(upload.data, head + start * width, head + stop * width), upload.kind)


@final
class PlainClient:
    """One client in one sum in the clear, over as many attempts as the server makes; see `SecAggClient`."""

    def __init__(self, identity: SigningKey, roster: Roster, expected: PlainExpected, records: Sequence[bytes] = ()) -> None:
        self.identity, self.roster, self.expected = identity, roster, expected
        self.name = identity.public.hex()
        self.stage: Literal["waiting", "called", "uploaded", "closed", "aborted"] = "waiting"
        self.refusals: list[str] = []
        self.uploaded_in: int | None = None
        self._call: PlainCall | None = None
        self._vector: Array | None = None
        self._last = b""
        for record in records:
            self._load(record)

    @property
    def finished(self) -> bool:
        return self.stage in ("closed", "aborted")

    @property
    def needs_vector(self) -> bool:
        """Whether its vector is still to be given."""
        return self._vector is None and self.uploaded_in is None

    @property
    def survivors(self) -> None:
        """See `SecAggClient`: a client in the clear cannot tell who else is in the sum."""
        return None

    def receive(self, envelope: Envelope) -> Step:
        """See `Party`."""
        try:
            kind, context, body = wire.unframe(envelope.body)
            if kind is Kind.CALL:
                return self._called(context, body)
            if self._call is not None and context != self._call.context:
                raise ProtocolAbort(f"{kind.name} belongs to another attempt than this client's.")
            if kind is Kind.CLOSED:
                return Step() if self.finished else self._keep(envelope.body)
            if kind is not Kind.RECEIVED:
                raise ProtocolAbort(f"{kind.name} does not fit a client that has {self.stage}.")
        except ManentError as error:
            return self._refuse(str(error))
        return Step()

    def deadline(self) -> Step:
        """An answer is overdue: send the last message again, or ask to be called."""
        if self.finished:
            return Step()
        return self._send(self._last or wire.frame(Kind.ASK, bytes(32), b""))

    def contribute(self, vector: Array) -> Step:
        """Give the [d] vector, once. Raises InvalidInput for another shape or type."""
        if not self.needs_vector:
            raise InvalidInput("This client has given its vector; a term is summed once.")
        _tag(vector, self.expected.terms)
        self._vector = vector
        return self._upload() if self.stage == "called" else Step()

    def _called(self, context: bytes, body: bytes) -> Step:
        call, now = PlainCall.read(body), self._call
        if call.context != context:
            raise ProtocolAbort("The call does not carry its own context.")
        if now is not None and call.attempt <= now.attempt:
            if call.body != now.body:
                raise ProtocolAbort(f"Attempt {call.attempt} was begun before, or is over; a round is not restarted.")
            return Step() if self.finished else self._send(self._last)
        if self.uploaded_in is not None:
            raise ProtocolAbort(f"This client has uploaded in attempt {self.uploaded_in}; its vector is not summed again.")
        self.expected.check(call)
        if self.identity.public not in call.cohort(self.roster):
            raise ProtocolAbort("This client is not in the cohort that the beacon draws.")
        step = self._keep(wire.frame(Kind.CALL, context, body))
        return step if self._vector is None else Step(step.keep + (last := self._upload()).keep, last.send)

    def _upload(self) -> Step:
        if self._call is None or self._vector is None:
            return Step()
        message = upload_message(self._call.context, self._vector, self._call.terms)
        self._vector = None
        return self._keep(message)

    def _keep(self, record: bytes) -> Step:
        self._load(record)
        return Step((record,), self._send(record).send if record == self._last else ())

    def _load(self, record: bytes) -> None:
        kind, _, _ = wire.unframe(record[: wire.HEAD])
        if kind is Kind.CALL:
            _, _, body = wire.unframe(record)
            self._call, self.stage = PlainCall.read(body), "called"
        elif kind is Kind.UPLOAD:
            self.stage, self._last = "uploaded", record
            self.uploaded_in = None if self._call is None else self._call.attempt
        else:
            self.stage, self._last = "closed", b""

    def _refuse(self, reason: str) -> Step:
        """Say why, and stay as it is."""
        self.refusals.append(reason)
        if self._call is not None:
            return Step()
        return self._send(wire.frame(Kind.ABORT, bytes(32), wire.reason_bytes(reason)))

    def _send(self, message: bytes) -> Step:
        return Step(send=(Envelope(self.name, SERVER, message),)) if message else Step()
