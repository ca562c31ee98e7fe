"""Noise for a small epsilon at a tiny delta exists, and is found."""

from __future__ import annotations

import math

import pytest
from scipy import optimize, stats

from manent import accounting as ac


def exact(target: float, delta: float) -> float:
    """The smallest multiplier of one Gaussian release, from the definition, by quadrature of the density.

    delta is the integral of the density at x times (1 - e^(epsilon - loss at x)) over losses above epsilon.
    """

    def spent(log_z: float) -> float:
        z = math.exp(log_z)
        start = target * z - 1 / (2 * z)  # in deviations, the point from which the loss exceeds epsilon
        steps = [start + i * 1e-4 for i in range(1, 120_001, 2)]
        density = stats.norm.pdf(steps)
        found = sum(-p * math.expm1(-(x - start) / z) for p, x in zip(density, steps, strict=True)) * 2e-4
        return math.log(max(found, 1e-300)) - math.log(delta)

    return math.exp(optimize.brentq(spent, math.log(100), math.log(10_000), xtol=1e-7))


@pytest.mark.parametrize(("target", "delta", "known"), [(0.01, 1e-9, 458.51), (0.005, 1e-10, None), (0.01, 1e-12, None)])
def test_every_accountant_finds_noise_for_a_small_epsilon(target, delta, known):
    least = exact(target, delta)
    assert known is None or least == pytest.approx(known, rel=2e-5)
    for make, relation, factor in (
        (ac.Gaussian, "add_or_remove", 1),
        (lambda z: ac.MatrixFactorisation(z, 100, 4, 25), "zero_out", 1),
        (lambda z: ac.Repeated(ac.Gaussian(z), 4), "replace_one", 4),
        (lambda z: ac.Repeated(ac.Sampled(ac.Gaussian(z), ac.Poisson(0.999)), 4), "add_or_remove", 2),
    ):
        assert least * factor * (1 - 2e-3) <= ac.calibrate(target, delta, make, relation) <= least * factor * 1.002
        for accountant in ("rdp", "zcdp") if factor != 2 else ("rdp",):
            z = ac.calibrate(target, delta, make, relation, accountant)
            assert least * factor * (1 - 2e-3) <= z <= least * factor * 1.2


def test_distributed_noise_reaches_small_epsilons_too():
    z = ac.calibrate(0.01, 1e-9, lambda z: ac.DistributedDiscreteGaussian(z * 100 / 10, 100, 100.0, 1e4, 10_000), "add_or_remove")
    assert 458 < z < 458 * 1.2


@pytest.mark.parametrize(("target", "most"), [(0.005, 184), (0.001, 778)])
def test_the_interval_of_a_loss_distribution_follows_the_target(target, most):
    """1,000 rounds of one in a hundred, at delta 1e-6: an interval of 1e-4 asked for 267 and 4,800."""
    z = ac.calibrate(target, 1e-6, lambda z: ac.training(z, 1_000, 0.01), "add_or_remove")
    # By the central limit, which is from below: the square root of 1,000 times q / z is the mean shift of the losses.
    limit = 0.01 * math.sqrt(1_000) * exact_shift(target, 1e-6)
    assert limit * 0.99 <= z <= most


def exact_shift(target: float, delta: float) -> float:
    """The smallest multiplier of one Gaussian release, as `exact`; between .1 and 10,000."""
    at = lambda e, z: stats.norm.cdf(1 / (2 * z) - e * z) - math.exp(e) * stats.norm.cdf(-1 / (2 * z) - e * z)  # noqa: E731
    return float(optimize.brentq(lambda z: at(target, z) - delta, 0.1, 10_000))
