"""How much a server process does at a time, whatever comes: so its memory does not grow with the number of sites."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from manent.network.wire import protocol

MOST = 1024
"""Requests in work or waiting. Whoever comes beyond is to come again; sites do so by themselves, ever more rarely."""
MOST_HELD = 256
"""Of these, long polls that wait for news. Further ones are answered at once, and say when to ask again."""
MOST_QUEUED = 128
"""Of these, requests of each kind that wait for their turn. Further ones are to come again too."""
MOST_WORKING = 96
"""Requests in work while those who wait for their turn go on: uploads, then downloads, then long polls."""
GRANTED = 30.0
"""Seconds for which room is kept for an upload that may come."""
THREADS = 8
"""That work for requests. Each has its memory and its connection to the store; more of them wait for each other alone."""
AGAIN = 4
"""Seconds after which a long poll that was not held is to be repeated, on average; at least."""
POLLS = 40
"""A second, of all sites together: of many, each asks more rarely."""
_EXEMPT = ("/health", "/ready", "/metrics")


class Turn(IntEnum):
    """Kinds of requests that can wait, those first with which somebody's work is done."""

    UPLOAD = 0
    DOWNLOAD = 1
    POLL = 2


class Busy(Exception):
    """There is no room for this request; it is to come again."""


class Room:
    """The requests in a process: some wait for news, some for their turn, the others are in work. Used in one event loop."""

    def __init__(
        self,
        most: int = MOST,
        most_held: int = MOST_HELD,
        most_queued: int = MOST_QUEUED,
        most_working: int = MOST_WORKING,
    ) -> None:
        self._most, self._most_held, self._most_queued, self._most_working = most, most_held, most_queued, most_working
        self._inside = self._held = 0
        self._queues: tuple[deque[asyncio.Future[None]], ...] = tuple(deque() for _ in Turn)
        self._granted: dict[str, asyncio.TimerHandle] = {}

    def enter(self) -> bool:
        """Whether there is room for one more request."""
        if self._inside >= self._most:
            return False
        self._inside += 1
        return True

    def leave(self) -> None:
        self._inside -= 1
        self._go_on()

    @property
    def can_hold(self) -> bool:
        return self._held < self._most_held

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A request waits for news."""
        self._held += 1
        self._go_on()
        try:
            yield
        finally:
            self._held -= 1

    async def turn(self, kind: Turn, seconds: float = protocol.LONGEST_WAIT) -> bool:
        """Wait until there is room for work on this request. False where there was none in time, or too many wait."""
        queue = self._queues[kind]
        if self._idle and not self._queued:
            return True
        if len(queue) >= self._most_queued:
            return False
        queue.append(turn := asyncio.get_running_loop().create_future())
        self._go_on()  # it was in work until now, and so may have kept itself waiting
        try:
            await asyncio.wait_for(turn, seconds)
        except TimeoutError:
            return False
        finally:
            if turn in queue:
                queue.remove(turn)
        return True

    async def download(self) -> None:
        """Wait for the turn of a download. Raises Busy where it does not come."""
        if not await self.turn(Turn.DOWNLOAD):
            raise Busy

    async def upload(self, key: str) -> None:
        """Wait for the turn of an upload, for which room may have been kept. Raises Busy where it does not come."""
        if not self._redeem(key) and not await self.turn(Turn.UPLOAD):
            raise Busy

    def grant(self, key: str) -> None:
        """Keep room for an upload by this key, which is to come soon."""
        self._redeem(key)
        self._granted[key] = asyncio.get_running_loop().call_later(GRANTED, self._lapse, key)

    def _redeem(self, key: str) -> bool:
        found = self._granted.pop(key, None)
        if found is not None:
            found.cancel()
        return found is not None

    def _lapse(self, key: str) -> None:
        self._redeem(key)
        self._go_on()

    def _go_on(self) -> None:
        """Let whoever waits longest go on; that one's end lets the next."""
        if self._idle:
            self.let_go(1)

    def let_go(self, count: int = MOST) -> None:
        """Let so many go on who wait for their turn, whatever there is to do."""
        for queue in self._queues:
            while queue and count:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    count -= 1

    @property
    def _queued(self) -> int:
        return sum(map(len, self._queues))

    @property
    def _idle(self) -> bool:
        return self._inside - self._held - self._queued + len(self._granted) < self._most_working


class Admitted:
    """Lets so many requests in at a time; others get status 503 before their body is read, and their connection is closed."""

    def __init__(self, app: ASGIApp, room: Room) -> None:
        self._app, self._room = app, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _EXEMPT:
            await self._app(scope, receive, send)
        elif not self._room.enter():
            await _refuse(send)
        else:
            try:
                await self._app(scope, receive, send)
            finally:
                self._room.leave()


async def _refuse(send: Send) -> None:
    response = come_again()
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body})


def come_again() -> Response:
    """For a request that there is no room for. Its connection is closed, which takes memory until it is used again."""
    headers = {protocol.HEADER: str(protocol.VERSION), "Retry-After": str(AGAIN), "Connection": "close"}
    return JSONResponse({"error": "The server has much to do; come again."}, 503, headers)
