"""Laws of the accountants: what must rise and fall, what bounds what, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import manent as mn
from manent import accounting as ac
from manent.accounting.curves import renyi
from manent.accounting.events import counted
from manent.accounting.protocol import joint_multiplier

ORDERS = (*(1 + x / 10 for x in range(1, 100)), *map(float, range(11, 64)), 128.0, 256.0, 512.0, 1024.0)
"""Those of dp-accounting."""
A, R, Z = "add_or_remove", "replace_one", "zero_out"
quick = settings(max_examples=6, deadline=None)
noise = st.floats(0.5, 5.0)
rate = st.floats(0.001, 0.5)
rounds = st.integers(1, 500)


def by(event, accountant="auto", relation=A, delta=1e-5, **options):
    options = {"interval": 1e-3, **options}
    return ac.epsilon(event, delta, relation, accountant, **options).epsilon


@quick
@given(noise, rate, rounds, st.sampled_from(["pld", "rdp"]), st.sampled_from([A, R, Z]))
def test_epsilon_grows_with_sampling_rounds_and_less_noise(z, q, n, accountant, relation):
    base = by(ac.training(z, n, q), accountant, relation)
    allowed = base * (1 - 1e-3) - 1e-3  # the discretisation
    assert by(ac.training(z, n, min(1.0, q * 1.5)), accountant, relation) >= allowed
    assert by(ac.training(z, n * 2, q), accountant, relation) >= allowed
    assert by(ac.training(z / 1.3, n, q), accountant, relation) >= allowed


@quick
@given(noise, rate, rounds, st.sampled_from([A, R, Z]))
def test_pld_is_at_most_rdp_up_to_its_discretisation(z, q, n, relation):
    event = ac.training(z, n, q)
    assert by(event, "pld", relation, interval=1e-4) <= by(event, "rdp", relation) * 1.001 + 1e-4 * math.sqrt(n) + 0.02


@quick
@given(noise, st.integers(1, 500), st.sampled_from([A, R, Z]), st.sampled_from([1e-4, 1e-7]))
def test_all_accountants_bound_the_analytic_gaussian(z, n, relation, delta):
    event = ac.training(z, n)
    exact = by(event, "analytic", relation, delta)
    for accountant in ("pld", "rdp", "zcdp"):
        assert by(event, accountant, relation, delta) >= exact * (1 - 1e-7) - 1e-9
    assert by(event, "zcdp", relation, delta) <= by(event, "rdp", relation, delta) + 1e-9


@quick
@given(noise, st.floats(1e-9, 0.1))
def test_the_analytic_gaussian_is_exact(z, delta):
    epsilon = by(ac.Gaussian(z), "analytic", delta=delta)
    at = lambda e: norm.cdf(1 / (2 * z) - e * z) - math.exp(e) * norm.cdf(-1 / (2 * z) - e * z)  # noqa: E731
    assert at(epsilon) <= delta * (1 + 1e-9)
    assert epsilon < 1e-9 or at(epsilon * (1 - 1e-6) - 1e-9) > delta


@quick
@given(noise, rate, rounds)
def test_replacing_costs_more_than_adding_and_less_than_half_the_noise_twice(z, q, n):
    event = ac.training(z, n, q)
    assert by(event, relation=R) >= by(event, relation=A) * (1 - 1e-6)
    assert by(event, relation=Z) == by(event, relation=A)


@pytest.mark.parametrize("accountant", ["pld", "rdp", "zcdp", "analytic"])
def test_replacing_one_doubles_what_noise_is_measured_against(accountant):
    assert by(ac.Gaussian(1.0), accountant, R) == pytest.approx(by(ac.Gaussian(0.5), accountant, A), rel=1e-3)


def test_replacing_one_doubles_in_every_release():
    for full, half in (
        (ac.DiscreteGaussian(2.0), ac.DiscreteGaussian(1.0)),
        (ac.ZeroConcentrated(0.1), ac.ZeroConcentrated(0.4)),
        (ac.DiscreteLaplace(10.0, 5), ac.DiscreteLaplace(10.0, 10)),
        (ac.DistributedDiscreteGaussian(3.0, 50, 10.0, 40.0, 100), ac.DistributedDiscreteGaussian(3.0, 50, 20.0, 80.0, 100)),
        (ac.Skellam(1e4, 50.0, 200.0), ac.Skellam(1e4, 100.0, 400.0)),
        (ac.MatrixFactorisation(4.0, 10, 1, 1), ac.MatrixFactorisation(2.0, 10, 1, 1)),
    ):
        assert by(full, relation=R) == pytest.approx(by(half, relation=A), rel=1e-9), full


def test_the_poisson_curve_under_replacement_agrees_with_its_pld():
    """A Rényi curve and a PLD of the same pair: the first bounds the second, and is near it at many orders."""
    for z, q, n in ((1.0, 0.01, 10_000), (2.0, 0.2, 100), (0.8, 0.5, 3)):
        pld, rdp = (by(ac.training(z, n, q), accountant, R) for accountant in ("pld", "rdp"))
        assert pld <= rdp + 1e-3 <= pld * 1.35
    everyone = renyi({ac.Gaussian(1.5): 1}, R, ORDERS)
    nearly = renyi({ac.Sampled(ac.Gaussian(1.5), ac.Poisson(1 - 1e-12)): 1}, R, ORDERS)
    # At large orders even the rarest absence shows.
    np.testing.assert_allclose(nearly[:50], everyone[:50], rtol=1e-9)


def test_any_poisson_sample_is_bounded_as_zhu_and_wang_have_it():
    """The general bound, on a Gaussian curve, is above the exact one and below no sampling at all."""
    general = renyi({ac.Sampled(ac.DiscreteGaussian(2.0), ac.Poisson(0.02)): 1}, A, ORDERS)
    exact = renyi({ac.Sampled(ac.Gaussian(2.0), ac.Poisson(0.02)): 1}, A, ORDERS)
    assert (general >= exact * (1 - 1e-8)).all()
    assert (general <= renyi({ac.DiscreteGaussian(2.0): 1}, A, ORDERS) * (1 + 1e-9)).all()
    whole = [i for i, order in enumerate(ORDERS) if order in (2, 3, 4, 8)]
    assert (general[whole] <= 4 * exact[whole]).all()


def test_the_curve_of_a_pure_release_is_that_of_randomised_response():
    curve = renyi({ac.PureRelease(1.5, A): 1}, A, ORDERS)
    yes = 1 / (1 + math.exp(-1.5))
    exact = [math.log(yes**a * (1 - yes) ** (1 - a) + (1 - yes) ** a * yes ** (1 - a)) / (a - 1) for a in (2.0, 10.0)]
    np.testing.assert_allclose(curve[[ORDERS.index(2.0), ORDERS.index(10.0)]], exact, rtol=1e-12)
    assert (np.diff(curve) >= -1e-12).all()
    assert curve.max() <= 1.5


def test_pure_releases_cost_at_most_their_epsilon():
    assert by(ac.DiscreteLaplace(10.0, 10)) <= 1.0
    assert by(ac.PureRelease(1.0, R), relation=R) <= 1.001
    assert by(ac.PureRelease(1.0, A), relation=R) <= 2.001
    assert by(ac.DiscreteLaplace(1e5, 100_000)) <= 1.001
    sampled = ac.Sampled(ac.DiscreteLaplace(10.0, 10), ac.Poisson(0.1))
    assert by(sampled) <= math.log1p(0.1 * math.expm1(1.0)) + 1e-3


def test_an_observer_who_knows_the_sample_gets_no_amplification():
    event = ac.training(2.0, 10, 0.01)
    assert by(event, knows_sample=True) == by(ac.training(2.0, 10))
    assert by(event, knows_sample=True) > 3 * by(event)
    assert any("knows who was sampled" in line for line in ac.epsilon(event, 1e-5, A, knows_sample=True).assumptions)
    assert any("does not know" in line for line in ac.epsilon(event, 1e-5, A).assumptions)


def test_large_cohorts_that_are_cut_cost_more():
    def cut(largest):
        return ac.Repeated(ac.Sampled(ac.Gaussian(1.0), ac.TruncatedPoisson(0.01, largest, 10_000)), 1_000)

    free = by(ac.training(1.0, 1_000, 0.01))
    assert by(cut(130)) > by(cut(160)) >= free * (1 - 1e-3)
    assert by(cut(200)) == pytest.approx(free, rel=1e-3)
    assert by(cut(200), "rdp") == pytest.approx(by(ac.training(1.0, 1_000, 0.01), "rdp"), rel=1e-3)
    none = ac.epsilon(cut(110), 1e-5, A, "rdp")
    assert none.epsilon == math.inf
    assert any("differ from their law" in line for line in none.assumptions)


def test_errors_of_the_sampler_are_paid_from_delta():
    exact, drawn = ac.Gaussian(2.0), ac.RoundedGaussian(2.0, 1e-9)
    epsilon = by(ac.Repeated(drawn, 3))
    rest = 1e-5 - (1 + math.exp(epsilon)) * 3e-9
    assert rest > 0
    assert epsilon >= by(ac.Repeated(exact, 3), delta=rest) * (1 - 1e-9)
    assert by(ac.RoundedGaussian(2.0, 1e-30)) == pytest.approx(by(exact), rel=1e-6)
    assert by(drawn) > by(exact)
    assert by(ac.RoundedGaussian(1.0, 1e-4)) == math.inf


def test_which_accountant_is_taken():
    def name(event, **options):
        return ac.epsilon(event, 1e-5, A, **options).accountant

    gaussian, sampled = ac.Gaussian(1.0), ac.training(1.0, 10, 0.1)
    distributed = ac.DistributedDiscreteGaussian(2.0, 10, 10.0, 10.0, 10)
    factorised = ac.MatrixFactorisation(1.0, 10, 1, 1)
    assert name(gaussian) == "analytic Gaussian"
    assert name(sampled) == "privacy loss distribution"
    assert name(ac.Composed((sampled, gaussian, ac.DiscreteLaplace(1.0, 1)))) == "privacy loss distribution"
    assert ac.epsilon(ac.DiscreteLaplace(10.0, 1), 1e-40, A).accountant == "sum of pure epsilons"
    assert name(sampled, adaptive=True).startswith("Rényi")
    assert name(distributed).startswith("Rényi")
    assert name(ac.Composed((distributed, gaussian))).startswith("Rényi")
    assert name(ac.Skellam(100.0, 5.0, 5.0)).startswith("Rényi")
    assert name(ac.DiscreteGaussian(1.0)).startswith("zero-concentrated")
    assert name(factorised) == "analytic Gaussian"
    assert name(ac.Composed((factorised, gaussian))) == "analytic Gaussian"
    assert name(ac.Composed((factorised, sampled))) == "privacy loss distribution"
    assert name(ac.Composed((factorised, sampled)), adaptive=True).startswith("Rényi")
    assert ac.epsilon(sampled, 1e-14, A).accountant.startswith("Rényi")
    assert ac.epsilon(ac.Composed(()), 1e-5, A).epsilon == 0


def test_a_coarser_interval_is_said():
    guarantee = ac.epsilon(ac.training(0.1, 2, 0.1), 1e-5, A)
    assert any("coarser than" in line for line in guarantee.assumptions)
    assert guarantee.epsilon <= ac.epsilon(ac.training(0.1, 2, 0.1), 1e-5, A, "rdp").epsilon * 1.01
    assert not any("coarser" in line for line in ac.epsilon(ac.training(1.0, 2, 0.1), 1e-5, A).assumptions)


def test_very_little_noise_still_has_a_bound():
    assert 1e5 < by(ac.training(0.001, 1_000, 0.01)) < math.inf
    assert 1e5 < by(ac.training(0.001, 1_000, 0.01), relation=R) < math.inf


@pytest.mark.parametrize("delta", [0, 1, 0.0, 1.0, -1e-5, 2.0, float("nan"), float("inf"), True, "1e-5", None])
def test_delta_must_be_between_zero_and_one(delta):
    with pytest.raises(mn.InvalidInput, match="delta"):
        ac.epsilon(ac.Gaussian(1.0), delta, A)


@pytest.mark.parametrize("accountant", ["gdp", "clt"])
def test_the_central_limit_is_refused(accountant):
    with pytest.raises(mn.Refused, match="below the truth"):
        ac.epsilon(ac.Gaussian(1.0), 1e-5, A, accountant)


@pytest.mark.parametrize(
    ("event", "relation", "accountant"),
    [
        (ac.Sampled(ac.Gaussian(1.0), ac.FixedSize(1, 10)), A, "auto"),
        (ac.Sampled(ac.Gaussian(1.0), ac.FixedSize(1, 10)), R, "pld"),
        (ac.Sampled(ac.Skellam(1e4, 9.0, 9.0), ac.FixedSize(1, 10)), R, "auto"),
        (ac.Sampled(ac.Skellam(1e4, 9.0, 9.0), ac.Poisson(0.1)), R, "auto"),
        (ac.Sampled(ac.Sampled(ac.Gaussian(1.0), ac.Poisson(0.1)), ac.Poisson(0.1)), A, "auto"),
        (ac.Skellam(1e4, 9.0, 9.0), A, "pld"),
        (ac.DiscreteGaussian(1.0), A, "pld"),
        (ac.training(1.0, 5, 0.1), A, "zcdp"),
        (ac.training(1.0, 5, 0.1), A, "analytic"),
        (ac.PureRelease(1.0, R), A, "auto"),
    ],
)
def test_what_has_no_bound_is_refused(event, relation, accountant):
    with pytest.raises(mn.Refused):
        ac.epsilon(event, 1e-5, relation, accountant)


def test_other_input_is_refused():
    with pytest.raises(mn.InvalidInput, match="Unknown event"):
        ac.epsilon(object(), 1e-5, A)
    with pytest.raises(mn.InvalidInput, match="neighboring_relation"):
        ac.epsilon(ac.Gaussian(1.0), 1e-5, "substitute")
    with pytest.raises(mn.InvalidInput, match="accountant"):
        ac.epsilon(ac.Gaussian(1.0), 1e-5, A, "moments")
    with pytest.raises(mn.InvalidInput, match="interval"):
        ac.epsilon(ac.Gaussian(1.0), 1e-5, A, interval=0.0)
    with pytest.raises(mn.Refused, match="fixed in advance"):
        ac.epsilon(ac.training(1.0, 5, 0.1), 1e-5, A, "pld", adaptive=True)


def test_a_guarantee_is_plain_data_and_prints():
    guarantee = ac.epsilon(ac.training(1.0, 100, 0.01), 1e-5, A)
    assert guarantee.to_plain()["epsilon"] == guarantee.epsilon
    assert guarantee.to_plain()["neighboring_relation"] == A
    assert "dp-accounting" in guarantee.version
    assert "delta 1e-05" in str(guarantee)
    assert "Poisson" in str(guarantee)


@pytest.mark.parametrize(
    "event",
    [
        ac.training(1.0, 100, 0.01),
        ac.Composed((ac.training(1.0, 10, 0.1), ac.Repeated(ac.RoundedGaussian(3.0), 5), ac.DiscreteLaplace(20.0, 3))),
        ac.Sampled(ac.Gaussian(1.0), ac.TruncatedPoisson(0.1, 20, 100)),
    ],
)
def test_dp_accounting_itself_gives_the_same(event):
    from dp_accounting.pld import PLDAccountant

    theirs = PLDAccountant(value_discretization_interval=1e-3).compose(event.to_dp_event()).get_epsilon(1e-5)
    assert by(event, "pld") == pytest.approx(theirs, rel=1e-3)
    assert by(event, "pld") >= theirs * (1 - 1e-9)


def test_dp_accounting_has_no_word_for_some_events():
    with pytest.raises(mn.Refused, match="Skellam"):
        ac.Skellam(1.0, 1.0, 1.0).to_dp_event()


def test_releases_side_by_side_are_one_release():
    assert joint_multiplier(ac.Composed((ac.Gaussian(3.0), ac.RoundedGaussian(4.0)))) == pytest.approx(2.4)
    assert joint_multiplier(ac.Composed((ac.Gaussian(3.0), ac.DiscreteGaussian(4.0)))) is None
    assert counted(ac.Composed((ac.Gaussian(3), ac.Gaussian(3.0)))) == {ac.Gaussian(3.0): 2}


def test_prv_accountant_agrees():
    """Another implementation of the same loss; it gives an interval."""
    prv = pytest.importorskip("prv_accountant")
    accountant = prv.PRVAccountant(
        prvs=[prv.PoissonSubsampledGaussianMechanism(noise_multiplier=1.0, sampling_probability=0.01)],
        max_self_compositions=[1_000],
        eps_error=0.01,
        delta_error=1e-10,
    )
    low, _, high = accountant.compute_epsilon(delta=1e-5, num_self_compositions=[1_000])
    assert low - 1e-3 <= by(ac.training(1.0, 1_000, 0.01)) <= high + 1e-3


def test_jax_privacy_agrees():
    """What it says that DP-SGD does spends the same epsilon."""
    pytest.importorskip("jax_privacy")
    from jax_privacy import accounting

    params = accounting.DpParams(num_samples=10_000, batch_size=100, noise_multipliers=1.0, delta=1e-5)
    theirs = accounting.DpsgdTrainingAccountant(accounting.PldAccountantConfig()).compute_epsilon(1_000, params)
    assert ac.epsilon(ac.training(1.0, 1_000, 0.01), 1e-5, "add_or_remove").epsilon == pytest.approx(theirs, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(40, 199))
def test_what_shares_a_curve_is_counted_together(cut, free, most):
    """A cut Poisson sample takes the uncut one's curve: rounds of both, and of two cuts, must add up."""
    truncated = ac.Repeated(ac.Sampled(ac.Gaussian(1.0), ac.TruncatedPoisson(0.1, most, 200)), cut)
    other = ac.Repeated(ac.Sampled(ac.Gaussian(1.0), ac.TruncatedPoisson(0.1, most - 1, 200)), free)
    for both in (ac.Composed((truncated, ac.training(1.0, free, 0.1))), ac.Composed((truncated, other))):
        found = ac.epsilon(both, 1e-5, "add_or_remove", "rdp").epsilon
        assert found >= ac.epsilon(ac.training(1.0, cut + free, 0.1), 1e-5, "add_or_remove", "rdp").epsilon * (1 - 1e-12)
        assert found >= ac.epsilon(truncated, 1e-5, "add_or_remove", "rdp").epsilon
