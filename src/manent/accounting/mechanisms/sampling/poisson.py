"""Poisson sampling: each unit takes part independently, with the same probability.

| released | relation | guarantee |
|---|---|---|
| Gaussian noise | all three | RDP and PLD |
| discrete Laplace noise, once | add_or_remove, zero_out | RDP by the general bound, and a PLD |
| anything else with a Rényi curve | add_or_remove, zero_out | RDP by the general bound (Zhu and Wang 2019, Theorem 6) |
| anything but Gaussian noise | replace_one | none: refused |
| anything, with probability 1 | as of the release | no sampling: the release itself |
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from manent.accounting import curves, losses
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
        whole = tuple(range(2, math.ceil(max(orders)) + 1))
        divergence = dict(zip(whole, curves.renyi(counted(event), relation, tuple(map(float, whole))), strict=True))
        return curves.from_whole_orders(lambda a: _of_any(q, divergence, a), orders)
    if relation == "replace_one":
        return _of_gaussian_replaced(q, z, np.asarray(orders))
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, rdp

    with _without_warnings():
        curve: Curve = rdp.RdpAccountant(orders).compose(PoissonSampledDpEvent(q, GaussianDpEvent(z))).rdp
    return curve


@contextmanager
def _without_warnings() -> Iterator[None]:
    """dp-accounting warns of each order that it leaves out. Its divergence is then infinite, which is still a bound."""
    logger = logging.getLogger("absl")
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "Excluding this order" not in str(record.msg)


def _of_any(q: float, divergence: Mapping[int, float], alpha: int) -> float:
    """Any release with a Rényi curve, adding or removing, at a whole order (Zhu and Wang 2019, Theorem 6)."""
    if q == 1:
        return divergence[alpha]
    log_q, log_rest = math.log(q), math.log1p(-q)
    parts = [(alpha - 1) * log_rest + math.log(alpha * q - q + 1)]
    parts.append(_log_binomial(alpha, 2) + 2 * log_q + (alpha - 2) * log_rest + divergence[2])
    for k in range(3, alpha + 1):
        parts.append(math.log(3) + _log_binomial(alpha, k) + (alpha - k) * log_rest + k * log_q + (k - 1) * divergence[k])
    bound = float(special.logsumexp(parts)) / (alpha - 1)
    return min(bound, divergence[alpha])


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _of_gaussian_replaced(q: float, z: float, alpha: Curve) -> Curve:
    """Divergence of (1-q) N(0) + q N(-1) from (1-q) N(0) + q N(1), the pair that dp-accounting's PLD takes too.

    By the trapezoidal rule, which on a whole line converges exponentially for such integrands.
    """
    values = []
    for order in alpha:
        reach = 2 * order + 12 * z
        steps = math.ceil(8 * reach / z)
        if steps > 200_000:
            # With so little noise sampling hardly matters; without it the divergence is that of N(-1) from N(1).
            values.append(2 * order / z**2)
            continue
        x = np.linspace(-reach, reach, 2 * steps + 1)
        rest, drawn = math.log1p(-q) - x**2 / (2 * z**2) if q < 1 else np.full_like(x, -np.inf), math.log(q)
        near = np.logaddexp(rest, drawn - (x + 1) ** 2 / (2 * z**2))
        far = np.logaddexp(rest, drawn - (x - 1) ** 2 / (2 * z**2))
        scale = math.log(x[1] - x[0]) - math.log(z) - math.log(2 * math.pi) / 2
        values.append((special.logsumexp(order * near + (1 - order) * far) + scale) / (order - 1))
    curve: Curve = np.maximum(np.asarray(values), 0)
    return curve
