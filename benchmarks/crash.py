"""kill -9 of the server and of sites at random moments: is anything lost or counted twice, or any result different?

    python benchmarks/crash.py [--kills 200] [--seconds 600] [--seed 0] [--json]

A server and four sites run as processes over TLS on this machine. Three kinds of study run at once. The first trains on heart
disease with secure aggregation and no noise: its model has to equal that of an undisturbed run to the last bit. The second trains
with noise on every step, which each site's ledger accounts for. The third is a query after each restart of the server, with a
known answer: how many patients the four hospitals have, 303 + 261 + 46 + 130. No two sets of hospitals have the same total, so
the answer says who is in the sum, and how often.

Processes are killed from outside, between 0 and `--pause` seconds after the last one that was killed is at work again (or, in one
of four cases, while it is still starting). This ends after `--kills` kills or `--seconds` seconds; the studies then run to their
end.

`lost`: messages with a site's term that the site had sent (by its signed receipts) and that are in no released sum.
`double`: terms that are in a sum more than once: by the receipts, by the server's lists, and by the answers of the queries.
`abandoned`: sums that were given up. `failed`: studies that failed, with the reason. `ledger_equal`: whether each site has spent
what it spends in an undisturbed run. `resume_s`: seconds from the start of a server that replaces a killed one until it first
stores something; the median, and the longest.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import keep, show
from safetensors.numpy import load_file

from manent.app.demo.processes import Processes, free_port, rows
from manent.network.server import documents
from manent.network.site.joining import QUICK
from manent.network.trust.identity import Identity
from manent.network.trust.receipts import Receipt, stored, verify
from manent.storage import open_store

SITES = ("Cleveland", "Hungary", "Switzerland", "VA-Long-Beach")
HEAD = """
import manent as mn

data = mn.data.heart_disease()
secure = mn.SecAgg(minimum_cohort=3, dropped=0.2)
everyone = mn.Cohort(minimum=4)
"""
TRAINING = """
local = mn.LocalSGD(lr=0.01, steps=5, batch_size=4)
fedavg = mn.FedAvg(mn.LogisticModel(13), local, evaluation=mn.Evaluation(every=3))
study = mn.Study(fedavg, {rounds}, everyone, summation=secure, name="training")
"""
PRIVATE = """
private = mn.DPSGD(clip_norm=1.0, noise_multiplier=1.0, examples=100)
local = mn.LocalSGD(lr=0.01, steps=5, batch_size=4, privacy=private)
budget = mn.Budget(epsilon=8.0, delta=1e-3, privacy_unit="example", neighboring_relation="add_or_remove")
fedavg = mn.FedAvg(mn.LogisticModel(13, initial="uniform"), local, weighting="equal")
study = mn.Study(fedavg, {rounds}, everyone, summation=secure, budget=budget, name="private")
"""
QUERY = """
study = mn.Study(mn.Histogram("{column}"), cohort=everyone, summation=secure, name="query {number}")
"""
LOAD = """
import manent as mn

def load(data_set):
    return mn.data.heart_disease().clients[{index}]
