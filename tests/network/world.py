"""The round service with a clock of its own, and sites that are function calls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import manent as mn
from manent.core.parties import SERVER, Envelope
from manent.core.protocols import Assignment, ClientContext
from manent.core.randomness import PrivateRandom
from manent.core.store import Store
from manent.crypto import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws
from manent.network.server import documents, messages
from manent.network.server.rounds import Settings
from manent.network.server.service import Service
from manent.network.server.submitting import decide, submit
from manent.network.site.training import OwnProcess, contribution
from manent.network.trust.identity import Identity
from manent.network.trust.join import JoinToken
from manent.network.trust.roster import Entry, SignedRoster
from manent.network.wire.bundle import Bundle
from manent.network.wire.sums import StudySum, client_party, read_call
from manent.storage import MemoryStore
from manent.storage.arrays import decode_arrays

URL = "https://127.0.0.1:9"
SETTINGS = Settings(work=100.0, phase=10.0, deciding=1000.0, retry=1.0, grace=0.0)


def data_of(clients: int) -> mn.Federation:
    x = np.random.default_rng(0).normal(size=(12 * clients, 3)).astype(np.float32)
    return mn.data.from_arrays(x, (x[:, 0] > 0).astype(np.int64), clients=clients)


def study_of(**fields: object) -> mn.Study:
    algorithm = fields.pop("algorithm", None) or mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4))
    return mn.Study(**{"algorithm": algorithm, "rounds": 2, "name": "small", **fields})


@dataclass
class World:
    """A server and its sites; `now` is the time."""

    folder: Path
    sites: int
    store: Store = field(default_factory=MemoryStore)
    settings: Settings = SETTINGS
    now: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        self.data = data_of(self.sites)
        self.server = Identity.create(self.folder / "server.key", "server")
        self.identities = [Identity.create(self.folder / f"{i}.key", f"site{i}") for i in range(self.sites)]
        self.by_key = {identity.public_hex: index for index, identity in enumerate(self.identities)}
        self.parties: dict[tuple[str, int], object] = {}
        self.again()
        token = JoinToken.create(URL)
        self.service.rosters.invite(token, self.sites)
        for identity in self.identities:
            assert self.service.rosters.join(token.secret, identity.name, identity.public_hex, self.now)

    def remove(self, *sites: int, added: tuple[Identity, ...] = ()) -> None:
        """A newer roster, without these sites, and with others added."""
        gone = {self.identities[site].public_hex for site in sites}
        rosters = self.service.rosters
        with self.store.snapshot() as view:
            newest = rosters.signed(view, rosters.newest(view))
        new = [Entry(identity.name, identity.public_hex, int(self.now)) for identity in added]
        entries = tuple(sorted((entry for entry in (*newest.entries, *new) if entry.public not in gone), key=lambda e: e.name))
        of = (newest.number + 1, int(self.now), int(self.now) + 10**9)
        rosters.publish(SignedRoster.sign(self.server.signing_key, *of, entries), self.now)

    def again(self, random: PrivateRandom | None = None) -> Service:
        """Another process on the same store."""
        self.service = self.process(random)
        return self.service

    def process(self, random: PrivateRandom | None = None) -> Service:
        where = (self.store, self.folder / "srv", self.server, (URL,))
        return Service(*where, settings=self.settings, clock=lambda: self.now, random=random)

    @property
    def rounds(self):
        return self.service.rounds

    def submit(self, study: mn.Study, seed: int = 0) -> str:
        bundle = Bundle.of(study, self.data.schema, "data").sign(self.server.signing_key)
        return submit(self.rounds, bundle, "somebody", seed, self.sites)

    def begin(self, study: mn.Study, seed: int = 0) -> str:
        """Submit a study that every site accepts."""
        hash = self.submit(study, seed)
        self.tick()
        for identity in self.identities:
            decide(self.rounds, hash, identity.public_hex, True, "")
        self.tick(3)
        return hash

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.rounds.tick()

    def study(self, hash: str) -> documents.StudyRecord:
        with self.store.snapshot() as view:
            return documents.study_of(view, hash)

    def sum(self, hash: str) -> documents.SumRecord:
        study = self.study(hash)
        with self.store.snapshot() as view:
            return documents.sum_of(view, study.open)

    def history(self, hash: str) -> list[dict]:
        with self.store.snapshot() as view:
            return [json.loads(row) for row in view.rows(documents.history_log(hash))]

    def asked(self, hash: str) -> list[int]:
        """Sites in the cohort of the open sum."""
        record = self.sum(hash)
        with self.store.snapshot() as view:
            return sorted(self.by_key[key] for key in self.rounds.cohort(view, record))

    def party(self, hash: str, site: int):
        """A site's party in the open sum."""
        record, study = self.sum(hash), self.study(hash)
        if (record.id, site) not in self.parties:
            plan = self.rounds.plans.plan(study)
            with self.store.snapshot() as view:
                roster = self.rounds.rosters.roster(view, record.roster)
            sum = StudySum(record.name, record.index, record.round, bytes.fromhex(record.assignment))
            call = read_call(plan, bytes.fromhex(record.call))
            own = (self.identities[site].signing_key, roster, SystemRandom(), ())
            self.parties[record.id, site] = client_party(plan, call, sum, *own)
        return self.parties[record.id, site]

    def vector(self, hash: str, site: int) -> np.ndarray:
        record, study = self.sum(hash), self.study(hash)
        plan, client = self.rounds.plans.plan(study), self.data.clients[site]
        arrays = decode_arrays(b"".join(self.service.blobs.read(record.assignment)))
        context = ClientContext(client.name, record.round, study.seed, draws=ExactDraws(SystemRandom()))
        assignment = Assignment(record.name, arrays)
        return contribution(plan, OwnProcess(plan, client), assignment, None, context, SystemRandom())[0]

    def talk(self, hash: str, site: int, upload: bool = True) -> None:
        """One message of the server to a site of the open sum, and what follows from it."""
        record, party = self.sum(hash), self.party(hash, site)
        message = self.rounds.message(record.id, party.name)
        steps = [] if message is None else [party.receive(Envelope(SERVER, party.name, message))]
        if upload and party.awaits_vector:
            steps.append(party.contribute(self.vector(hash, site)))
        for step in steps:
            for envelope in step.send:
                messages.take(self.service, record.id, party.name, envelope.body)

    def run(self, hash: str, restart: bool = False) -> documents.StudyRecord:
        """Until the study is over, everyone answering."""
        for _ in range(200):
            if self.study(hash).over:
                return self.study(hash)
            record = self.sum(hash)
            for site in self.asked(hash) if record else ():
                if self.study(hash).open == record.id and self.sum(hash).state == "open":
                    self.talk(hash, site)
            if restart:
                self.again()
            self.tick()
        raise AssertionError("The study does not end.")

    def result(self, hash: str) -> dict[str, np.ndarray]:
        return decode_arrays(b"".join(self.service.blobs.read(self.study(hash).result)))
