"""A limit on how much a server process does at a time, so that its memory does not grow with the number of sites."""

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
"""The most requests that are in work or wait. Others are told to come again; sites do so by themselves, after longer and longer
pauses."""
MOST_HELD = 256
"""The most of these that are long polls waiting for news. Others are answered at once, and told when to ask again."""
MOST_QUEUED = 128
"""The most of these, of each kind, that wait for their turn. Others are told to come again."""
MOST_WORKING = 96
"""While fewer requests than this are in work, waiting ones are admitted: uploads, then downloads, then long polls."""
GRANTED = 30.0
"""Seconds for which room is kept for an upload that was announced."""
THREADS = 8
"""Threads that work for requests. Each takes memory and a connection to the store; more would only wait for each other."""
AGAIN = 4
"""Seconds, on average, after which a site repeats a long poll that was not held; more when there are many sites."""
POLLS = 40
"""About how many long polls all sites together repeat in a second: the more sites, the more rarely each asks."""
_EXEMPT = ("/health", "/ready", "/metrics")


class Turn(IntEnum):
    """The kinds of requests that can wait for their turn, most urgent first: somebody's work waits for uploads and downloads."""

    UPLOAD = 0
    DOWNLOAD = 1
    POLL = 2


class Busy(Exception):
    """There is no room for this request now; the client should send it again later."""


class Room:
    """The requests in a process. Some wait for news, some for their turn, and the others are in work. Used in one event loop.

    Args:
        most, most_held, most_queued, most_working: as MOST, MOST_HELD, MOST_QUEUED and MOST_WORKING.
    """

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
        """Take a place for one more request. Returns False if there is none."""
        if self._inside >= self._most:
            return False
        self._inside += 1
        return True

    def leave(self) -> None:
        """Give a request's place back."""
        self._inside -= 1
        self._go_on()

    @property
    def can_hold(self) -> bool:
        """Whether one more long poll may wait for news."""
        return self._held < self._most_held

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Count a request as waiting for news."""
        self._held += 1
        self._go_on()
        try:
            yield
        finally:
            self._held -= 1

    async def turn(self, kind: Turn, seconds: float = protocol.LONGEST_WAIT) -> bool:
        """Wait until there is room for work on this request.

        Returns False if its turn did not come within so many seconds, or if too many of its kind wait already.
        """
        queue = self._queues[kind]
        if self._idle and not self._queued:
            return True
        if len(queue) >= self._most_queued:
            return False
        queue.append(turn := asyncio.get_running_loop().create_future())
        self._go_on()  # until now this request counted as in work, which may have left no room for itself
        try:
            await asyncio.wait_for(turn, seconds)
        except TimeoutError:
            return False
        finally:
            if turn in queue:
                queue.remove(turn)
        return True

    async def download(self) -> None:
        """Wait for the turn of a download. Raises Busy if it does not come."""
        if not await self.turn(Turn.DOWNLOAD):
            raise Busy

    async def upload(self, key: str) -> None:
        """Wait for the turn of an upload, unless room was kept for it. Raises Busy if the turn does not come."""
        if not self._redeem(key) and not await self.turn(Turn.UPLOAD):
            raise Busy

    def grant(self, key: str) -> None:
        """Keep room for an upload by this key for GRANTED seconds."""
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
        """If there is room, admit the next request in the queue. Each that ends admits the next."""
        if self._idle:
            self.let_go(1)

    def let_go(self, count: int = MOST) -> None:
        """Admit the next `count` requests in the queues, whatever the load."""
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
    """Lets a limited number of requests in. Others get status 503 before their body is read, and their connection is closed."""

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
    """The answer to a request that there is no room for. It closes the connection, which would take memory until it is used
    again.
    """
    headers = {protocol.HEADER: str(protocol.VERSION), "Retry-After": str(AGAIN), "Connection": "close"}
    return JSONResponse({"error": "The server has much to do; come again."}, 503, headers)
