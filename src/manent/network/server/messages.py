"""Messages of sites to the parties of sums: what is large goes to a blob first."""

from __future__ import annotations

from functools import partial

from manent.core.errors import InvalidInput, NotAuthorized, ProtocolAbort
from manent.core.parties import SERVER, AnyCall, Envelope, Step, StoredMessage
from manent.core.store import Snapshot
from manent.network.server.documents import SumRecord
from manent.network.server.parties import INLINE
from manent.network.server.service import Service
from manent.storage.blobs import Spool
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind


def largest(service: Service, id: str) -> int:
    """Bytes of an upload message of a sum, at most. Raises ProtocolAbort for a sum that is over: what comes late is not kept."""
    with service.store.snapshot() as view:
        record = service.rounds.record(view, id)
        call = service.rounds.call(view, record)
    if record.state != "open":
        raise ProtocolAbort(f"Sum {id} is over ({record.state}); nothing more is taken in.")
    return call.largest_upload


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
    if spool.size > INLINE or call.stores_uploads:
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
    size, read = service.blobs.size(digest), partial(service.blobs.read, digest)
    message = StoredMessage(bytes.fromhex(digest), size, read)
    try:
        examined = call.examine(message)
        step = service.rounds.act(id, lambda party, _: party.receive_stored(key, message, examined), digest)
    except (ProtocolAbort, InvalidInput):
        service.rounds.remove(digest)  # but not one that counts already: two sites' uploads may be equal
        raise
    if step.keep:
        return _replies(service, id, key, step)
    # It came again, or too late: then it is thrown away, and the site is told that the sum is over.
    service.rounds.remove(digest)
    told = service.rounds.message(id, key)
    return [] if told is None else [told]


def _replies(service: Service, id: str, key: str, step: Step) -> list[bytes]:
    """What the party says to this site. That the sum is over, a site is told once it is stored how it ended."""
    service.look()
    found = [envelope.body for envelope in step.send if envelope.recipient == key]
    return [body for body in found if wire.unframe(body)[0] is not Kind.CLOSED]
