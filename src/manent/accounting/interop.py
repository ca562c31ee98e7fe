"""The same facts in the words of dp-accounting, for other tools and for comparison."""

from __future__ import annotations

from typing import Any

from manent.accounting.events import (
    Composed,
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    FixedSize,
    Gaussian,
    MatrixFactorisation,
    Poisson,
    Repeated,
    RoundedGaussian,
    Sampled,
    TruncatedPoisson,
    ZeroConcentrated,
    counted,
)
from manent.core.errors import Refused


def to_dp_event(event: Event) -> Any:
    """The `dp_accounting.DpEvent` of an event, with multipliers against adding or removing a unit, as its PLD accountant has.

    Its RDP accountant has a Gaussian's multiplier against the sensitivity of the relation: halve it there for replace-one.

    Raises:
        Refused: for events that dp-accounting has no word for.
    """
    import dp_accounting as dp

    if isinstance(event, Gaussian | RoundedGaussian | MatrixFactorisation):
        return dp.GaussianDpEvent(event.noise_multiplier)
    if isinstance(event, DiscreteGaussian):
        return dp.ZCDpEvent(1 / (2 * event.noise_multiplier**2))
    if isinstance(event, ZeroConcentrated):
        return dp.ZCDpEvent(event.rho)
    if isinstance(event, DiscreteLaplace):
        return dp.dp_event.DiscreteLaplaceDpEvent(1 / event.scale, event.sensitivity)
    if isinstance(event, Repeated):
        return dp.SelfComposedDpEvent(to_dp_event(event.event), event.count)
    if isinstance(event, Composed):
        return dp.ComposedDpEvent([to_dp_event(part) for part in event.events]) if event.events else dp.NoOpDpEvent()
    if isinstance(event, Sampled):
        return _sampled(event)
    raise Refused(f"dp-accounting has no event for {type(event).__name__}; use manent.accounting.epsilon.")


def _sampled(event: Sampled) -> Any:
    import dp_accounting as dp

    inner, by = to_dp_event(event.event), event.by
    if isinstance(by, Poisson):
        return dp.PoissonSampledDpEvent(by.probability, inner)
    if isinstance(by, FixedSize):
        return dp.SampledWithoutReplacementDpEvent(by.population, by.size, inner)
    return _truncated(event, by)


def _truncated(event: Sampled, by: TruncatedPoisson) -> Any:
    import dp_accounting as dp

    inner = [leaf for leaf in counted(event.event) if isinstance(leaf, Gaussian | RoundedGaussian)]
    if len(inner) != 1 or counted(event.event) != {inner[0]: 1}:
        raise Refused("dp-accounting has a truncated sample of one Gaussian release only; use manent.accounting.epsilon.")
    return dp.dp_event.TruncatedSubsampledGaussianDpEvent(by.population, by.probability, by.largest, inner[0].noise_multiplier)
