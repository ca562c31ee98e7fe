"""How a learning rate changes over rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manent.core import validate


@dataclass(frozen=True)
class Constant:
    """The same learning rate in every round."""

    def factor(self, round: int) -> float:
        return 1.0


@dataclass(frozen=True)
class ExponentialDecay:
    """Multiply the learning rate by `rate` every `every` rounds."""

    rate: float
    every: int = 1

    def __post_init__(self) -> None:
        validate.positive("ExponentialDecay", "rate", self.rate)
        validate.count("ExponentialDecay", "every", self.every)

    def factor(self, round: int) -> float:
        return float(self.rate ** ((round - 1) // self.every))


@dataclass(frozen=True)
class CosineDecay:
    """From 1 to `floor` over `rounds` rounds along half a cosine (Loshchilov and Hutter 2017, eq. 5, no restart)."""

    rounds: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        validate.count("CosineDecay", "rounds", self.rounds)
        validate.fraction("CosineDecay", "floor", self.floor)

    def factor(self, round: int) -> float:
        done = min((round - 1) / max(self.rounds - 1, 1), 1.0)
        return float(self.floor + (1 - self.floor) * 0.5 * (1 + np.cos(np.pi * done)))


@dataclass(frozen=True)
class WarmUp:
    """Linear from 1/rounds to 1 over the first `rounds` rounds, then 1."""

    rounds: int

    def __post_init__(self) -> None:
        validate.count("WarmUp", "rounds", self.rounds)

    def factor(self, round: int) -> float:
        return min(round / self.rounds, 1.0)


Schedule = Constant | ExponentialDecay | CosineDecay | WarmUp
