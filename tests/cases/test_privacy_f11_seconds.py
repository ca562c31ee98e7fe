"""How long a round took tells how many clients worked in it. No history says it, nor anything else that a private run shows."""

from __future__ import annotations

import json

import numpy as np
import pytest

import manent as mn
from manent.network.server import documents
from manent.network.server.serving import write_result
from tests.network.world import World, data_of, study_of

EXPECTED = 4
PRIVATE = study_of(
    algorithm=mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4), weighting="equal"),
    rounds=6,
    cohort=mn.Cohort(sampling_probability=0.5),
    layers=[mn.Clip(1.0), mn.CentralNoise(5.0)],
)


class Watched:
    """What a watcher is told."""

    def __init__(self) -> None:
        self.clients: list[int] = []

    def advance(self, round: int, clients: int, metrics: dict[str, float]) -> None:
        self.clients.append(clients)


@pytest.mark.parametrize("study", [PRIVATE, study_of(rounds=2)], ids=["private", "bare"])
def test_no_row_of_a_history_has_a_time(tmp_path, study):
    run = mn.simulate(study, data_of(8), workers=0, folder=tmp_path / "run", watcher=())
    kept = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert kept == run.history
    allowed = {"round", "sum", "cohort", "answers", "bytes_up", "bytes_down", "update_norm"}
    assert {name for row in run.history for name in row} == allowed
    assert all(row["seconds"] > 0 for row in run.probe)


def test_what_a_private_run_shows_of_each_round_is_the_same_whatever_the_cohort():
    watched = Watched()
    run = mn.simulate(PRIVATE, data_of(8), workers=0, watcher=watched, seed=1)
    sizes = [row["cohort"] for row in run.probe]
    assert len(set(sizes)) > 1, "this seed draws cohorts of different sizes"
    public = {tuple(value for name, value in row.items() if name not in ("round", "update_norm")) for row in run.history}
    assert len(public) == 1
    assert {row["cohort"] for row in run.history} == {EXPECTED}
    assert watched.clients == [EXPECTED] * 6


def test_no_history_of_a_server_has_a_time_and_that_of_an_earlier_version_is_told_without(tmp_path):
    world = World(tmp_path, 8)
    hash = world.begin(study_of(rounds=2))
    with world.store.transaction() as transaction:  # as an earlier version wrote it
        transaction.append(documents.history_log(hash), b'{"round":0,"seconds":1.5,"sum":"train"}')
    world.now += 12.0
    world.run(hash)
    assert all("seconds" not in row for row in world.history(hash)[1:])
    with world.store.snapshot() as view:
        told = documents.history(view, hash)
    assert [row["round"] for row in told] == [0, 1, 2]
    assert all("seconds" not in row for row in told)
    write_result(world.service, world.study(hash), tmp_path / "result")
    assert "seconds" not in (tmp_path / "result" / "history.jsonl").read_text()
    assert np.isfinite(world.result(hash)["model"]).all()
