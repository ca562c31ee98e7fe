"""So many requests at a time: others are told to come again, and nothing of theirs is held."""

from __future__ import annotations

import asyncio

import pytest

from manent.network.server.admission import Admitted
from manent.network.server.waiting import Pulse


async def asked(app, path="/v1/tasks"):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("The body of a request that is not let in was read.")

    await app({"type": "http", "path": path}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def test_beyond_the_limit_requests_are_sent_away_and_later_ones_are_let_in():
    async def run():
        go = asyncio.Event()

        async def slow(scope, receive, send):
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        app = Admitted(slow, most=3)
        inside = [asyncio.create_task(asked(app)) for _ in range(3)]
        await asyncio.sleep(0)
        status, headers = await asked(app)
        assert (status, headers[b"connection"], int(headers[b"retry-after"]) > 0) == (503, b"close", True)
        health = asyncio.create_task(asked(app, "/health"))
        await asyncio.sleep(0)
        go.set()
        assert [status for status, _ in await asyncio.gather(*inside, health)] == [200] * 4
        assert (await asked(app))[0] == 200

    asyncio.run(run())


def test_a_request_that_fails_leaves_room():
    async def run():
        async def broken(scope, receive, send):
            raise RuntimeError("broken")

        app = Admitted(broken, most=1)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                await asked(app)

    asyncio.run(run())


def test_so_many_polls_are_held_and_others_answered_at_once():
    async def run():
        pulse, there = Pulse(most=2), []

        async def look():
            return there[0] if there else None

        held = [asyncio.create_task(pulse.until(look, 30)) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert await asyncio.wait_for(pulse.until(look, 30), 5) is None
        there.append("news")
        pulse.set(1)
        assert await asyncio.wait_for(asyncio.gather(*held), 5) == ["news", "news"]
        assert await pulse.until(look, 30) == "news"

    asyncio.run(run())
