"""What single events cost, against numbers that are worked out here: closed forms, and small integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

import manent as mn
from manent import accounting as ac
from manent.accounting import curves, losses
from manent.accounting.accountants import epsilon
from manent.accounting.mechanisms.distributed_discrete_gaussian import rounded_norm
from manent.accounting.mechanisms.sampling import moments

A, R, Z = "add_or_remove", "replace_one", "zero_out"
CHANGES = {A: 1, Z: 1, R: 2}
ORDERS = (1.5, 2.0, 3.0, 7.5, 32.0)
each = pytest.mark.parametrize(("relation", "change"), CHANGES.items())


def randomised_response(cost: float, alpha: float) -> float:
    """Rényi divergence of two answers, the likelier of which has e^cost times the probability of the other."""
    p = 1 / (1 + math.exp(-cost))
    return math.log(p**alpha * (1 - p) ** (1 - alpha) + (1 - p) ** alpha * p ** (1 - alpha)) / (alpha - 1)


@each
def test_discrete_laplace(relation, change):
    event, cost = ac.DiscreteLaplace(10.0, 5), change * 0.5
    assert event.pure_epsilon(relation) == pytest.approx(cost)
    assert event.zcdp(relation) == pytest.approx(cost**2 / 2)
    assert event.renyi(relation, ORDERS) == pytest.approx([randomised_response(cost, order) for order in ORDERS])
    loss = event.pld(relation, 1e-4, 1)
    # delta(e) = sum of what of P exceeds e^e Q, for the two laws that are furthest apart.
    k = np.arange(-2_000, 2_000)
    p, q = (np.exp(-np.abs(k - shift) / 10) * math.tanh(1 / 20) for shift in (5 * change, 0))
    for e in (0.1, 0.4, 0.9 * cost):
        assert loss.get_delta_for_epsilon(e) == pytest.approx(np.maximum(p - math.exp(e) * q, 0).sum(), abs=2e-4)


def test_a_sample_of_laplace_noise_is_not_bounded_under_a_replacement():
    event = ac.DiscreteLaplace(10.0, 5)
    assert [event.has_sampled_pld(relation) for relation in (A, Z, R)] == [True, True, False]
    for accountant in ("auto", "pld", "rdp"):
        with pytest.raises(mn.Refused):
            epsilon(ac.Sampled(event, ac.Poisson(0.1)), 1e-5, R, accountant)
    assert ac.Poisson(0.1).pure_epsilon(0.5, A) == pytest.approx(math.log(1 + 0.1 * (math.exp(0.5) - 1)))
    assert ac.Poisson(0.1).pure_epsilon(0.5, R) is None


@pytest.mark.parametrize("own", [A, R, Z])
@pytest.mark.parametrize("relation", [A, R, Z])
def test_a_pure_release_costs_its_epsilon_twice_for_a_replacement(own, relation):
    event = ac.PureRelease(0.5, own)
    if own != relation and relation != R:
        with pytest.raises(mn.Refused, match="says nothing"):
            event.pure_epsilon(relation)
        return
    cost = 0.5 if own == relation else 1.0
    assert event.pure_epsilon(relation) == cost
    assert event.zcdp(relation) == cost**2 / 2
    assert event.renyi(relation, ORDERS) == pytest.approx([randomised_response(cost, order) for order in ORDERS])
    assert epsilon(ac.Repeated(event, 3), 1e-9, relation, "pure").epsilon == 3 * cost
    assert epsilon(event, 1e-9, relation).epsilon == pytest.approx(cost, rel=1e-6)
    loss = event.pld(relation, 1e-3, 1)
    exact = 1 / (1 + math.exp(-cost)) - math.exp(cost / 2) / (1 + math.exp(cost))
    assert exact - 1e-12 < loss.get_delta_for_epsilon(cost / 2) < exact + 1e-3


def test_losses_of_a_pure_release_are_rounded_up():
    """At an interval that does not divide epsilon: below the next step some delta is left, and none from it on."""
    loss = losses.of_pure(0.55, 0.1)
    yes, no = 1 / (1 + math.exp(-0.55)), 1 / (1 + math.exp(0.55))
    for e in (0.05, 0.25, 0.54):
        assert loss.get_delta_for_epsilon(e) > yes - math.exp(e) * no - 1e-12
    assert loss.get_delta_for_epsilon(0.6) == pytest.approx(0, abs=1e-12)


def gaussian_delta(z: float, cost: float) -> float:
    """delta at epsilon = cost of a Gaussian release (Balle and Wang 2018, Theorem 8)."""
    a, b = 1 / (2 * z) - cost * z, -1 / (2 * z) - cost * z
    return float(stats.norm.cdf(a) - math.exp(cost) * stats.norm.cdf(b))


@each
def test_gaussian_noise(relation, change):
    for event in (ac.Gaussian(3.0), ac.RoundedGaussian(3.0), ac.MatrixFactorisation(3.0, 20, 2, 10)):
        assert event.zcdp(relation) == pytest.approx(change**2 / 18)
        found = epsilon(event, 1e-5, relation, "analytic").epsilon
        assert gaussian_delta(3.0 / change, found) == pytest.approx(1e-5, rel=1e-6)
    four = epsilon(ac.Repeated(ac.Gaussian(3.0), 4), 1e-5, relation, "analytic").epsilon
    assert gaussian_delta(1.5 / change, four) == pytest.approx(1e-5, rel=1e-6)
    for z in (0.2, 0.7, 30.0):  # on both sides of where the formula changes
        found = epsilon(ac.Gaussian(z), 1e-5, relation, "analytic").epsilon
        assert gaussian_delta(z / change, found) == pytest.approx(1e-5, rel=1e-5)


@each
def test_a_loss_distribution_lies_just_above_the_exact_one(relation, change):
    found = epsilon(ac.Repeated(ac.Gaussian(3.0), 4), 1e-5, relation, "pld").epsilon
    exact = epsilon(ac.Gaussian(1.5), 1e-5, relation, "analytic").epsilon
    assert exact * (1 - 1e-8) < found < exact * 1.001
    one = losses.of_gaussian(2.0, relation, 0.05)
    assert all(one.get_delta_for_epsilon(e) >= gaussian_delta(2.0 / change, e) * (1 - 1e-9) for e in (0.13, 0.52, 1.03, 2.01))


def test_of_a_composed_loss_distribution_every_event_counts():
    both = ac.Composed((ac.Gaussian(2.0), ac.DiscreteLaplace(10.0, 5)))
    one, other = (epsilon(event, 1e-5, A, "pld", interval=1e-3).epsilon for event in both.events)
    found = epsilon(both, 1e-5, A, "pld", interval=1e-3).epsilon
    assert max(one, other) * 1.05 < found < one + other


@each
def test_other_noise(relation, change):
    orders = (2.0, 3.0, 8.0)
    assert ac.ZeroConcentrated(0.1).zcdp(relation) == pytest.approx(change**2 * 0.1)
    skellam = [
        a * (50 * change) ** 2 / 2e4 + min(((2 * a - 1) * (50 * change) ** 2 + 1200 * change) / 4e8, 600 * change / 2e4)
        for a in orders
    ]
    assert ac.Skellam(1e4, 50.0, 200.0).renyi(relation, orders) == pytest.approx(skellam, rel=1e-12)
    shares = ac.DistributedDiscreteGaussian(8.0, 100, 20.0, 200.0, 100).renyi(relation, orders)
    assert shares == pytest.approx([a / 2 * (20 * change / 80) ** 2 for a in orders], rel=1e-9)


def test_shares_that_are_small_cost_what_the_paper_says():
    """The smallest of the three bounds of Kairouz, Liu and Steinke 2021, Proposition 14, where tau decides."""
    s, n, d, two, one = 0.7, 10, 100, 20.0, 60.0
    tau = 10 * sum(math.exp(-2 * math.pi**2 * s**2 * k / (k + 1)) for k in range(1, n))
    sigma = s * math.sqrt(n)
    for a in (1.5, 2.0, 64.0):
        first = a / 2 * (two / sigma) ** 2 + tau * d
        second = a / 2 * ((two / sigma) ** 2 + 2 * one / sigma * tau + tau**2 * d)
        third = a / 2 * (two / sigma + math.sqrt(d) * tau) ** 2
        found = ac.DistributedDiscreteGaussian(s, n, two, one, d).renyi(A, (a,))
        assert found == pytest.approx([min(first, second, third)], rel=1e-12)
    norm = math.sqrt(100 + 4 + math.sqrt(-2 * math.log(math.exp(-0.5))) * (10 + 2))
    assert rounded_norm(10.0, 16) == pytest.approx(min(14.0, norm), rel=1e-12)


def test_several_events_and_several_times():
    bag = ac.Composed((ac.Gaussian(2.0), ac.Gaussian(3.0), ac.Repeated(ac.Gaussian(6.0), 4)))
    z = (1 / 4 + 1 / 9 + 4 / 36) ** -0.5
    assert gaussian_delta(z, epsilon(bag, 1e-5, A).epsilon) == pytest.approx(1e-5, rel=1e-6)
    five = epsilon(ac.Repeated(ac.ZeroConcentrated(0.1), 5), 1e-5, A).epsilon
    assert five == pytest.approx(epsilon(ac.ZeroConcentrated(0.5), 1e-5, A).epsilon)
    # rho + 2 sqrt(rho log(1/delta)) is above the optimal conversion, and not by much.
    assert 0.75 < five / (0.5 + 2 * math.sqrt(0.5 * math.log(1e5))) < 1


def sampled_divergence(q: float, z: float, alpha: float, relation: str) -> float:
    """Rényi divergence of the sampled Gaussian, by quadrature: (1 - q) N(0) + q N(1) from N(0), or from its opposite."""

    def log_density(x: float, shift: float) -> float:
        mixed = np.logaddexp(math.log(1 - q) - x**2 / (2 * z**2), math.log(q) - (x - shift) ** 2 / (2 * z**2))
        return float(mixed) - math.log(z * math.sqrt(2 * math.pi))

    def part(x: float) -> float:
        below = log_density(x, -1.0) if relation == R else -(x**2) / (2 * z**2) - math.log(z * math.sqrt(2 * math.pi))
        return math.exp(alpha * log_density(x, 1.0) + (1 - alpha) * below)

    total, _ = integrate.quad(part, -12 * z - 2, 12 * z + 2 * alpha, limit=400, points=[0.0, 1.0, alpha])
    return math.log(total) / (alpha - 1)


@pytest.mark.parametrize("relation", [A, R])
def test_a_poisson_sample_of_gaussian_noise(relation):
    event = ac.Sampled(ac.Gaussian(1.5), ac.Poisson(0.2))
    orders = (1.5, 2.0, 3.0, 7.5)
    expected = [sampled_divergence(0.2, 1.5, order, relation) for order in orders]
    assert event.renyi(relation, orders) == pytest.approx(expected, rel=1e-6)


def test_tiny_moments_of_a_sample_are_exact():
    """chi^2 of a sample is q^2 (e^(1/z^2) - 1): at order 2 the divergence is the logarithm of 1 more than that."""
    for q, z in ((1e-6, 2.0), (1e-3, 50.0), (0.01, 1.0)):
        found = moments.poisson(q, z, np.array([2.0]))[0]
        assert found == pytest.approx(math.log1p(q**2 * math.expm1(1 / z**2)), rel=1e-6)
    # At order 3: 3 q^2 times that, and q^3 times the third central moment.
    q, z = 1e-3, 5.0
    second, third = math.expm1(1 / z**2), math.exp(3 / z**2) - 3 * math.exp(1 / z**2) + 2
    found = moments.poisson(q, z, np.array([3.0]))[0]
    assert found == pytest.approx(math.log1p(3 * q**2 * second + q**3 * third) / 2, rel=1e-8)


def test_any_poisson_sample_has_three_times_the_later_terms():
    """Zhu and Wang 2019, Theorem 6: terms from the third on count three times."""
    event, q = ac.DistributedDiscreteGaussian(8.0, 100, 80.0, 800.0, 100), 0.1
    eps = {k: event.renyi(A, (float(k),))[0] for k in range(2, 6)}
    for a in (2, 3, 5):
        total = (1 - q) ** (a - 1) * (a * q - q + 1)
        total += math.comb(a, 2) * q**2 * (1 - q) ** (a - 2) * math.exp(eps[2])
        total += 3 * sum(math.comb(a, k) * q**k * (1 - q) ** (a - k) * math.exp((k - 1) * eps[k]) for k in range(3, a + 1))
        # Of the terms that count three times, that of the release without loss counts three times, too: 1 less what is above.
        beyond = sum(math.comb(a, k) * q**k * (1 - q) ** (a - k) for k in range(2, a + 1))
        assert total <= 1 + 3 * beyond * math.exp((a - 1) * eps[a])
        found = ac.Poisson(q).renyi(event, A, (float(a),))[0]
        assert found == pytest.approx(math.log(total) / (a - 1), rel=1e-6)


def test_between_whole_orders_a_curve_is_bounded_by_a_line():
    found = curves.from_whole_orders(lambda a: a**2, (1.5, 2.0, 2.25, 3.0))
    # (order - 1) times the bound is 0, 4 and 18 at orders 1, 2 and 3.
    assert found == pytest.approx([2.0 / 0.5, 4.0, (0.75 * 4 + 0.25 * 18) / 1.25, 9.0])


def test_a_fixed_size_moves_a_sum_as_a_replacement_does():
    """Of all units but one, who is not drawn makes room for another: at z / 2 under either relation."""
    q, z, orders = 0.3, 4.0, (2.0,)
    for relation in (R, Z):
        found = ac.FixedSize(30, 100).renyi(ac.Gaussian(z), relation, orders)[0]
        # At order 2: 1 + q^2 min(4 (e^(1/z^2) - 1), 2 e^(1/z^2)), with z halved (Wang, Balle, Kasiviswanathan 2019).
        gap = 4 / z**2
        assert found == pytest.approx(math.log1p(q**2 * min(4 * math.expm1(gap), 2 * math.exp(gap))), rel=1e-6)
    small = ac.Gaussian(z, replaced=0.5)
    assert ac.FixedSize(30, 100).renyi(small, Z, orders)[0] == pytest.approx(
        math.log1p(q**2 * min(4 * math.expm1(1 / z**2), 2 * math.exp(1 / z**2))), rel=1e-6
    )


def test_a_renyi_curve_is_converted_at_its_order():
    """Canonne, Kamath and Steinke 2020, Proposition 12, at a single order."""
    order, cost, delta = 8.0, 0.5, 1e-5
    expected = cost + math.log(1 - 1 / order) - math.log(delta * order) / (order - 1)
    assert curves.from_renyi(np.array([cost]), delta, (order,)) == pytest.approx(expected, rel=1e-12)


def test_what_knows_itself_of_a_sample():
    """Of 10 in 100, one who was left out knows that the 10 are of the other 99; a Poisson sample tells nobody of others."""
    assert ac.FixedSize(10, 100).known_to_member() == (ac.FixedSize(10, 99), 0.0)
    assert ac.FixedSize(99, 100).known_to_member() == (None, 0.0)
    assert ac.Poisson(0.1).known_to_member() == (ac.Poisson(0.1), 0.0)
    cut = ac.TruncatedPoisson(0.1, 12, 100)
    by, error = cut.known_to_member()
    assert by == ac.Poisson(0.1)
    assert error == pytest.approx(sum(math.comb(101, k) * 0.1**k * 0.9 ** (101 - k) for k in range(13, 102)), rel=1e-9)
    assert ac.RoundedGaussian(2.0, 1e-9).loosened(2e-9).error() == pytest.approx(3e-9)
    assert ac.Gaussian(2.0).loosened(1e-9) is None


def test_errors_are_paid_from_delta_for_every_release():
    """delta falls by (1 + e^epsilon) times the errors of all releases, sampled or not."""
    for of in (lambda event: event, lambda event: ac.Sampled(event, ac.Poisson(1 - 1e-12))):
        event = ac.Repeated(of(ac.RoundedGaussian(20.0, 1e-9)), 100)
        found = epsilon(event, 1e-5, A).epsilon
        rest = 1e-5 - (1 + math.exp(found)) * 100 * 1e-9
        exact = epsilon(ac.Gaussian(2.0), rest, A).epsilon
        assert found == pytest.approx(exact, rel=1e-6)
    correlated = epsilon(ac.MatrixFactorisation(2.0, 20, 2, 10, 1e-7), 1e-5, A).epsilon
    assert correlated == pytest.approx(epsilon(ac.Gaussian(2.0), 1e-5 - (1 + math.exp(correlated)) * 1e-7, A).epsilon, rel=1e-6)


def test_who_leaves_a_full_sample_makes_room():
    """Of 100 units, all but one of which send -1, about 99 are drawn and 50 kept. Without the last one, its place is taken.

    So with probability one half the sum moves by 2: that is a sample of noise with half the multiplier, and epsilon is not below.
    """
    event = ac.Sampled(ac.Gaussian(2.0), ac.TruncatedPoisson(0.99, 50, 100))

    def delta(cost: float, q: float = 0.5) -> float:
        t = 0.5 + math.log((math.exp(cost) - 1 + q) / q)  # from here on, the mixture is above e^cost times the other
        beyond, moved = stats.norm.sf(t), stats.norm.sf(t - 1)
        return float((1 - q) * beyond + q * moved - math.exp(cost) * beyond)

    for accountant in ("auto", "pld"):
        found = epsilon(event, 1e-5, A, accountant).epsilon
        assert delta(found) < 1e-5
        assert found > epsilon(ac.Gaussian(2.0), 1e-5, A).epsilon * 1.5


def test_a_pure_release_beside_noise_adds_all_of_its_loss():
    """Randomised response beside a Gaussian release: of each answer, the Gaussian's delta at epsilon less the answer's loss."""
    yes, no = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(1.0))
    event = ac.Composed((ac.PureRelease(1.0, A), ac.Gaussian(2.0)))
    for adaptive in (False, True):
        found = epsilon(event, 1e-5, A, adaptive=adaptive).epsilon
        assert yes * gaussian_delta(2.0, found - 1) + no * gaussian_delta(2.0, found + 1) <= 1e-5
        assert found <= (1 + epsilon(ac.Gaussian(2.0), 1e-5, A).epsilon) * (1 + 1e-9)


def test_of_many_releases_none_is_left_out(monkeypatch):
    monkeypatch.setattr(losses, "_AT_ONCE", 3)
    one = losses.of_pure(0.1, 0.01)
    for count in (2, 3, 7, 9):
        exact = one.self_compose(count)
        for cost in (0.0, 0.15, 0.1 * count - 0.05):
            found = losses.many(one, count).get_delta_for_epsilon(cost)
            assert found == pytest.approx(exact.get_delta_for_epsilon(cost), rel=1e-9)


@pytest.mark.parametrize("tolerance", [0.1, 1e-4])
def test_calibrated_noise_keeps_to_its_target_and_comes_near(tolerance):
    """Whatever a search's start and steps, on noise whose epsilon is a closed form."""
    for target in (0.3, 1.0, 1.7, 4.2):
        z = ac.calibrate(target, 1e-5, ac.Gaussian, A, tolerance=tolerance)
        assert epsilon(ac.Gaussian(z), 1e-5, A).epsilon <= target < epsilon(ac.Gaussian(z / (1 + 2 * tolerance)), 1e-5, A).epsilon
