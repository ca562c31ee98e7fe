"""What server and sites write down: audit rows with who did it, studies that people stop, receipts for what was sent."""

from __future__ import annotations

import threading
import time
from hashlib import sha256
from types import SimpleNamespace

import pytest

import manent as mn
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput
from manent.crypto import SigningKey, SystemRandom
from manent.network.server import messages
from manent.network.server.http.sites import sum_of_site
from manent.network.server.rosters import Rosters
from manent.network.server.submitting import stop
from manent.network.site.connection import Away
from manent.network.site.state import IDENTITY, Known, SiteState
from manent.network.site.training import OwnProcess
from manent.network.site.work import Accepted, SumWork
from manent.network.trust.identity import Identity
from manent.network.trust.journal import AuditLog
from manent.network.trust.receipts import Promise, stored, verify
from manent.network.trust.roster import Entry, SignedRoster
from manent.storage import MemoryStore
from tests.network.server.http.test_app import Asking
from tests.network.world import World, study_of


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, 4)


def rows_of(world, action):
    return [row for row in AuditLog(world.store).rows() if row["action"] == action]


# The server's audit log.


def test_joins_and_what_they_did_to_the_roster(world):
    joins, rosters = rows_of(world, "join"), rows_of(world, "roster")
    assert [row["actor"] for row in joins] == [f"site:{identity.public_hex}" for identity in world.identities]
    assert [(row["actor"], row["about"], row["details"]["added"]) for row in rosters] == [
        ("server", str(number + 1), [f"site{number}"]) for number in range(4)
    ]
    assert rosters[-1]["details"]["sites"] == 4


def test_a_roster_of_the_consortium_is_written_down_once():
    key, store = SigningKey(bytes([1] * 32)), MemoryStore()
    rosters = Rosters(store, Identity("server", SigningKey(bytes([2] * 32))), key.public)
    keys = [SigningKey(bytes([n] * 32)).public.hex() for n in (3, 4, 5)]
    now = int(time.time())

    def publish(number, **sites):
        entries = tuple(Entry(name, public, now) for name, public in sites.items())
        rosters.publish(SignedRoster.sign(key, number, now, now + 100, entries), now)

    publish(1, a=keys[0], b=keys[1])
    publish(1, a=keys[0], b=keys[1])
    publish(2, a=keys[0], b=keys[2])  # b has a new key
    found = [(row["actor"], row["about"], row["details"]["added"], row["details"]["removed"]) for row in AuditLog(store).rows()]
    assert [(*row[:2], sorted(row[2]), row[3]) for row in found] == [
        ("consortium", "1", ["a", "b"], []),
        ("consortium", "2", ["b"], ["b"]),
    ]


def test_a_refused_request_is_written_down_with_who_asked(world):
    ask = Asking(world)
    hash = world.begin(study_of(cohort=mn.Cohort(size=3, minimum=2), summation=mn.SecAgg(minimum_cohort=3, beacon="server")))
    outside = next(site for site in range(4) if site not in world.asked(hash))
    path = f"/v1/sums/{world.study(hash).open}"
    token = world.service.people.create("alice", "viewer")
    assert ask(outside, "GET", path).status_code == 403
    assert ask(None, "GET", path).status_code == 403
    headers = {"Authorization": f"Bearer {token}"}
    assert ask.client.post(f"/v1/studies/{hash}/stop", headers=headers).status_code == 403
    assert ask.client.get("/v1/studies", headers={"Authorization": "Bearer stolen"}).status_code == 403
    site, stranger, alice, thief = rows_of(world, "refused")
    assert (site["actor"], site["about"]) == (f"site:{world.identities[outside].public_hex}", f"GET {path}")
    assert stranger["actor"] == thief["actor"] == "address:testclient"
    assert (alice["actor"], alice["about"]) == ("person:alice", f"POST /v1/studies/{hash}/stop")
    assert "stolen" not in str(thief)


def test_what_cannot_be_encoded_is_a_bad_request(world):
    ask, hash = Asking(world), world.submit(study_of())
    world.tick()
    for body in (b'{"accepted": false, "reason": "\\ud800"}', b'{"accepted": false, "reason": "", "x": NaN}'):
        assert ask(0, "POST", f"/v1/studies/{hash}/decision", body).status_code == 400
    assert ask(0, "POST", f"/v1/studies/{hash}/decision", canonical({"accepted": False, "reason": "no"})).status_code == 200
    assert [row["details"] for row in rows_of(world, "decide")] == [{"accepted": False, "reason": "no"}]