"""
GUARDED = """
[data.guarded]
budget = {{ epsilon = 50.0, delta = 1e-3, privacy_unit = "example", neighboring_relation = "add_or_remove" }}
"""
COLUMNS = ("cp", "restecg", "num", "sex", "exang", "fbs")


def column(number: int) -> str:
    """What a query counts."""
    return COLUMNS[number % len(COLUMNS)]


class Federation:
    """The server, its four sites, and what their folders say."""

    def __init__(self, folder: Path, rounds: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port, self.processes = folder, free_port(), Processes(folder)
        self.queries = 0
        (folder / "training.py").write_text(HEAD + TRAINING.format(rounds=rounds))
        (folder / "private.py").write_text(HEAD + PRIVATE.format(rounds=max(2, rounds // 4)))
        for index in range(len(SITES)):
            (folder / f"load{index}.py").write_text(LOAD.format(index=index))

    def serve(self) -> None:
        """Start the server, or start it again, with one more query."""
        self.queries += 1
        query = self.folder / f"query{self.queries}.py"
        query.write_text(HEAD + QUERY.format(number=self.queries, column=column(self.queries)))
        self.processes.start("server", "serve", "training.py", query.name, *self._where())

    def _where(self) -> tuple[str, ...]:
        return ("--folder", "srv", "--port", str(self.port), "--grace-seconds", "60")

    def join(self, name: str) -> None:
        """Start a site, or start it again. Its rules, with a budget, are written first."""
        token, folder = (self.folder / "srv" / "invitation.txt").read_text().strip(), self.folder / name
        if not folder.exists():
            folder.mkdir(mode=0o700)
            server = Identity.load(self.folder / "srv" / "identity.key").public_hex
            policy = (QUICK + GUARDED).format(server=server, allowed='"SecAgg"', data="data")
            (folder / "policy.toml").write_text(policy)
        load = f"load{SITES.index(name)}.py:load"
        self.processes.start(name, "join", token, "--data", load, "--folder", name, "--name", name)

    def start(self) -> None:
        # The private study is on another data set, with a budget; it is queued first, and the server started again with the rest.
        self.processes.start("server", "serve", "private.py", "--data-set", "guarded", *self._where())
        self.processes.wait(lambda: "manent join" in (self.folder / "server.log").read_text(), 90, "The server's invitation")
        self.processes.kill("server")
        self.serve()
        for name in SITES:
            self.join(name)

    def kept(self) -> int:
        """A number that grows with everything that the server stores."""
        return _number(self.folder / "srv" / "server.db", "SELECT value FROM documents WHERE key = 'pulse'") + _number(
            self.folder / "srv" / "server.db", "SELECT count(*) FROM logs"
        )

    def taken(self, name: str) -> int:
        """How far a site has come, judged by what it stores."""
        log = self.folder / f"{name}.log"
        return log.stat().st_size if log.exists() else 0

    @property
    def results(self) -> dict[str, Path]:
        """Folders of the studies that are over, by name."""
        found = (self.folder / "srv" / "results").glob("*/study.json")
        return {json.loads(path.read_text())["name"]: path.parent for path in found}

    @property
    def failed(self) -> list[str]:
        """Studies that failed, and why."""
        facts = [json.loads((path / "study.json").read_text()) for path in self.results.values()]
        return [f"{one['name']}: {one['reason']}" for one in facts if one["phase"] != "finished"]

    @property
    def names(self) -> set[str]:
        return {"training", "private", *(f"query {number + 1}" for number in range(self.queries))}

    def finish(self, seconds: float) -> None:
        """Wait until every study has ended and each site knows of it."""
        # A server that was killed while it started may not have queued its query: a last one queues what is missing.
        self.processes.kill("server")
        queries = [f"query{number + 1}.py" for number in range(self.queries)]
        self.processes.start("server", "serve", "training.py", *queries, *self._where())
        self.processes.wait(lambda: self.names <= set(self.results), seconds, f"The end of {len(self.names)} studies")
        self.processes.wait(lambda: all(self._rested(name) for name in SITES), 120, "The sites' rest")
        self.processes.stop()

    def _rested(self, name: str) -> bool:
        from manent.network.site.state import SiteState

        state = SiteState(self.folder / name)
        known = state.studies()
        return len(known) >= self.queries and all(one.over for one in known) and not state.tasks()


def _number(path: Path, query: str) -> int:
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            row = connection.execute(query).fetchone()
            return 0 if row is None else int(row[0])
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return 0


def disturb(federation: Federation, kills: int, seconds: float, pause: float, chance: random.Random) -> dict[str, Any]:
    """Kill processes and start them again. Returns who was killed how often, and the seconds until servers were at work again."""
    killed: Counter[str] = Counter()
    resumed: list[float] = []
    early, end = 0, time.monotonic() + seconds
    while sum(killed.values()) < kills and time.monotonic() < end and "training" not in federation.results:
        name = chance.choice(["server"] * len(SITES) + list(SITES))
        before, seen = federation.kept(), federation.taken(name)
        federation.processes.kill(name)
        killed[name] += 1
        began = time.monotonic()
        federation.serve() if name == "server" else federation.join(name)
        if chance.random() < 0.25:  # kill again while it starts
            early += 1
            time.sleep(chance.uniform(0.0, 2.0))
        else:
            while not (federation.kept() > before if name == "server" else federation.taken(name) > seen):
                federation.processes.check()
                if "training" in federation.results or time.monotonic() - began > 120:
                    break
                time.sleep(0.02)
            else:
                if name == "server":
                    resumed.append(time.monotonic() - began)
            time.sleep(chance.uniform(0.0, pause))
        count = sum(killed.values())
        if count % 10 == 0:
            print(
                f"{count} kills, {len(federation.results)} studies over, {end - time.monotonic():.0f} s left",
                file=sys.stderr,
                flush=True,
            )
    servers = killed["server"]
    return {
        "kills": sum(killed.values()),
        "kills_server": servers,
        "kills_sites": sum(killed.values()) - servers,
        "kills_while_starting": early,
        "resume_s": median(resumed) if resumed else None,
        "resume_longest_s": max(resumed, default=None),
    }


def receipts(federation: Federation) -> dict[str, tuple[Receipt, ...]]:
    """Every site's receipts, verified."""
    found = {}
    for name in SITES:
        stored_rows, last = stored(open_store(federation.folder / name / "site.db"))
        public = Identity.load(federation.folder / name / "identity.key").signing_key.public
        found[name] = verify(stored_rows, public, last)
    return found


