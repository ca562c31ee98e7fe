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

ORDERS = tuple(1 + 0.0101 * 1.5**k for k in range(78))
"""Where a search for the best order begins: from just above 1 to beyond 10^11."""
_CHUNK = 6  # orders that are computed before asking whether still larger ones can help
_FINER = 6  # new orders between two, each time that a search is refined
_REFINED = 4


def renyi(bag: Mapping[Event, int], relation: NeighboringRelation, orders: tuple[float, ...] = ORDERS) -> Curve:
    """Rényi divergence of a bag of events at each order, float64[orders]; infinite where nothing bounds it.

    Raises Refused for an event without a bound under this relation.
    """
    total = np.zeros(len(orders))
    for event, count in bag.items():
        total += count * _curve(event, relation, orders)
    return total


@lru_cache(maxsize=16_384)
def _curve(event: Event, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
    curve = event.renyi(relation, orders)
    curve.setflags(write=False)
    return curve


def pure(epsilon: float, orders: tuple[float, ...]) -> Curve:
    """The worst curve of an epsilon-private release, that of randomised response (Bun and Steinke 2016, Proposition 3.3)."""
    alpha = np.asarray(orders, np.float64)
    yes, no = special.log_expit(epsilon), special.log_expit(-epsilon)
    curve: Curve = np.logaddexp(alpha * yes + (1 - alpha) * no, alpha * no + (1 - alpha) * yes) / (alpha - 1)
    # Where the formula cancels, near order 1 and for small epsilons, the bounds below do not.
    curve = np.where(epsilon * alpha < 1e-3, np.inf, np.maximum(curve, 0))
    bounded: Curve = np.minimum(curve, np.minimum(epsilon, alpha * epsilon * min(epsilon, 1e100) / 2))
    return bounded


def from_whole_orders(bound: Callable[[Curve], Curve], orders: tuple[float, ...]) -> Curve:
    """A curve at all orders, float64[orders], from a bound that holds at whole orders from 2.

    In between, (order - 1) times the divergence is convex, and 0 at order 1: the straight line between two orders bounds it.

    Args:
        bound: from whole orders, float64[n] of them, to the bound at each, float64[n].
    """
    alpha = np.asarray(orders, np.float64)
    ends = np.stack([np.floor(alpha), np.ceil(alpha)])
    whole = np.unique(np.maximum(ends, 2))
    low, high = np.where(ends == 1, 0.0, (ends - 1) * bound(whole)[np.searchsorted(whole, np.maximum(ends, 2))])
    part = alpha - ends[0]
    between = part > 0
    curve: Curve = low.copy()
    curve[between] = (1 - part[between]) * low[between] + part[between] * high[between]
    return curve / (alpha - 1)


def from_renyi(curve: Curve, delta: float, orders: tuple[float, ...] = ORDERS) -> float:
    """epsilon of a Rényi curve: the smallest over the orders (Canonne, Kamath and Steinke 2020, Proposition 12)."""
    if curve.min() < -math.log1p(-(delta**2)):
        return 0.0
    return max(0.0, float(_converted(curve, delta, orders).min()))


def _converted(curve: Curve, delta: float, orders: tuple[float, ...]) -> Curve:
    beyond = np.asarray(orders) - 1
    log = np.log1p(beyond)
    converted: Curve = curve - np.log1p(1 / beyond) - (math.log(delta) + log) / beyond
    return converted


def best_epsilon(curve_at: Callable[[tuple[float, ...]], Curve], delta: float) -> float:
    """The smallest epsilon over all real orders of a curve; every order gives a bound.

    (order - 1) times the divergence is convex in the order, and so is what the conversion adds to it. So the epsilon of an order
    falls until the best one and rises from there: a few orders far apart find it, and more between its neighbours come closer.
    No larger order helps once the divergence alone is more than the best epsilon, as it only grows.

    Args:
        curve_at: from orders > 1 to the divergence at each.
        delta: in (0, 1).
    """
    found: dict[float, float] = {}
    least = math.inf
    for start in range(0, len(ORDERS), _CHUNK):
        orders = ORDERS[start : start + _CHUNK]
        curve = curve_at(orders)
        least = min(least, float(curve.min()))
        if least < -math.log1p(-(delta**2)):
            return 0.0
        found.update(zip(orders, map(float, _converted(curve, delta, orders)), strict=True))
        if curve[-1] > min(found.values()) + 1e-9:
            break
    for _ in range(_REFINED):
        orders = _between(found)
        found.update(zip(orders, map(float, _converted(curve_at(orders), delta, orders)), strict=True))
    return max(0.0, min(found.values()))


def _between(found: Mapping[float, float]) -> tuple[float, ...]:
    """New orders between the neighbours of the best one, and whole ones, as some curves are bounded by lines between those."""
    known = sorted(found)
    best = known.index(min(found, key=lambda order: found[order]))
    low, high = known[max(best - 1, 0)], known[min(best + 1, len(known) - 1)]
    new = 1 + np.geomspace(low - 1, high - 1, _FINER + 2)[1:-1]
    rounded = {float(round(order)) if order > 40 and high - low > 2 * _FINER else float(order) for order in new}
    whole = range(max(2, math.ceil(low)), math.floor(high) + 1)
    if len(whole) <= _FINER:
        rounded |= set(map(float, whole))
    return tuple(sorted(rounded - set(known))) or (known[best],)


def from_zcdp(rho: float, delta: float) -> float:
    """epsilon of rho-zCDP: the same conversion, the smallest over all orders. Every order gives a bound."""

    def at(log_beyond: float) -> float:
        beyond = math.exp(log_beyond)
        return rho * (1 + beyond) - math.log1p(1 / beyond) - (math.log(delta) + math.log1p(beyond)) / beyond

    if rho < -math.log1p(-(delta**2)):
        return 0.0
    middle = (math.log(-math.log(delta)) - math.log(rho)) / 2
    search = optimize.minimize_scalar(at, bounds=(middle - 5, middle + 5), method="bounded", options={"xatol": 1e-9})
    return max(0.0, float(search.fun))


def from_gaussian(z: float, delta: float) -> float:
    """epsilon of one Gaussian release with noise multiplier z, exact (Balle and Wang 2018, Theorem 8) and rounded up.

    delta = N(a - y) - e^epsilon N(-a - y) at a = 1 / (2 z) and y = epsilon z, with the normal distribution N. With m(x), which
    is N(-x) over the density at x, this is the density at y - a times m(y - a) - m(y + a), where nothing cancels.
    """
    a = 1 / (2 * z)
    if a > 1e3:
        return from_zcdp(2 * a**2, delta)

    def excess(y: float) -> float:
        return _log_delta(y, a) - math.log(delta)

    if excess(0.0) <= 0:
        return 0.0
    high = a + 1.0
    while excess(high) > 0:
        high *= 2
    root = float(optimize.bisect(excess, 0.0, high, xtol=1e-300, rtol=1e-13, maxiter=2000))
    return root / z * (1 + 1e-9)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def _log_delta(y: float, a: float) -> float:
    """log of delta; see `from_gaussian`."""
    if a < 0.5:
        # m(y - a) - m(y + a) is the integral of -m'(t) = 1 - t m(t), which is positive.
        t = y + a * _NODES
        slopes = 1 - t * math.sqrt(math.pi / 2) * special.erfcx(t / math.sqrt(2))
        gap = a * float(_WEIGHTS @ slopes)
        return -((y - a) ** 2) / 2 - math.log(2 * math.pi) / 2 + math.log(gap) if gap > 0 else -math.inf
    first, second = special.log_ndtr(a - y), special.log_ndtr(-a - y) + 2 * a * y
    return float(first + np.log1p(-np.exp(min(second - first, -1e-300)))) if second < first else -math.inf
