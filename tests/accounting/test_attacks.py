"""What an epsilon lets an attack find: known values, and no less than what the best attack on a known mechanism does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import manent as mn
from manent import accounting as ac
from manent.accounting.attacks import RATES, against, true_positives, within


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "most"),
    [
        (0.0, 0.0, 0.01, 0.01),
        (1.0, 0.0, 0.01, 0.0271828),
        (1.0, 1e-5, 0.001, 0.0027283),
        (4.0, 0.0, 0.01, 0.545982),
        (8.0, 0.0, 0.01, 0.999668),
        (math.inf, 0.0, 0.001, 1.0),
        (1.0, 0.2, 0.0, 0.2),
    ],
)
def test_known_values(epsilon, delta, rate, most):
    assert true_positives(epsilon, delta, rate) == pytest.approx(most, rel=1e-5)


@given(st.floats(0, 20), st.floats(0, 1), st.floats(0, 1))
def test_it_is_between_guessing_and_certainty_and_grows(epsilon, delta, rate):
    most = true_positives(epsilon, delta, rate)
    assert rate * (1 - 1e-12) <= most <= 1
    assert most <= true_positives(epsilon + 0.1, delta, rate) + 1e-12
    # The two inequalities of the definition, for the attack's verdict and for the opposite one.
    assert most <= math.exp(epsilon) * rate + delta + 1e-9
    assert 1 - rate <= math.exp(epsilon) * (1 - most + 1e-15) + delta + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 20), st.sampled_from([1e-9, 1e-5]), st.sampled_from(["add_or_remove", "replace_one"]))
def test_the_best_attack_on_a_gaussian_is_within_it(z, delta, relation):
    """The likelihood ratio test finds Phi(mu - Phi^-1(1 - f)) of the members (Neyman and Pearson)."""
    mu = (2 if relation == "replace_one" else 1) / z
    event = ac.Gaussian(z)
    stated = within(ac.epsilon(event, delta, relation).epsilon, delta)
    for attack, simple in zip(against(event, delta, relation), stated, strict=True):
        exact = norm.cdf(mu - norm.isf(attack.false_positives))
        assert exact <= attack.true_positives <= simple.true_positives
        # Several deltas come near it.
        assert attack.true_positives <= exact * 2 + 0.01 or attack.true_positives > 0.9


def test_it_is_in_the_statement_and_printed_as_a_bound():
    algorithm = mn.FedAvg(mn.LogisticModel(13), mn.LocalSGD(lr=0.1, epochs=1), weighting="equal")
    study = mn.Study(algorithm=algorithm, rounds=2, layers=[mn.Clip(1.0), mn.CentralNoise(noise_multiplier=2.0)])
    statement = mn.check(study, mn.data.heart_disease())
    server, clients, _ = statement.observers
    assert server.attacks == ()
    assert clients.attacks == within(clients.epsilon, clients.delta)
    assert [attack.false_positives for attack in clients.attacks] == list(RATES)
    assert "wrong about 1% of others finds at most" in str(statement)
    assert all(observer.attacks == () for observer in statement.without_epsilon("no").observers)
    assert str(ac.Attack(0.001, 0.0123451)) == "wrong about 0.1% of others finds at most 1.24% of members"
