"""Messages of sites to the parties of sums: what is large goes to a blob first."""

from __future__ import annotations

import numpy as np

from manent.core.errors import InvalidInput, NotAuthorized, ProtocolAbort
from manent.core.parties import SERVER, Envelope, Step
from manent.core.store import Snapshot
from manent.network.server.documents import SumRecord
from manent.network.server.parties import INLINE
from manent.network.server.service import Service
from manent.network.wire.sums import AnyCall, ServerParty
from manent.storage.blobs import Spool
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind
from manent.summation.plain.parties import STRETCH, PlainCall, PlainServer, check_numbers, upload_type
from manent.summation.secagg import ring


def largest(service: Service, id: str) -> int:
    """Bytes of an upload message of a sum, at most. Raises ProtocolAbort for a sum that is over: what comes late is not kept."""
    with service.store.snapshot() as view:
        record = service.rounds.record(view, id)
        call = service.rounds.call(view, record)
    if record.state != "open":
        raise ProtocolAbort(f"Sum {id} is over ({record.state}); nothing more is taken in.")
    if isinstance(call, PlainCall):
        return wire.HEAD + 1 + 8 * call.terms.size
    return wire.HEAD + ring.packed_size(call.terms.size, call.terms.bits)


def check_member(service: Service, id: str, key: str) -> SumRecord:
    """The sum, where the site is in its cohort; raises NotAuthorized where it is not."""
    with service.store.snapshot() as view:
        return _asking(service, view, id, key)


def _asking(service: Service, view: Snapshot, id: str, key: str) -> SumRecord:
    record = service.rounds.record(view, id)
    if key not in service.rounds.cohort(view, record):
        raise NotAuthorized("This sum does not ask this site.")
    return record


def take(service: Service, id: str, key: str, body: bytes) -> list[bytes]:
    """Pass a message on to a sum's party; what it answers."""
    with service.blobs.spool() as spool:
        spool.write(body)
        return take_spooled(service, id, key, spool)


def take_spooled(service: Service, id: str, key: str, spool: Spool) -> list[bytes]:
    """Pass on a message that was written to a disk as it came; an upload stays there."""
    call = _call(service, id, key)
    if spool.size > INLINE or isinstance(call, PlainCall):
        head = next(spool.read(wire.HEAD), b"")
        if wire.unframe(head)[0] is Kind.UPLOAD:
            return _take_stored(service, id, key, spool.publish(), call)
    body = b"".join(spool.read())
    return _replies(service, id, key, service.rounds.act(id, lambda party, _: party.receive(Envelope(key, SERVER, body))))


def take_stored(service: Service, id: str, key: str, digest: str) -> list[bytes]:
    """Pass on an upload that lies in a blob. Where it is not taken in, the blob goes."""
    return _take_stored(service, id, key, digest, _call(service, id, key))


def _call(service: Service, id: str, key: str) -> AnyCall:
    """The call of a sum that asks this site."""
    with service.store.snapshot() as view:
        return service.rounds.call(view, _asking(service, view, id, key))


def _take_stored(service: Service, id: str, key: str, digest: str, call: AnyCall) -> list[bytes]:
    size = service.blobs.size(digest)
    try:
        if isinstance(call, PlainCall):
            tag = _check_plain(service, call, digest, size)
            step = service.rounds.act(id, lambda party, _: _stored(party, key, bytes.fromhex(digest), size, tag), digest)
        else:
            body = b"".join(service.blobs.read(digest))
            step = service.rounds.act(id, lambda party, _: party.receive(Envelope(key, SERVER, body)), digest)
    except (ProtocolAbort, InvalidInput):
        service.rounds.remove(digest)  # but not one that counts already: two sites' uploads may be equal
        raise
    if step.keep:
        return _replies(service, id, key, step)
    # It came again, or too late: then it is thrown away, and the site is told that the sum is over.
    service.rounds.remove(digest)
    told = service.rounds.message(id, key)
    return [] if told is None else [told]


def _stored(party: ServerParty, key: str, digest: bytes, size: int, tag: int) -> Step:
    if not isinstance(party, PlainServer):
        raise ProtocolAbort("This sum is not one in the clear.")
    return party.stored(key, digest, size, tag)


def _check_plain(service: Service, call: PlainCall, digest: str, size: int) -> int:
    """The type of a stored upload's numbers. Raises ProtocolAbort for what cannot be summed."""
    head = b"".join(service.blobs.read(digest, 0, min(size, wire.HEAD + 1)))
    kind, context, body = wire.unframe(head)
    if kind is not Kind.UPLOAD or context != call.context or not body:
        raise ProtocolAbort("This upload belongs to another attempt, or is none.")
    number = upload_type(body[0], size - wire.HEAD, call.terms)
    for chunk in service.blobs.read(digest, wire.HEAD + 1, size, STRETCH * number.itemsize):
        check_numbers(np.frombuffer(chunk, number), call.terms)
    return body[0]


def _replies(service: Service, id: str, key: str, step: Step) -> list[bytes]:
    """What the party says to this site. That the sum is over, a site is told once it is stored how it ended."""
    service.look()
    found = [envelope.body for envelope in step.send if envelope.recipient == key]
    return [body for body in found if wire.unframe(body)[0] is not Kind.CLOSED]
