"""Schedules: how the learning rate changes over the rounds. `factor(round)` multiplies the declared rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manent.core import validate


@dataclass(frozen=True)
class Constant:
    """The same learning rate in every round."""

    def factor(self, round: int) -> float:
        """1 in every round."""
        return 1.0


@dataclass(frozen=True)
class ExponentialDecay:
    """Multiplies the learning rate by `rate` after every `every` rounds.

    Raises InvalidInput unless rate is finite and above 0, and every is a whole number of at least 1.
    """

    rate: float
    every: int = 1

    def __post_init__(self) -> None:
        validate.positive("ExponentialDecay", "rate", self.rate)
        validate.count("ExponentialDecay", "every", self.every)

    def factor(self, round: int) -> float:
        """rate ** ((round - 1) // every); rounds count from 1."""
        return float(self.rate ** ((round - 1) // self.every))


@dataclass(frozen=True)
class CosineDecay:
    """From 1 in the first round down to `floor` in round `rounds`, along half a cosine, and `floor` from then on.

    Loshchilov and Hutter 2017, eq. 5, without restarts. Raises InvalidInput unless rounds is a whole number of at least 1, and
    floor lies between 0 and 1.
    """

    rounds: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        validate.count("CosineDecay", "rounds", self.rounds)
        validate.fraction("CosineDecay", "floor", self.floor)

    def factor(self, round: int) -> float:
        """Between `floor` and 1; rounds count from 1."""
        done = min((round - 1) / max(self.rounds - 1, 1), 1.0)
        return float(self.floor + (1 - self.floor) * 0.5 * (1 + np.cos(np.pi * done)))


@dataclass(frozen=True)
class WarmUp:
    """Rises linearly from 1/rounds to 1 over the first `rounds` rounds, and stays at 1.

    Raises InvalidInput unless rounds is a whole number of at least 1.
    """

    rounds: int

    def __post_init__(self) -> None:
        validate.count("WarmUp", "rounds", self.rounds)

    def factor(self, round: int) -> float:
        """min(round / rounds, 1); rounds count from 1."""
        return min(round / self.rounds, 1.0)


Schedule = Constant | ExponentialDecay | CosineDecay | WarmUp
