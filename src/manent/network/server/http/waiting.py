"""Long polls: requests that wait for a change, made by this process or another one on the same store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from manent.network.server.http.admission import Room, Turn

Found = TypeVar("Found")


class Pulse:
    """Wakes those who wait when the store's pulse has changed. Set from any thread, waited for in one event loop.

    Args:
        room: how many may wait at a time, for news or for their turn to look. All others look once, or not at all.
    """

    def __init__(self, room: Room | None = None) -> None:
        self.room = room or Room()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._seen = -1
        self.draining = False

    def set(self, pulse: int) -> None:
        """The store's pulse is this now: wake those who wait, if it has changed."""
        if pulse != self._seen:
            self._seen = pulse
            self._call()

    def drain(self) -> None:
        """The server stops: let everyone go who waits."""
        self.draining = True
        self._call()

    def _call(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            with suppress(RuntimeError):  # the loop was closed just now, and nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._event.set()
        self._event = asyncio.Event()
        if self.draining:
            self.room.let_go()

    async def until(self, look: Callable[[], Awaitable[Found | None]], seconds: float) -> Found | None:
        """What `look` finds, as soon as it finds anything; None after so many seconds, or at once if too many wait.

        Polls give way to requests that do work. If thousands wait for the same news, they look a few at a time.
        """
        self._loop = asyncio.get_running_loop()
        end = self._loop.time() + seconds
        left = seconds
        while left <= 0 or self.draining or await self.room.turn(Turn.POLL, left):
            event = self._event  # taken before the look, so that no change after the look is missed
            found = await look()
            left = end - self._loop.time()
            if found is not None or left <= 0 or self.draining or not self.room.can_hold:
                return found
            with self.room.holding(), suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), left)
            left = end - self._loop.time()
        return None
