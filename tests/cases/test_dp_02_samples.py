"""A secret sample never needs more noise, and never costs more, than asking everyone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent import accounting as ac

RELATIONS = ("add_or_remove", "replace_one", "zero_out")
laws = settings(max_examples=25, deadline=None)
noise = st.floats(-1, 4).map(lambda x: 10**x)
rate = st.floats(-4, 0).map(lambda x: 10**x)
deltas = st.sampled_from([1e-3, 1e-6, 1e-9, 1e-13])


def test_ten_of_a_thousand():
    make = lambda z: ac.Repeated(ac.Sampled(ac.Gaussian(z), ac.FixedSize(10, 1_000)), 100)  # noqa: E731
    everyone = ac.calibrate(0.01, 1e-6, lambda z: ac.training(z, 100), "replace_one")
    assert everyone == pytest.approx(6_127, rel=2e-4)
    sampled = ac.calibrate(0.01, 1e-6, make, "replace_one")
    # Of all 100 rounds together a unit is in one on average; no sample hides more than one in a hundred of the noise.
    assert everyone / 100 < sampled < everyone


@laws
@given(noise, rate, st.integers(1, 2_000), deltas, st.sampled_from(RELATIONS), st.sampled_from(["auto", "rdp"]))
def test_poisson_samples(z, q, rounds, delta, relation, accountant):
    sampled = ac.epsilon(ac.training(z, rounds, q), delta, relation, accountant, adaptive=True).epsilon
    assert sampled <= ac.epsilon(ac.training(z, rounds), delta, relation, accountant).epsilon * (1 + 1e-9)


@laws
@given(noise, st.integers(1, 100), st.integers(1, 500), deltas, st.sampled_from(["replace_one", "zero_out"]))
def test_samples_of_fixed_size(z, size, rounds, delta, relation):
    sampled = ac.Repeated(ac.Sampled(ac.Gaussian(z), ac.FixedSize(size, 100)), rounds)
    everyone = ac.epsilon(ac.training(z, rounds), delta, relation, "rdp").epsilon
    assert ac.epsilon(sampled, delta, relation).epsilon <= everyone * (1 + 1e-9)


@laws
@given(noise, rate, st.integers(1, 60), st.integers(1, 200), deltas, st.sampled_from(RELATIONS))
def test_samples_that_are_cut(z, q, largest, rounds, delta, relation):
    """Who leaves a full sample makes room for another: under add_or_remove the noise is measured against a replacement."""
    sampled = ac.Repeated(ac.Sampled(ac.Gaussian(z), ac.TruncatedPoisson(q, largest, 100)), rounds)
    moved = "replace_one" if relation == "add_or_remove" else relation
    everyone = ac.epsilon(ac.training(z, rounds), delta, moved).epsilon
    assert ac.epsilon(sampled, delta, relation, adaptive=True).epsilon <= everyone * (1 + 1e-9)


@pytest.mark.parametrize("relation", ["add_or_remove", "zero_out"])
@pytest.mark.parametrize("q", [1e-3, 0.3, 0.999])
@pytest.mark.parametrize(
    "release",
    [
        ac.DiscreteLaplace(10.0, 5),
        ac.DiscreteLaplace(3e4, 20_000),
        ac.PureRelease(2.0, "add_or_remove"),
        ac.Skellam(1e8, 50.0, 200.0),
        ac.DistributedDiscreteGaussian(100.0, 50, 20.0, 200.0, 100),
        ac.DiscreteGaussian(300.0),
        ac.MatrixFactorisation(50.0, 20, 2, 10),
    ],
    ids=lambda release: type(release).__name__,
)
def test_samples_of_other_releases(release, q, relation):
    if isinstance(release, ac.PureRelease) and relation == "zero_out":
        pytest.skip("it is not stated for this relation")
    for accountant in ("auto", "rdp"):
        sampled, everyone = (
            ac.epsilon(ac.Repeated(event, 30), 1e-6, relation, accountant).epsilon
            for event in (ac.Sampled(release, ac.Poisson(q)), release)
        )
        assert sampled <= everyone * (1 + 1e-9)


def test_a_bound_without_sampling_says_so():
    """Nearly everyone, by Rényi divergences, which are not exact: knowing the sample costs no more, and that is exact."""
    event = ac.training(1.0, 10, 1 - 1e-9)
    found = ac.epsilon(event, 1e-5, "add_or_remove", adaptive=True)
    assert found.epsilon == ac.epsilon(ac.training(1.0, 10), 1e-5, "add_or_remove").epsilon
    assert found.accountant == "analytic Gaussian"
    assert any("knew who was sampled" in line for line in found.assumptions)


def test_a_fixed_size_under_add_or_remove_stays_refused():
    with pytest.raises(mn.Refused, match="population's size public"):
        ac.epsilon(ac.Sampled(ac.Gaussian(1.0), ac.FixedSize(10, 1_000)), 1e-6, "add_or_remove")


def test_what_a_sample_hides_is_still_a_bound():
    """Against the exact tail of one release on a fixed-size sample: the mixture of the unit drawn, and replaced, or not."""
    from scipy.stats import norm

    z, q, delta = 3.0, 0.1, 1e-5
    found = ac.epsilon(ac.Sampled(ac.Gaussian(z), ac.FixedSize(10, 100)), delta, "replace_one").epsilon
    # All others send 0; the unit sends 1, or -1 in its place: a valid attack takes totals above a threshold.
    true = max(
        math.log(
            ((1 - q) * norm.sf(t / z) + q * norm.sf((t - 1) / z) - delta) / ((1 - q) * norm.sf(t / z) + q * norm.sf((t + 1) / z))
        )
        for t in [x / 10 for x in range(10, 120)]
        if norm.sf(t / z) > 2 * delta
    )
    assert 0 < true <= found