def test_only_its_researcher_and_administrators_stop_a_study(world):
    ask, people = Asking(world), world.service.people
    tokens = {name: people.create(name, role) for name, role in [("v", "viewer"), ("r", "researcher"), ("a", "administrator")]}
    hash = world.begin(study_of())  # which the operator has submitted

    def end(who):
        return ask.client.post(f"/v1/studies/{hash}/stop", headers={"Authorization": f"Bearer {tokens[who]}"}).status_code

    assert (end("v"), end("r")) == (403, 403)
    assert world.study(hash).phase == "running"
    world.talk(hash, 0)
    assert end("a") == 200
    assert (world.study(hash).phase, world.study(hash).reason, world.study(hash).open) == ("failed", "Stopped by a.", "")
    (row,) = rows_of(world, "stop")
    assert (row["actor"], row["about"]) == ("person:a", hash)
    assert end("a") == 200  # a repeated request
    assert len(rows_of(world, "stop")) == 1
    world.tick(3)
    assert world.history(hash) == []


def test_a_study_that_is_over_is_not_stopped(world):
    hash = world.begin(study_of(rounds=1))
    world.run(hash)
    with pytest.raises(InvalidInput, match="nothing to stop"):
        stop(world.rounds, hash, "person:a")
    with pytest.raises(InvalidInput, match="nothing to stop"):
        stop(world.rounds, "0" * 64, "person:a")
    assert world.study(hash).phase == "finished"


def test_a_log_altered_behind_the_server_stops_it_from_adding(world):
    with world.store.transaction() as transaction:
        transaction.put("audit/head", b'{"count":1,"hash":""}')
    with pytest.raises(mn.ProtocolAbort, match="The audit log has been altered"):
        world.submit(study_of())


# Receipts of a site.


class Wire:
    """What a site asks of the server, as function calls; `before_post` and `before_message` happen on the way."""

    def __init__(self, world, key):
        self.world, self.key, self.rounds = world, key, world.rounds
        self.sent, self.asked, self.before_post, self.before_message = [], 0, lambda: None, lambda: None

    def table(self, method, path):
        return sum_of_site(self.world.service, path.rsplit("/", 1)[1], self.key)

    def fetch(self, path, digest, target, most):
        target.write_bytes(b"".join(self.world.service.blobs.read(digest)))

    def message(self, id, after, wait):
        self.before_message()
        self.world.tick()
        found = self.rounds.message(id, self.key)
        self.asked += 1
        assert self.asked < 100, "The site goes on asking."
        return None if found is None or sha256(found).hexdigest() == after else found

    def post(self, id, body):
        self.before_post()
        self.sent.append(body)
        return messages.take(self.world.service, id, self.key, body)


class Site:
    """Site 0 of a world, with a folder of its own."""

    def __init__(self, world, hash):
        folder = world.folder / "site0"
        if not (folder / IDENTITY).exists():
            folder.mkdir()
            (world.folder / "0.key").rename(folder / IDENTITY)
        self.world, self.hash, self.state = world, hash, SiteState(folder)
        self.wire = Wire(world, self.state.identity.public_hex)
        self.plan = world.rounds.plans.plan(world.study(hash))
        if self.state.study(hash) is None:
            self.state.put_study(Known(hash, "", True, "", 4, 0))

    def work(self):
        known = self.state.study(self.hash)
        client = self.world.data.clients[0]

        def roster(number):
            with self.world.store.snapshot() as view:
                return self.world.rounds.rosters.roster(view, number)

        trainer = OwnProcess(self.plan, client)
        account = SimpleNamespace(reserve=lambda known, plan: known, commit=lambda *of: None)
        study = Accepted(known, self.plan, lambda: trainer, client.name)
        return SumWork(self.state, self.wire, study, account, roster, SystemRandom(), threading.Lock())

    def receipts(self):
        rows, last = stored(self.state.store)
        return verify(rows, self.state.identity.signing_key.public, last)


def others(world, hash, sites=(1, 2, 3)):
    for site in sites:
        if world.study(hash).open:
            world.talk(hash, site)


