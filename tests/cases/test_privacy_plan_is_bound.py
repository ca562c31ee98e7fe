"""A plan holds for the population that it was derived for: elsewhere clients refuse, and an honest server does not go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

import manent as mn
from manent.accounting import epsilon
from manent.accounting.events import FixedSize, RoundedGaussian, released
from manent.crypto import SigningKey, SystemRandom
from manent.network.server.submitting import decide
from manent.network.trust.identity import Identity
from manent.network.wire.sums import StudySum, check_count, check_roster, client_party, make_call, read_call
from manent.privacy.check import resolve
from manent.summation.parties.call import Roster
from tests.network.world import SETTINGS, World, data_of, study_of

R = SystemRandom()
EQUAL = mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4), weighting="equal")
CENTRAL = [mn.Clip(1.0), mn.CentralNoise(1.0)]
SHARES = [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=2.0)]
SECURE = mn.SecAgg(minimum_cohort=3, dropped=0.2, beacon="server")
FIXED = study_of(algorithm=EQUAL, cohort=mn.Cohort(size=10), layers=CENTRAL, rounds=20)
EVERYONE = study_of(algorithm=EQUAL, layers=SHARES, summation=SECURE)
CUT = study_of(algorithm=EQUAL, cohort=mn.Cohort(sampling_probability=0.2, maximum=10), layers=CENTRAL)
POISSON = study_of(algorithm=EQUAL, cohort=mn.Cohort(sampling_probability=0.2), layers=CENTRAL)


def roster_of(size: int) -> tuple[list[SigningKey], Roster]:
    keys = [SigningKey.generate(R) for _ in range(size)]
    return keys, Roster.of(1, [key.public for key in keys])


def joins(plan, keys, roster, count):
    """A client's party, made of the call of a server that asks so many of this roster."""
    sum = StudySum("train", 0, 1, bytes(32))
    call = make_call(plan, sum, 1, count, roster, R.bytes(32))
    return client_party(plan, read_call(plan, call.body), sum, keys[0], roster, R, [])


def test_what_a_shrunken_roster_would_cost_is_more_than_is_stated():
    """Ten of twelve are hardly sampled: the reason for everything below."""
    stated, true = (epsilon(released(RoundedGaussian(1.0), 20, FixedSize(10, n)), 1e-6, "replace_one").epsilon for n in (100, 12))
    assert true > 3 * stated


@pytest.mark.parametrize(
    ("study", "planned", "roster", "count"),
    [
        (FIXED, 100, 12, 10),
        (FIXED, 100, 99, 10),
        (EVERYONE, 30, 12, 12),
        (EVERYONE, 30, 29, 29),
        (POISSON, 30, 29, 4),
        (CUT, 30, 29, 4),
    ],
)
def test_a_client_goes_along_with_no_smaller_roster(study, planned, roster, count):
    plan = resolve(study, data_of(planned))
    joins(plan, *roster_of(planned), count if plan.study.cohort.size is not None or study is POISSON or study is CUT else planned)
    with pytest.raises(mn.Refused, match=f"planned for {planned} sites.*the roster has {roster}"):
        joins(plan, *roster_of(roster), count)


def test_a_cohort_that_is_cut_holds_for_no_larger_roster_and_others_do():
    with pytest.raises(mn.Refused, match="holds for just so many; the roster has 31"):
        check_roster(resolve(CUT, data_of(30)), 31)
    for study in (FIXED, POISSON, EVERYONE):
        check_roster(resolve(study, data_of(30)), 31)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_a_client_goes_along_with_no_fewer_than_the_plan_needs(count):
    """Of 30, a lying server asks a few: their shares of the noise are too little."""
    plan = resolve(EVERYONE, data_of(30))
    assert plan.gathering.minimum > 20
    keys, roster = roster_of(30)
    whole = make_call(plan, sum := StudySum("train", 0, 1, bytes(32)), 1, 30, roster, R.bytes(32))
    lie = replace(whole, terms=replace(whole.terms, clients=count))
    with pytest.raises(mn.ProtocolAbort, match=f"asks {count} clients"):
        client_party(plan, lie, sum, keys[0], roster, R, [])


