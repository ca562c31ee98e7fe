"""Requests that schemathesis makes up from the server's own description, signed by a site or with a person's token."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from manent.core.errors import InvalidInput
from manent.network.server.http.app import application
from manent.network.server.http.connections import Impatient
from manent.network.server.submitting import submit
from manent.network.trust.people import ROLES
from manent.network.trust.signing import sign_request
from manent.network.trust.tls import pinned_context, self_signed
from manent.network.wire import protocol
from manent.network.wire.bundle import Bundle
from manent.network.wire.protocol import pack
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind
from manent.summation.plain.terms import PlainCall
from tests.network.parsers import mutated
from tests.network.serving import uvicorn_of
from tests.network.world import World, study_of

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
SITE, NOBODY = "site", "nobody"
WHO = (SITE, *ROLES, NOBODY)
SLOW = "wait"  # a parameter that makes an answer late, and says nothing else


@dataclass
class Counts:
    """What came of the requests to one endpoint."""

    requests: int = 0
    server_errors: int = 0
    schema_violations: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)


class Fuzzed:
    """A server with studies in each phase, and who asks it."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, 4)
        people = self.world.service.people
        self.tokens = {role: people.create(role, role) for role in ROLES}
        over = self.world.begin(study_of(rounds=1, name="over"))
        self.world.run(over)
        running = self.world.begin(study_of(rounds=5, name="running"))
        decided = self.world.submit(study_of(rounds=3, name="deciding"))
        self.world.tick()
        own = Bundle.of(study_of(rounds=2, name="own"), self.world.data.schema, "data").sign(self.world.server.signing_key)
        self.bundle = own.encode()
        gathering = submit(self.world.rounds, own, "person:researcher", 0, 9)
        self.studies = [over, running, decided, gathering]
        self.sums = [self.world.study(running).open, f"{over}-1-0", f"{running}-4-0"]
        call = PlainCall.read(bytes.fromhex(self.world.sum(running).call))
        numbers = b"\x00" + bytes(4 * call.terms.size)
        self.messages = [wire.frame(kind, call.context, numbers) for kind in (Kind.UPLOAD, Kind.ASK, Kind.ABORT)]

    @contextmanager
    def served(self, change: Callable[[dict[str, Any]], None] = lambda described: None) -> Iterator[Fuzzed]:
        """While it is served.

        Args:
            change: what is to be altered in its description, before its answers are compared with that.
        """
        certificate, key, pin = self_signed(self.world.folder / "tls", ["127.0.0.1"])
        app = application(self.world.service)
        with uvicorn_of(app, certificate, key, Impatient) as self.origin:
            self.world.service.origins = (self.origin,)
            self.described = copy.deepcopy(app.openapi())
            change(self.described)
            self.schema = schemathesis.openapi.from_dict(self.described)
            with httpx.Client(verify=pinned_context(pin), timeout=60, trust_env=False) as self.client:
                yield self

    @property
    def operations(self) -> dict[str, Any]:
        """By method and path."""
        found = [result.ok() for result in self.schema.get_all_operations()]
        return {f"{one.method.upper()} {one.path}": one for one in found}

    def bodies(self, name: str) -> st.SearchStrategy[bytes]:
        """For an endpoint that takes bytes: some that nearly fit."""
        sound = [pack([self.bundle]), pack([self.bundle, b"x" * 40])] if name.startswith("POST /v1/studies") else self.messages
        return st.one_of(st.sampled_from(sound), st.sampled_from(sound).flatmap(mutated), st.binary(max_size=300))

    def may_ask(self, name: str) -> tuple[str, ...]:
        """Who gets further than the door; several times, as they are to ask more often."""
        method, path = name.split(" ", 1)
        (known,) = self.described["paths"][path][method.lower()].get("security", [{NOBODY: []}])
        return {"site": (SITE,) * 15, "person": ROLES * 4, NOBODY: ()}[next(iter(known))]

    def asks(self, name: str, count: int, counts: Counts, who: str = "") -> None:
        """So many requests to an endpoint. Everybody asks, or one kind of asker."""
        operation = self.operations[name]

        @given(st.data())
        @settings(
            max_examples=count, deadline=None, database=None, phases=[Phase.generate], verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(data: st.DataObject) -> None:
            case = data.draw(operation.as_strategy())
            known = {"hash": self.studies, "id": self.sums}
            if data.draw(st.integers(0, 3)) < 3:
                for parameter in case.path_parameters or {}:
                    case.path_parameters[parameter] = data.draw(st.sampled_from(known[parameter]))
            if case.query and SLOW in case.query:
                case.query.pop(SLOW)
            if case.headers and data.draw(st.integers(0, 7)) < 7:
                case.headers.pop(protocol.HEADER, None)
            asker = who or data.draw(st.sampled_from((*WHO, *self.may_ask(name))))
            body = data.draw(self.bodies(name)) if case.media_type == "application/octet-stream" else None
            self.ask(case, asker, counts, body)

        ask()

    def ask(self, case: Any, who: str, counts: Counts, body: bytes | None) -> None:
        """One request, and whether its answer is as the description says."""
        answered = self.client.send(self.request(case, who, body))
        counts.requests += 1
        counts.statuses[answered.status_code] += 1
        try:
            case.validate_response(answered, checks=CHECKS)
        except (Failure, FailureGroup) as error:
            for failure in error.exceptions if isinstance(error, FailureGroup) else [error]:
                counts.server_errors += answered.status_code >= 500
                counts.schema_violations += answered.status_code < 500
                counts.told.append(f"{who}: {type(failure).__name__} {failure} ({answered.status_code}: {answered.text[:200]})")

    def request(self, case: Any, who: str, body: bytes | None) -> httpx.Request:
        about: Mapping[str, Any] = case.as_transport_kwargs(base_url=self.origin)
        made = requests.Request(**{name: value for name, value in about.items() if name in _TAKEN}).prepare()
        content = body if body is not None else made.body or b""
        headers = {name: value for name, value in made.headers.items() if name.lower() not in ("content-length", "authorization")}
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
        request = httpx.Request(str(made.method), str(made.url), headers=headers, content=content)
        if who in self.tokens:
            request.headers["authorization"] = f"Bearer {self.tokens[who]}"
        elif who == SITE:
            key = self.world.identities[hashlib.sha256(request.content).digest()[0] % 4].signing_key
            with suppress(InvalidInput):  # of headers that no site can sign
                sign_request(request, key, self.world.now)
        return request


_TAKEN = ("method", "url", "headers", "params", "data", "json", "cookies")


def run(folder: Path, count: int, names: tuple[str, ...] = ()) -> dict[str, Counts]:
    """So many requests to each endpoint, or to some; what came of them."""
    found: dict[str, Counts] = {}
    with Fuzzed(folder).served() as fuzzed:
        for name in names or fuzzed.operations:
            found[name] = Counts()
            fuzzed.asks(name, count, found[name])
    return found
