"""Threads and coroutines on a virtual clock: time passes only while all of them wait.

Code that blocks, such as a site's, runs in threads; code that awaits, such as the server's, in the loop. Everything that happens
at one moment happens before the clock moves on. So a day of waiting takes no time, and the course does not depend on how fast the
machine is.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from manent.core.errors import ManentError

Found = TypeVar("Found")


class Killed(BaseException):
    """Ends a thread that is killed."""


class _Clock(selectors.BaseSelector):
    """A selector that lets the clock jump to the next timer once nothing runs."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.now = 0.0
        self._busy, self._real = busy, selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for what runs; if nothing runs, move the clock to the next timer. Raises ManentError if there is none."""
        while timeout is None or timeout > 0:
            if self._busy():
                return self._real.select(None)  # a thread that comes to rest wakes the loop
            if found := self._real.select(0):
                return found
            if timeout is None:
                raise ManentError("Every thread and coroutine waits, and nothing is left to happen.")
            self.now += timeout
            return []
        return self._real.select(0)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See `selectors`."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See `selectors`."""
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """See `selectors`."""
        return self._real.get_map()

    def close(self) -> None:
        """See `selectors`."""
        self._real.close()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop on the virtual clock."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__(clock)
        self._virtual = clock

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now


class Troupe:
    """Threads that are killed together, like those of a process."""

    def __init__(self) -> None:
        self.alive = True
        self.waiting: set[asyncio.Task[Any]] = set()


class Stage:
    """Where threads and coroutines meet. Use it from one thread, in a `with`.

    Attributes:
        loop: the event loop of everything that awaits.
    """

    def __init__(self) -> None:
        self._clock = _Clock(self._busy)
        self.loop = _Loop(self._clock)
        self._running, self._lock = 0, threading.Lock()
        self._threads: list[threading.Thread] = []
        self._troupes: set[Troupe] = set()
        self._mine = threading.local()
        self._limiter: Any = None

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self._clock.now

    def __enter__(self) -> Stage:
        self.loop.run_until_complete(self._begin())
        return self

    async def _begin(self) -> None:
        import anyio.to_thread

        # The threads in which an ASGI application does work that blocks.
        self._limiter = anyio.to_thread.current_default_thread_limiter()

    def __exit__(self, *error: object) -> None:
        self.loop.run_until_complete(self._emptied())
        self.loop.close()

    async def _emptied(self) -> None:
        while any(thread.is_alive() for thread in self._threads):
            for troupe in self._troupes:  # also those that a timer has started since
                self.kill(troupe)
            await asyncio.sleep(1.0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.0)

    def _busy(self) -> bool:
        return self._running > 0 or (self._limiter is not None and self._limiter.borrowed_tokens > 0)

    def _count(self, more: int) -> None:
        with self._lock:
            self._running += more
        if more < 0:
            self.loop.call_soon_threadsafe(lambda: None)

    def start(self, troupe: Troupe, work: Callable[[], None], name: str = "") -> None:
        """Start a thread of a troupe."""

        def body() -> None:
            self._mine.troupe = troupe
            try:
                work()
            except Killed:
                pass
            finally:
                self._count(-1)

        self._count(1)
        self._troupes.add(troupe)
        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self, coroutine: Coroutine[Any, Any, Found]) -> Found:
        """In a thread of the stage: what a coroutine returns. Raises Killed if the thread's troupe was killed."""
        troupe, heard = self._mine.troupe, Future[Found]()
        if not troupe.alive:
            coroutine.close()
            raise Killed

        async def carried() -> None:
            task = asyncio.current_task()
            troupe.waiting.add(task)
            try:
                if not troupe.alive:
                    coroutine.close()
                    raise Killed
                found = await coroutine
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                self._count(1)
                heard.set_exception(Killed() if isinstance(error, asyncio.CancelledError) or not troupe.alive else error)
            else:
                self._count(1)
                heard.set_result(found)
            finally:
                troupe.waiting.discard(task)

        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(carried()))
        self._count(-1)
        return heard.result()

    def kill(self, troupe: Troupe) -> None:
        """End every thread of a troupe where it is waiting. Call it in the event loop."""
        troupe.alive = False
        for task in list(troupe.waiting):
            task.cancel()