def test_a_client_goes_along_with_no_fewer_than_the_minimum_where_the_number_is_random():
    plan = resolve(study_of(cohort=mn.Cohort(sampling_probability=0.5, minimum=4)), data_of(20))
    for count in (4, 7, 20):
        check_count(plan, 20, count)
    for count in (1, 3):
        with pytest.raises(mn.ProtocolAbort, match="needs 4 at least"):
            check_count(plan, 20, count)
    with pytest.raises(mn.ProtocolAbort, match="needs 5 at least"):  # too few are left of all
        check_count(resolve(study_of(cohort=mn.Cohort(minimum=5)), data_of(20)), 3, 3)


def test_without_noise_a_study_goes_on_with_fewer_but_not_below_its_cohort():
    check_roster(resolve(study_of(), data_of(8)), 3)
    check_roster(resolve(study_of(cohort=mn.Cohort(size=5)), data_of(8)), 5)
    with pytest.raises(mn.Refused, match="at least 5; the roster has 4"):
        check_roster(resolve(study_of(cohort=mn.Cohort(size=5)), data_of(8)), 4)


# An honest server.

SMALL = study_of(algorithm=EQUAL, cohort=mn.Cohort(size=3), layers=CENTRAL)


def decided(world, hash, sites, roster=None):
    for site in sites:
        decide(world.rounds, hash, world.identities[site].public_hex, True, "", roster)


def test_before_it_begins_a_study_is_planned_anew_and_sites_decide_again(tmp_path):
    world = World(tmp_path, 6)
    hash = world.submit(SMALL)
    with world.store.transaction() as transaction:  # it may be planned for as few as four
        key = f"study/{hash}"
        transaction.put(key, transaction.get(key).replace(b'"needed":6', b'"needed":4'))
    world.tick()
    planned = world.study(hash)
    assert (planned.phase, planned.clients) == ("deciding", 6)
    decided(world, hash, range(3), planned.roster)
    world.remove(5)
    world.tick(2)
    anew = world.study(hash)
    assert (anew.phase, anew.clients, anew.roster, anew.reason) == ("deciding", 5, planned.roster + 1, "")
    with pytest.raises(mn.NotAuthorized, match="planned for roster 7 by now; the decision is about roster 6"):
        decide(world.rounds, hash, world.identities[4].public_hex, True, "", planned.roster)
    world.tick()
    assert world.study(hash).phase == "deciding", "the decisions about the old plan count no more"
    decided(world, hash, range(5), anew.roster)
    world.tick(2)
    assert world.study(hash).phase == "running"
    assert world.rounds.plans.plan(world.study(hash)).public.clients == 5
    assert world.run(hash).phase == "finished"


def test_with_too_few_sites_left_it_waits_for_others_and_says_why(tmp_path):
    world = World(tmp_path, 6)
    hash = world.submit(SMALL)
    world.tick()
    world.remove(4, 5)
    world.tick(3)
    assert world.study(hash).phase == "gathering"
    assert "planned for 6 sites" in world.study(hash).reason
    assert "the roster has 4" in world.study(hash).reason


def test_once_something_may_be_released_the_study_ends_with_the_reason(tmp_path):
    world = World(tmp_path, 6)
    hash = world.begin(replace(SMALL, rounds=5))
    for site in world.asked(hash):
        world.talk(hash, site)
    world.tick()
    assert world.study(hash).released == 1
    world.remove(5)
    world.tick(2)
    ended = world.study(hash)
    assert (ended.phase, ended.released) == ("failed", 1)
    assert "planned for 6 sites, and its plan holds for at least 6; the roster has 5" in ended.reason


def test_another_attempt_under_a_smaller_roster_ends_the_study_too(tmp_path):
    world = World(tmp_path, 6)
    hash = world.begin(SMALL)
    world.remove(5)
    for _ in range(3):
        world.now += SETTINGS.work + 1
        world.tick(2)
    assert world.study(hash).phase == "failed"
    assert "the roster has 5" in world.study(hash).reason


def test_newcomers_do_not_stop_a_study_whose_cohort_is_cut(tmp_path):
    """It goes on under the roster that it was planned for."""
    world = World(tmp_path, 6)
    cut = study_of(algorithm=EQUAL, cohort=mn.Cohort(sampling_probability=0.9, maximum=4), layers=CENTRAL, rounds=3)
    hash = world.begin(cut)
    newcomer = Identity.create(tmp_path / "new.key", "newcomer")
    world.remove(added=(newcomer,))
    assert world.run(hash).phase == "finished"
    assert len(world.history(hash)) == 3
