"""A study whose history tells a number of each noised total, and a watcher that stops a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import manent as mn
from tests.privacy.studies import CENTRAL, FEDAVG, study

ROUNDS = 4


@dataclass(frozen=True)
class Telling:
    """FedAvg, whose report shows the first number of the total, as whoever sees the result could work it out."""

    inner: mn.FedAvg

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def apply(self, state: Any, assignment: Any, released: Any) -> tuple[Any, Mapping[str, float]]:
        after, report = self.inner.apply(state, assignment, released)
        return after, {**report, "seen": float(released.total[0])}


def telling(layers: Any = CENTRAL, rounds: int = ROUNDS, **changes: Any) -> mn.Study:
    return study(layers, rounds, algorithm=Telling(FEDAVG), **changes)


class Stopped(Exception):
    """The watcher has stopped the run."""


@dataclass
class StopAfter:
    """Stops a run once it has told of a round."""

    round: int

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        if round == self.round:
            raise Stopped
