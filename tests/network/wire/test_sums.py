"""What server and sites derive from the same plan, for whatever summation it has."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import manent as mn
from manent.network.wire.sums import asked, check_network, enough, network_of
from manent.privacy.check import resolve
from tests.network.world import data_of, study_of


@dataclass(frozen=True)
class Alone:
    """A summation that runs in simulations only."""

    together = True

    def seen_by(self, observer):
        return mn.Plain().seen_by(observer)

    def minimum(self, most):
        return 1

    def init(self, occasion):
        return mn.Plain().init(occasion)

    def bits(self, form, most):
        return 32

    def explain(self, form, most, minimum):
        return ()


def plan_of(summation, clients: int = 10, **cohort):
    return resolve(study_of(summation=summation, cohort=mn.Cohort(**cohort)), data_of(clients))


def test_a_summation_without_parties_is_refused_over_a_network():
    plan = plan_of(Alone())
    for ask in (network_of, check_network):
        with pytest.raises(mn.Refused, match="Alone is not run over a network"):
            ask(plan)


def test_what_the_summation_does_not_run_with_over_a_network_is_refused():
    check_network(plan_of(mn.SecAgg()))
    with pytest.raises(mn.Refused, match="not looked up yet"):
        check_network(plan_of(mn.SecAgg(beacon="public")))


@pytest.mark.parametrize(("summation", "wanted"), [(mn.Plain(), 6), (mn.SecAgg(minimum_cohort=3), 4)])
def test_more_are_asked_than_are_needed_only_where_the_first_answers_do(summation, wanted):
    plan = plan_of(summation, size=4)
    assert asked(plan, 10) == wanted
    assert enough(plan, wanted) == 4
    assert enough(plan, 3) == 3
    everyone = plan_of(summation)
    assert asked(everyone, 10) == enough(everyone, 10) == 10
