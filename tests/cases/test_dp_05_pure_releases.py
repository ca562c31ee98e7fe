"""k purely private releases of epsilon e cost k e at most, so that a budget of k e holds them all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent import accounting as ac
from manent.crypto.random import SystemRandom
from manent.storage import open_store

UNIT = {"privacy_unit": "client", "neighboring_relation": "add_or_remove"}
A = "add_or_remove"
MAKERS = {
    "laplace": lambda epsilon: ac.DiscreteLaplace(1000 / epsilon, 1000),
    "choice": lambda epsilon: ac.PureRelease(epsilon, A),
    "many steps": lambda epsilon: ac.DiscreteLaplace(123_457 / epsilon, 123_457),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    ("each", "times", "budget"),
    [(0.5, 2, 1.0), (0.25, 4, 1.0), (1 / 3, 1, 1 / 3), (1 / 3, 3, 1.0), (0.123456, 1, 0.123456), (0.1, 3, 0.3), (0.7, 7, 4.9)],
)
@pytest.mark.parametrize("delta", [1e-6, 1e-9])
def test_a_budget_holds_them(tmp_path, make, each, times, budget, delta):
    ledger = ac.Ledger(open_store(str(tmp_path / "ledger.db")))
    ledger.open("data", ac.Budget(budget, delta, **UNIT))
    for number in range(times):
        ledger.reserve("data", make(each), study=str(number), random=SystemRandom(), **UNIT)


@settings(max_examples=100, deadline=None)
@given(
    st.floats(1e-4, 30),
    st.integers(1, 50),
    st.sampled_from(sorted(MAKERS)),
    st.booleans(),
    st.sampled_from(["auto", "rdp", "pure"]),
)
def test_they_add_up(each, times, maker, adaptive, accountant):
    event = ac.Repeated(MAKERS[maker](each), times)
    found = ac.epsilon(event, 1e-9, A, accountant, adaptive=adaptive).epsilon
    assert found <= each * times


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 3), st.integers(1, 20), st.floats(0.3, 30), st.sampled_from([None, 0.05]), st.booleans())
def test_beside_other_releases_they_add_up_too(each, times, z, q, adaptive):
    rest = ac.training(z, 10, q)
    both = ac.Composed((ac.Repeated(ac.PureRelease(each, A), times), rest))
    options = {"adaptive": adaptive, "interval": 1e-3}
    limit = each * times + ac.epsilon(rest, 1e-6, A, **options).epsilon
    assert ac.epsilon(both, 1e-6, A, **options).epsilon <= limit * (1 + 1e-12)


def test_what_is_stated_stays_a_bound():
    """Of few releases nothing is gained by a delta; the epsilon of randomised response is exact for a delta of nearly 0."""
    for each in (0.5, 2.0):
        found = ac.epsilon(ac.PureRelease(each, A), 1e-12, A).epsilon
        yes = math.exp(each) / (1 + math.exp(each))
        assert math.log((yes - 1e-12) / (1 - yes)) - 1e-13 <= found <= each


def test_the_winner_is_told():
    alone = ac.epsilon(ac.Repeated(ac.PureRelease(0.3, A), 2), 1e-40, A)
    assert (alone.epsilon, alone.accountant) == (0.6, "sum of pure epsilons")
    beside = ac.epsilon(ac.Composed((ac.PureRelease(1e-3, A), ac.Gaussian(5.0))), 1e-6, A, adaptive=True)
    assert beside.accountant == "analytic Gaussian"
    assert any("counted beside" in line for line in beside.assumptions)
