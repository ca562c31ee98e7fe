"""A server and four hospitals as processes, over TLS: the same study as in a simulation, whatever is killed."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

import manent as mn
from manent.app.studyfile import load_study
from tests.network.processes import Federation, until


def simulated(federation: Federation) -> mn.Run:
    declared = load_study(federation.study)
    return mn.simulate(declared.study, declared.data, seed=0, workers=0)


def check_equal(federation: Federation, found: dict[str, np.ndarray]) -> None:
    """The model, and every row of the history, are the simulation's."""
    run = simulated(federation)
    np.testing.assert_array_equal(found["model"], run.result["model"])
    rows = [json.loads(line) for line in (federation.over[0] / "history.jsonl").read_text().splitlines()]
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in run.history]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("summation", "algorithm"), [("mn.Plain()", "SCAFFOLD"), ("mn.SecAgg(minimum_cohort=3, dropped=0.2)", "FedAvg")]
)
def test_the_network_gives_what_a_simulation_gives(tmp_path, summation, algorithm):
    with Federation(tmp_path, summation, rounds=2, algorithm=algorithm) as federation:
        federation.serve()
        for index in range(federation.sites):
            federation.join(index)
        check_equal(federation, federation.result(60))
        assert "who sent it" in (federation.over[0] / "statement.txt").read_text() or "SecAgg" in summation


@pytest.mark.slow
def test_killed_servers_and_sites_lose_nothing(tmp_path):
    chance = random.Random(5)
    with Federation(tmp_path, "mn.SecAgg(minimum_cohort=3, dropped=0.2)", rounds=4, algorithm="SCAFFOLD") as federation:
        federation.serve()
        for index in range(federation.sites):
            federation.join(index)
        kills = 0
        while not federation.over and kills < 8:
            target = progress(federation) + chance.randrange(1, 6)
            until(lambda target=target: federation.over or progress(federation) >= target, 60, federation.logs)
            name = chance.choice(["server", "server", "site0", "site1", "site2", "site3"])
            federation.kill(name)
            kills += 1
            if name == "server":
                federation.serve()
            else:
                federation.join(int(name[-1]))
        assert kills >= 3
        check_equal(federation, federation.result(90))


def progress(federation: Federation) -> int:
    """How many rows the server has kept of its parties."""
    import sqlite3

    path = federation.folder / "srv" / "server.db"
    if not path.exists():
        return 0
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            return int(connection.execute("SELECT count(*) FROM logs").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return 0
