"""Published and recomputed values of epsilon. Where a published one used an older conversion, the test has that conversion."""

from __future__ import annotations

import math

import pytest

import manent as mn
from manent import accounting as ac
from manent.accounting.curves import from_renyi, renyi
from manent.accounting.events import counted

A = "add_or_remove"


def by(event, delta, accountant="auto", relation=A, interval=1e-4):
    return ac.epsilon(event, delta, relation, accountant, interval=interval).epsilon


def old_conversion(event, delta, orders):
    """RDP to epsilon as until 2020: R(a) + log(1 / delta) / (a - 1), over the orders."""
    curve = renyi(counted(event), A, orders)
    return min(r + math.log(1 / delta) / (a - 1) for a, r in zip(orders, curve, strict=True))


DP_ORDERS = (*(1 + x / 10 for x in range(1, 100)), *map(float, range(11, 64)), 128.0, 256.0, 512.0, 1024.0)
"""Those of dp-accounting, whose figures the table has. All real orders, as here, give a little less."""


def by_rdp(event, delta, relation=A, orders=DP_ORDERS):
    """At dp-accounting's orders; and checked to be what it finds, and what a search over all orders is not above."""
    found = from_renyi(renyi(counted(event), relation, orders), delta, orders)
    assert found * 0.999 <= by(event, delta, "rdp", relation) <= found
    return found


def test_the_reference_setting():
    event = ac.training(1.0, 10_000, 0.01)
    assert by(event, 1e-5) == pytest.approx(6.1877, abs=1e-4)
    assert by(event, 1e-5, interval=1e-3) == pytest.approx(6.1910, abs=1e-4)
    assert by_rdp(event, 1e-5) == pytest.approx(6.7128, abs=1e-4)
    assert "distribution" in ac.epsilon(event, 1e-5, A).accountant


def test_replacing_one_with_fixed_size_samples():
    """13.150 is for noise of one time what a replacement changes: multiplier 2 against one unit's own norm."""
    event = ac.Repeated(ac.Sampled(ac.Gaussian(2.0), ac.FixedSize(100, 10_000)), 10_000)
    assert by(event, 1e-5, relation="replace_one") == pytest.approx(13.150, abs=1e-3)
    assert by(event, 1e-5, relation="zero_out") == pytest.approx(13.150, abs=1e-3)
    half = ac.Repeated(ac.Sampled(ac.Gaussian(1.0), ac.FixedSize(100, 10_000)), 10_000)
    assert by(half, 1e-5, relation="replace_one") == pytest.approx(118.73, abs=0.01)


def test_one_gaussian_release():
    """Noise for (1, 1e-5) is 3.7306 by the analytic Gaussian, against 4.8448 by the classical formula."""
    assert ac.calibrate(1.0, 1e-5, ac.Gaussian, A, tolerance=1e-6) == pytest.approx(3.7306, abs=1e-4)
    assert math.sqrt(2 * math.log(1.25 / 1e-5)) == pytest.approx(4.8448, abs=1e-4)


def test_sampling_everyone_is_the_gaussian_mechanism():
    event = ac.training(10.0, 100, 1.0)
    assert by(event, 1e-5) == pytest.approx(4.37718, abs=1e-5)
    assert by(event, 1e-5, "pld") == pytest.approx(4.37718, abs=1e-5)
    assert by(ac.Gaussian(1.0), 1e-5, "analytic") == pytest.approx(4.37718, abs=1e-5)


def test_abadi_2016():
    event = ac.training(4.0, 10_000, 0.01)
    assert old_conversion(event, 1e-5, tuple(float(a) for a in range(2, 34))) == pytest.approx(1.2586, abs=1e-4)
    assert by_rdp(event, 1e-5) == pytest.approx(1.0355, abs=5e-5)
    assert by(event, 1e-5) == pytest.approx(0.947, abs=1e-3)
    assert by(event, 1e-5, interval=1e-3) == pytest.approx(0.960, abs=1e-3)