def test_a_receipt_for_each_released_sum(world):
    hash = world.begin(study_of(rounds=2))
    site = Site(world, hash)
    for _ in range(2):
        others(world, hash)
        site.work().run(world.study(hash).open)
        world.tick()
    first, second = site.receipts()
    assert world.study(hash).phase == "finished"
    assert (first.study, first.sum, first.round, first.index, first.attempt) == (hash, "train", 1, 0, 1)
    assert (first.outcome, first.cohort, first.survivors, first.summation, second.round) == ("released", 4, 4, "Plain", 2)
    assert first.guarantee == Promise({"server": None, "clients": None, "public": None})
    assert [sha256(body).hexdigest() for body in site.wire.sent] == [first.upload, second.upload]


def test_a_receipt_states_the_guarantee_and_hides_no_count_from_its_own_site(world):
    algorithm = mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4), weighting="equal")
    budget = mn.Budget(3.0, 1e-5, "client", "add_or_remove")
    hash = world.begin(study_of(rounds=1, algorithm=algorithm, layers=[mn.Clip(1.0), mn.CentralNoise()], budget=budget))
    site = Site(world, hash)
    others(world, hash)
    site.work().run(world.study(hash).open)
    (receipt,) = site.receipts()
    assert receipt.survivors is None  # in the clear, the server would have to say, and noise hides it
    found = receipt.guarantee
    assert (found.delta, found.unit, found.relation, found.releases) == (1e-5, "client", "add_or_remove", 1)
    assert found.epsilon["server"] is None
    assert found.epsilon["public"] == pytest.approx(3.0, rel=1e-3)


def test_behind_secure_aggregation_the_site_counts_for_itself(world):
    hash = world.begin(study_of(rounds=1, summation=mn.SecAgg(minimum_cohort=3, dropped=0.2, beacon="server")))
    site = Site(world, hash)
    site.wire.before_message = lambda: others(world, hash)
    table = site.wire.table
    site.wire.table = lambda *asked: {**table(*asked), "survivors": 1000}  # a server that lies
    site.work().run(world.study(hash).open)
    (receipt,) = site.receipts()
    assert (receipt.summation, receipt.outcome, receipt.cohort, receipt.survivors) == ("SecAgg", "released", 4, 4)


def test_what_was_sent_to_an_abandoned_sum_leaves_a_receipt_too(world):
    hash = world.begin(study_of(rounds=1, cohort=mn.Cohort(minimum=4)))
    site = Site(world, hash)
    site.wire.before_message = lambda: setattr(world, "now", world.now + 60.0)  # nobody else answers in time
    site.work().run(world.study(hash).open)
    (receipt,) = site.receipts()
    assert (receipt.outcome, receipt.survivors) == ("abandoned", None)
    assert world.history(hash)[0]["abandoned"]


def test_who_comes_too_late_has_a_receipt_that_says_so(tmp_path):
    world = World(tmp_path, 4)
    hash = world.begin(study_of(rounds=1, cohort=mn.Cohort(size=3)))  # of whom all four are asked
    site = Site(world, hash)
    site.wire.before_post = lambda: (others(world, hash), world.tick())
    site.work().run(world.study(hash).open)
    (receipt,) = site.receipts()
    assert (receipt.outcome, receipt.cohort, receipt.survivors) == ("left out", 4, 3)


def test_a_site_that_sent_nothing_has_no_receipt(world):
    hash = world.begin(study_of(rounds=1, cohort=mn.Cohort(size=3)))
    site = Site(world, hash)
    id = world.study(hash).open
    work = site.work()
    others(world, hash)
    work.run(id)
    assert site.receipts() == ()


def test_a_site_that_dies_before_the_end_leaves_one_receipt(world):
    hash = world.begin(study_of(rounds=1))
    site, id = Site(world, hash), world.study(hash).open

    def away():
        if site.wire.sent:
            raise Away("gone")

    site.wire.before_message = away
    with pytest.raises(Away):
        site.work().run(id)
    assert site.receipts() == ()
    site.state.store.close()
    again = Site(world, hash)
    others(world, hash)
    again.work().run(id)
    again.work().run(id)
    (receipt,) = again.receipts()
    assert (receipt.outcome, receipt.survivors, receipt.attempt) == ("released", 4, 1)
