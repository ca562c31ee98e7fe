"""Skellam noise: the difference of two Poisson numbers, which stays Skellam when shares of it are added.

| relation | guarantee of one sum (Agarwal, Kairouz and Liu 2021, Theorem 3.5) |
|---|---|
| add_or_remove, zero_out | a Rényi curve at whole orders, from both norms and the variance; interpolated in between |
| replace_one | the same with both norms doubled |
| sampled | Poisson, except under replace_one, by the general bound; not by a fixed size |
| a small variance | a bound still, but far above that of a Gaussian of the same variance |
| PLD, zCDP | none: it is accounted by RDP |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manent.accounting import curves
from manent.accounting.protocol import CHANGE, Curve, Event, NeighboringRelation, set_positive


@dataclass(frozen=True)
class Skellam(Event):
    """A sum of whole numbers with Skellam noise.

    Attributes:
        variance: of the noise that is certainly in the sum, in squared steps of the grid.
        l2_sensitivity, l1_sensitivity: the largest norms of one unit's whole numbers, in steps.
    """

    variance: float
    l2_sensitivity: float
    l1_sensitivity: float

    def __post_init__(self) -> None:
        set_positive(self, "variance", "l2_sensitivity", "l1_sensitivity")

    def renyi(self, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """Agarwal, Kairouz and Liu 2021, Theorem 3.5, at whole orders, and between them."""
        two, one, mu = CHANGE[relation] * self.l2_sensitivity, CHANGE[relation] * self.l1_sensitivity, self.variance

        def bound(alpha: Curve) -> Curve:
            beyond = np.minimum(((2 * alpha - 1) * two**2 + 6 * one) / (4 * mu**2), 3 * one / (2 * mu))
            return alpha * two**2 / (2 * mu) + beyond

        return curves.from_whole_orders(bound, orders)

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """See `Event`."""
        return (f"Noise of variance {self.variance:g}, at least, was added to the sum by honest parties.",)
