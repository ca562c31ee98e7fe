"""A pool without workers: one unit after another in this process, for debugging, and where processes cannot be forked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from manent.core.protocols import Assignment
from manent.core.vectors import Array
from manent.engines.clients import ClientSide, Unit, UnitAnswer
from manent.engines.pools.pool import Measure


class InProcess:
    """A `Pool` of this process alone. Its answers come in order."""

    size = 1

    def __init__(self, side: ClientSide, measure: Measure) -> None:
        self._side, self._measure = side, measure
        self._assignment = Assignment("")

    def publish(self, assignment: Assignment) -> None:
        """Remember the assignment."""
        self._assignment = assignment

    def answers(self, units: Iterable[Unit]) -> Iterator[UnitAnswer]:
        """The units' answers, in order. Raises ClientFailed."""
        return (self._side.answer(unit, self._assignment) for unit in units)

    def measure(self, model: Array, clients: list[int]) -> list[dict[str, float]]:
        """The metrics of a model on each client's own test part, in order."""
        return [self._measure(model, self._side.clients[i]) for i in clients]

    def terminate(self) -> None:
        """There is nothing to end."""
