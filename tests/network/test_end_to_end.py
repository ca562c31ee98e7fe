"""A server and four hospitals as processes, over TLS: the same study as in a simulation, whatever is killed."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

import manent as mn
from manent.app.study.file import load_study
from manent.core.store import Store
from manent.network.server import documents
from manent.network.trust.identity import Identity
from manent.network.trust.receipts import stored, verify
from manent.storage import open_store
from tests.network.processes import Federation, free_port, until


def check_receipts(federation: Federation, sums: int) -> None:
    """Each site has one receipt for each sum, signed and chained."""
    for index in range(federation.sites):
        folder = federation.folder / f"site{index}"
        until(lambda folder=folder: len(stored(open_store(folder / "site.db"))[0]) == sums, 20, federation.logs)
        rows, last = stored(open_store(folder / "site.db"))
        found = verify(rows, Identity.load(folder / "identity.key").signing_key.public, last)
        assert {receipt.outcome for receipt in found} == {"released"}
        assert {receipt.survivors for receipt in found} == {federation.sites}


def simulated(federation: Federation) -> mn.Run:
    declared = load_study(federation.study)
    return mn.simulate(declared.study, declared.data, seed=0, workers=0)


def check_equal(federation: Federation, found: dict[str, np.ndarray]) -> None:
    """The model, and every row of the history, are the simulation's."""
    run = simulated(federation)
    np.testing.assert_array_equal(found["model"], run.result["model"])
    rows = [json.loads(line) for line in (federation.over[0] / "history.jsonl").read_text().splitlines()]
    assert rows == run.history


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
        assert federation.tokens
        kept, kills = open_store(tmp_path / "srv" / "server.db"), 0
        while not federation.over and kills < 8:
            target = progress(kept) + chance.randrange(1, 6)
            until(lambda target=target: federation.over or progress(kept) >= target, 60, federation.logs)
            name = chance.choice(["server", "server", "site0", "site1", "site2", "site3"])
            federation.kill(name)
            kills += 1
            if name == "server":
                federation.serve()
            else:
                federation.join(int(name[-1]))
        assert kills >= 3
        check_equal(federation, federation.result(90))
        check_receipts(federation, sums=4 + 2)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["SQLite", "PostgreSQL"])
def test_two_processes_serve_one_study(tmp_path, store, request):
    """Half of the sites know one process, half the other; one process is killed on the way, and its sites wait for it."""
    options = ("--database", request.getfixturevalue("postgres_url")) if store == "PostgreSQL" else ()
    with Federation(tmp_path, "mn.SecAgg(minimum_cohort=3, dropped=0.2)", rounds=2) as federation:
        second = free_port()
        federation.serve(*options)
        assert federation.tokens
        federation.serve(*options, name="second", port=second)
        until(lambda: len(federation.tokens) == 2, 30, federation.logs)
        for index in range(federation.sites):
            federation.join(index, server=index % 2)
        kept = open_store(options[1] if options else tmp_path / "srv" / "server.db")
        until(lambda: federation.over or progress(kept) >= 6, 60, federation.logs)
        federation.kill("second")
        federation.serve(*options, name="second", port=second)
        check_equal(federation, federation.result(60))
        check_receipts(federation, sums=2 + 1)
    assert (tmp_path / "srv" / "server.db").exists() == (store == "SQLite")


def progress(store: Store) -> int:
    """How many rows a server has kept of its parties."""
    with store.snapshot() as view:
        sums = [documents.sum_of(view, key.removeprefix("sum/")) for key in view.keys("sum/")]
        return sum(view.count(record.log) for record in sums if record is not None)