def ledgers(federation: Federation) -> dict[str, float]:
    """What each site has spent or set aside."""
    from manent.accounting import Ledger

    found = {}
    for name in SITES:
        (account,) = Ledger(open_store(federation.folder / name / "site.db")).summary()
        found[name] = account.spent + account.reserved
    return found


def counted(federation: Federation) -> tuple[int, int, int]:
    """Terms lost, terms counted twice, and sums abandoned, by receipts, the server's documents, and the queries' answers."""
    lost = double = 0
    for of in receipts(federation).values():
        outcomes = Counter((receipt.study, receipt.round, receipt.index) for receipt in of)
        double += sum(count - 1 for count in outcomes.values())
        lost += sum(receipt.outcome != "released" for receipt in of)
    with open_store(federation.folder / "srv" / "server.db").snapshot() as view:
        sums = [documents.sum_of(view, key.removeprefix("sum/")) for key in view.keys("sum/")]
    for record in sums:
        if record is not None and record.state == "released":
            double += len(record.included) - len(set(record.included))
            lost += len(SITES) - len(set(record.included))  # all four are asked, and none may be missing
    abandoned, answers = 0, answered()
    for name, folder in federation.results.items():
        abandoned += sum("abandoned" in row for row in rows(folder / "history.jsonl"))
        if name.startswith("query") and (folder / "result.safetensors").exists():
            found, expected = load_file(folder / "result.safetensors")["counts"], answers[column(int(name.split()[1]))]
            lost += int(np.any(found < expected))
            double += int(np.any(found > expected))
    return lost, double, abandoned


def answered() -> dict[str, np.ndarray]:
    """The queries' answers, counted in one process."""
    import manent as mn

    data = mn.data.heart_disease()
    sizes = [len(client.train) + (0 if client.test is None else len(client.test)) for client in data]
    sets = range(2 ** len(sizes))
    assert len({sum(n for place, n in enumerate(sizes) if of >> place & 1) for of in sets}) == len(sets)
    found = {name: mn.simulate(mn.Study(mn.Histogram(name)), data, workers=0).result["counts"] for name in COLUMNS}
    assert {counts.sum() for counts in found.values()} == {sum(sizes)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at most")
    parser.add_argument("--seconds", type=float, default=600.0, help="for which is killed, at most")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two kills, at most")
    parser.add_argument("--rounds", type=int, help="of the training without noise (default: as many as the kills may need)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rounds = chosen.rounds or max(6, chosen.kills // 4)
    with tempfile.TemporaryDirectory() as temporary:
        values = measured(chosen.folder or Path(temporary), rounds, chosen)
    keep("crash" if chosen.kills >= 50 else None, values, chosen.json)
    if not chosen.json:
        show("kill -9 at random moments", ("measure", "value"), list(values.items()))


def measured(folder: Path, rounds: int, chosen: argparse.Namespace) -> dict[str, Any]:
    calm, rough = Federation(folder / "calm", rounds), Federation(folder / "rough", rounds)
    with calm.processes:
        calm.start()
        calm.finish(1200)
    began = time.monotonic()
    with rough.processes:
        rough.start()
        rough.processes.wait(lambda: rough.kept() > 10, 120, "The first sum")
        values = disturb(rough, chosen.kills, chosen.seconds, chosen.pause, random.Random(chosen.seed))
        rough.finish(1200)
    lost, double, abandoned = counted(rough)
    first, second = calm.results["training"], rough.results["training"]
    models = [load_file(path / "result.safetensors")["model"] for path in (first, second)]
    kills = {name: values.pop(name) for name in ("kills", "kills_server", "kills_sites", "kills_while_starting")}
    return {
        **kills,
        "lost": lost,
        "double": double,
        "abandoned": abandoned,
        "failed": calm.failed + rough.failed,
        "ledger_equal": ledgers(calm) == ledgers(rough) and all(ledgers(calm).values()),
        "model_equal": models[0].tobytes() == models[1].tobytes(),
        "history_equal": list(rows(first / "history.jsonl")) == list(rows(second / "history.jsonl")),
        **values,
        "receipts": sum(len(of) for of in receipts(rough).values()),
        "rounds": rounds,
        "queries": rough.queries,
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    main()
