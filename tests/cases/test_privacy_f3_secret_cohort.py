"""Amplification by sampling holds against those who do not know the sample. Over a network, no client learns who was asked."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import manent as mn
from manent.crypto import SigningKey, SystemRandom
from manent.network.server import documents, rounds
from manent.network.server.http.persons import told_sum
from manent.network.server.http.sites import sum_of_site, tasks_of
from manent.network.wire.sums import (
    StudySum,
    check_network,
    client_party,
    draw_asked,
    draw_members,
    make_call,
    read_call,
    server_party,
)
from manent.privacy.check import resolve
from manent.summation.parties import wire
from manent.summation.parties.call import Roster
from manent.summation.parties.wire import Kind
from tests.network.world import SETTINGS, World, data_of, study_of

R = SystemRandom()
N = 40
FALSE_ALARM = 1e-10
EQUAL = mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4), weighting="equal")
CENTRAL = [mn.Clip(1.0), mn.CentralNoise(1.0)]
SECRET = {
    "Poisson": mn.Cohort(sampling_probability=0.1),
    "truncated Poisson": mn.Cohort(sampling_probability=0.1, maximum=6),
    "fixed size": mn.Cohort(size=4),
}
EACH = pytest.mark.parametrize("cohort", SECRET.values(), ids=SECRET)
SUM = StudySum("train", 0, 1, bytes(32))


def private(cohort: mn.Cohort, **fields: object) -> mn.Study:
    return study_of(algorithm=EQUAL, cohort=cohort, **{"layers": CENTRAL, **fields})


def roster_of(count: int) -> tuple[dict[bytes, SigningKey], Roster]:
    keys = [SigningKey.generate(R) for _ in range(count)]
    return {key.public: key for key in keys}, Roster.of(1, [key.public for key in keys])


@EACH
def test_a_call_is_the_same_whoever_is_asked_and_however_many(cohort):
    plan = resolve(private(cohort), data_of(N))
    check_network(plan)
    assert plan.secret_cohort
    _, roster = roster_of(N)
    calls = {make_call(plan, SUM, 1, count, roster, R.bytes(32)).body for count in (1, 2, 4, 4)}
    assert len(calls) == 1
    call = read_call(plan, calls.pop())
    assert (call.secret, call.terms.clients, call.terms.enough, call.beacon) == (True, 0, 0, b"")
    with pytest.raises(mn.ProtocolAbort, match="only the server knows"):
        call.cohort(roster)


@EACH
def test_all_that_a_client_hears_of_a_sum_is_the_same_for_every_cohort(cohort):
    """Of two cohorts of different sizes, drawn independently, one client hears the same bytes from its call to the end."""
    plan = resolve(private(cohort), data_of(N))
    keys, roster = roster_of(N)
    me = roster.identities[0]
    heard = []
    for others in (roster.identities[1:2], roster.identities[5:9]):
        call = make_call(plan, SUM, 1, 1 + len(others), roster, b"")
        server = server_party(plan, call, roster, (), lambda digest, a, b: b"", (me, *others))
        told = []
        for key in (me, *others):
            client = client_party(plan, read_call(plan, call.body), SUM, keys[key], roster, R, [])
            step = client.receive(next(e for e in server.start().send if e.recipient == client.name))
            assert step.send == ()
            assert client.awaits_vector
            for envelope in client.contribute(np.zeros(plan.stacks["train"].layout.size, np.int64)).send:
                told += [reply.body for reply in server.receive(envelope).send if reply.recipient == me.hex()]
        assert server.phase == "done"
        assert server.uploads == 1 + len(others)
        heard.append((call.body, told[0], told[-1]))
    assert heard[0] == heard[1]
    assert wire.unframe(heard[0][2])[0] is Kind.CLOSED


def test_where_everyone_knows_or_nothing_is_sampled_nothing_is_secret():
    secure = mn.SecAgg(minimum_cohort=3, dropped=0.2, beacon="server")
    shares = [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=2.0)]
    for study in (
        study_of(cohort=mn.Cohort(size=4)),
        private(mn.Cohort()),
        private(mn.Cohort(size=N)),
        private(mn.Cohort(size=20), summation=secure, layers=shares),
    ):
        assert not resolve(study, data_of(N)).secret_cohort


def test_a_client_answers_no_call_of_the_wrong_kind():
    keys, roster = roster_of(N)
    hidden, open_ = (resolve(study, data_of(N)) for study in (private(mn.Cohort(size=4)), private(mn.Cohort())))
    secret = make_call(hidden, SUM, 1, 4, roster, R.bytes(32))
    naming = replace(secret, terms=replace(secret.terms, clients=4, enough=4), beacon=R.bytes(32), beacon_kind="server")
    own = (SUM, keys[roster.identities[0]], roster, R, [])
    with pytest.raises(mn.ProtocolAbort, match="names its cohort, which this study's guarantee takes to be secret"):
        client_party(hidden, read_call(hidden, naming.body), *own)
    named = make_call(open_, SUM, 1, N, roster, R.bytes(32))
    hiding = replace(named, terms=replace(named.terms, clients=0, enough=0), beacon=b"", beacon_kind="private")
    with pytest.raises(mn.ProtocolAbort, match="hides its cohort"):
        client_party(open_, read_call(open_, hiding.body), *own)
    for wrong in (
        replace(secret, beacon=b"x"),
        replace(secret, terms=replace(secret.terms, clients=4, enough=4)),
        replace(naming, beacon_kind="private"),
        replace(named, terms=replace(named.terms, clients=0, enough=0)),
    ):
        with pytest.raises(mn.ProtocolAbort, match="by neither"):
            read_call(hidden, wrong.body)


@pytest.mark.parametrize(("cohort", "q"), [(SECRET["Poisson"], 0.1), (SECRET["fixed size"], 0.1)])
def test_the_server_draws_as_the_accounting_says(cohort, q):
    """Each client is drawn with its probability, and for Poisson the sizes are binomial; chi-square, false alarms below 1e-10."""
    plan = resolve(private(cohort), data_of(N))
    _, roster = roster_of(N)
    draws = 4000
    found = [draw_members(plan, roster, count, R) if (count := draw_asked(plan, N, R)) else () for _ in range(draws)]
    places = {key: place for place, key in enumerate(roster.identities)}
    times = np.bincount([places[key] for members in found for key in members], minlength=N)
    spread = draws * q * (1 - q)
    assert stats.chi2.sf(((times - draws * q) ** 2 / spread).sum(), N) > FALSE_ALARM
    assert all(len(set(members)) == len(members) for members in found)
    sizes = np.bincount([len(members) for members in found], minlength=N + 1)
    if cohort.size is not None:
        assert sizes[cohort.size] == draws
        return
    expected = draws * stats.binom.pmf(np.arange(N + 1), N, q)
    kept = expected > 8
    rest = draws - expected[kept].sum(), draws - sizes[kept].sum()
    score = ((sizes[kept] - expected[kept]) ** 2 / expected[kept]).sum() + (rest[1] - rest[0]) ** 2 / max(rest[0], 8)
    assert stats.chi2.sf(score, kept.sum()) > FALSE_ALARM


# The server.


def asked_and_told(world: World, hash: str) -> tuple[list[int], list[bytes]]:
    """Who is asked, and all that each of them is told before it answers, but for its own key."""
    record = world.sum(hash)
    told = []
    for site in world.asked(hash):
        key = world.identities[site].public_hex
        about = canonical_of(sum_of_site(world.service, record.id, key))
        told.append(about + world.rounds.message(record.id, key) + tasks_of(world.service, key))
    return world.asked(hash), told


def canonical_of(values: object) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


@EACH
def test_a_study_runs_to_its_end_and_tells_its_sites_nothing(tmp_path, cohort):
    world = World(tmp_path, 12)
    hash = world.begin(private(cohort, rounds=4))
    sizes = set()
    for _ in range(60):
        study = world.study(hash)
        if study.over:
            break
        if study.open:
            record = world.sum(hash)
            asked, told = asked_and_told(world, hash)
            sizes.add(len(asked))
            assert asked == sorted(world.by_key[key] for key in record.cohort)
            assert len(set(told)) == 1
            members = [key.encode() for key in record.cohort] + [bytes.fromhex(key) for key in record.cohort]
            assert not any(key in text for text in told for key in members)
            assert told_sum(record, world.rounds.plans.plan(study).divisor)["count"] == round(
                world.rounds.plans.plan(study).divisor
            )
            for site in asked:
                world.talk(hash, site)
        world.tick()
    assert world.study(hash).phase == "finished"
    rows = world.history(hash)
    assert [row["round"] for row in rows] == [1, 2, 3, 4]
    assert len({(row["cohort"], row["answers"], row["bytes_up"], row["bytes_down"]) for row in rows}) == 1
    assert all(set(row) == {"round", "sum", "cohort", "answers", "bytes_up", "bytes_down", "update_norm"} for row in rows)


def test_after_a_restart_and_in_each_attempt_the_same_sites_are_asked(tmp_path):
    world = World(tmp_path, 12)
    hash = world.begin(private(mn.Cohort(size=4, minimum=2), rounds=1))
    first, asked = world.sum(hash), world.asked(hash)
    world.again()
    assert world.asked(hash) == asked
    for _ in range(4):
        world.now += SETTINGS.work + 1
        world.tick(2)
        world.again()
    again = world.sum(hash)
    assert again.attempt > first.attempt
    assert (world.asked(hash), again.cohort) == (asked, first.cohort)
    world.parties.clear()
    assert world.run(hash, restart=True).phase == "finished"


def test_a_server_that_takes_over_a_sum_of_an_earlier_version_draws_in_secret(tmp_path):
    """Its call named the cohort, and no site answers it any more; the next attempt asks a cohort of its own."""
    world = World(tmp_path, 12)
    hash = world.begin(private(mn.Cohort(size=4, minimum=2), rounds=1))
    record = world.sum(hash)
    plan = world.rounds.plans.plan(world.study(hash))
    call = read_call(plan, bytes.fromhex(record.call))
    old = replace(call, terms=replace(call.terms, clients=4, enough=4), beacon=bytes(32), beacon_kind="server")
    with world.store.transaction() as transaction:
        documents.put(transaction, replace(record, call=old.body.hex(), cohort=()))
    world.again()
    assert len(world.asked(hash)) == 4
    with pytest.raises(mn.ProtocolAbort, match="names its cohort"):
        world.party(hash, world.asked(hash)[0])
    for _ in range(2):
        world.now += SETTINGS.work + 1
        world.tick(2)
    assert len(world.sum(hash).cohort) == 4
    assert world.run(hash).phase == "finished"


def test_an_empty_cohort_releases_noise_alone_and_its_row_is_as_any_other(tmp_path, monkeypatch):
    """The first two cohorts are empty, the next two are not."""
    world, drawn = World(tmp_path, 12), [0, 0, 3, 5]
    monkeypatch.setattr(rounds, "draw_asked", lambda *of: drawn.pop(0))
    hash = world.begin(private(mn.Cohort(sampling_probability=0.3), rounds=4))
    assert world.run(hash).phase == "finished"
    assert drawn == []
    rows = [{name: value for name, value in row.items() if name not in ("round", "update_norm")} for row in world.history(hash)]
    assert all(row == rows[0] for row in rows)
    assert all(row["update_norm"] > 0 for row in world.history(hash))
    assert world.study(hash).released == 4
