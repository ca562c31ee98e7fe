"""The round service: deadlines, attempts, abandonment, restarts, and several processes on one store."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest

import manent as mn
from manent.core.errors import InvalidInput, NotAuthorized, ProtocolAbort
from manent.core.parties import SERVER, Envelope
from manent.crypto import SystemRandom
from manent.network.server import documents, messages
from manent.network.server.http.sites import sum_of_site
from manent.network.server.rounds import Settings
from manent.network.server.submitting import decide
from manent.network.trust.journal import AuditLog
from manent.storage import open_store
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind
from tests.network.world import SETTINGS, World, study_of

SECURE = mn.SecAgg(minimum_cohort=3, dropped=0.2)
PRIVATE = {
    "layers": [mn.Clip(1.0), mn.CentralNoise(noise_multiplier=1.0)],
    "algorithm": mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4), weighting="equal"),
}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("summation", [mn.Plain(), SECURE])
def test_a_study_ends_as_in_a_simulation(tmp_path, summation, restart):
    world, study = World(tmp_path, 5), study_of(summation=summation)
    hash = world.begin(study, seed=7)
    assert world.run(hash, restart).phase == "finished"
    run = mn.simulate(study, world.data, seed=7, workers=0)
    np.testing.assert_array_equal(world.result(hash)["model"], run.result["model"])
    assert world.history(hash) == run.history


def test_nothing_large_is_left_behind(tmp_path):
    world = World(tmp_path, 4)
    hash = world.begin(study_of(rounds=3))
    world.run(hash)
    kept = {path.name for path in (tmp_path / "srv" / "blobs").iterdir() if path.is_file()}
    study = world.study(hash)
    assert {study.state, study.result, study.bundle} <= kept
    assert len(kept) <= 3 + study_of(rounds=3).rounds  # and assignments, until they are swept


def test_a_deadline_closes_with_those_who_answered(tmp_path):
    world = World(tmp_path, 4)
    hash = world.begin(study_of(cohort=mn.Cohort(minimum=2)))
    for site in (0, 2):
        world.talk(hash, site)
    world.tick()
    assert world.study(hash).round == 1
    world.now += SETTINGS.work + 1
    world.tick()
    assert world.study(hash).round == 2
    (row,) = world.history(hash)
    assert (row["cohort"], row["answers"]) == (4, 2)


def test_more_are_asked_than_are_needed(tmp_path):
    world = World(tmp_path, 12)
    hash = world.begin(study_of(cohort=mn.Cohort(size=5)))
    asked = world.asked(hash)
    assert len(asked) == 7
    for site in asked[:5]:
        world.talk(hash, site)
    world.tick(2)
    assert world.study(hash).round == 2
    assert world.history(hash)[0]["answers"] == 5


def test_with_privacy_nobody_is_asked_in_vain(tmp_path):
    world = World(tmp_path, 12)
    hash = world.begin(study_of(cohort=mn.Cohort(size=5), **PRIVATE))
    assert len(world.asked(hash)) == 5


def test_too_few_answers_are_abandoned_and_the_study_goes_on(tmp_path):
    world = World(tmp_path, 4)
    hash = world.begin(study_of(cohort=mn.Cohort(minimum=3)))
    before = world.study(hash).state
    world.talk(hash, 1)
    world.now += SETTINGS.work + 1
    world.tick(2)
    assert "at least 3" in world.history(hash)[0]["abandoned"]
    assert (world.study(hash).round, world.study(hash).state) == (2, before)


@pytest.mark.parametrize("summation", [mn.Plain(), SECURE])
def test_where_nobody_answers_the_same_cohort_is_called_again(tmp_path, summation):
    world = World(tmp_path, 8)
    hash = world.begin(study_of(cohort=mn.Cohort(size=5), summation=summation))
    first, asked = world.sum(hash), world.asked(hash)
    for _ in range(4):
        world.now += SETTINGS.work + 1
        world.tick(2)
    again = world.sum(hash)
    assert again.attempt > first.attempt
    assert again.round == 1
    assert world.asked(hash) == asked
    assert world.history(hash) == []
    assert world.run(hash).phase == "finished"


def test_noise_hides_that_nobody_was_drawn(tmp_path):
    world = World(tmp_path, 4)
    hash = world.begin(study_of(rounds=3, cohort=mn.Cohort(sampling_probability=1e-9), **PRIVATE))
    world.tick(4)
    assert world.study(hash).phase == "finished"
    assert world.study(hash).released == 3
    assert not any("abandoned" in row for row in world.history(hash))
    assert np.abs(world.result(hash)["model"]).max() > 0


def test_an_abandoned_sum_with_masks_is_charged(tmp_path):
    world = World(tmp_path, 5)
    layers = [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=1.0)]
    hash = world.begin(study_of(**{**PRIVATE, "layers": layers}, summation=SECURE))
    for _ in range(3):
        for site in range(5):
            world.talk(hash, site, upload=False)
    world.talk(hash, 0)
    assert world.study(hash).released == 0
    for _ in range(3):
        world.now += SETTINGS.work + 1
        world.tick(2)
    assert world.study(hash).released == 1
    assert world.history(hash)[0]["abandoned"] == "Fewer answers than the noise is sized for."


def test_a_process_that_has_just_started_closes_nothing_at_once(tmp_path):
    world = World(tmp_path, 4, settings=Settings(work=100.0, phase=10.0, grace=30.0))
    hash = world.begin(study_of(cohort=mn.Cohort(minimum=1)))
    world.talk(hash, 0)
    world.now += 1000
    world.again()
    world.tick()
    assert world.study(hash).round == 1
    world.now += 31
    world.tick()
    assert world.study(hash).round == 2


@pytest.mark.parametrize("secret", [False, True])
def test_a_study_that_every_site_refuses_fails_with_their_reasons(tmp_path, secret):
    world = World(tmp_path, 3)
    hash = world.submit(study_of(cohort=mn.Cohort(sampling_probability=0.5), **PRIVATE) if secret else study_of())
    world.tick()
    for index, identity in enumerate(world.identities):
        decide(world.rounds, hash, identity.public_hex, False, f"reason {index}")
    world.tick()
    assert world.study(hash).phase == "failed"
    assert all(f"site{index}: reason {index}" in world.study(hash).reason for index in range(3))


def test_studies_queue(tmp_path):
    world = World(tmp_path, 3, settings=Settings(work=100.0, phase=10.0, running=1))
    hashes = [world.submit(study_of(rounds=rounds)) for rounds in (1, 2)]
    world.tick()
    for hash in hashes:
        for identity in world.identities:
            decide(world.rounds, hash, identity.public_hex, True, "")
    world.tick(3)
    assert world.study(hashes[0]).phase == "running"
    assert world.study(hashes[1]).phase != "running"
    world.run(hashes[0])
    world.tick(3)
    assert world.run(hashes[1]).phase == "finished"


def test_studies_in_equal_states_do_not_lose_each_others_blobs(tmp_path):
    """Blobs are named by their content: two models that begin at zero are one blob, and one study must not remove it for both."""
    world = World(tmp_path, 3)
    hashes = [world.begin(study_of(rounds=2, name=name)) for name in ("one", "other")]
    assert len({world.study(hash).state for hash in hashes}) == 1
    assert [world.run(hash).phase for hash in hashes] == ["finished", "finished"]


class Together:
    """A source of noise that waits, at its first draw after `arm`, until as many processes have come so far."""

    secure = True

    def __init__(self, barrier):
        self.barrier, self.source, self.armed = barrier, SystemRandom(), False

    def _meet(self):
        if self.armed:
            self.armed = False
            self.barrier.wait(60)

    def bytes(self, count):
        self._meet()
        return self.source.bytes(count)

    def words(self, count):
        self._meet()
        return self.source.words(count)


def racer(world, barrier, drawn, rounds):
    """A process of the server that comes to every release at the same time as the others."""
    source = Together(barrier)
    service = world.process(source)
    for _ in range(rounds):
        barrier.wait(60)
        source.armed = True
        service.rounds.tick()
        drawn.put(not source.armed)
        barrier.wait(60)


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_of_several_processes_one_releases(tmp_path, kind, request):
    """All have drawn noise for the same sum before any of them stores it: one draw is stored, and the others are gone."""
    place = request.getfixturevalue("postgres_url") if kind == "PostgreSQL" else tmp_path / "server.db"
    count, rounds = 3, 4
    world = World(tmp_path, 4, store=open_store(place))
    hash = world.begin(study_of(rounds=rounds, **PRIVATE))
    context = multiprocessing.get_context("fork")
    barrier, drawn = context.Barrier(count + 1), context.Queue()
    racers = [context.Process(target=racer, args=(world, barrier, drawn, rounds), daemon=True) for _ in range(count)]
    for process in racers:
        process.start()
    source = Together(barrier)
    world.again(source)
    for round in range(1, rounds + 1):
        for site in range(4):
            world.talk(hash, site)
        barrier.wait(60)
        source.armed = True
        world.tick()
        assert not source.armed
        assert all(drawn.get(timeout=60) for _ in range(count))
        barrier.wait(60)
        assert world.study(hash).released == round
        assert [row["round"] for row in world.history(hash)] == list(range(1, round + 1))
        assert names_of_states(tmp_path) == [world.study(hash).state]
        world.tick(2)
    for process in racers:
        process.join(60)
        assert process.exitcode == 0
    assert world.study(hash).phase == "finished"
    assert left_over(world, hash) == set()


def left_over(world, hash):
    """Blobs beside the study's own, and what clients were sent, which is swept."""
    study, there = world.study(hash), set(world.service.blobs.digests())
    with world.store.snapshot() as view:
        sums = [documents.sum_of(view, key.removeprefix("sum/")) for key in view.keys("sum/")]
    return there - {study.bundle, study.state, study.result} - {record.assignment for record in sums}


