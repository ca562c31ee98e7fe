"""Rényi curves: the divergence of an event at every order, under one neighbouring relation; and epsilon from them.

Curves add up under composition. A noise multiplier z counts as z / 2 where one unit replaces another, since a sum then moves by
twice the norm. (The RDP accountant of dp-accounting 0.6 leaves this to its caller: its Gaussian is against whatever the
relation's sensitivity is.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from manent.accounting.protocol import Curve, Event, NeighboringRelation

ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
FEW_ORDERS = (1.1, 1.3, 1.6, *map(float, (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256, 512, 1024)))
"""For a first estimate. Sampled noise takes much longer at fractional orders than at whole ones."""


def renyi(bag: Mapping[Event, int], relation: NeighboringRelation, orders: tuple[float, ...] = ORDERS) -> Curve:
    """Rényi divergence of a bag of events at each order, float64[orders]; infinite where nothing bounds it.

    Raises Refused for an event without a bound under this relation.
    """
    total = np.zeros(len(orders))
    for event, count in bag.items():
        total += count * _curve(event, relation, orders)
    return total


@lru_cache(maxsize=4096)
def _curve(event: Event, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
    curve = event.renyi(relation, orders)
    curve.setflags(write=False)
    return curve


def pure(epsilon: float, orders: tuple[float, ...]) -> Curve:
    """The worst curve of an epsilon-private release, that of randomised response (Bun and Steinke 2016, Proposition 3.3)."""
    alpha = np.asarray(orders, np.float64)
    yes, no = special.log_expit(epsilon), special.log_expit(-epsilon)
    curve: Curve = np.logaddexp(alpha * yes + (1 - alpha) * no, alpha * no + (1 - alpha) * yes) / (alpha - 1)
    # At orders near 1 the formula cancels; neither bound below does.
    bounded: Curve = np.minimum(np.maximum(curve, 0), np.minimum(epsilon, alpha * epsilon**2 / 2))
    return bounded


def from_whole_orders(bound: Callable[[int], float], orders: tuple[float, ...]) -> Curve:
    """A curve at all orders, float64[orders], from a bound that holds at whole orders from 2.

    In between, (order - 1) times the divergence is convex, and 0 at order 1: the straight line between two orders bounds it.
    """
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


def from_renyi(curve: Curve, delta: float, orders: tuple[float, ...] = ORDERS) -> float:
    """epsilon of a Rényi curve: the smallest over the orders (Canonne, Kamath and Steinke 2020, Proposition 12)."""
    if curve.min() < -math.log1p(-(delta**2)):
        return 0.0
    alpha = np.asarray(orders)
    values = curve + np.log1p(-1 / alpha) - np.log(delta * alpha) / (alpha - 1)
    return max(0.0, float(values[alpha > 1.01].min()))


def from_zcdp(rho: float, delta: float) -> float:
    """epsilon of rho-zCDP: the same conversion, the smallest over all orders. Every order gives a bound."""

    def at(log_gap: float) -> float:
        alpha = 1 + math.exp(log_gap)
        return rho * alpha + math.log1p(-1 / alpha) - math.log(delta * alpha) / (alpha - 1)

    if rho < -math.log1p(-(delta**2)):
        return 0.0
    middle = math.log(math.sqrt(math.log(1 / delta) / rho) + 1e-3)
    return max(0.0, float(optimize.minimize_scalar(at, bounds=(middle - 5, middle + 5), method="bounded").fun))


def from_gaussian(z: float, delta: float) -> float:
    """epsilon of one Gaussian release with noise multiplier z, exact (Balle and Wang 2018, Theorem 8) and rounded up."""

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
