"""What a site lets itself be asked: of each kind of sum no more than its statement counts, wherever a server puts them."""

from __future__ import annotations

from dataclasses import replace

import pytest

import manent as mn
from manent.network.wire.sums import read_call
from tests.network.server.test_records import Site
from tests.network.world import World, study_of

ROUNDS = 6


@pytest.fixture
def site(tmp_path):
    world = World(tmp_path, 4)
    local = mn.LocalSGD(lr=0.1, steps=2, batch_size=4)
    algorithm = mn.FedAvg(mn.LogisticModel(3), local, evaluation=mn.Evaluation(every=2))
    return Site(world, world.begin(study_of(algorithm=algorithm, rounds=ROUNDS)))


def answers(site, round, index, name):
    """Whether the site takes part in such a sum; then it answers it."""
    record = site.world.sum(site.hash)
    try:
        task = site.work()._begin(f"{site.hash}-{round}-{index}", name, record.call, record.roster, record.assignment)
    except mn.ProtocolAbort:
        return False
    site.state.finish(replace(task, upload="ab" * 32), included=True)
    return True


@pytest.mark.parametrize(("name", "every"), [("train", 1), ("evaluate", 2)])
@pytest.mark.parametrize("first", [0, 1])
def test_a_kind_of_sum_is_answered_once_a_round_whatever_its_place(site, name, every, first):
    places = [(round, index) for round in range(1, ROUNDS + 1) for index in (first, 1 - first)]
    taken = [round for round, index in places if answers(site, round, index, name)]
    assert taken == list(range(every, ROUNDS + 1, every))


def test_every_sum_of_the_study_is_answered(site):
    places = [(r, i, n) for r in range(1, ROUNDS + 1) for i, n in enumerate(("train", "evaluate")[: 2 - r % 2])]
    assert len(places) == ROUNDS + ROUNDS // 2
    assert all(answers(site, *place) for place in places)


def test_one_place_is_one_sum_whatever_its_kind(site):
    assert answers(site, 2, 0, "train")
    assert not answers(site, 2, 0, "evaluate")
    assert answers(site, 2, 1, "evaluate")


def test_what_was_uploaded_is_not_made_again_under_another_roster(site):
    record, work = site.world.sum(site.hash), site.work()
    task = work._begin(f"{site.hash}-1-0", "train", record.call, record.roster, record.assignment)
    again = replace(read_call(site.plan, bytes.fromhex(record.call)), roster_number=task.roster + 1).body
    assert work._renewed(task, again).roster == task.roster + 1
    uploaded = replace(task, upload="ab" * 32)
    assert work._renewed(uploaded, again) is uploaded