def names_of_states(folder):
    found = (path for path in (folder / "srv" / "blobs").iterdir() if path.is_file())
    return [path.name for path in found if b"state.model" in path.read_bytes()]


def test_a_vector_that_comes_too_late_is_thrown_away_and_its_site_told(tmp_path):
    world = World(tmp_path, 8)
    hash = world.begin(study_of(cohort=mn.Cohort(size=5), rounds=1))
    record, asked = world.sum(hash), world.asked(hash)
    parties = [world.party(hash, site) for site in asked]
    uploads = []
    for party, site in zip(parties, asked, strict=True):
        party.receive(Envelope(SERVER, party.name, world.rounds.message(record.id, party.name)))
        uploads.append(party.contribute(world.vector(hash, site)).send[0].body)
    for party, upload in zip(parties[:5], uploads, strict=False):
        messages.take(world.service, record.id, party.name, upload)
    world.tick()
    for party, upload in zip(parties[5:], uploads[5:], strict=True):
        (told,) = messages.take(world.service, record.id, party.name, upload)
        assert wire.unframe(told)[0] is Kind.CLOSED
        about = sum_of_site(world.service, record.id, party.name)
        assert (about["state"], about["included"], about["survivors"]) == ("released", False, 5)
        with pytest.raises(ProtocolAbort, match="is over"):
            messages.largest(world.service, record.id)
    assert left_over(world, hash) == set()


