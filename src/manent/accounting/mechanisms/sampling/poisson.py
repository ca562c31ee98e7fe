"""Poisson sampling: each unit takes part independently, with the same probability.

| released | relation | guarantee |
|---|---|---|
| Gaussian noise | all three | RDP and PLD |
| discrete Laplace noise, once | add_or_remove, zero_out | RDP by the general bound, and a PLD |
| anything else with a Rényi curve | add_or_remove, zero_out | RDP by the general bound (Zhu and Wang 2019, Theorem 6) |
| anything purely private | add_or_remove, zero_out | also log(1 + q (e^epsilon - 1)), with delta 0 |
| anything but Gaussian noise | replace_one | none: refused |
| anything, with probability 1 | as of the release | no sampling: the release itself |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from manent.accounting import curves, losses
from manent.accounting.mechanisms.sampling import moments
from manent.accounting.protocol import (
    Curve,
    Event,
    NeighboringRelation,
    Sampling,
    counted,
    joint_multiplier,
    set_fraction,
    single,
)
from manent.core.errors import Refused

_LARGEST = 1 << 14  # the largest order of the general bound, which takes as many terms


@dataclass(frozen=True)
class Poisson(Sampling):
    """Each unit takes part independently with this probability; the cohort may be empty or large.

    Attributes:
        probability: in (0, 1].
    """

    probability: float

    def __post_init__(self) -> None:
        set_fraction(self, "probability", zero=False)

    @property
    def everyone(self) -> bool:
        """Whether the probability is 1."""
        return self.probability == 1

    def known_to_member(self) -> tuple[Sampling | None, float]:
        """The same: each unit is drawn whoever else is."""
        return self, 0.0

    def renyi(self, event: Event, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """See the table above."""
        return renyi(self.probability, event, relation, orders)

    def has_pld(self, event: Event, relation: NeighboringRelation) -> bool:
        """For Gaussian noise, and for one release that has a PLD on a Poisson sample."""
        if joint_multiplier(event) is not None:
            return True
        alone = single(event)
        return alone is not None and alone.has_sampled_pld(relation)

    def pld(self, event: Event, relation: NeighboringRelation, interval: float) -> Any:
        """See `Sampling`."""
        z = joint_multiplier(event)
        if z is not None:
            return losses.of_gaussian(z, relation, interval, self.probability)
        alone = single(event)
        return super().pld(event, relation, interval) if alone is None else alone.sampled_pld(self.probability, interval)

    def pure_epsilon(self, epsilon: float, relation: NeighboringRelation) -> float | None:
        """log(1 + q (e^epsilon - 1)), except under replacement (Balle, Barthe and Gaboardi 2018, Theorem 8)."""
        if relation == "replace_one":
            return None
        large = math.log(self.probability) + epsilon
        return min(
            epsilon, math.log1p(self.probability * math.expm1(epsilon)) if epsilon < 30 else math.log1p(math.exp(-large)) + large
        )

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """See `Sampling`."""
        return (drawn(self.probability), *opposite(relation))

    def to_dp_event(self, event: Event) -> Any:
        """See `Sampling`."""
        import dp_accounting as dp

        return dp.PoissonSampledDpEvent(self.probability, event.to_dp_event())


def drawn(probability: float) -> str:
    """The claim that units are drawn by Poisson sampling."""
    return (
        f"Each unit is sampled independently with probability {probability:g} (Poisson), afresh each time, and the observer does "
        "not know who was."
    )


def opposite(relation: NeighboringRelation) -> tuple[str, ...]:
    """The claim about replacements, where the relation is one."""
    return ("Of all replacements, the opposite contribution is taken to be the worst.",) if relation == "replace_one" else ()


def renyi(q: float, event: Event, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
    """Rényi divergence of a release on a Poisson sample of probability q at each order, float64[orders].

    Raises Refused under "replace_one" for anything but Gaussian noise.
    """
    z = joint_multiplier(event)
    if z is None:
        if relation == "replace_one":
            raise Refused(
                "Poisson sampling under 'replace_one' is accounted for Gaussian noise only; use 'add_or_remove' or 'zero_out'."
            )
        largest = min(math.ceil(max(orders)), _LARGEST)
        whole = tuple(map(float, range(2, max(largest, 2) + 1)))
        cumulants = (np.asarray(whole) - 1) * curves.renyi(counted(event), relation, whole)
        return curves.from_whole_orders(lambda some: np.array([_of_any(q, cumulants, int(a)) for a in some]), orders)
    return (moments.replaced if relation == "replace_one" else moments.poisson)(q, z, np.asarray(orders, np.float64))


def _of_any(q: float, cumulants: Curve, alpha: int) -> float:
    """Any release with a Rényi curve, adding or removing, at a whole order (Zhu and Wang 2019, Theorem 6).

    The theorem's first term is 1 less the binomial probabilities of 2 and more; they are taken from the terms that follow.
    Infinite beyond `_LARGEST`, where the release without sampling has to do.

    Args:
        cumulants: (order - 1) times the divergence of the release, at the orders 2, 3, ...
    """
    if alpha > _LARGEST:
        return math.inf
    if q == 1:
        return float(cumulants[alpha - 2]) / (alpha - 1)
    k = np.arange(2.0, alpha + 1)
    log_drawn = _log_binomial(alpha, k) + k * math.log(q) + (alpha - k) * math.log1p(-q)
    grown = cumulants[: alpha - 1] + np.where(k > 2, math.log(3), 0.0)
    with np.errstate(divide="ignore"):
        excess = moments.log_sum(log_drawn + grown + np.log(-np.expm1(-grown)))
    return float(np.logaddexp(0.0, excess)) * (1 + 1e-9) / (alpha - 1)


def _log_binomial(n: int, k: Curve) -> Curve:
    log: Curve = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return log