@pytest.mark.parametrize(
    ("z", "batch", "rounds", "rdp", "coarse", "fine"),
    [(1.1, 256, 60 * 60_000 // 256, 2.597, 2.391, 2.382), (1.3, 250, 15 * 240, 0.942, 0.858, 0.853)],
)
def test_the_mnist_tutorial(z, batch, rounds, rdp, coarse, fine):
    event = ac.training(z, rounds, batch / 60_000)
    assert by_rdp(event, 1e-5) == pytest.approx(rdp, abs=5e-4)
    assert by(event, 1e-5, interval=1e-3) == pytest.approx(coarse, abs=6e-4)
    assert by(event, 1e-5) == pytest.approx(fine, abs=6e-4)


def test_opacus():
    event = ac.training(1.5, 2_250, 0.04)
    # Opacus has orders of its own: 1.1, 1.2, ..., 10.9 and 12 to 63.
    opacus = (*(1 + x / 10 for x in range(1, 100)), *map(float, range(12, 64)))
    assert by_rdp(event, 1e-5, orders=opacus) == pytest.approx(7.32911117143, abs=1e-6)
    # Its PRV figure is an upper end of an interval .01 wide.
    assert by(event, 1e-5) == pytest.approx(6.777395712150674, abs=0.01)
    assert ac.calibrate(8.0, 1e-5, lambda z: ac.training(z, 2_000, 0.04), A, "rdp") == pytest.approx(1.3562, abs=2e-4)
    assert ac.calibrate(8.0, 1e-5, lambda z: ac.training(z, 2_000, 0.04), A) == pytest.approx(1.2915, abs=2e-3)


def test_mcmahan_2018():
    event = ac.training(1.0, 5_000, 5_000 / 763_430)
    assert old_conversion(event, 1e-9, tuple(float(a) for a in range(2, 65))) == pytest.approx(4.634, abs=1e-3)
    assert by_rdp(event, 1e-9) == pytest.approx(4.183, abs=5e-4)
    assert by(event, 1e-9, interval=1e-3) == pytest.approx(3.903, abs=1e-3)
    assert by(event, 1e-9) == pytest.approx(3.899, abs=1e-3)


def test_gboard_by_zcdp():
    """Spanish next-word model, rho = .81 at delta 1e-10: published as 8.9."""
    assert by(ac.ZeroConcentrated(0.81), 1e-10) == pytest.approx(8.922, abs=1e-3)
    z = math.sqrt(1 / (2 * 0.81))
    factorised = ac.MatrixFactorisation(z, rounds=2_000, participations=4, min_separation=400)
    assert by(factorised, 1e-10, "zcdp") == pytest.approx(8.922, abs=1e-3)
    assert 0.81 + 2 * math.sqrt(0.81 * math.log(1e10)) == pytest.approx(9.447, abs=1e-3)
    assert by(ac.Gaussian(z), 1e-10) == pytest.approx(8.549, abs=1e-3)
    assert by(factorised, 1e-10, "pld") == pytest.approx(8.549, abs=1e-3)
    # All rounds together cost what one Gaussian release does, so that is what is stated.
    assert by(factorised, 1e-10) == pytest.approx(8.549, abs=1e-3)
    assert "analytic" in ac.epsilon(factorised, 1e-10, A).accountant


def test_fl_emnist_and_stack_overflow():
    event = ac.training(1.0, 1_500, 100 / 3_400)
    assert by_rdp(event, 1 / 3_400) == pytest.approx(6.697, abs=5e-4)
    assert by(event, 1 / 3_400) == pytest.approx(5.969, abs=1e-3)
    rare = ac.training(1.0, 1_600, 100 / 342_477)
    assert by_rdp(rare, 1 / 342_477) == pytest.approx(0.606, abs=5e-4)
    assert by(rare, 1 / 342_477, interval=1e-3) == pytest.approx(0.072, abs=1e-3)


@pytest.mark.parametrize(("lost", "value"), [(0.0, 6.19), (0.1, 6.87), (0.3, 9.03), (0.5, 13.93)])
def test_noise_shares_that_dropped_out_are_missed(lost, value):
    event = ac.training(math.sqrt(1 - lost), 10_000, 0.01)
    assert by(event, 1e-5) == pytest.approx(value, abs=6e-3)


@pytest.mark.parametrize(("target", "pld", "rdp"), [(1.0, 3.856, 4.126), (8.0, 0.883, 0.918)])
def test_noise_for_the_reference_setting(target, pld, rdp):
    make = lambda z: ac.training(z, 10_000, 0.01)  # noqa: E731
    assert ac.calibrate(target, 1e-5, make, A, "pld", interval=1e-3) == pytest.approx(pld, abs=1e-3)
    assert ac.calibrate(target, 1e-5, make, A, interval=1e-3) == pytest.approx(pld, abs=1e-3)
    # That of dp-accounting's orders, of which all orders need a little less.
    assert rdp * (1 - 2e-3) <= ac.calibrate(target, 1e-5, make, A, "rdp") <= rdp + 5e-4
    assert by_rdp(make(rdp), 1e-5) == pytest.approx(target, rel=4e-3)


def test_the_central_limit_is_below_the_truth_and_refused():
    """Gaussian DP by the central limit: mu = q sqrt(T (e^(1 / z^2) - 1)). It gives 6.0071, and no bound does."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    mu = 0.01 * math.sqrt(10_000 * math.expm1(1.0))
    at = lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - 1e-5  # noqa: E731
    limit = brentq(at, 0, 20)
    assert limit == pytest.approx(6.0071, abs=5e-5)
    assert by(ac.training(1.0, 10_000, 0.01), 1e-5) > limit
    with pytest.raises(mn.Refused, match="below the truth"):
        by(ac.training(1.0, 10_000, 0.01), 1e-5, "gdp")


def test_half_the_noise_under_a_neglected_relation():
    assert by(ac.training(0.5, 10_000, 0.01), 1e-5, interval=1e-3) == pytest.approx(43.4, abs=0.1)


def test_andrew_2021_the_bit_pays_its_share():
    """z_delta and the bit's noise, of one sample, cost what z alone does."""
    z, bit = 1.0, 5.0
    update = (z**-2 - (2 * bit) ** -2) ** -0.5
    assert update == pytest.approx(1.00504, abs=1e-5)
    both = ac.Sampled(ac.Composed((ac.Gaussian(update), ac.Gaussian(2 * bit))), ac.Poisson(0.01))
    assert by(ac.Repeated(both, 1_000), 1e-5) == pytest.approx(by(ac.training(z, 1_000, 0.01), 1e-5), rel=1e-9)


def test_kairouz_2021_distributed_discrete_gaussian():
    d = 2**20
    assert ac.tau(1.0, 100) * d == pytest.approx(574, abs=1)
    assert ac.tau(2.0, 100) * d == pytest.approx(7.5e-11, rel=0.01)
    weak = ac.DistributedDiscreteGaussian(1.0, 100, l2_sensitivity=10.0, l1_sensitivity=10_240.0, dimension=d)
    strong = ac.DistributedDiscreteGaussian(2.0, 100, l2_sensitivity=20.0, l1_sensitivity=20_480.0, dimension=d)
    # As rho, half the squared sensitivity over sigma: .5 becomes 1.22 with coarse local noise, and stays with finer.
    assert renyi({weak: 1}, A, (2.0,))[0] / 2 == pytest.approx(1.22, abs=0.01)
    assert renyi({strong: 1}, A, (2.0,))[0] / 2 == pytest.approx(0.5, abs=1e-6)
    assert ac.rounded_norm(1e3, d) == pytest.approx(1_124, abs=0.5)
    assert ac.rounded_norm(1e4, d) == pytest.approx(10_014, abs=0.5)


def test_agarwal_2021_skellam():
    release = ac.Skellam(variance=1e4, l2_sensitivity=100.0, l1_sensitivity=1e4)
    assert renyi({release: 1}, A, (8.0,))[0] == pytest.approx(4 + 5.25e-4, abs=1e-9)