def test_of_equal_uploads_the_one_that_fails_does_not_take_the_other_with_it(tmp_path, monkeypatch):
    """Blobs are named by their content: what two sites send may be one and the same."""
    world = World(tmp_path, 4)
    hash = world.begin(study_of(rounds=1))
    record = world.sum(hash)
    context = wire.unframe(world.rounds.message(record.id, world.identities[0].public_hex))[1]
    body = wire.frame(Kind.UPLOAD, context, b"\x00" + np.zeros_like(world.vector(hash, 0)).tobytes())
    messages.take(world.service, record.id, world.identities[0].public_hex, body)

    def lost(*arguments):
        raise ProtocolAbort("The store was lost while it committed.")

    with monkeypatch.context() as patched:
        patched.setattr(world.rounds, "act", lost)
        with pytest.raises(ProtocolAbort):
            messages.take(world.service, record.id, world.identities[1].public_hex, body)
    for site in (1, 2, 3):
        messages.take(world.service, record.id, world.identities[site].public_hex, body)
    world.tick(2)
    assert world.study(hash).phase == "finished"
    assert world.history(hash)[0]["answers"] == 4


@pytest.mark.parametrize("study", [study_of(rounds=2), study_of(rounds=1, summation=SECURE)])
def test_a_blob_that_another_process_removes_before_it_is_named_is_written_again(tmp_path, study, monkeypatch):
    """The other one takes it for an equal one of its own that nobody needs any more."""
    world = World(tmp_path, 4)
    other, put, taken = world.process(), world.rounds.blobs.put, []

    def put_and_lose(chunks, *arguments):
        digest = put(chunks, *arguments)
        if len(taken) % 2 == 0:
            other.rounds.remove(digest)
        taken.append(digest)
        return digest

    hash = world.submit(study)
    monkeypatch.setattr(world.rounds.blobs, "put", put_and_lose)
    world.tick()
    for identity in world.identities:
        decide(world.rounds, hash, identity.public_hex, True, "")
    world.tick(6)
    assert world.study(hash).phase == "running"
    assert world.study(hash).open
    monkeypatch.undo()
    assert world.run(hash).phase == "finished"
    run = mn.simulate(study, world.data, workers=0)
    np.testing.assert_array_equal(world.result(hash)["model"], run.result["model"])


