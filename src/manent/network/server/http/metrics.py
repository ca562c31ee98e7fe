"""Metrics for Prometheus: what happened since the process began, and how studies and sites stand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manent.network.server import documents
from manent.network.server.service import Service

_METHODS = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH"})
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of a server process. They tell nothing of a site's data: no label names a site."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("manent_requests", "Requests by route and status", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("manent_request_seconds", "Duration of requests", ["route"], registry=self.registry)
        self.received = Counter("manent_received_bytes", "Bytes of bodies received", registry=self.registry)
        self.sent = Counter("manent_sent_bytes", "Bytes of bodies sent", registry=self.registry)
        self.registry.register(_Standing(service))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Standing:
    """How studies stand, read from the store when asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, as Prometheus' client asks for them."""
        with self._service.store.snapshot() as view:
            studies = documents.studies(view)
            members = len(self._service.rosters.members(view))
        phases = GaugeMetricFamily("manent_studies", "Studies by phase", labels=["phase"])
        for phase in ("gathering", "deciding", "running", "finished", "failed"):
            phases.add_metric([phase], sum(study.phase == phase for study in studies))
        yield phases
        yield GaugeMetricFamily("manent_sites", "Sites on the newest roster", members)
        yield GaugeMetricFamily("manent_sums_open", "Sums under way", sum(bool(study.open) for study in studies))
        yield GaugeMetricFamily("manent_sums_released", "Sums released, or counted as such", sum(s.released for s in studies))
        yield GaugeMetricFamily("manent_healthy", "Whether the last step went well", float(not self._service.failed))


class Measured:
    """Counts every request, by its route and never by its path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began, metrics = [500], time.perf_counter(), self._metrics

        async def counted() -> Message:
            """Receive, and count the bytes."""
            message = await receive()
            metrics.received.inc(len(message.get("body", b"")))
            return message

        async def noted(message: Message) -> None:
            """Send, and note status and bytes."""
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            metrics.sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            await self._app(scope, counted, noted)
        finally:
            route: Any = scope.get("route")
            # A label must not be of a stranger's choice: each new one would take memory.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            name = f"{method} {getattr(route, 'path', 'unknown')}"
            metrics.requests.labels(name, str(status[0])).inc()
            metrics.seconds.labels(name).observe(time.perf_counter() - began)
