"""What one who takes part knows of a sample, which neighbours a cut sample has, and what holds beside adaptive choices."""

from __future__ import annotations

import math

import numpy as np
import pytest

import manent as mn
from manent import accounting as ac
from manent.accounting.events import FixedSize, Sampled, TruncatedPoisson
from manent.core.layers import Cost
from manent.core.protocols import Contribution
from manent.privacy import resolve
from manent.privacy.observers import Secrecy, views
from manent.rounds.client import checked
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


def test_what_a_cut_may_tell_a_member_is_paid_for_in_every_sum():
    """The sampler's own error, and the chance of a cut with one unit more, add up."""
    assert ac.RoundedGaussian(2.0, 2.0**-30).loosened(2.0**-29) == ac.RoundedGaussian(2.0, 3 * 2.0**-30)
    assert ac.RoundedGaussian(2.0, 0.5).loosened(0.5) is None
    budget = mn.Budget(50.0, DELTA, "client", "zero_out")
    cohort = mn.Cohort(sampling_probability=0.1, maximum=32)
    plan = resolve(mn.Study(Give(4), 5, cohort, [mn.Clip(1.0), mn.CentralNoise(2.0)], budget=budget), units(100))
    assert plan.privacy is not None
    error = math.fsum(math.comb(101, k) * 0.1**k * 0.9 ** (101 - k) for k in range(33, 102))
    ran = ac.Repeated(Sampled(ac.RoundedGaussian(2.0, error), ac.Poisson(0.1)), 5)
    for name in ("clients", "public"):
        found, _ = plan.privacy.observers[name]
        assert found is not None
        assert found.epsilon == pytest.approx(ac.epsilon(ran, DELTA, "zero_out").epsilon, rel=1e-6)
        assert found.epsilon > ac.epsilon(ac.training(2.0, 5, 0.1), DELTA, "zero_out").epsilon * (1 + 1e-6)


def test_a_budget_is_charged_for_the_dearest_whom_it_names():
    """Another client knows its own share of the noise, and so learns more than the public."""
    hidden = mn.SecAgg(modelled=True, corrupt=0.0, dropped=0.0)
    study = mn.Study(Give(4), 3, mn.Cohort(), [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=2.0)], hidden)
    privacy = resolve(study, units(12)).privacy
    assert privacy is not None
    clients, public = privacy.events["clients"], privacy.events["public"]
    assert clients != public
    assert privacy.event == privacy.charged(("public", "clients")) == privacy.charged(("clients", "server")) == clients
    assert privacy.charged(("public",)) == public


@pytest.mark.parametrize(("beacon", "amplified"), [("public", False), ("server", True)])
def test_a_public_beacon_tells_everybody_who_takes_part(beacon, amplified):
    """Then a sample hides nobody from the public. Those who take part learn it with either beacon."""
    hidden = mn.SecAgg(modelled=True, corrupt=0.0, dropped=0.0, beacon=beacon)
    budget = mn.Budget(50.0, DELTA, "client", "zero_out")
    study = mn.Study(Give(4), 3, mn.Cohort(size=20), [mn.Clip(1.0), mn.CentralNoise(2.0)], hidden, budget=budget)
    found = {one.name: one.epsilon for one in mn.check(study, units(200)).observers}
    everybody = ac.epsilon(ac.training(2.0, 3), DELTA, "zero_out").epsilon
    assert found["clients"] == pytest.approx(everybody, rel=1e-6)
    assert (found["public"] < 0.9 * everybody) if amplified else found["public"] == pytest.approx(everybody, rel=1e-6)


def test_a_vector_that_is_not_finite_changes_nothing_that_its_client_keeps():
    """Zeros are sent in its place, so that what it would keep does not belong to what was sent."""
    budget = mn.Budget(50.0, DELTA, "client", "zero_out")
    plan = resolve(mn.Study(Give(4, True), 3, layers=[mn.Clip(1.0), mn.CentralNoise(1.0)], budget=budget), units(10))
    broken = Contribution(np.array([1.0, np.nan, 0.0, 0.0], np.float32), np.ones(1, np.float32))
    found = checked(plan, "train", broken)
    assert found.contribution.memory is None
    assert not found.contribution.vector.any()
    assert checked(plan, "train", Contribution(np.ones(4, np.float32), np.ones(1, np.float32))).contribution.memory is not None


def test_those_who_collude_know_too_much_of_a_sample_together():
    """Several who compare whether they were drawn get no amplification, also where nobody tells them the cohort."""
    gaussian, drawn = ac.RoundedGaussian(2.0), ac.Poisson(0.1)
    cost = Cost(gaussian, None, gaussian, "server", 1.0, colluders=0.2)
    seen = views([(cost, 3)], Secrecy(drawn, drawn), mn.Plain(), colluding=2, random=True)
    assert seen["colluders"].event == ac.Repeated(gaussian, 3)
    assert seen["clients"].event == seen["public"].event == ac.Repeated(Sampled(gaussian, drawn), 3)
    assert seen["server"].event is seen["server and colluders"].event is None
