"""Many sites in one process, for `load.py`: each has a key, a connection and a store of its own, and the code of real sites.

    python load_sites.py FOLDER FIRST SITES < invitation-and-seeds

Only a site's computing and its disk are left out: the update is drawn at random, and stores are in memory, because 2,000 real
sites do not share the server's disk. Each process verifies a roster once, and makes a plan once. The first line of standard input
is the server's invitation; each further line is the secret seed of a site that is on the roster already. Standard output has a
line when all are there, and then one for each site: when its update was begun and acknowledged, and whether it is in the released
sum.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from manent.core.errors import ManentError
from manent.core.protocols import Assignment, ClientContext, Contribution
from manent.core.vectors import Array, Vector
from manent.crypto import SigningKey, SystemRandom
from manent.network.site.connection import Away, Connection, pause
from manent.network.site.spending import Account
from manent.network.site.state import Known, SiteState
from manent.network.site.work import Accepted, SumWork
from manent.network.trust.identity import Identity
from manent.network.trust.join import JoinToken
from manent.network.trust.receipts import Receipts
from manent.network.trust.roster import SignedRoster
from manent.network.wire.bundle import Bundle
from manent.privacy.check import Plan, resolve
from manent.rounds.declared import Sites, rebuild, schema_of
from manent.storage import MemoryStore
from manent.storage.blobs import Blobs
from manent.summation.parties import wire
from manent.summation.parties.call import Roster
from manent.summation.parties.wire import Kind

ARRIVING = 40  # sites a second, before the sum is opened


class Timed(Connection):
    """Notes when the site first asked about the sum, and when its update was acknowledged."""

    began = acknowledged = 0.0
    requests = 0

    def table(self, method: str, path: str, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if path.startswith("/v1/sums/"):
            self.began = self.began or time.monotonic()
        return super().table(method, path, values)

    def ask(self, *arguments: Any) -> bytes | None:
        self.requests += 1
        return super().ask(*arguments)

    def post(self, id: str, message: bytes) -> list[bytes]:
        found = super().post(id, message)
        if wire.unframe(message)[0] is Kind.UPLOAD:
            self.acknowledged = self.acknowledged or time.monotonic()
        return found


class Kept(SiteState):
    """A site's state with its store in memory."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        folder.mkdir(parents=True)
        self.folder, self.store, self.identity = folder, MemoryStore(), identity
        self.blobs = Blobs(folder / "blobs")
        self.receipts = Receipts(self.store, self.identity)


