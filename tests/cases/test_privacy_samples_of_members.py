"""What one who takes part knows of a sample, which neighbours a cut sample has, and what holds beside adaptive choices."""

from __future__ import annotations

import math

import pytest

import manent as mn
from manent import accounting as ac
from manent.accounting.events import FixedSize, Sampled, TruncatedPoisson
from tests.cases.observed import Give, units

DELTA = 1e-5


@pytest.mark.parametrize(("size", "population", "known"), [(50, 100, (50, 99)), (1, 3, (1, 2)), (98, 100, (98, 99))])
def test_of_a_fixed_size_one_who_was_not_drawn_is_among_fewer(size, population, known):
    """It knows that all who were drawn are among the others: the one that is protected was so with chance size / (n - 1)."""
    assert FixedSize(size, population).known_to_member() == (FixedSize(*known), 0.0)


@pytest.mark.parametrize("size", [99, 100])
def test_of_all_but_one_it_knows_everybody(size):
    assert FixedSize(size, 100).known_to_member() == (None, 0.0)


def test_the_statement_says_more_against_a_client_than_against_the_public():
    budget = mn.Budget(50.0, DELTA, "client", "replace_one")
    study = mn.Study(Give(4), 10, mn.Cohort(size=50), [mn.Clip(1.0), mn.CentralNoise(4.0)], budget=budget)
    found = {one.name: one.epsilon for one in mn.check(study, units(100)).observers}
    gaussian = ac.RoundedGaussian(4.0)
    for name, population in (("clients", 99), ("public", 100)):
        event = ac.Repeated(Sampled(gaussian, FixedSize(50, population)), 10)
        assert found[name] == pytest.approx(ac.epsilon(event, DELTA, "replace_one").epsilon, rel=1e-6)
    assert found["clients"] > found["public"] * 1.001


@pytest.mark.parametrize(("q", "largest", "n"), [(0.1, 22, 100), (0.5, 9, 10)])
def test_what_a_member_learns_of_a_cut_is_that_of_one_unit_more(q, largest, n):
    """Under "add_or_remove" the neighbour has n + 1 units, and more than `largest` of so many coins is what a cut needs."""
    sampling, error = TruncatedPoisson(q, largest, n).known_to_member()
    coins = range(largest + 1, n + 2)
    assert sampling == ac.Poisson(q)
    assert error == pytest.approx(math.fsum(math.comb(n + 1, k) * q**k * (1 - q) ** (n + 1 - k) for k in coins), rel=1e-9)


@pytest.mark.parametrize(("q", "largest", "worst"), [(0.5, 2, 10), (0.5, 9, 11)])
@pytest.mark.parametrize("beside", [False, True])
def test_the_neighbour_that_is_the_worse_counts_beside_other_releases_too(q, largest, worst, beside):
    """Of 10 units the worse pair has 10 where a cohort is nearly always cut, and 11 where it rarely is."""
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant

    cut, other = Sampled(ac.Gaussian(2.0), TruncatedPoisson(q, largest, 10)), ac.Gaussian(5.0)
    event = ac.Composed((cut, other)) if beside else cut
    accountant = PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3)
    accountant.compose(dp.dp_event.TruncatedSubsampledGaussianDpEvent(worst, q, largest, 2.0))
    if beside:
        accountant.compose(dp.GaussianDpEvent(5.0))
    found = ac.epsilon(event, DELTA, "add_or_remove", "pld", interval=1e-3)
    # The smaller of this PLD's and everyone's without sampling is stated, which is larger here.
    assert found.epsilon >= accountant.get_epsilon(DELTA) * (1 - 1e-9)


@pytest.mark.parametrize("event", [ac.DiscreteLaplace(2.0, 1), ac.PureRelease(0.5, "zero_out")], ids=["Laplace", "pure"])
def test_no_loss_distribution_beside_adaptive_choices_where_sampling_gains_nothing(event):
    """The bound as if the sample were known is one of the accountants that hold for adaptive choices, too."""
    several = ac.Repeated(Sampled(event, ac.Poisson(0.999)), 300)
    free, chosen = (ac.epsilon(several, DELTA, "zero_out", adaptive=adaptive) for adaptive in (False, True))
    assert free.accountant == "privacy loss distribution"
    assert chosen.accountant != "privacy loss distribution"
    assert chosen.epsilon > free.epsilon
