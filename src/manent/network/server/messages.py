"""Messages of sites to the parties of sums. A large message goes to a blob first."""

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
    """Bytes of an upload message of a sum, at most. Raises ProtocolAbort for a sum that is over: late uploads are not kept."""
    with service.store.snapshot() as view:
        record = service.rounds.record(view, id)
        call = service.rounds.call(view, record)
    if record.state != "open":
        raise ProtocolAbort(f"Sum {id} is over ({record.state}); nothing more is taken in.")
    return call.largest_upload


def check_member(service: Service, id: str, key: str) -> SumRecord:
    """The sum, where the site is in its cohort. Raises NotAuthorized where it is not."""
    with service.store.snapshot() as view:
        return _asking(service, view, id, key)


def _asking(service: Service, view: Snapshot, id: str, key: str) -> SumRecord:
    record = service.rounds.record(view, id)
    if key not in service.rounds.cohort(view, record):
        raise NotAuthorized("This sum does not ask this site.")
    return record


def take(service: Service, id: str, key: str, body: bytes) -> list[bytes]:
    """Pass a message on to a sum's party, and return its answers. Raises NotAuthorized for a site that is not asked."""
    with service.blobs.spool() as spool:
        spool.write(body)
        return take_spooled(service, id, key, spool)


def take_spooled(service: Service, id: str, key: str, spool: Spool) -> list[bytes]:
    """Pass on a message that was written to disk as it came, and return the answers. An upload stays there as a blob."""
    call = _call(service, id, key)
    if spool.size > INLINE or call.stores_uploads:
        head = next(spool.read(wire.HEAD), b"")
        if wire.unframe(head)[0] is Kind.UPLOAD:
            return _take_stored(service, id, key, spool.publish(), call)
    body = b"".join(spool.read())
    return _replies(service, id, key, service.rounds.act(id, lambda party, _: party.receive(Envelope(key, SERVER, body))))


def take_stored(service: Service, id: str, key: str, digest: str) -> list[bytes]:
    """Pass on an upload that lies in a blob, and return the answers. An upload that is not taken in is removed.

    Raises ProtocolAbort or InvalidInput for one that cannot be summed.
    """
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
        service.rounds.remove(digest)  # unless it counts already: two sites' uploads may be equal
        raise
    if step.keep:
        return _replies(service, id, key, step)
    # It came a second time, or too late: it is removed, and the site gets the message that it needs now.
    service.rounds.remove(digest)
    told = service.rounds.message(id, key)
    return [] if told is None else [told]


def _replies(service: Service, id: str, key: str, step: Step) -> list[bytes]:
    """What the party says to this site, but for the end of the sum: a site is told of that once the outcome is stored."""
    service.look()
    found = [envelope.body for envelope in step.send if envelope.recipient == key]
    return [body for body in found if wire.unframe(body)[0] is not Kind.CLOSED]
