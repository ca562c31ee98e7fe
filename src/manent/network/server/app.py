"""The server as an ASGI application."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from manent.core.errors import ManentError, NotAuthorized
from manent.network.server import documents, persons, sites
from manent.network.server.admission import Admitted
from manent.network.server.metrics import CONTENT_TYPE, Measured, Metrics
from manent.network.server.requests import answer, failure
from manent.network.server.service import Service


def application(service: Service) -> FastAPI:
    """Every route of a server process."""
    app = FastAPI(title="manent", version="1", docs_url=None, redoc_url=None)

    async def failed(request: Request, error: Exception) -> Response:
        if isinstance(error, NotAuthorized):
            address = "address:" + (request.client.host if request.client else "unknown")
            actor = getattr(request.state, "actor", address)  # who it is, where that was found before the request was refused
            await run_in_threadpool(service.refusals.note, actor, f"{request.method} {request.url.path}"[:300], str(error))
        return failure(request, error)

    app.add_exception_handler(ManentError, failed)
    app.include_router(persons.routes(service))
    app.include_router(persons.study_routes(service))
    metrics = Metrics(service)
    app.add_middleware(Admitted)
    app.add_middleware(Measured, metrics=metrics)
    app.include_router(sites.routes(service))
    app.include_router(sites.study_routes(service))
    app.include_router(sites.sum_routes(service))

    @app.get("/health")
    async def health() -> Response:
        return answer({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        def look() -> int:
            with service.store.snapshot() as view:
                return documents.pulse(view)

        pulse = await run_in_threadpool(look)
        fit = not service.failed and not service.pulse.draining
        return answer({"ready": fit, "pulse": pulse, "reason": service.failed}, 200 if fit else 503)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(await run_in_threadpool(metrics.text), media_type=CONTENT_TYPE)

    return app
