"""The server in a sum in the clear, as a sans-I/O party. A client is called, uploads its vector, and is told how the sum ended.

The server adds the vectors along the tree of `core.sums` in order of position, a stretch of coordinates at a time. So it holds
little more than the total, wherever the uploads lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast, final

import numpy as np

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import SERVER, Envelope, Read, Step, StoredMessage
from manent.core.sums import TreeSum
from manent.core.vectors import Array
from manent.summation.parties import wire
from manent.summation.parties.fields import u8, u32
from manent.summation.parties.stored import reference, referenced
from manent.summation.parties.wire import Kind
from manent.summation.plain.terms import STRETCH, TYPES, PlainCall, PlainTerms, check_numbers, upload_type

_DEADLINE = 2**32 - 1
_INLINE = 0


@dataclass(frozen=True)
class _Upload:
    """Where the numbers of an upload are.

    Attributes:
        kind: their type.
        data: the numbers themselves; or the digest under which the message is stored.
    """

    kind: np.dtype[np.generic]
    data: bytes
    stored: bool


@final
class PartedTotal:
    """A total whose slices are computed on demand, so that a large model's total is never held whole.

    Given to numpy as an array, it is computed whole. Raises InvalidInput for a slice with a step.
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
    """The server in one attempt, rebuilt by replaying its log; see `ServerParty`.

    Args:
        call: what the clients are called to.
        cohort: the identities that are asked, by position.
        records: its log, where it is rebuilt.
        read: reads uploads that are stored; see `receive_stored`.

    When `phase` is "done", `total` is the sum of the vectors of the `survivors`. When it is "aborted", `reason` says why.
    """

    name = SERVER

    def __init__(
        self,
        call: PlainCall,
        cohort: tuple[bytes, ...],
        records: Sequence[bytes] = (),
        read: Read = lambda digest, start, stop: b"",
    ) -> None:
        self.call, self.cohort = call, cohort
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
        """Whether there is a sum, or there will be none."""
        return self.phase != "upload"

    @property
    def uploads(self) -> int:
        """How many clients have uploaded."""
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
    def parted(self) -> Array:
        """The total, computed slice by slice on demand. Raises ProtocolAbort where there is none."""
        if self.phase != "done":
            raise ProtocolAbort(self.reason or "There is no sum yet: clients are still answering.")
        return cast(Array, PartedTotal(self.call.terms, self._formed))

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

    def receive_stored(self, name: str, message: StoredMessage, examined: bytes) -> Step:
        """Take in an upload message that is stored; see `ServerParty`. Its numbers were checked by `PlainCall.examine`.

        Raises ProtocolAbort for a client that is not in the cohort, and for another size or type.
        """
        position, tag = self._places.get(name), examined[-1]
        if position is None:
            raise ProtocolAbort(f"{name[:16]!r} is not in the cohort.")
        upload_type(tag, message.size - wire.HEAD, self.call.terms)
        if position in self._uploads or self.finished:
            return self._answer(position)
        return self._keep(reference(position, message.digest, tag))

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
        if (found := referenced(record)) is not None:
            digest, tag = found
            self._uploads[position] = _Upload(TYPES[tag], digest, stored=True)
        else:
            kind, _, body = wire.unframe(record[5:])
            if kind is Kind.ABORT:
                self._lost.add(position)
            else:
                self._uploads[position] = _Upload(TYPES[body[0]], body[1:], stored=False)
        settled = len(self._uploads) + len(self._lost - set(self._uploads))
        enough = self.call.terms.enough or len(self.cohort)
        if len(self._uploads) >= enough or settled == len(self.cohort):
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
