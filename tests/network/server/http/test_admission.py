"""So many requests at a time: others are told to come again, and nothing of theirs is held."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.network.server.http import admission
from manent.network.server.http.admission import Admitted, Room, Turn
from manent.network.server.http.waiting import Pulse


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

        app = Admitted(slow, Room(most=3))
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

        app = Admitted(broken, Room(most=1))
        for _ in range(3):
            with pytest.raises(RuntimeError):
                await asked(app)

    asyncio.run(run())


def test_so_many_polls_are_held_and_others_answered_at_once():
    async def run():
        pulse, there = Pulse(Room(most_held=2)), []

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


class Played:
    """Requests that enter a room, wait their turn there, work for some loops, and leave."""

    def __init__(self, room):
        self.room, self.order, self.working, self.most = room, [], 0, 0

    async def request(self, name, kind=Turn.POLL, work=3):
        assert self.room.enter()
        try:
            if not await self.room.turn(kind, 5):
                return False
            self.order.append(name)
            self.working += 1
            self.most = max(self.most, self.working)
            for _ in range(work):
                await asyncio.sleep(0)
            self.working -= 1
            return True
        finally:
            self.room.leave()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Turn), st.integers(0, 5)), max_size=40), st.integers(1, 4))
def test_all_get_their_turn_and_few_at_a_time(requests, most):
    async def run():
        played = Played(Room(most_working=most))
        tasks = [asyncio.create_task(played.request(i, *of)) for i, of in enumerate(requests)]
        assert all(await asyncio.wait_for(asyncio.gather(*tasks), 20))
        assert sorted(played.order) == list(range(len(requests)))
        assert played.most <= most

    asyncio.run(run())


def test_what_ends_somebodys_work_goes_first_and_else_who_came_first():
    async def run():
        played = Played(Room(most_working=1))
        played.room.enter()
        of = [Turn.POLL, Turn.DOWNLOAD, Turn.UPLOAD, Turn.POLL, Turn.UPLOAD]
        tasks = [asyncio.create_task(played.request((kind, number), kind)) for number, kind in enumerate(of)]
        await asyncio.sleep(0.01)
        assert not played.order
        played.room.leave()
        assert all(await asyncio.gather(*tasks))
        assert played.order == [(Turn.UPLOAD, 2), (Turn.UPLOAD, 4), (Turn.DOWNLOAD, 1), (Turn.POLL, 0), (Turn.POLL, 3)]

    asyncio.run(run())


def test_room_is_kept_for_an_upload_and_given_up_when_none_comes(monkeypatch):
    async def run():
        monkeypatch.setattr(admission, "GRANTED", 0.2)
        room = Room(most_queued=1, most_working=2)
        assert all(room.enter() for _ in range(2))
        room.grant("site")
        waiting = asyncio.create_task(room.turn(Turn.UPLOAD, 30))
        await asyncio.sleep(0)
        with pytest.raises(admission.Busy):
            await room.upload("other")  # one waits already
        await room.upload("site")  # its room was kept
        room.grant("site")
        assert await asyncio.wait_for(waiting, 5)  # it has lapsed

    asyncio.run(run())


def test_a_turn_that_does_not_come_in_time_is_none():
    async def run():
        room = Room(most_working=1)
        assert all(room.enter() for _ in range(2))  # one that is in work, and whoever asks here
        assert not await room.turn(Turn.POLL, 0.01)
        assert not await Pulse(room).until(looks_in_vain, 0.01)
        pulse = Pulse(room)
        waiting = asyncio.create_task(pulse.until(looks_in_vain, 30))
        await asyncio.sleep(0.01)
        pulse.drain()  # the server stops: nobody waits any more
        assert await asyncio.wait_for(waiting, 5) is None

    asyncio.run(run())


async def looks_in_vain():
    return None
