"""The server as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from manent.core.errors import InvalidInput, ManentError, NotAuthorized
from manent.network.server import documents
from manent.network.server.http import persons, sites
from manent.network.server.http.admission import THREADS, Admitted, Busy, come_again
from manent.network.server.http.description import PERSON, TEXT, WHOLE, YES, describe, described, table
from manent.network.server.http.metrics import CONTENT_TYPE, Measured, Metrics
from manent.network.server.http.requests import answer, failure
from manent.network.server.http.waiting import Pulse
from manent.network.server.service import Service


async def unfit(request: Request, error: Exception) -> Response:
    """The answer to a parameter that is not as described."""
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)
    return failure(request, InvalidInput(f"This request does not fit: {told}."[:1000]))


async def elsewhere(request: Request, error: Exception) -> Response:
    """The answer to an unknown path or method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    known = dict(getattr(error, "headers", None) or {})
    return answer({"error": f"{status}: {request.method[:20]} has nothing here."}, status, known)


async def busy(request: Request, error: Exception) -> Response:
    """The answer if there is no room for a request."""
    return come_again()


@asynccontextmanager
async def few_threads(app: FastAPI) -> AsyncIterator[None]:
    """Limit the threads in which requests wait for the store and the disk."""
    current_default_thread_limiter().total_tokens = THREADS
    yield


def application(service: Service) -> FastAPI:
    """Every route of a server process."""
    app = FastAPI(title="manent", version="1", docs_url=None, redoc_url=None, lifespan=few_threads)

    async def failed(request: Request, error: Exception) -> Response:
        """The answer to a request that is refused. What is not authorised goes to the audit log."""
        if isinstance(error, NotAuthorized):
            address = "address:" + (request.client.host if request.client else "unknown")
            actor = getattr(request.state, "actor", address)  # the site or person, if known by then
            await run_in_threadpool(service.refusals.note, actor, f"{request.method} {request.url.path}"[:300], str(error))
        return failure(request, error)

    app.add_exception_handler(ManentError, failed)
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_exception_handler(HTTPException, elsewhere)
    app.add_exception_handler(Busy, busy)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    pulse = Pulse()
    service.watch(pulse)
    app.include_router(persons.routes(service))
    app.include_router(persons.study_routes(service))
    metrics = Metrics(service)
    app.add_middleware(Admitted, room=pulse.room)
    app.add_middleware(Measured, metrics=metrics)
    for routes in (sites.routes, sites.study_routes, sites.sum_routes, sites.upload_routes):
        app.include_router(routes(service, pulse))

    @app.get("/health", **described("The process answers", answer=table({"status": TEXT})))
    async def health() -> Response:
        return answer({"status": "ok"})

    standing = table({"ready": YES, "pulse": WHOLE, "reason": TEXT})

    @app.get("/ready", **described("Whether the store answers too", answer=standing, statuses=(503,)))
    async def ready() -> Response:
        def look() -> int:
            with service.store.snapshot() as view:
                return documents.pulse(view)

        found = await run_in_threadpool(look)
        fit = not service.failed and not pulse.draining
        return answer({"ready": fit, "pulse": found, "reason": service.failed}, 200 if fit else 503)

    @app.get("/metrics", **described("For Prometheus, with an administrator's token", PERSON, kind=CONTENT_TYPE))
    async def prometheus(request: Request) -> Response:
        # How many requests come to sums tells how many sites were asked, which may be secret.
        await persons.administrator(request, service)
        return Response(await run_in_threadpool(metrics.text), media_type=CONTENT_TYPE)

    return app
