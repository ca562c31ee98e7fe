"""A client in a sum in the clear, as a sans-I/O party."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, final

from manent.core.errors import InvalidInput, ManentError, ProtocolAbort
from manent.core.parties import SERVER, Envelope, KeyRoster, Signer, Step
from manent.core.vectors import Array
from manent.summation.parties import wire
from manent.summation.parties.call import SumExpected
from manent.summation.parties.giving import Giving
from manent.summation.parties.wire import Kind
from manent.summation.plain.terms import PlainCall, PlainTerms, type_tag, upload_message


@final
class PlainClient(Giving):
    """One client in one sum in the clear, over as many attempts as the server makes; see `ClientParty`.

    Args:
        identity: its long-term key, listed in the roster.
        roster: the newest that it has verified.
        expected: what it knows by itself of the sum.
        records: its log, where it is rebuilt.
    """

    ready: ClassVar[str] = "called"

    def __init__(
        self, identity: Signer, roster: KeyRoster, expected: SumExpected[PlainTerms], records: Sequence[bytes] = ()
    ) -> None:
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
    def survivors(self) -> None:
        """A client in the clear cannot tell who else is in the sum."""
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
        """Give the [d] vector, once. Raises InvalidInput for another shape or type, and for a second vector."""
        if not self.needs_vector:
            raise InvalidInput("This client has given its vector; a term is summed once.")
        type_tag(vector, self.expected.terms)
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
        call.check_asks(self.identity.public, self.roster)
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
        """Change nothing, and note why. The server is told too where it has not called this client yet."""
        self.refusals.append(reason)
        if self._call is not None:
            return Step()
        return self._send(wire.frame(Kind.ABORT, bytes(32), wire.reason_bytes(reason)))

    def _send(self, message: bytes) -> Step:
        return Step(send=(Envelope(self.name, SERVER, message),)) if message else Step()
