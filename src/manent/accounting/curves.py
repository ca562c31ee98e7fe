"""Rényi curves: of each event the divergence at every order, under one neighbouring relation. They add up under composition.

A multiplier z is taken at z / 2 where one unit replaces another, since the sum then changes by twice the norm. (The RDP
accountant of dp-accounting 0.6 does not do so by itself: its Gaussian is against whatever the relation's sensitivity is.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from manent.accounting.events import (
    DiscreteGaussian,
    DiscreteLaplace,
    DistributedDiscreteGaussian,
    Event,
    FixedSize,
    Gaussian,
    MatrixFactorisation,
    NeighboringRelation,
    PureRelease,
    RoundedGaussian,
    Sampled,
    Skellam,
    TruncatedPoisson,
    ZeroConcentrated,
    counted,
)
from manent.core.errors import Refused

Curve = NDArray[np.float64]
ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
FEW_ORDERS = (1.1, 1.3, 1.6, *map(float, (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256, 512, 1024)))
"""For a first estimate. Fractional orders of sampled noise take much longer than whole ones."""
_DOUBLED = {"add_or_remove": 1, "zero_out": 1, "replace_one": 2}


def tau(local_stddev: float, parties: int) -> float:
    """How far a sum of discrete Gaussians is from a discrete Gaussian (Kairouz, Liu and Steinke 2021, Theorem 1).

    Args:
        local_stddev: of one party's noise, in steps of the grid; from 2 on the loss is negligible.
    """
    k = np.arange(1, parties)
    return float(10 * np.exp(-2 * math.pi**2 * local_stddev**2 * k / (k + 1)).sum())


def rounded_norm(norm: float, dimension: int, beta: float = math.exp(-0.5)) -> float:
    """Bound on the L2 norm of a vector that was stochastically rounded to whole numbers, and drawn again while above the bound.

    Kairouz, Liu and Steinke 2021, Theorem 1 (with a grid step of 1).

    Args:
        norm: bound before rounding, in steps of the grid.
        beta: bound on the probability that it is drawn again; 0 for none.
    """
    always = norm + math.sqrt(dimension)
    if beta == 0:
        return always
    usual = norm**2 + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * (norm + math.sqrt(dimension) / 2)
    return min(always, math.sqrt(usual))


def joint_multiplier(event: Event) -> float | None:
    """The multiplier of one Gaussian release that costs what these unsampled ones do together; None if not all are Gaussian.

    Several Gaussian releases of the same data are one release of the scaled vectors side by side: 1/z^2 adds up.
    """
    bag = counted(event)
    if not bag or not all(isinstance(leaf, Gaussian | RoundedGaussian) for leaf in bag):
        return None
    total = math.fsum(
        count / leaf.noise_multiplier**2 for leaf, count in bag.items() if isinstance(leaf, Gaussian | RoundedGaussian)
    )
    return 1 / math.sqrt(total)


def error_of(event: Event) -> float:
    """Total variation by which one event may differ from what its accounting takes it for."""
    if isinstance(event, RoundedGaussian | MatrixFactorisation):
        return event.sampler_error
    if isinstance(event, Sampled):
        return math.fsum(count * error_of(leaf) for leaf, count in counted(event.event).items())
    return 0.0


def overflow(by: TruncatedPoisson) -> float:
    """Probability that a Poisson cohort is larger than the largest that is not cut."""
    from scipy.stats import binom

    return float(binom.sf(by.largest, by.population, by.probability))


def concentrated(event: Event, relation: NeighboringRelation) -> float | None:
    """rho of an event that is rho-zCDP, or None where that is not how it is accounted."""
    factor = _DOUBLED[relation] ** 2
    if isinstance(event, Gaussian | RoundedGaussian | DiscreteGaussian | MatrixFactorisation):
        return factor / (2 * event.noise_multiplier**2)
    if isinstance(event, ZeroConcentrated):
        # A replacement is a removal and an addition: a group of two, and zCDP of a group grows with its square.
        return factor * event.rho
    if isinstance(event, PureRelease | DiscreteLaplace):
        return pure_epsilon(event, relation) ** 2 / 2
    return None


def pure_epsilon(event: PureRelease | DiscreteLaplace, relation: NeighboringRelation) -> float:
    """epsilon of a purely private event. Raises Refused where its relation says nothing about the one asked for."""
    if isinstance(event, DiscreteLaplace):
        return _DOUBLED[relation] * event.sensitivity / event.scale
    if event.neighboring_relation == relation:
        return event.epsilon
    if relation == "replace_one":
        return 2 * event.epsilon
    raise Refused(
        f"A release that is private under {event.neighboring_relation!r} says nothing under {relation!r}; "
        f"state its epsilon for the relation of the budget."
    )


@lru_cache(maxsize=4096)
def _curve(event: Event, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
    alpha = np.asarray(orders, np.float64)
    if isinstance(event, Sampled):
        curve = _sampled(event, relation, orders)
    elif isinstance(event, PureRelease | DiscreteLaplace):
        curve = _pure(pure_epsilon(event, relation), alpha)
    elif isinstance(event, DistributedDiscreteGaussian):
        curve = _distributed(event, _DOUBLED[relation], alpha)
    elif isinstance(event, Skellam):
        curve = _at_whole_orders(lambda a: _skellam(event, _DOUBLED[relation], a), orders)
    else:
        curve = (concentrated(event, relation) or math.inf) * alpha
    curve.setflags(write=False)
    return curve


def renyi(bag: Mapping[Event, int], relation: NeighboringRelation, orders: tuple[float, ...] = ORDERS) -> Curve:
    """Rényi divergence of a bag of events at each order, [orders]; infinite where it cannot be bounded."""
    total = np.zeros(len(orders))
    for event, count in bag.items():
        total += count * _curve(event, relation, orders)
    return total


def _pure(epsilon: float, alpha: Curve) -> Curve:
    """The worst curve of an epsilon-private release, that of randomised response (Bun and Steinke 2016, Proposition 3.3)."""
    yes, no = special.log_expit(epsilon), special.log_expit(-epsilon)
    curve: Curve = np.logaddexp(alpha * yes + (1 - alpha) * no, alpha * no + (1 - alpha) * yes) / (alpha - 1)
    # At orders near 1 the formula cancels; neither bound below does.
    bounded: Curve = np.minimum(np.maximum(curve, 0), np.minimum(epsilon, alpha * epsilon**2 / 2))
    return bounded


def _distributed(event: DistributedDiscreteGaussian, doubled: int, alpha: Curve) -> Curve:
    """Kairouz, Liu and Steinke 2021, Proposition 14: the least of three bounds."""
    sigma, d = event.local_stddev * math.sqrt(event.parties), event.dimension
    two, one, gap = (
        doubled * event.l2_sensitivity / sigma,
        doubled * event.l1_sensitivity / sigma,
        tau(event.local_stddev, event.parties),
    )
    bounds = (
        alpha / 2 * two**2 + gap * d,
        alpha / 2 * (two**2 + 2 * one * gap + gap**2 * d),
        alpha / 2 * (two + math.sqrt(d) * gap) ** 2,
    )
    minimum: Curve = np.minimum.reduce(bounds)
    return minimum


def _skellam(event: Skellam, doubled: int, alpha: int) -> float:
    """Agarwal, Kairouz and Liu 2021, Theorem 3.5, at whole orders."""
    two, one, mu = doubled * event.l2_sensitivity, doubled * event.l1_sensitivity, event.variance
    return alpha * two**2 / (2 * mu) + min(((2 * alpha - 1) * two**2 + 6 * one) / (4 * mu**2), 3 * one / (2 * mu))


def _at_whole_orders(bound: Callable[[int], float], orders: tuple[float, ...]) -> Curve:
    """A bound that holds at whole orders, at all: (a - 1) times the divergence is convex in a, and zero at 1."""
    known: dict[int, float] = {1: 0.0}

    def cumulant(order: int) -> float:
        if order not in known:
            known[order] = (order - 1) * bound(order)
        return known[order]

    values = []
    for order in orders:
        low, high = math.floor(order), math.ceil(order)
        part = order - low
        value = cumulant(low) if low == high else (1 - part) * cumulant(low) + part * cumulant(high)
        values.append(value / (order - 1))
    return np.asarray(values)


def _sampled(event: Sampled, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
    inner = counted(event.event)
    if any(isinstance(leaf, Sampled) for leaf in inner):
        raise Refused("A sample of a sample has no accounting here; sample once.")
    z = joint_multiplier(event.event)
    if isinstance(event.by, FixedSize):
        return _fixed_size(event.by, z, relation, orders)
    q = event.by.probability
    if z is None:
        if relation == "replace_one":
            raise Refused(
                "Poisson sampling under 'replace_one' is accounted for Gaussian noise only; use 'add_or_remove' or 'zero_out'."
            )
        whole = tuple(range(2, math.ceil(max(orders)) + 1))
        divergence = dict(zip(whole, renyi(inner, relation, tuple(map(float, whole))), strict=True))
        return _at_whole_orders(lambda a: _poisson_of_any(q, divergence, a), orders)
    if relation == "replace_one":
        return _poisson_replaced(q, z, np.asarray(orders))
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, rdp

    with _without_warnings():
        curve: Curve = rdp.RdpAccountant(orders).compose(PoissonSampledDpEvent(q, GaussianDpEvent(z))).rdp
    return curve


@contextmanager
def _without_warnings() -> Iterator[None]:
    """dp-accounting warns of each order that it leaves out: its divergence is then infinite, which is a bound all the same."""
    logger = logging.getLogger("absl")
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "Excluding this order" not in str(record.msg)


def _fixed_size(by: FixedSize, z: float | None, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
    if relation == "add_or_remove":
        raise Refused(
            "A cohort of fixed size makes the population's size public, so 'add_or_remove' cannot hold: use 'replace_one', "
            "or sample with Poisson."
        )
    if z is None:
        raise Refused("Sampling of a fixed size is accounted for Gaussian noise only; sample with Poisson, or take everyone.")
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent, rdp

    # Whoever is not drawn leaves room for another, so the sum changes by twice the norm under either relation.
    accountant = rdp.RdpAccountant(orders, NeighboringRelation.REPLACE_ONE)
    accountant.compose(SampledWithoutReplacementDpEvent(by.population, by.size, GaussianDpEvent(z / 2)))
    curve: Curve = accountant.rdp
    return curve


def _poisson_of_any(q: float, divergence: Mapping[int, float], alpha: int) -> float:
    """Poisson sampling of any release with a Rényi curve (Zhu and Wang 2019, Theorem 6), adding or removing, whole orders."""
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


def _poisson_replaced(q: float, z: float, alpha: Curve) -> Curve:
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


def from_renyi(curve: Curve, delta: float, orders: tuple[float, ...] = ORDERS) -> float:
    """epsilon of a Rényi curve (Canonne, Kamath and Steinke 2020, Proposition 12), the least over the orders."""
    if curve.min() < -math.log1p(-(delta**2)):
        return 0.0
    alpha = np.asarray(orders)
    values = curve + np.log1p(-1 / alpha) - np.log(delta * alpha) / (alpha - 1)
    return max(0.0, float(values[alpha > 1.01].min()))


def from_concentrated(rho: float, delta: float) -> float:
    """epsilon of rho-zCDP: the same conversion, the least over all orders, which any order bounds."""

    def at(log_gap: float) -> float:
        alpha = 1 + math.exp(log_gap)
        return rho * alpha + math.log1p(-1 / alpha) - math.log(delta * alpha) / (alpha - 1)

    if rho < -math.log1p(-(delta**2)):
        return 0.0
    middle = math.log(math.sqrt(math.log(1 / delta) / rho) + 1e-3)
    return max(0.0, float(optimize.minimize_scalar(at, bounds=(middle - 5, middle + 5), method="bounded").fun))


def from_gaussian(z: float, delta: float) -> float:
    """epsilon of one Gaussian release, exactly (Balle and Wang 2018, Theorem 8), rounded up."""

    def excess(epsilon: float) -> float:
        first = special.log_ndtr(1 / (2 * z) - epsilon * z)
        second = epsilon + special.log_ndtr(-1 / (2 * z) - epsilon * z)
        return float(first + np.log1p(-np.exp(min(second - first, -1e-300)))) - math.log(delta) if second < first else -math.inf

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    root = float(optimize.bisect(excess, 0.0, high, xtol=1e-13 * max(high, 1), rtol=1e-13, maxiter=500))
    return root * (1 + 1e-9) + 1e-12
