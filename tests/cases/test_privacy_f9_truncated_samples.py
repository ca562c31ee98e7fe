"""A Poisson sample that is cut pays for the cuts of the larger neighbour: n + 1 units, where one may be added."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from manent import accounting as ac
from manent.accounting.events import Sampled, TruncatedPoisson

CASES = [(10, 0.5, 9), (20, 0.3, 12), (1_000, 0.01, 30)]


@pytest.mark.parametrize(("n", "q", "largest"), CASES)
def test_the_overflow_is_that_of_the_larger_neighbour(n, q, largest):
    cut = TruncatedPoisson(q, largest, n)
    # By the definition: more than `largest` of so many coins.
    over = lambda units: math.fsum(  # noqa: E731
        math.comb(units, k) * q**k * (1 - q) ** (units - k) for k in range(largest + 1, min(units, largest + 200) + 1)
    )
    assert cut.overflow("add_or_remove") == pytest.approx(over(n + 1), rel=1e-9)
    for relation in ("zero_out", "replace_one"):
        assert cut.overflow(relation) == pytest.approx(over(n), rel=1e-9)
    assert cut.overflow("add_or_remove") > cut.overflow("zero_out")


def test_it_was_six_times_too_little():
    assert TruncatedPoisson(0.5, 9, 10).overflow("add_or_remove") == pytest.approx(0.0059, abs=5e-5)
    assert binom.sf(9, 10, 0.5) == pytest.approx(0.00098, abs=5e-6)


@pytest.mark.parametrize("relation", ["add_or_remove", "zero_out", "replace_one"])
def test_renyi_pays_it_from_delta(relation):
    """What is left of delta is less, by (1 + e^epsilon) times the overflow, than the uncut sample has."""
    n, q, largest = 1_000, 0.01, 34
    event = ac.Repeated(Sampled(ac.Gaussian(2.0), TruncatedPoisson(q, largest, n)), 5)
    found = ac.epsilon(event, 1e-5, relation, "rdp").epsilon
    units = n + (relation == "add_or_remove")
    rest = 1e-5 - (1 + math.exp(found)) * 5 * binom.sf(largest, units, q)
    assert rest > 0
    assert found >= ac.epsilon(ac.training(2.0, 5, q), rest, relation, "rdp").epsilon * (1 - 1e-9)


@pytest.mark.parametrize(("n", "q", "largest"), [(10, 0.5, 9), (100, 0.1, 20)])
def test_the_loss_distribution_is_that_of_both_neighbours(n, q, largest):
    """dp-accounting counts the unit in its size: n where one leaves, n + 1 where one comes."""
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant

    def theirs(size: int, relation: dp.NeighboringRelation) -> float:
        event = dp.dp_event.TruncatedSubsampledGaussianDpEvent(size, q, largest, 2.0)
        return PLDAccountant(relation, value_discretization_interval=1e-3).compose(event, 3).get_epsilon(1e-5)

    event = ac.Repeated(Sampled(ac.Gaussian(2.0), TruncatedPoisson(q, largest, n)), 3)
    found = ac.epsilon(event, 1e-5, "add_or_remove", "pld", interval=1e-3).epsilon
    worst = max(theirs(size, dp.NeighboringRelation.ADD_OR_REMOVE_ONE) for size in (n, n + 1))
    assert worst * (1 - 1e-9) <= found <= worst * 1.02
    fixed = ac.epsilon(event, 1e-5, "zero_out", "pld", interval=1e-3).epsilon
    assert fixed == pytest.approx(theirs(n, dp.NeighboringRelation.REPLACE_SPECIAL), rel=1e-9)
