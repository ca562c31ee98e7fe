"""Sampling of a fixed size, without replacement; the population's size is public.

| released | relation | guarantee |
|---|---|---|
| Gaussian noise | replace_one, zero_out | RDP, against a replacement under both: whoever is not drawn makes room for another |
| Gaussian noise | add_or_remove | none: refused, as the population's size is public |
| anything else | all three | none: refused |
| anything, drawing everyone | as above | no better than the release without sampling; it is not taken for that |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from scipy import special

from manent.accounting import curves
from manent.accounting.mechanisms.sampling import moments
from manent.accounting.protocol import (
    Curve,
    Event,
    NeighboringRelation,
    Sampling,
    joint_multiplier,
    sampled_multiplier,
    set_count,
)
from manent.core.errors import InvalidInput, Refused

_LARGEST = 1 << 16


@dataclass(frozen=True)
class FixedSize(Sampling):
    """`size` of `population` units, drawn without replacement; the population's size is public.

    Attributes:
        size: how many are drawn; at most the population.
        population: how many units there are.
    """

    brings_another: ClassVar[bool] = True
    same_number: ClassVar[bool] = True

    size: int
    population: int

    def __post_init__(self) -> None:
        set_count(self, "size", "population")
        if self.size > self.population:
            raise InvalidInput(f"FixedSize cannot draw {self.size} of {self.population}; ask for fewer.")

    def known_to_member(self) -> tuple[Sampling | None, float]:
        """A unit that was not drawn knows that all who were are among one fewer; of one that was, one fewer are drawn, too."""
        return (FixedSize(self.size, self.population - 1) if self.size < self.population - 1 else None), 0.0

    def amplifies(self, event: Event) -> bool:
        """Gaussian noise alone."""
        return joint_multiplier(event) is not None

    def renyi(self, event: Event, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """See the table above."""
        if relation == "add_or_remove":
            raise Refused(
                "A cohort of fixed size makes the population's size public, so 'add_or_remove' cannot hold: use 'replace_one', "
                "or sample with Poisson."
            )
        z = sampled_multiplier(event, least=1.0)
        if z is None:
            raise Refused("Sampling of a fixed size is accounted for Gaussian noise only; sample with Poisson, or take everyone.")
        # Whoever is not drawn makes room for another, so the sum moves as by a replacement under either relation.
        q = self.size / self.population
        if q == 1:
            return np.asarray(orders, np.float64) / (2 * z**2)
        return curves.from_whole_orders(lambda some: np.array([_at(q, z, int(a)) for a in some]), orders)

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """See `Sampling`."""
        return (
            f"{self.size} of {self.population} units are sampled without replacement, afresh each time, and the observer does "
            "not know who was; the population's size is public.",
        )

    def to_dp_event(self, event: Event) -> Any:
        """See `Sampling`."""
        import dp_accounting as dp

        return dp.SampledWithoutReplacementDpEvent(self.population, self.size, event.to_dp_event())


def _at(q: float, z: float, alpha: int) -> float:
    """Divergence at a whole order (Wang, Balle and Kasiviswanathan 2019, "Subsampled Rényi Differential Privacy and Analytical
    Moments Accountant", Theorem 27), where z is against the distance of any two units. Infinite beyond `_LARGEST`.

    Its forward differences of e^cumulant at 0 are the central moments of the likelihood ratio.
    """
    if alpha > _LARGEST:
        return math.inf
    k = np.arange(2.0, alpha + 1)
    central = _central(z, next(size for size in (128, 2048, 2 * _LARGEST) if alpha < size))
    terms = np.minimum(
        math.log(4) + (central[(k // 2).astype(int) - 1] + central[-(-k // 2).astype(int) - 1]) / 2,
        math.log(2) + k * (k - 1) / (2 * z**2),
    )
    log_drawn = special.gammaln(alpha + 1) - special.gammaln(k + 1) - special.gammaln(alpha - k + 1) + k * math.log(q)
    return float(np.logaddexp(0.0, moments.log_sum(terms + log_drawn))) * (1 + 1e-9) / (alpha - 1)


@lru_cache(maxsize=64)
def _central(z: float, most: int) -> Curve:
    return moments.log_central(z, most)
