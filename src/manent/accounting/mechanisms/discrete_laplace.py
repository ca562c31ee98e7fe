"""Discrete Laplace noise: purely private.

| relation | guarantee of one release |
|---|---|
| add_or_remove, zero_out | epsilon = sensitivity / scale, with delta 0 |
| replace_one | r times that: the sum moves by r times the norm, where r is `replaced`, 2 unless it is said |
| sampled | Poisson, except under replace_one; not by a fixed size |
| a change of more than 10,000 steps | the PLD is the worst one of that epsilon; on a sample there is none, but the epsilon |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from manent.accounting import curves, losses
from manent.accounting.protocol import Curve, Event, NeighboringRelation, set_count, set_positive, set_ratio

_MOST_STEPS = 10_000


@dataclass(frozen=True)
class DiscreteLaplace(Event):
    """Whole numbers plus noise with P(k) proportional to exp(-|k| / scale).

    Attributes:
        scale: of the noise, in steps of the grid; > 0.
        sensitivity: the largest L1 norm of one unit's whole numbers, in steps of the grid; >= 1.
        replaced: how far a replacement moves it, as a multiple of that norm; in (0, 2]. For one-hot vectors, 2.
    """

    scale: float
    sensitivity: int
    replaced: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        set_positive(self, "scale")
        set_count(self, "sensitivity")
        set_ratio(self)

    def pure_epsilon(self, relation: NeighboringRelation) -> float:
        """epsilon of one release, with delta 0: the smallest that rounds to this scale, which is a rounded quotient itself."""
        return self.change(relation) * _meant(self.sensitivity, self.scale)

    def zcdp(self, relation: NeighboringRelation) -> float:
        """epsilon^2 / 2 (Bun and Steinke 2016, Proposition 1.4)."""
        return self.pure_epsilon(relation) ** 2 / 2

    def renyi(self, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """The worst curve of its epsilon."""
        return curves.pure(self.pure_epsilon(relation), orders)

    def has_pld(self, relation: NeighboringRelation) -> bool:
        """Always."""
        return True

    def pld(self, relation: NeighboringRelation, interval: float, count: int) -> Any:
        """The exact one; with more than `_MOST_STEPS` distinct losses, the looser one of a pure release of the same epsilon."""
        steps = math.ceil(self.change(relation) * self.sensitivity)
        if steps > _MOST_STEPS:
            return losses.many(losses.of_pure(self.pure_epsilon(relation), interval), count)
        return losses.many(losses.of_discrete_laplace(self.scale, steps, interval), count)

    def pld_width(self, relation: NeighboringRelation) -> float:
        """Twice its epsilon."""
        return 2 * self.pure_epsilon(relation)

    def has_sampled_pld(self, relation: NeighboringRelation) -> bool:
        """Except under replacement, and for more losses than are told apart."""
        return relation != "replace_one" and self.sensitivity <= _MOST_STEPS

    def sampled_pld(self, probability: float, interval: float) -> Any:
        """See `Event`."""
        return losses.of_discrete_laplace(self.scale, self.sensitivity, interval, probability)

    def to_dp_event(self) -> Any:
        """See `Event`."""
        import dp_accounting as dp

        return dp.dp_event.DiscreteLaplaceDpEvent(1 / self.scale, self.sensitivity)


def _meant(sensitivity: int, scale: float) -> float:
    """The smallest epsilon of which sensitivity / epsilon rounds to this scale; their quotient where there is none."""
    found = lower = sensitivity / scale
    for _ in range(4):
        lower = math.nextafter(lower, 0.0)
        found = lower if sensitivity / lower == scale else found
    return found