def test_evaluation_counts_as_a_release_and_is_refused_where_it_could_not_be_charged(tmp_path):
    world, local = World(tmp_path, 4), mn.LocalSGD(lr=0.1, steps=2, batch_size=4)
    evaluated = mn.FedAvg(mn.LogisticModel(3), local, weighting="equal", evaluation=mn.Evaluation(every=2))
    hash = world.begin(study_of(algorithm=evaluated, rounds=4))
    assert world.run(hash).released == 4 + 2
    assert sum(row["action"] == "release" for row in AuditLog(world.store).rows()) == 4 + 2
    with pytest.raises(mn.Refused, match="evaluate"):
        world.submit(study_of(**{**PRIVATE, "algorithm": evaluated}, name="private"))


def test_no_sum_is_opened_beyond_what_the_study_accounts(tmp_path):
    world = World(tmp_path, 4)
    study = world.study(world.begin(study_of(**PRIVATE, rounds=2)))
    world.service.rounds.open_sum(replace(study, released=1))
    with pytest.raises(mn.Refused, match="accounts 2 releases, and that many were made"):
        world.service.rounds.open_sum(replace(study, released=2))


def test_replicas_take_turns_with_the_messages_of_one_sum(tmp_path):
    world = World(tmp_path, 5, store=open_store(tmp_path / "server.db"))
    hash = world.begin(study_of(rounds=1, summation=SECURE))
    replicas = [world.service, world.process()]
    for step in range(60):
        if world.study(hash).over:
            break
        world.service = replicas[step % 2]
        if world.sum(hash) is not None and world.sum(hash).state == "open":
            world.talk(hash, step % 5)
        world.tick()
    run = mn.simulate(study_of(rounds=1, summation=SECURE), world.data, workers=0)
    np.testing.assert_array_equal(world.result(hash)["model"], run.result["model"])


def test_hostile_uploads_are_refused_and_the_others_go_on(tmp_path):
    world = World(tmp_path, 4)
    study = study_of(rounds=1)
    hash = world.begin(study)
    party, record = world.party(hash, 0), world.sum(hash)
    context = wire.unframe(world.rounds.message(record.id, party.name))[1]
    vector = world.vector(hash, 0)
    bad = [
        (b"\x00" + vector.tobytes())[:-1],
        b"\x00" + vector.tobytes() + b"\x00",
        b"\x02" + vector.astype(np.int64).tobytes(),
        b"\x07" + vector.tobytes(),
        b"",
        b"\x00" + np.full_like(vector, np.nan).tobytes(),
    ]
    for body in bad:
        with pytest.raises(ProtocolAbort):
            messages.take(world.service, record.id, party.name, wire.frame(Kind.UPLOAD, context, body))
    with pytest.raises(ProtocolAbort):
        messages.take(world.service, record.id, party.name, wire.frame(Kind.UPLOAD, bytes(32), b"\x00" + vector.tobytes()))
    with pytest.raises(ProtocolAbort):
        messages.take(world.service, record.id, party.name, b"nonsense")
    with pytest.raises(NotAuthorized):
        messages.take(world.service, record.id, "00" * 32, wire.frame(Kind.UPLOAD, context, b""))
    with pytest.raises(InvalidInput):
        messages.take(world.service, "../../etc/passwd", party.name, b"")
    world.run(hash)
    run = mn.simulate(study, world.data, workers=0)
    np.testing.assert_array_equal(world.result(hash)["model"], run.result["model"])


def test_an_upload_counts_once(tmp_path):
    world = World(tmp_path, 3)
    study = study_of(rounds=1)
    hash = world.begin(study)
    record, party = world.sum(hash), world.party(hash, 0)
    world.talk(hash, 0)
    for _ in range(3):
        (envelope,) = party.deadline().send
        messages.take(world.service, record.id, party.name, envelope.body)
    world.run(hash)
    run = mn.simulate(study, world.data, workers=0)
    np.testing.assert_array_equal(world.result(hash)["model"], run.result["model"])
