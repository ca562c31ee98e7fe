"""What people ask of the server, with a bearer token: to submit studies, and how they stand. Each study is shown to those who may
see it.
"""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from manent.core.errors import InvalidInput, NotAuthorized
from manent.network.server import documents
from manent.network.server.documents import StudyRecord, SumRecord, study_of
from manent.network.server.http import description as said
from manent.network.server.http.description import PERSON, TEXT, WHOLE, YES, Hash, Seed, Wanted, described
from manent.network.server.http.requests import answer, blob, body_of
from manent.network.server.service import Service
from manent.network.server.submitting import stop, submit
from manent.network.trust.people import Action, Person, may
from manent.network.wire import protocol
from manent.network.wire.bundle import MOST_BYTES, Bundle

MOST_SUBMITTED = 2 * MOST_BYTES + (256 << 20)
STUDY = {
    "hash": TEXT,
    "name": TEXT,
    "phase": TEXT,
    "clients": WHOLE,
    "needed": WHOLE,
    "round": WHOLE,
    "index": WHOLE,
    "released": WHOLE,
    "reason": TEXT,
    "by": TEXT,
    "seed": WHOLE,
}
STUDIES = said.table({"studies": said.rows(said.table(STUDY))})
HASH = said.table({"hash": said.DIGEST})
HISTORY = said.table({"history": said.rows(said.table())})
STATEMENT = said.table({"statement": said.table(), "text": TEXT})
SUM = said.table({"name": TEXT, "round": WHOLE, "index": WHOLE, "attempt": WHOLE, "phase": TEXT, "count": WHOLE, "closes": WHOLE})
DECISIONS = {"type": "object", "additionalProperties": said.table({"accepted": YES, "reason": TEXT})}


async def person(request: Request, service: Service) -> Person:
    """The person whose token the request has. Raises NotAuthorized without a token, and for one that is unknown, wrong or
    revoked.
    """
    protocol.check_version(request.headers.get(protocol.HEADER))
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        raise NotAuthorized("This needs a token: Authorization: Bearer manent-token-...")
    found = await run_in_threadpool(service.people.check, token.strip())
    request.state.actor = found.actor
    return found


async def administrator(request: Request, service: Service) -> None:
    """Raises NotAuthorized for a request that has no administrator's token."""
    who = await person(request, service)
    if who.role != "administrator":
        raise NotAuthorized(f"{who.name} may not read this as a {who.role}; an administrator may.")


async def study_for(request: Request, service: Service, hash: str, action: Action) -> StudyRecord:
    """A study that the person may use in this way.

    Raises NotAuthorized otherwise. Whoever may not see a study is not told whether it exists.
    """
    who = await person(request, service)
    with service.store.snapshot() as view:
        found = study_of(view, hash)
    if found is None or not may(who, "see", found.by):
        raise NotAuthorized(f"There is no study {hash[:64]!r} that {who.name} may see.")
    if not may(who, action, found.by):
        raise NotAuthorized(f"{who.name} may not do that as a {who.role}.")
    return found


def routes(service: Service) -> APIRouter:
    """The routes of people that belong to no single study."""
    router = APIRouter(prefix="/v1")

    @router.get("/studies", **described("The studies that the person may see", PERSON, STUDIES))
    async def studies(request: Request) -> Response:
        who = await person(request, service)
        with service.store.snapshot() as view:
            found = [told(study) for study in documents.studies(view) if may(who, "see", study.by)]
        return answer({"studies": found})

    @router.post("/studies", **described("Submit a study", PERSON, HASH, said.octets(4, MOST_SUBMITTED), good=201))
    async def post(request: Request, sites: Wanted, seed: Seed = 0) -> Response:
        who = await person(request, service)
        if not may(who, "submit"):
            raise NotAuthorized(f"{who.name} may not submit studies as a {who.role}.")
        parts = protocol.unpack(await body_of(request, MOST_SUBMITTED))
        if len(parts) not in (1, 2):
            raise InvalidInput("A submission is a bundle, and perhaps the first vector.")
        initial = parts[1] if len(parts) == 2 else b""
        bundle = await run_in_threadpool(Bundle.read, parts[0])
        hash = await run_in_threadpool(submit, service.rounds, bundle, who.actor, seed, sites, initial)
        service.look()
        return answer({"hash": hash}, 201)

    return router


def study_routes(service: Service) -> APIRouter:
    """The routes of people for one study."""
    router = APIRouter(prefix="/v1")

    standing = said.table({**STUDY, "decisions": DECISIONS}, sum=SUM)

    @router.get("/studies/{hash}", **described("How a study, and its open sum, stand", PERSON, standing))
    async def study(request: Request, hash: Hash) -> Response:
        found = await study_for(request, service, hash, "see")
        with service.store.snapshot() as view:
            members = service.rosters.members(view)
            decided = documents.decisions(view, hash)
            under_way = documents.sum_of(view, found.open) if found.open else None
        by_name = {members.get(key, key): {"accepted": yes, "reason": why} for key, (yes, why) in decided.items()}
        sum = {} if under_way is None else {"sum": told_sum(under_way, service.rounds.plans.plan(found).divisor)}
        return answer({**told(found), "decisions": by_name, **sum})

    @router.post("/studies/{hash}/stop", **described("End a study", PERSON, said.table()))
    async def end(request: Request, hash: Hash) -> Response:
        found = await study_for(request, service, hash, "stop")
        await run_in_threadpool(stop, service.rounds, found.hash, request.state.actor)
        service.look()
        return answer({})

    @router.get("/studies/{hash}/history", **described("What became of each sum", PERSON, HISTORY))
    async def history(request: Request, hash: Hash) -> Response:
        await study_for(request, service, hash, "see")
        with service.store.snapshot() as view:
            return answer({"history": documents.history(view, hash)})

    @router.get("/studies/{hash}/statement", **described("Who sees what", PERSON, STATEMENT))
    async def statement(request: Request, hash: Hash) -> Response:
        found = await study_for(request, service, hash, "see")
        stated = await run_in_threadpool(service.statement, found)
        return answer({"statement": stated.to_plain(), "text": str(stated)})

    @router.get("/studies/{hash}/result", **described("What the study has come to, safetensors", PERSON, ranged=True))
    async def result(request: Request, hash: Hash) -> Response:
        found = await study_for(request, service, hash, "model")
        if not found.result:
            raise InvalidInput("This study has not finished; there is no result yet.")
        return blob(request, service, found.result)

    return router


def told(study: StudyRecord) -> dict[str, Any]:
    """What people are told of a study."""
    return {
        "hash": study.hash,
        "name": study.name,
        "phase": study.phase,
        "clients": study.clients,
        "needed": study.needed,
        "round": study.round,
        "index": study.index,
        "released": study.released,
        "reason": study.reason,
        "by": study.by,
        "seed": study.seed,
    }


def told_sum(record: SumRecord, expected: float | None) -> dict[str, Any]:
    """What people are told of a sum under way; it closes at a whole second since the epoch, rounded up.

    Args:
        expected: how many are expected to be asked, where noise hides how many are; else None.
    """
    return {
        "name": record.name,
        "round": record.round,
        "index": record.index,
        "attempt": record.attempt,
        "phase": record.phase,
        "count": record.count if expected is None else round(expected),
        "closes": math.ceil(record.closes),
    }
