"""Sampling of a fixed size, without replacement; the population's size is public.

| released | relation | guarantee |
|---|---|---|
| Gaussian noise | replace_one, zero_out | RDP, at half the multiplier under both: whoever is not drawn makes room for another |
| Gaussian noise | add_or_remove | none: refused, as the population's size is public |
| anything else | all three | none: refused |
| anything, drawing everyone | as above | no better than the release without sampling; it is not taken for that |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from manent.accounting import losses
from manent.accounting.protocol import Curve, Event, NeighboringRelation, Sampling, joint_multiplier, set_count
from manent.core.errors import InvalidInput, Refused


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
        """See the table above; by dp-accounting."""
        if relation == "add_or_remove":
            raise Refused(
                "A cohort of fixed size makes the population's size public, so 'add_or_remove' cannot hold: use 'replace_one', "
                "or sample with Poisson."
            )
        z = joint_multiplier(event)
        if z is None:
            raise Refused("Sampling of a fixed size is accounted for Gaussian noise only; sample with Poisson, or take everyone.")
        from dp_accounting import GaussianDpEvent, SampledWithoutReplacementDpEvent, rdp

        # Whoever is not drawn makes room for another, so the sum moves by twice the norm under either relation.
        accountant = rdp.RdpAccountant(orders, losses.relation_of("replace_one"))
        accountant.compose(SampledWithoutReplacementDpEvent(self.population, self.size, GaussianDpEvent(z / 2)))
        curve: Curve = accountant.rdp
        return curve

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
