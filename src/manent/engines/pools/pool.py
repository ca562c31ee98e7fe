"""What a pool of workers is to the loop of a simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from manent.core.examples import Client
from manent.core.protocols import Assignment
from manent.core.vectors import Array
from manent.engines.clients import Unit, UnitAnswer

Measure = Callable[[Array, Client], dict[str, float]]
"""The metrics of a model, float32[d], on a client's own test part."""


class Pool(Protocol):
    """Workers that answer units of a cohort, and measure clients. They live for a whole run.

    The result of a run does not depend on how many there are, nor on the order in which they answer.
    """

    @property
    def size(self) -> int:
        """How many work at the same time."""
        ...

    def publish(self, assignment: Assignment) -> None:
        """Give the workers the assignment of the next sum."""
        ...

    def answers(self, units: Iterable[Unit]) -> Iterator[UnitAnswer]:
        """The units' answers, in any order. The array of an answer may be used again once the next is asked for.

        Raises ClientFailed where a client cannot answer.
        """
        ...

    def measure(self, model: Array, clients: list[int]) -> list[dict[str, float]]:
        """The metrics of a model, float32[d], on the own test part of each of these clients, in order."""
        ...

    def terminate(self) -> None:
        """End the workers at once, and free what they hold."""
        ...
