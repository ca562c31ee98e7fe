"""Masses of the laws, against mpmath: the float within its stated error, the exact one to its bits, the tail left out."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from manent.crypto.samplers.laws import DiscreteGaussian, DiscreteLaplace, Poisson, RoundedGaussian
from manent.crypto.samplers.tables import STATISTICAL_DISTANCE

SCALES = (2.0**-4, 0.3, 1.0, 3.2, 7.99, 8.0, 20.0, 127.0, 1e4, 1e7, 2.0**50)
RATES = (2.0**-9, 0.4, 5.0, 40.5, 600.0, 3999.5, 1e5, 1e9, 2.0**49)
LAWS = [law(scale) for law in (RoundedGaussian, DiscreteGaussian, DiscreteLaplace) for scale in SCALES]
LAWS += [Poisson(rate) for rate in RATES]


def reference(law, k):
    """The mass of one integer, up to a factor of the law, at the precision of mpmath."""
    if isinstance(law, RoundedGaussian):
        root = mpmath.mpf(law.sigma) * mpmath.sqrt(2)
        low, high = (mpmath.mpf(2 * abs(k) + side) / 2 / root for side in (-1, 1))
        return law.sigma * mpmath.sqrt(mpmath.pi / 2) * (mpmath.erfc(low) - mpmath.erfc(high))
    if isinstance(law, DiscreteGaussian):
        return mpmath.exp(-(mpmath.mpf(k) ** 2) / 2 / mpmath.mpf(law.sigma) ** 2)
    if isinstance(law, DiscreteLaplace):
        return mpmath.exp(-mpmath.mpf(abs(k)) / mpmath.mpf(law.scale))
    return mpmath.exp(k * mpmath.log(law.rate) - law.rate - mpmath.loggamma(k + 1))


def integers(law, count=60):
    low, high = law.support
    near = np.linspace(low, high, count).astype(np.int64)
    middle = law.mode + np.arange(-3, 4)
    return np.unique(np.clip(np.concatenate([near, middle, [low, low + 15, low + 16, high]]), low, high))


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_the_float_mass_is_within_its_bound(law):
    k = integers(law)
    mass, error = law.mass(k)
    assert (np.broadcast_to(error, k.shape) <= 2.0**-10).all()
    with mpmath.workprec(700):
        for one, m, e in zip(k.tolist(), mass, np.broadcast_to(error, k.shape), strict=True):
            assert abs(reference(law, one) - m) <= m * e + 2.0**-1000


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("bits", [64, 300])
def test_the_exact_mass_has_its_bits(law, bits):
    with mpmath.workprec(1400):
        for one in integers(law, 6).tolist():
            exact = law.exact(one, bits)
            found = mpmath.mpf(exact.numerator) / exact.denominator
            assert abs(found / reference(law, one) - 1) < mpmath.mpf(2) ** -bits


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_the_mass_falls_away_from_the_mode(law):
    k = integers(law)
    mass, error = law.mass(k)
    rising, slack = np.diff(mass), (mass * error)[1:] + (mass * error)[:-1]
    assert (rising[k[1:] <= law.mode] >= -slack[k[1:] <= law.mode]).all()
    assert (rising[k[:-1] >= law.mode] <= slack[k[:-1] >= law.mode]).all()


def outside(law):
    """Mass beyond the integers kept, over the whole, or a bound on it."""
    low, high = law.support
    if isinstance(law, RoundedGaussian):
        return mpmath.erfc((high + mpmath.mpf(0.5)) / law.sigma / mpmath.sqrt(2))
    if isinstance(law, DiscreteLaplace):
        q = mpmath.exp(-1 / mpmath.mpf(law.scale))
        return 2 * q ** (high + 1) / (1 + q)
    if isinstance(law, DiscreteGaussian):
        # A falling sum is at most its first term and the integral; the whole is at least 1 and at least the integral.
        first = reference(law, high + 1)
        rest = law.sigma * mpmath.sqrt(mpmath.pi / 2) * mpmath.erfc((high + 1) / (law.sigma * mpmath.sqrt(2)))
        return 2 * (first + rest) / max(1, law.sigma * mpmath.sqrt(2 * mpmath.pi))
    # Beyond both ends the mass falls at least as fast as a geometric series.
    up = reference(law, high + 1) / (1 - law.rate / mpmath.mpf(high + 2))
    down = reference(law, low - 1) / (1 - (low - 1) / mpmath.mpf(law.rate)) if low else 0
    return up + down


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_the_mass_left_out_is_below_the_stated_distance(law):
    with mpmath.workprec(500):
        # A Skellam variable is made of two draws.
        assert 2 * outside(law) < STATISTICAL_DISTANCE


def test_the_exact_rounded_mass_adds_up_to_the_gaussian():
    law = RoundedGaussian(1.7)
    with mpmath.workprec(600):
        total = sum((law.exact(k, 400) for k in range(-40, 41)), Fraction(0))
        whole = mpmath.mpf(1.7) * (mpmath.sqrt(2 * mpmath.pi) * mpmath.erf(mpmath.mpf(40.5) / mpmath.mpf(1.7) / mpmath.sqrt(2)))
        assert abs(mpmath.mpf(total.numerator) / total.denominator / whole - 1) < mpmath.mpf(2) ** -390
