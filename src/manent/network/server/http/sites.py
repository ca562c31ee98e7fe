"""What sites ask of the server. Every request is signed, and every id is checked against who asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput
from manent.core.store import Snapshot
from manent.network.server import documents, messages
from manent.network.server.documents import StudyRecord, study_of
from manent.network.server.http import description as told
from manent.network.server.http.admission import AGAIN, POLLS, Room, Turn
from manent.network.server.http.description import SITE, TEXT, WHOLE, YES, Hash, Number, Offset, Seen, SumId, Wait, described
from manent.network.server.http.requests import Asked, answer, blob, headed, octets, signed, spooled, told_size
from manent.network.server.http.waiting import Pulse
from manent.network.server.service import Service
from manent.network.server.submitting import decide
from manent.network.trust.signing import Verifier
from manent.network.wire import protocol
from manent.storage.blobs import Spool

_STUDY = dict.fromkeys(("hash", "name", "phase", "reason"), TEXT) | dict.fromkeys(("clients", "roster", "seed"), WHOLE)
TASKS = told.table({"studies": told.rows(told.table({**_STUDY, "decided": YES})), "sums": told.rows(TEXT), "roster": WHOLE})
_SUM = dict.fromkeys(("id", "study", "name", "call", "assignment", "state", "reason"), TEXT)
SUM = told.table({**_SUM, **dict.fromkeys(("round", "index", "attempt", "roster"), WHOLE), "included": YES}, survivors=WHOLE)
LENGTH = told.table({"length": WHOLE})
SUMS = "/v1/sums/{id}"


def routes(service: Service, pulse: Pulse) -> APIRouter:
    """The routes of sites that belong to no study and no sum."""
    router = APIRouter(prefix="/v1")
    verifier, newcomers = service.verifier(), service.newcomers()

    async def asked(request: Request, most: int = 1 << 16) -> Asked:
        return await signed(request, verifier, service.origins, most)

    known = {"name": TEXT, "public": TEXT, "version": WHOLE, "signer": TEXT, "quick_start": YES}

    @router.get("/server", **described("Who the server is", answer=told.table(known)))
    async def server(request: Request) -> Response:
        signer = service.rosters.signer.hex()
        own = signer == service.identity.public_hex
        known = {"name": service.identity.name, "public": service.identity.public_hex, "version": protocol.VERSION}
        return answer({**known, "signer": signer, "quick_start": own})

    joins = told.table({"name": TEXT, "secret": TEXT})

    @router.post("/join", **described("Join, with an invitation", SITE, told.table({"member": YES}), joins))
    async def join(request: Request) -> Response:
        found = await signed(request, newcomers, service.origins, once=False)  # to repeat it changes nothing
        name, secret = texts(found.body, "name", "secret")
        on = await run_in_threadpool(service.rosters.join, secret, name, found.key, service.clock())
        service.look()
        return answer({"member": on})

    @router.get("/roster", **described("A signed roster", SITE))
    async def roster(request: Request, number: Number = 0) -> Response:
        await signed(request, newcomers, service.origins, once=False)
        with service.store.snapshot() as view:
            return octets(service.rosters.signed(view, number or service.rosters.newest(view)).encode())

    @router.get("/tasks", **described("Studies to decide about, and sums that ask the site", SITE, TASKS, statuses=(204,)))
    async def tasks(request: Request, wait: Wait = 0.0, seen: Seen = "") -> Response:
        key = (await asked(request)).key

        async def look() -> bytes | None:
            found = await run_in_threadpool(tasks_of, service, key)
            return None if sha256(found).hexdigest() == seen else found

        return await polled(service, pulse, look, wait, "application/json")

    return router


def study_routes(service: Service, pulse: Pulse) -> APIRouter:
    """The routes of sites for one study."""
    router, verifier = APIRouter(prefix="/v1/studies/{hash}"), service.verifier()

    async def asked(request: Request, hash: str) -> tuple[Asked, StudyRecord]:
        found = await signed(request, verifier, service.origins)
        return found, await run_in_threadpool(known_study, service, hash)

    @router.get("/bundle", **described("The bundle of a study", SITE, ranged=True))
    async def bundle(request: Request, hash: Hash) -> Response:
        _, study = await asked(request, hash)
        return blob(request, service, study.bundle)

    decides = told.table({"accepted": YES}, reason=TEXT, roster=WHOLE)

    @router.post("/decision", **described("Whether the site takes part", SITE, told.table(), decides))
    async def decision(request: Request, hash: Hash) -> Response:
        found, study = await asked(request, hash)
        values = table(found.body)
        accepted, reason, number = values.get("accepted"), values.get("reason", ""), values.get("roster")
        if not isinstance(accepted, bool) or not isinstance(reason, str) or not (number is None or type(number) is int):
            raise InvalidInput("A decision has 'accepted', true or false, 'reason', a text, and perhaps 'roster', a number.")
        # The next tick looks at it: to look at once, for each of thousands, would read all of them each time.
        await run_in_threadpool(decide, service.rounds, study.hash, found.key, accepted, reason, number)
        return answer({})

    @router.get("/model", **described("The result of a study that has finished, safetensors", SITE, ranged=True))
    async def model(request: Request, hash: Hash) -> Response:
        _, study = await asked(request, hash)
        if not study.result:
            raise InvalidInput("This study has not finished; there is no result yet.")
        await pulse.room.download()
        return blob(request, service, study.result)

    return router


async def member(request: Request, id: str, service: Service, verifier: Verifier, once: bool = True) -> Asked:
    """The request of a site that the sum asks. Raises NotAuthorized for any other."""
    found = await signed(request, verifier, service.origins, once=once)
    await run_in_threadpool(messages.check_member, service, id, found.key)
    return found


@asynccontextmanager
async def member_sends(
    request: Request, id: str, service: Service, room: Room, verifier: Verifier, most: int
) -> AsyncIterator[tuple[str, Spool]]:
    """Who sends to a sum, and the body on disk. A body is read only if it comes from a member of the cohort.

    Raises:
        NotAuthorized: for anyone else.
        Busy: if there is no room for a large body.
    """
    found = await headed(request, verifier, service.origins)
    await run_in_threadpool(messages.check_member, service, id, found.keyid)
    if told_size(request) > protocol.SMALL:
        await room.upload(found.keyid)
    async with spooled(request, verifier, found, service.blobs, most) as spool:
        yield found.keyid, spool


def sum_routes(service: Service, pulse: Pulse) -> APIRouter:
    """The routes of sites for one sum."""
    router, verifier, anyone = APIRouter(prefix=SUMS), service.verifier(), service.newcomers()

    @router.get("", **described("How a sum stands", SITE, SUM))
    async def about(request: Request, id: SumId) -> Response:
        # A site that has left the roster since still hears how a sum ended to which it sent its vector.
        key = (await member(request, id, service, anyone, once=False)).key
        return answer(await run_in_threadpool(sum_of_site, service, id, key))

    @router.get("/assignment", **described("What clients are sent, safetensors", SITE, ranged=True))
    async def assignment(request: Request, id: SumId) -> Response:
        await member(request, id, service, verifier)
        await pulse.room.download()
        with service.store.snapshot() as view:
            return blob(request, service, service.rounds.record(view, id).assignment)

    @router.get("/message", **described("What the site's party needs now", SITE, statuses=(204,)))
    async def message(request: Request, id: SumId, after: Seen = "", wait: Wait = 0.0) -> Response:
        key = (await member(request, id, service, verifier)).key

        async def look() -> bytes | None:
            found = await run_in_threadpool(service.rounds.message, id, key)
            return None if found is None or sha256(found).hexdigest() == after else found

        return await polled(service, pulse, look, wait)

    @router.post("/message", **described("A message to the sum", SITE, body=told.MESSAGE))
    async def post(request: Request, id: SumId) -> Response:
        async with member_sends(request, id, service, pulse.room, verifier, protocol.MOST_MESSAGE) as (key, spool):
            replies = await run_in_threadpool(messages.take_spooled, service, id, key, spool)
        return octets(protocol.pack(replies))

    return router


def upload_routes(service: Service, pulse: Pulse) -> APIRouter:
    """The routes of an upload in parts."""
    router, verifier = APIRouter(prefix=SUMS), service.verifier()

    @router.get("/upload", **described("How much of an upload has arrived, once there is room", SITE, LENGTH, statuses=(204,)))
    async def stands(request: Request, id: SumId, wait: Wait = 0.0) -> Response:
        key = (await member(request, id, service, verifier)).key
        if wait > 0 and not await pulse.room.turn(Turn.UPLOAD, min(wait, protocol.LONGEST_WAIT)):
            return later(AGAIN)
        pulse.room.grant(key)
        return answer({"length": await run_in_threadpool(service.parts.length, upload_id(service, id, key))})

    @router.put("/upload", **described("A part of an upload", SITE, LENGTH, told.octets(0, protocol.PART)))
    async def part(request: Request, id: SumId, offset: Offset) -> Response:
        async with member_sends(request, id, service, pulse.room, verifier, protocol.PART) as (key, spool):
            most = await run_in_threadpool(messages.largest, service, id)
            if not offset >= 0 or offset + spool.size > most:
                raise InvalidInput(f"An upload of this sum has at most {most:,} bytes.")
            name = upload_id(service, id, key)
            length = await run_in_threadpool(service.parts.append, name, offset, spool.read())
        return answer({"length": length})

    @router.post("/upload/complete", **described("The upload is whole", SITE, body=told.table({"digest": told.DIGEST})))
    async def complete(request: Request, id: SumId) -> Response:
        found = await member(request, id, service, verifier)
        (digest,) = texts(found.body, "digest")
        name = upload_id(service, id, found.key)
        stored = await run_in_threadpool(service.parts.finish, name, digest)
        return octets(protocol.pack(await run_in_threadpool(messages.take_stored, service, id, found.key, stored)))

    return router


async def polled(
    service: Service, pulse: Pulse, look: Callable[[], Awaitable[bytes | None]], wait: float, kind: str = protocol.OCTETS
) -> Response:
    """What a look finds within so many seconds. If the poll could not be held that long, the answer says when to ask again."""
    clock, wait = asyncio.get_running_loop().time, min(wait, protocol.LONGEST_WAIT)
    began = clock()
    found = await pulse.until(look, wait)
    if found is not None or clock() - began >= wait:
        return octets(found, kind)
    sites = await run_in_threadpool(count_sites, service)
    return later(max(AGAIN, sites // POLLS))


def later(seconds: int) -> Response:
    """Nothing yet, and in how many seconds to ask again. Until then the connection is closed, and takes no memory."""
    response = octets(None)
    response.headers.update({"Retry-After": str(seconds), "Connection": "close"})
    return response


def count_sites(service: Service) -> int:
    """How many sites are on the newest roster."""
    with service.store.snapshot() as view:
        return len(service.rosters.members(view))


def upload_id(service: Service, id: str, key: str) -> str:
    """The name of a site's upload in the present attempt."""
    with service.store.snapshot() as view:
        return service.rounds.record(view, id).upload(key)


