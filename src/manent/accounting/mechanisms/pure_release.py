"""Any release that is known to be purely private: randomised response, a choice, a test.

| relation asked for | guarantee of one release with (epsilon, 0) under its own relation |
|---|---|
| its own | epsilon |
| replace_one, stated under another | 2 epsilon: a replacement is two steps |
| any other | none: refused |
| sampled | Poisson, except under replace_one, by the general bound; not by a fixed size |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manent.accounting import curves, losses
from manent.accounting.protocol import Curve, Event, NeighboringRelation, check_relation, set_positive
from manent.core.errors import Refused


@dataclass(frozen=True)
class PureRelease(Event):
    """A release that is epsilon-differentially private under one relation.

    Attributes:
        epsilon: > 0.
        neighboring_relation: what epsilon is stated for.
    """

    epsilon: float
    neighboring_relation: NeighboringRelation

    def __post_init__(self) -> None:
        set_positive(self, "epsilon")
        check_relation(self.neighboring_relation, "PureRelease")

    def pure_epsilon(self, relation: NeighboringRelation) -> float:
        """epsilon of one release, with delta 0. Raises Refused where its relation says nothing about the one asked for."""
        if self.neighboring_relation == relation:
            return self.epsilon
        if relation == "replace_one":
            return 2 * self.epsilon
        raise Refused(
            f"A release that is private under {self.neighboring_relation!r} says nothing under {relation!r}; "
            f"state its epsilon for the relation of the budget."
        )

    def zcdp(self, relation: NeighboringRelation) -> float:
        """epsilon^2 / 2 (Bun and Steinke 2016, Proposition 1.4)."""
        return self.pure_epsilon(relation) ** 2 / 2

    def renyi(self, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """The worst curve of its epsilon."""
        return curves.pure(self.pure_epsilon(relation), orders)

    def has_pld(self, relation: NeighboringRelation) -> bool:
        """Always; `pld` refuses a relation that it says nothing about."""
        return True

    def pld_width(self, relation: NeighboringRelation) -> float:
        """Twice its epsilon."""
        return 2 * self.pure_epsilon(relation)

    def pld(self, relation: NeighboringRelation, interval: float, count: int) -> Any:
        """The worst of its epsilon."""
        return losses.many(losses.of_pure(self.pure_epsilon(relation), interval), count)
