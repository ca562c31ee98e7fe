"""Connections that keep a server waiting are closed; those that wait for the server are not."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from manent.core.errors import ManentError
from manent.network.server.http import requests
from manent.network.server.http.connections import Impatient
from manent.network.server.http.requests import answer, body_of, failure
from manent.network.trust.tls import pinned_context, self_signed
from tests.network.serving import connected, uvicorn_of

GIVEN = b"POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"


class Hasty(Impatient):
    speaking, most_silent = 1.5, 8


def application() -> FastAPI:
    app = FastAPI()
    app.add_exception_handler(ManentError, _failed)

    @app.get("/wait")
    async def wait() -> Response:
        await asyncio.sleep(4)
        return answer({"late": True})

    @app.post("/take")
    async def take(request: Request) -> Response:
        return answer({"length": len(await body_of(request, 10_000_000))})

    @app.post("/leave")
    async def leave() -> Response:
        return answer({"unread": True})

    return app


async def _failed(request: Request, error: Exception) -> Response:
    return failure(request, error)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("tls")
    certificate, key, pin = self_signed(folder, ["127.0.0.1"])
    with uvicorn_of(application(), certificate, key, Hasty) as origin:
        yield origin, pin


def closed_after(connection: ssl.SSLSocket, drip: bytes = b"a", patience: float = 30.0) -> tuple[float, bytes]:
    """Seconds until the server closes a connection on which a byte is sent now and then, and what it has said."""
    began, heard = time.monotonic(), b""
    connection.settimeout(0.1)
    while time.monotonic() - began < patience:
        with suppress(TimeoutError):
            try:
                if drip:
                    connection.sendall(drip)
                part = connection.recv(65536)
            except OSError as error:
                if isinstance(error, TimeoutError | ssl.SSLWantReadError):
                    continue
                part = b""
            if not part:
                return time.monotonic() - began, heard
            heard += part
    raise AssertionError(f"still open after {patience} s")


@pytest.mark.parametrize(
    "begin",
    [b"", b"GET /wait HTTP/1.1\r\nx: ", b"POST /leave HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"],
    ids=["nothing", "a head that never ends", "a body that nobody reads"],
)
@pytest.mark.parametrize("drip", [b"", b"a"])
def test_who_says_nothing_is_closed(served, begin, drip):
    with connected(*served) as connection:
        if begin:
            connection.sendall(begin)
        lasted, heard = closed_after(connection, drip if begin else b"")
        assert lasted >= 1.0
        assert (b'{"unread":true}' in heard) == begin.startswith(b"POST")


def test_a_body_that_drips_is_refused_and_closed(served, monkeypatch):
    monkeypatch.setattr(requests, "PATIENCE", 1.0)
    with connected(*served) as connection:
        connection.sendall(GIVEN)
        _, heard = closed_after(connection)
    assert heard.startswith(b"HTTP/1.1 400")
    assert b"took more than 1 s" in heard


def test_after_an_answer_the_next_head_has_as_long(served):
    with connected(*served) as connection:
        connection.sendall(b"POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx")
        connection.settimeout(30)
        heard = connection.recv(65536)
        connection.sendall(b"GET /wait HTTP/1.1\r\n")
        assert b'{"length":1}' in heard + closed_after(connection)[1]


def test_who_waits_for_an_answer_is_not(served):
    origin, pin = served
    with httpx.Client(verify=pinned_context(pin), base_url=origin, timeout=60, trust_env=False) as client:
        for _ in range(2):
            assert client.get("/wait").json() == {"late": True}


def test_several_requests_at_once_are_answered_in_order(served):
    with connected(*served) as connection:
        one = b"POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"
        connection.sendall(b"".join(one % (n, b"x" * n) for n in (1, 2, 3)))
        _, heard = closed_after(connection, b"")
    assert [heard.find(b'{"length":%d}' % n) > 0 for n in (1, 2, 3)] == [True] * 3


def test_of_many_silent_ones_the_oldest_goes_and_others_are_served(served):
    origin, pin = served
    silent = [connected(origin, pin) for _ in range(40)]
    try:
        with httpx.Client(verify=pinned_context(pin), base_url=origin, timeout=60, trust_env=False) as client:
            assert client.post("/take", content=b"123").json() == {"length": 3}
        closed_after(silent[0], b"")
    finally:
        for connection in silent:
            connection.close()