def tasks_of(service: Service, key: str) -> bytes:
    """The studies that a site should know of, and the open sums that ask it, as canonical JSON."""
    with service.store.snapshot() as view:
        studies = [study for study in documents.studies(view) if study.phase != "gathering"]
        return canonical(
            {
                "studies": [_told(view, study, key) for study in studies],
                "sums": [study.open for study in studies if study.open and _asks(service, view, study.open, key)],
                "roster": service.rosters.newest(view),
            }
        )


def _asks(service: Service, view: Snapshot, id: str, key: str) -> bool:
    return key in service.rounds.cohort(view, service.rounds.record(view, id))


def _told(view: Snapshot, study: StudyRecord, key: str) -> dict[str, Any]:
    decided = view.get(documents.decision_key(study.hash, key)) is not None
    return {
        "hash": study.hash,
        "name": study.name,
        "phase": study.phase,
        "clients": study.clients,
        "roster": study.roster,
        "seed": study.seed,
        "reason": study.reason,
        "decided": decided,
    }


def sum_of_site(service: Service, id: str, key: str) -> dict[str, Any]:
    """What a site is told of a sum, beside the messages of its party.

    How many are in the sum is left out if noise hides that number.
    """
    with service.store.snapshot() as view:
        record = service.rounds.record(view, id)
        study = study_of(view, record.study)
    about: dict[str, Any] = {
        "id": record.id,
        "study": record.study,
        "name": record.name,
        "round": record.round,
        "index": record.index,
        "attempt": record.attempt,
        "call": record.call,
        "roster": record.roster,
        "assignment": record.assignment,
        "state": record.state,
        "reason": record.reason,
        "included": key in record.included,
    }
    public = study is not None and service.rounds.plans.plan(study).divisor is None
    return {**about, "survivors": len(record.included)} if public else about


def known_study(service: Service, hash: str) -> StudyRecord:
    """A study by its hash. Raises InvalidInput for an unknown one."""
    with service.store.snapshot() as view:
        found = study_of(view, hash)
    if found is None:
        raise InvalidInput(f"There is no study {hash[:64]!r}.")
    return found


def table(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidInput for anything else."""
    try:
        found = json.loads(body)
        canonical(found)  # no text that cannot be encoded, and no NaN
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput("The body is not a JSON object.")
    return found


def texts(body: bytes, *names: str) -> list[str]:
    """Text members of a JSON object. Raises InvalidInput for one that is missing or not text."""
    found = table(body)
    for name in names:
        if not isinstance(found.get(name), str):
            raise InvalidInput(f"The body lacks {name!r}, or it is no text.")
    return [found[name] for name in names]