class Drawn:
    """Stands in for training: an update drawn at random."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed

    def answer(self, assignment: Assignment, memory: Vector | None, context: ClientContext, empty: bool = False) -> Contribution:
        vector: Array = np.random.default_rng([self._seed, context.round]).random(self._size, np.float32)
        return Contribution(vector, memory)


class Free(Account):
    """The account of a study without privacy, which costs a site nothing and has no ledger."""

    def __init__(self) -> None:
        pass

    def reserve(self, known: Known, plan: Plan) -> Known:
        return known


class Many:
    """The sites of this process, and what they share."""

    def __init__(self, folder: Path, token: JoinToken, first: int, seeds: list[bytes], sites: int) -> None:
        self.token, self.first, self.count, self.sites = token, first, len(seeds), sites
        of = [Identity(f"site{first + index}", SigningKey(seed)) for index, seed in enumerate(seeds)]
        self.states = [Kept(folder / identity.name, identity) for identity in of]
        self.connections = [Timed(token.url, token.pin, state.identity.signing_key) for state in self.states]
        self.lock, self.drawing = threading.Lock(), threading.Lock()
        self.plans: dict[str, tuple[Known, Plan]] = {}
        self.rosters: dict[int, Roster] = {}
        self.away = 0

    def run(self) -> None:
        threads = [threading.Thread(target=self._site, args=(number,), daemon=True) for number in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _site(self, number: int) -> None:
        """Act as a site's agent: ask for work, decide, take part, and try again while the server is away."""
        state, connection, failures, seen, decided, reason = self.states[number], self.connections[number], 0, "", False, ""
        included = False
        time.sleep((number / self.count) * self.sites / ARRIVING)
        while failures < 100:
            try:
                body = connection.ask("GET", "/v1/tasks", b"", {"wait": 25.0, "seen": seen})
                if body is None:
                    continue
                seen, told = sha256(body).hexdigest(), json.loads(body)
                for study in told["studies"]:
                    known, plan = self._plan(connection, study)
                    if not decided:
                        values = {"accepted": True, "reason": ""}
                        connection.table("POST", f"/v1/studies/{known.hash}/decision", values)
                        decided = True
                    if study["phase"] == "failed":
                        reason = study["reason"]
                for id in told["sums"]:
                    self._work(state, connection, known, plan, id, number)
                if told["studies"] and all(study["phase"] in ("finished", "failed") for study in told["studies"]):
                    included = any(row["outcome"] == "released" for row in receipts(state))
                    break
                failures = 0
            except Away as error:
                failures, reason, seen = failures + 1, str(error), ""  # what was begun is gone on with
                with self.lock:
                    self.away += 1
                time.sleep(pause(failures, state.identity.signing_key, time.time()))
            except ManentError as error:
                reason = f"{type(error).__name__}: {error}"
                break
        connection.close()
        times = {"began": connection.began, "acknowledged": connection.acknowledged, "requests": connection.requests}
        say(**times, included=included, reason="" if included else reason)

    def _work(self, state: Kept, connection: Connection, known: Known, plan: Plan, id: str, number: int) -> None:
        done = state.study(known.hash)
        if done is None:
            state.put_study(done := known)
        round, index = (int(part) for part in id.rsplit("-", 2)[1:])
        if (round, index) <= (done.round, done.index):
            return
        size = plan.sums[next(iter(plan.sums))].layout.size
        trainer = Drawn(size, self.first + number)
        study = Accepted(done, plan, lambda: trainer, state.identity.name)
        roster = partial(self._roster, connection)
        SumWork(state, connection, study, Free(), roster, SystemRandom(), self.drawing).run(id)

    def _plan(self, connection: Connection, told: dict[str, Any]) -> tuple[Known, Plan]:
        with self.lock:
            if told["hash"] not in self.plans:
                bundle = Bundle.read(connection.ask("GET", f"/v1/studies/{told['hash']}/bundle") or b"")
                known = Known(told["hash"], bundle.hash, True, "", int(told["roster"]), int(told["seed"]))
                names = tuple(f"site {index}" for index in range(self.sites))
                self.plans[told["hash"]] = known, resolve(rebuild(bundle.study), Sites(names, schema_of(bundle.schema)))
            return self.plans[told["hash"]]

    def _roster(self, connection: Connection, number: int) -> Roster:
        with self.lock:
            if number not in self.rosters:
                signed = SignedRoster.read(connection.ask("GET", "/v1/roster", b"", {"number": number}) or b"")
                signer = connection.table("GET", "/v1/server")["signer"]
                self.rosters[number] = signed.verify(bytes.fromhex(signer), time.time())
            return self.rosters[number]


def receipts(state: SiteState) -> list[dict[str, Any]]:
    """What the site has noted of each sum that it sent an update to."""
    with state.store.snapshot() as view:
        return [json.loads(row) for row in view.rows("receipts")]


_out = threading.Lock()


def say(**values: Any) -> None:
    """Print one line for the process that started this."""
    with _out:
        print(json.dumps(values), flush=True)


def leave_with(parent: int) -> None:
    """End this process when the one that started it has ended: nobody waits for it any more."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    threading.Thread(target=leave_with, args=(os.getppid(),), daemon=True).start()
    folder, first, sites = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    token, *seeds = sys.stdin.read().split()
    many = Many(folder, JoinToken.decode(token), first, [bytes.fromhex(seed) for seed in seeds], sites)
    try:
        say(ready=many.count)
        many.run()
        used = resource.getrusage(resource.RUSAGE_SELF)
        say(done=True, cpu=used.ru_utime + used.ru_stime, away=many.away, memory_mb=used.ru_maxrss / 1000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
