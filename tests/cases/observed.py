"""Studies whose vectors are known, and epsilons that are worked out without manent's accounting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import optimize, special

import manent as mn
from manent.core.protocols import Assignment, Contribution, SumSpec
from manent.core.vectors import Block, Entry, Layout


@dataclass(frozen=True)
class Give:
    """Every client sends its first row as its vector [size]. What is released is kept in `heard`.

    Attributes:
        remembers: whether clients keep a number between rounds.
    """

    size: int
    remembers: bool = False
    heard: list[Any] = field(default_factory=list, compare=False)

    def to_plain(self) -> dict[str, Any]:
        return {"size": self.size, "remembers": self.remembers}

    def sums(self, public: Any) -> tuple[SumSpec, ...]:
        return (SumSpec("train", Layout((Block("update", (Entry("u", (self.size,)),)),)), "vectors", scalable=True),)

    def memory(self, public: Any) -> Layout | None:
        return Layout((Block("kept", (Entry("kept", (1,)),)),)) if self.remembers else None

    def check(self, client: Any) -> None:
        pass

    def init(self, public: Any, rng: Any) -> dict[str, Any]:
        return {"out": np.zeros(self.size)}

    def assign(self, state: Any, round: int, index: int) -> Assignment | None:
        return Assignment("train", {"model": np.zeros(1, np.float32)}) if index == 0 else None

    def answer(self, assignment: Any, clients: Any, memory: Any, contexts: Any) -> list[Contribution]:
        kept = np.zeros(1, np.float32) if self.remembers else None
        return [Contribution(np.asarray(client.train.x[0], np.float32).copy(), kept) for client in clients]

    def apply(self, state: Any, assignment: Any, released: Any) -> tuple[Any, dict[str, float]]:
        self.heard.append(np.array(released.total))
        return state, {}

    def result(self, state: Any) -> Any:
        return state


def federation(vectors: Sequence[Any]) -> mn.Federation:
    """A client for each vector."""
    clients = tuple(
        mn.Client(f"c{i}", mn.Examples(np.asarray(v, np.float32)[None], np.zeros(1, np.float32))) for i, v in enumerate(vectors)
    )
    return mn.Federation(clients=clients, schema=mn.Schema(shape=(len(vectors[0]),)), name="given")


def units(count: int, size: int = 4) -> mn.Federation:
    """Clients with unit vectors."""
    return federation([np.eye(size)[i % size] for i in range(count)])


def gaussian(z: float, delta: float) -> float:
    """epsilon of Gaussian noise of deviation z on a sum that moves by 1: exact (Balle and Wang 2018, Theorem 8)."""

    def excess(epsilon: float) -> float:
        first, second = special.log_ndtr(1 / (2 * z) - epsilon * z), special.log_ndtr(-1 / (2 * z) - epsilon * z)
        return math.exp(first) - math.exp(epsilon + second) - delta

    return float(optimize.brentq(excess, 0, 1 / (2 * z**2) + 40 / z, xtol=1e-12))


def laplace(scale: float, delta: float) -> float:
    """epsilon of Laplace noise of this scale on a sum that moves by 1: delta = 1 - exp((epsilon - 1/scale) / 2)."""
    return 1 / scale + 2 * math.log1p(-delta)


def shares(z: float, delta: float) -> float:
    """epsilon by Rényi divergences alpha / 2 z^2, which is how shares of noise are accounted (Canonne, Kamath, Steinke 2020)."""
    alpha = 1 + np.exp(np.linspace(-6, 8, 200_001))
    return float((alpha / (2 * z**2) + np.log1p(-1 / alpha) - np.log(delta * alpha) / (alpha - 1)).min())


def stated(study: mn.Study, data: mn.Federation) -> dict[str, float | None]:
    """epsilon against each observer."""
    return {observer.name: observer.epsilon for observer in mn.check(study, data).observers}
