"""Moments of likelihood ratios under sampling, by the trapezoidal rule: on a whole line it converges exponentially.

All that is summed is >= 0, so that even a moment that differs from 1 by 10^-30 has a small relative error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from manent.accounting.protocol import Curve

_STEPS = 8  # points in the width of the narrowest peak
_REACH = 13.0  # deviations on both sides of a peak; what lies beyond is below 10^-37 of it
_POINTS = 200_000
_SLACK = 1e-9  # far above the rule's relative error


def poisson(q: float, z: float, orders: Curve) -> Curve:
    """Rényi divergence of (1-q) N(0) + q N(1) from N(0), of deviation z, at each order; float64[orders].

    Mironov, Talwar and Zhang 2019, "Rényi Differential Privacy of the Sampled Gaussian Mechanism": the other direction is no
    larger. Infinite where it would take too long; the release without sampling bounds it there.
    """

    def ratio(x: Curve) -> tuple[Curve, Curve]:
        log = (2 * x - 1) / (2 * z**2)
        return q * np.expm1(np.minimum(log, 700.0)), _log_mixture(q, log)

    return _curve(orders, z, 1, ratio, None)


def replaced(q: float, z: float, orders: Curve) -> Curve:
    """Divergence of (1-q) N(0) + q N(1) from (1-q) N(0) + q N(-1), the pair that dp-accounting's PLD takes too; as `poisson`."""

    def ratio(x: Curve) -> tuple[Curve, Curve]:
        above, below = (_log_mixture(q, (side * 2 * x - 1) / (2 * z**2)) for side in (1, -1))
        log = math.log(2 * q) + _log_sinh(np.abs(x) / z**2) - 1 / (2 * z**2) - below
        return np.sign(x) * np.exp(np.minimum(log, 700.0)), above - below

    return _curve(orders, z, 2, ratio, lambda x: _log_mixture(q, -(2 * x + 1) / (2 * z**2)))


def log_sum(logs: Curve) -> float:
    """log of the sum of what these are logarithms of."""
    largest = float(logs.max())
    return largest + math.log(float(np.exp(logs - largest).sum())) if math.isfinite(largest) else largest


def _log_mixture(q: float, log_ratio: Curve) -> Curve:
    """log((1 - q) + q e^log_ratio)."""
    rest = math.log1p(-q) if q < 1 else -math.inf
    mixed: Curve = np.logaddexp(rest, math.log(q) + log_ratio)
    return mixed


def _log_sinh(x: Curve) -> Curve:
    with np.errstate(divide="ignore"):
        log: Curve = x + np.log(-np.expm1(-2 * x)) - math.log(2)
    return log


def _curve(
    orders: Curve,
    z: float,
    distance: int,
    ratio: Callable[[Curve], tuple[Curve, Curve]],
    weight: Callable[[Curve], Curve] | None,
) -> Curve:
    """log E[(1 + u)^order] / (order - 1), where u has mean 0, x is normal of deviation z, times exp(weight(x)).

    Args:
        ratio: from x to u, and to log(1 + u).
        distance: peaks lie between -distance and distance * order.
    """
    found = np.full(len(orders), np.inf)
    step = min(z, z**2) / _STEPS
    for i, order in enumerate(orders):
        low, high = -_REACH * z - distance, distance * order + _REACH * z
        if not (high - low) / step <= _POINTS:
            continue
        x = low + step * np.arange(math.ceil((high - low) / step) + 1)
        log = _log_excess(*ratio(x), order) - x**2 / (2 * z**2)
        if weight is not None:
            log += weight(x)
        excess = log_sum(log) + math.log(step / z) - math.log(2 * math.pi) / 2
        found[i] = np.logaddexp(0.0, excess) * (1 + _SLACK) / (order - 1)
    return found


def _log_excess(u: Curve, log_ratio: Curve, order: float) -> Curve:
    """log((1 + u)^order - 1 - order u), which is >= 0 by Bernoulli's inequality; u >= -1, and log_ratio = log(1 + u)."""
    log = np.full(u.shape, -np.inf)
    small = (np.abs(u) < 1e-3 / order) & (u != 0)
    v = u[small]
    series = 1 + (order - 2) / 3 * v * (1 + (order - 3) / 4 * v * (1 + (order - 4) / 5 * v))
    log[small] = math.log(order * (order - 1) / 2) + 2 * np.log(np.abs(v)) + np.log(series)
    grown = order * np.where(np.abs(u) < 0.5, np.log1p(np.clip(u, -0.5, 0.5)), log_ratio)
    large = grown > 30
    beyond = np.minimum((1 + order * np.minimum(u[large], 1e100)) * np.exp(-grown[large]), 0.5)
    log[large] = grown[large] + np.log1p(-beyond)
    middle = ~small & ~large & (u != 0)
    with np.errstate(divide="ignore"):
        log[middle] = np.log(np.maximum(np.expm1(grown[middle]) - order * u[middle], 0))
    return log


def log_central(z: float, most: int) -> Curve:
    """log E[(Y - 1)^k] for k = 2, 4, ..., at least `most`; Y is the likelihood ratio of N(1) and N(0), of deviation z.

    Up to k = 64 each is computed. Beyond, straight lines between some of them: a moment's logarithm is convex in k.
    """
    exact = [*range(2, 66, 2)]
    while exact[-1] < most:
        exact.append(2 * math.ceil(exact[-1] * (0.525 if exact[-1] < 256 else 0.55)))
    step = min(1.0, z) / _STEPS
    values = []
    for k in exact:
        high = k / z + _REACH
        if (high + _REACH) / step > _POINTS:
            values.append(np.inf)
            continue
        t = -_REACH + step * np.arange(math.ceil((high + _REACH) / step) + 1)
        with np.errstate(divide="ignore"):
            log = k * _log_abs_expm1(t / z - 1 / (2 * z**2)) - t**2 / 2
        values.append((log_sum(log) + math.log(step) - math.log(2 * math.pi) / 2) + _SLACK)
    every = np.arange(2, exact[-1] + 1, 2)
    known = np.asarray(values)
    filled: Curve = np.interp(every, exact, np.where(np.isfinite(known), known, 1e300))
    return np.where(filled < 1e290, filled, np.inf)


def _log_abs_expm1(x: Curve) -> Curve:
    large = np.minimum(x, 30.0)
    log: Curve = np.where(x > 30, x, np.log(np.abs(np.expm1(large))))
    return log
