"""The smallest study: every client sends its first row as its vector, and all that is released is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import manent as mn
from manent.core.examples import Client, Examples, Public, Schema
from manent.core.protocols import Assignment, ClientContext, Contribution, Released, SumSpec
from manent.core.vectors import Array, Block, Entry, Layout, Vector
from manent.crypto import SystemRandom
from manent.data.federation import Federation

RELEASED: list[NDArray[np.float64]] = []
"""The totals of the simulation that ran last, in order."""


@dataclass(frozen=True)
class Give:
    """Sums of vectors of two blocks of `size` / 2 numbers (one block for a size of 1)."""

    size: int

    def sums(self, public: Public) -> tuple[SumSpec, ...]:
        """One sum, of vectors that may be scaled down."""
        half = self.size // 2
        parts = [(f"part {i}", n) for i, n in enumerate((half, self.size - half)) if n]
        layout = Layout(tuple(Block(name, (Entry(name, (n,)),)) for name, n in parts))
        return (SumSpec("train", layout, "vectors", scalable=True),)

    def memory(self, public: Public) -> Layout | None:
        """Clients keep nothing."""
        return None

    def check(self, client: Client) -> None:
        """Any data will do."""

    def init(self, public: Public, rng: np.random.Generator) -> dict[str, Array]:
        """No state."""
        return {"nothing": np.zeros(1, np.float32)}

    def assign(self, state: Mapping[str, Array], round: int, index: int) -> Assignment | None:
        """One sum a round."""
        return Assignment("train", {"nothing": np.zeros(1, np.float32)}) if index == 0 else None

    def answer(
        self,
        assignment: Assignment,
        clients: Sequence[Client],
        memory: Sequence[Vector | None],
        contexts: Sequence[ClientContext],
    ) -> Sequence[Contribution]:
        """The first row of each client."""
        return [Contribution(np.asarray(client.train.x[0], np.float32).copy()) for client in clients]

    def apply(
        self, state: Mapping[str, Array], assignment: Assignment, released: Released
    ) -> tuple[dict[str, Array], dict[str, float]]:
        """Keeps the total."""
        RELEASED.append(np.array(released.total, np.float64))
        return dict(state), {}

    def result(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """Nothing."""
        return dict(state)


def federation(vectors: Any) -> Federation:
    """Clients whose vectors are the rows of [n, d]."""
    rows = np.asarray(vectors, np.float32)
    clients = [Client(f"client {i}", Examples(row[None], np.zeros(1, np.float32))) for i, row in enumerate(rows)]
    return Federation(clients=tuple(clients), schema=Schema(shape=(rows.shape[1],)), name="audit")


def released(study: mn.Study, vectors: Any) -> NDArray[np.float64]:
    """[rounds, d]: what a simulation of the study releases, with a cohort and noise that nobody can foresee."""
    RELEASED.clear()
    seed = int(SystemRandom().words(1)[0] >> np.uint64(33))
    mn.simulate(study, federation(vectors), seed=seed, workers=0, watcher=(), evaluate_every=10**9)
    return np.array(RELEASED)
