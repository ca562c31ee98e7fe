"""Poisson sampling with a largest cohort.

| released | accountant | guarantee |
|---|---|---|
| Gaussian noise | PLD | that of the cut sample: removing a unit from a full cohort brings in another |
| anything that Poisson sampling bounds | RDP | that of the sample without a cut; the probability of a cut joins delta |
| under add_or_remove | both | cuts are those of population + 1 units, the larger neighbour |
| a largest cohort near the mean | RDP | none: the probability of a cut is more than delta can pay, and epsilon is infinite |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from manent.accounting import losses
from manent.accounting.mechanisms.sampling import poisson
from manent.accounting.protocol import (
    Curve,
    Event,
    NeighboringRelation,
    Sampling,
    joint_multiplier,
    set_count,
    set_fraction,
    single,
)
from manent.core.errors import Refused


@dataclass(frozen=True)
class TruncatedPoisson(Sampling):
    """Poisson sampling; of a cohort larger than `largest`, a random part of that size is kept.

    Attributes:
        probability: of each unit; in (0, 1].
        largest: size of the largest cohort that is not cut.
        population: how many units there are.
    """

    brings_another: ClassVar[bool] = True

    probability: float
    largest: int
    population: int

    def __post_init__(self) -> None:
        set_fraction(self, "probability", zero=False)
        set_count(self, "largest", "population")

    def renyi(self, event: Event, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """That of the sample without a cut."""
        return poisson.renyi(self.probability, event, relation, orders)

    def known_to_member(self) -> tuple[Sampling | None, float]:
        """Poisson sampling, except where the sample is cut. There, one unit that was left out tells that others were drawn.

        The chance of a cut is that of a population with one unit more, which is a neighbour under "add_or_remove".
        """
        from scipy.stats import binom

        return poisson.Poisson(self.probability), float(binom.sf(self.largest, self.population + 1, self.probability))

    def uncut(self) -> Sampling:
        """Poisson sampling."""
        return poisson.Poisson(self.probability)

    def overflow(self, relation: NeighboringRelation) -> float:
        """Probability that a Poisson cohort of the larger neighbour is larger than the largest that is not cut.

        With one unit more there are population + 1. Under "zero_out" and "replace_one" both neighbours have the population's
        size, as the unit takes part in both: the same cohorts are cut, with the same probability.
        """
        from scipy.stats import binom

        return float(binom.sf(self.largest, self.population + (relation == "add_or_remove"), self.probability))

    def has_pld(self, event: Event, relation: NeighboringRelation) -> bool:
        """For Gaussian noise."""
        return joint_multiplier(event) is not None

    def pld(self, event: Event, relation: NeighboringRelation, interval: float) -> Any:
        """See `Sampling`."""
        z = joint_multiplier(event)
        if z is None:
            return super().pld(event, relation, interval)
        return losses.of_truncated_gaussian((self.population, self.probability, self.largest), z, relation, interval)

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """See `Sampling`."""
        cut = f"Of more than {self.largest} sampled, of a population of {self.population}, a random {self.largest} are kept."
        return (poisson.drawn(self.probability), cut, *poisson.opposite(relation))

    def to_dp_event(self, event: Event) -> Any:
        """Of one Gaussian release, with the larger neighbour's size. Raises Refused for anything else."""
        import dp_accounting as dp

        event.to_dp_event()  # what dp-accounting has no word for is refused by its own name
        alone = single(event)
        if alone is None or alone.gaussian_multiplier is None:
            raise Refused("dp-accounting has a truncated sample of one Gaussian release only; use manent.accounting.epsilon.")
        size = self.population + 1, self.probability, self.largest
        return dp.dp_event.TruncatedSubsampledGaussianDpEvent(*size, alone.gaussian_multiplier)
