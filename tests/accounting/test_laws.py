"""Laws over random events: what must rise and fall, and what an accurate lower estimate must not be above."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent import accounting as ac
from manent.accounting.curves import from_renyi, renyi
from manent.accounting.events import counted
from manent.core.errors import Refused

A, R, Z = "add_or_remove", "replace_one", "zero_out"
relations = st.sampled_from([A, R, Z])
laws = settings(max_examples=20, deadline=None)
noise = st.floats(-0.5, 3).map(lambda x: 10**x)
rate = st.floats(-4, -0.1).map(lambda x: 10**x)
deltas = st.floats(-12, -2).map(lambda x: 10**x)
releases = st.one_of(
    st.builds(ac.Gaussian, noise),
    st.builds(lambda z, sampling: ac.Sampled(ac.Gaussian(z), sampling), noise, st.builds(ac.Poisson, rate)),
    st.builds(ac.DiscreteGaussian, noise),
    st.builds(lambda z: ac.DiscreteLaplace(20 * z, 20), noise),
    st.builds(lambda z: ac.Skellam(1e4 * z**2, 100.0, 500.0), noise),
    st.builds(lambda z: ac.DistributedDiscreteGaussian(10 * z, 50, 50.0, 200.0, 64), noise),
    st.builds(lambda z: ac.MatrixFactorisation(z, 20, 2, 10), noise),
    st.builds(lambda z: ac.ZeroConcentrated(1 / z), noise),
)


@laws
@given(st.lists(st.tuples(releases, st.integers(1, 50)), min_size=1, max_size=3), deltas, relations)
def test_auto_is_never_looser_than_any_accountant(parts, delta, relation):
    event = ac.Composed(tuple(ac.Repeated(part, count) for part, count in parts))
    try:
        best = ac.epsilon(event, delta, relation, adaptive=True)
    except Refused:
        return
    assert best.accountant
    for accountant in ("rdp", "zcdp", "analytic", "pure"):
        try:
            one = ac.epsilon(event, delta, relation, accountant, adaptive=True).epsilon
        except Refused:
            continue
        assert best.epsilon <= one * (1 + 2e-9)


def test_auto_is_never_looser_than_a_loss_distribution_or_renyi_divergences():
    for event, delta in (
        (ac.training(0.3, 3, 0.5), 1e-5),
        (ac.training(30.0, 1_000, 0.01), 1e-9),
        (ac.Composed((ac.DiscreteGaussian(5.0), ac.training(3.0, 20, 0.1))), 1e-6),
        (ac.Composed((ac.DiscreteLaplace(50.0, 1), ac.training(300.0, 10, 0.01))), 1e-12),
    ):
        best = ac.epsilon(event, delta, A).epsilon
        for accountant in ("pld", "rdp"):
            try:
                assert best <= ac.epsilon(event, delta, A, accountant).epsilon * (1 + 1e-12)
            except Refused:
                continue


@laws
@given(releases, st.integers(1, 300), deltas, relations, st.floats(1.01, 3))
def test_epsilon_grows_with_rounds_and_falls_with_delta(release, rounds, delta, relation, factor):
    def by(count, at):
        return ac.epsilon(ac.Repeated(release, count), at, relation, adaptive=True).epsilon

    try:
        base = by(rounds, delta)
    except Refused:
        return
    near = 1 - 1e-4  # of the search over orders
    assert by(rounds + 1, delta) >= base * near
    assert by(math.ceil(rounds * factor), delta) >= base * near
    assert by(rounds, delta / factor) >= base * near


@laws
@given(noise, rate, st.integers(1, 2_000), deltas, relations, st.floats(1.01, 3))
def test_epsilon_grows_with_the_share_that_is_sampled_and_falls_with_noise(z, q, rounds, delta, relation, factor):
    def by(z, q):
        return ac.epsilon(ac.training(z, rounds, q), delta, relation, adaptive=True).epsilon

    base, near = by(z, q), 1 - 1e-4
    assert by(z, min(1.0, q * factor)) >= base * near
    assert by(z / factor, q) >= base * near


@settings(max_examples=12, deadline=None)
@given(st.floats(0.5, 20), st.floats(-3, -0.3).map(lambda x: 10**x), st.integers(1, 400), st.sampled_from([1e-3, 1e-6, 1e-8]))
def test_nothing_is_below_an_optimistic_loss_distribution(z, q, rounds, delta):
    """dp-accounting's, rounded down, is below the truth."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    low = pld.from_gaussian_mechanism(
        z, sampling_prob=q, pessimistic_estimate=False, use_connect_dots=False, value_discretization_interval=1e-4
    ).self_compose(rounds)
    least = float(low.get_epsilon_for_delta(delta))
    for accountant in ("auto", "pld", "rdp"):
        assert ac.epsilon(ac.training(z, rounds, q), delta, A, accountant).epsilon >= least


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 50), st.floats(-3, -0.1).map(lambda x: 10**x))
def test_curves_are_those_of_dp_accounting(z, q):
    import dp_accounting as dp

    orders = (1.5, 2.0, 3.3, 5.0, 7.0, 12.0, 31.0, 64.0)
    theirs = dp.rdp.RdpAccountant(orders).compose(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(z))).rdp
    ours = renyi({ac.Sampled(ac.Gaussian(z), ac.Poisson(q)): 1}, A, orders)
    theirs = np.minimum(theirs, renyi({ac.Gaussian(z): 1}, A, orders))
    whole = np.array([order.is_integer() for order in orders]) & (theirs > 1e-9)  # below, theirs cancels
    np.testing.assert_allclose(ours[whole], theirs[whole], rtol=1e-5)
    # Between whole orders theirs adds the sizes of an alternating series, and is above.
    assert (ours <= theirs * (1 + 1e-5) + 1e-12).all()
    assert (np.diff(ours) >= 0).all()


@pytest.mark.parametrize(("z", "size", "population"), [(1.0, 10, 100), (2.0, 100, 10_000), (5.0, 3, 1_000)])
def test_curves_of_fixed_size_samples_are_those_of_dp_accounting(z, size, population):
    import dp_accounting as dp

    orders = (2.0, 3.0, 4.5, 8.0, 20.0, 60.0)
    accountant = dp.rdp.RdpAccountant(orders, dp.NeighboringRelation.REPLACE_ONE)
    theirs = accountant.compose(dp.SampledWithoutReplacementDpEvent(population, size, dp.GaussianDpEvent(z / 2))).rdp
    ours = renyi({ac.Sampled(ac.Gaussian(z), ac.FixedSize(size, population)): 1}, R, orders)
    unsampled = renyi({ac.Gaussian(z): 1}, R, orders)
    np.testing.assert_allclose(ours, np.minimum(theirs, unsampled), rtol=1e-5)


@laws
@given(releases, st.integers(1, 100), deltas)
def test_a_search_over_all_orders_is_not_above_any_of_them(release, rounds, delta):
    orders = (1.1, 1.7, 2.0, 3.0, 5.0, 9.0, 17.0, 40.0, 100.0, 300.0, 1_000.0)
    event = ac.Repeated(release, rounds)
    found = ac.epsilon(event, delta, A, "rdp").epsilon
    assert found <= from_renyi(renyi(counted(event), A, orders), delta, orders) * (1 + 1e-5)
