"""A pool of threads that live for a whole run, for models that compute outside Python's lock and must not be forked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from manent.core.protocols import Assignment
from manent.core.vectors import Array, aligned_empty
from manent.engines.clients import ClientSide, Unit, UnitAnswer
from manent.engines.pools.allocation import keep_freed
from manent.engines.pools.pool import Measure

AHEAD = 2
"""Jobs for each thread that may be under way, or done, before more are taken."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class Threads:
    """A `Pool` of threads, which share everything but their buffers.

    Args:
        count: how many to start.
    """

    def __init__(self, count: int, side: ClientSide, measure: Measure) -> None:
        self.size = count
        self._measure, self._clients = measure, side.clients
        self._assignment = Assignment("")
        self._sides: SimpleQueue[ClientSide] = SimpleQueue()  # each has its own buffers, so one thread at a time uses it
        for _ in range(count):
            self._sides.put(side.twin())
        keep_freed()
        self._limits = threadpool_limits(1)  # one thread a worker is the fastest
        self._pool = ThreadPoolExecutor(count, "manent-worker")

    def publish(self, assignment: Assignment) -> None:
        """Remember the assignment, with its arrays aligned in memory, so that no client has to copy them again."""
        arrays = {name: aligned_empty(array.shape, array.dtype) for name, array in assignment.arrays.items()}
        for name, array in arrays.items():
            array[...] = assignment.arrays[name]
        self._assignment = Assignment(assignment.sum, arrays)

    def answers(self, units: Iterable[Unit]) -> Iterator[UnitAnswer]:
        """The units' answers, in any order. Raises ClientFailed."""
        return self._each(self._answer, units)

    def _answer(self, unit: Unit) -> UnitAnswer:
        side = self._sides.get()
        try:
            return side.answer(unit, self._assignment)
        finally:
            self._sides.put(side)

    def measure(self, model: Array, clients: list[int]) -> list[dict[str, float]]:
        """The metrics of a model on each client's own test part, in order."""
        return list(self._pool.map(lambda i: self._measure(model, self._clients[i]), clients))

    def _each(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """The work's results, in any order, with a bounded number of them under way."""
        waiting: set[Future[Any]] = set()
        for job in jobs:
            waiting.add(self._pool.submit(work, job))
            if len(waiting) >= AHEAD * self.size:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)

    def terminate(self) -> None:
        """End the threads, each after its present job."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._limits.restore_original_limits()
