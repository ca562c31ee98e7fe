"""What a site's connection makes of answers: when it asks again, and that it asks before it sends much."""

from __future__ import annotations

import json

import httpx
import pytest

import manent as mn
from manent.crypto import SigningKey, SystemRandom
from manent.network.site.connection import Connection
from manent.network.wire import protocol

ID = "a" * 64 + "-1-0"
CASES = [("40", 20, 60), ("4", 2, 6), ("999", 30, 90), ("", 0.5, 1.5), ("-3", 0.5, 1.5), ("0", 0.5, 1.5)]


@pytest.fixture
def slept():
    return []


def said(status, data=b"", headers=None):
    return httpx.Response(status, stream=httpx.ByteStream(data), headers=headers or {})


def length(value):
    return said(200, json.dumps({"length": value}).encode())


def connection_to(answer, slept):
    """A connection whose requests are answered by a function of them; and those requests."""
    asked: list[httpx.Request] = []

    def handle(request):
        asked.append(request)
        return answer(request, len(asked))

    transport = httpx.MockTransport(handle)
    key = SigningKey.generate(SystemRandom())
    return Connection("https://server.test", None, key, transport=transport, pause=slept.append), asked


@pytest.mark.parametrize(("header", "low", "high"), CASES)
def test_a_poll_that_is_not_held_is_asked_again_when_the_server_says(slept, header, low, high):
    connection, _ = connection_to(lambda *_: said(204, headers={"Retry-After": header}), slept)
    for _ in range(200):
        assert connection.ask("GET", "/v1/tasks", b"", {"wait": 25.0}) is None
    assert all(low <= seconds <= high for seconds in slept)
    assert len(slept) == 200
    assert len(set(slept)) > 100  # not all sites at once


def test_a_question_that_does_not_wait_is_answered_without_a_pause(slept):
    connection, _ = connection_to(lambda *_: said(204), slept)
    assert connection.message(ID, "", 0.0) is None
    assert not slept


@pytest.mark.parametrize("size", [10, protocol.SMALL, protocol.SMALL + 1, protocol.MOST_MESSAGE + 10])
def test_room_is_asked_for_before_a_large_message_and_waited_for(slept, size):
    def answer(request, count):
        if request.method == "GET":
            return said(204, headers={"Retry-After": "4"}) if count < 3 else length(0)
        if request.method == "PUT":
            return length(int(request.url.params["offset"]) + len(request.content))
        return said(200, protocol.pack([b"reply"]))

    connection, asked = connection_to(answer, slept)
    assert connection.post(ID, bytes(size)) == [b"reply"]
    asking = [request for request in asked if request.method == "GET"]
    assert len(asking) == (3 if size > protocol.SMALL else 0)
    assert len(slept) == max(0, len(asking) - 1)
    assert sum(len(request.content) for request in asked) >= size


def test_what_a_server_says_has_arrived_is_looked_at(slept):
    connection, _ = connection_to(lambda *_: length(2**40), slept)
    with pytest.raises(mn.ProtocolAbort):
        connection.post(ID, bytes(protocol.SMALL + 1))
