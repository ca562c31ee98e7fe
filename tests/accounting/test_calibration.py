"""The noise that a budget needs: enough, and not more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent import accounting as ac

A = "add_or_remove"


@settings(max_examples=6, deadline=None)
@given(
    st.floats(0.1, 10), st.sampled_from([0.01, 0.3, 1.0]), st.integers(1, 500), st.sampled_from(["add_or_remove", "replace_one"])
)
def test_it_keeps_to_the_target_and_is_the_smallest(target, q, rounds, relation):
    make = lambda z: ac.training(z, rounds, q)  # noqa: E731
    z = ac.calibrate(target, 1e-5, make, relation, interval=1e-3)
    assert ac.epsilon(make(z), 1e-5, relation, interval=1e-3).epsilon <= target
    assert ac.epsilon(make(z * (1 - 3e-4)), 1e-5, relation, interval=1e-3).epsilon > target


@pytest.mark.parametrize("accountant", ["auto", "rdp"])
def test_the_reference_setting(accountant):
    make = lambda z: ac.training(z, 10_000, 0.01)  # noqa: E731
    z = ac.calibrate(1.0, 1e-5, make, A, accountant)
    assert z == pytest.approx({"auto": 3.813, "rdp": 4.126}[accountant], abs=2e-3)
    assert ac.epsilon(make(z), 1e-5, A, accountant).epsilon <= 1.0


def test_matrix_factorisation_and_distributed_noise():
    tree = ac.calibrate(2.0, 1e-6, lambda z: ac.MatrixFactorisation(z, 100, 2, 50), A)
    assert ac.epsilon(ac.MatrixFactorisation(tree, 100, 2, 50), 1e-6, A).epsilon == pytest.approx(2.0, rel=1e-3)
    shares = lambda z: ac.Repeated(ac.DistributedDiscreteGaussian(z * 100 / 10, 100, 100.0, 1e4, 10_000), 20)  # noqa: E731
    z = ac.calibrate(2.0, 1e-6, shares, A)
    assert 1.99 < ac.epsilon(shares(z), 1e-6, A).epsilon <= 2.0


def test_a_further_study_gets_what_is_left():
    past = ac.training(2.0, 100, 0.05)
    z = ac.calibrate(3.0, 1e-5, lambda z: ac.Composed((past, ac.Repeated(ac.Gaussian(z), 3))), A, adaptive=True)
    assert ac.epsilon(ac.Composed((past, ac.Repeated(ac.Gaussian(z), 3))), 1e-5, A, adaptive=True).epsilon <= 3.0


def test_what_no_noise_can_reach_is_refused():
    with pytest.raises(mn.Refused, match="No noise is enough"):
        ac.calibrate(0.5, 1e-5, lambda z: ac.Composed((ac.Gaussian(z), ac.Gaussian(1.0))), A)


@pytest.mark.parametrize("target", [0, -1.0, float("nan"), float("inf")])
def test_a_target_is_positive_and_finite(target):
    with pytest.raises(mn.InvalidInput):
        ac.calibrate(target, 1e-5, ac.Gaussian, A)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": True}, "target epsilon"),
        ({"target": "1"}, "target epsilon"),
        ({"delta": 2.0}, "delta"),
        ({"delta": None}, "delta"),
        ({"neighboring_relation": "substitute"}, "neighboring_relation"),
        ({"accountant": "moments"}, "accountant"),
        ({"tolerance": "fine"}, "tolerance"),
        ({"tolerance": 0.5}, "tolerance"),
        ({"interval": "fine"}, "interval"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_searched(change, words):
    arguments = {"target": 1.0, "delta": 1e-5, "make_event": ac.Gaussian, "neighboring_relation": A, **change}
    with pytest.raises(mn.InvalidInput, match=words):
        ac.calibrate(**arguments)
