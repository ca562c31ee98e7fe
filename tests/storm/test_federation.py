"""The server's and the sites' own code on a virtual clock: whatever vanishes, breaks or dies, sums are exact, and studies end."""

from __future__ import annotations

import dataclasses
import logging

import pytest

import manent as mn
from manent.network.server import documents
from manent.network.server.rounds import Settings
from manent.network.site.state import SiteState
from manent.network.trust.receipts import stored, verify
from manent.storm.faults import Faults
from manent.storm.federation import Cut, Federation, Weather

SECURE = mn.SecAgg(minimum_cohort=3, dropped=0.4)
SETTINGS = Settings(work=120.0, phase=120.0, deciding=600.0, retry=5.0, grace=30.0)
HARSH = Faults(drop=0.05, lost_response=0.1, delay=(0.02, 2.0), crash=0.03, restart_after=(1.0, 20.0), until=1e9)


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def records(federation):
    """Every sum, in order."""
    with federation.store.snapshot() as view:
        found = [documents.sum_of(view, key.removeprefix("sum/")) for key in view.keys("sum/")]
    return sorted(found, key=lambda record: (record.study, record.round))


def study(federation, hash):
    with federation.store.snapshot() as view:
        return documents.study_of(view, hash)


def outcomes(federation, site):
    """By the site's own receipts."""
    state = SiteState(federation.sites[site].folder)
    rows, last = stored(state.store)
    return [receipt.outcome for receipt in verify(rows, state.identity.signing_key.public, last)]


def included(federation, record):
    places = {site.identity.public_hex: site.index for site in federation.sites}
    return {places[key] for key in record.included}


VANISH, LINK = Weather(vanish=0.3), Weather(cuts=(Cut(3.0, 603.0),))
STORM = Weather(HARSH, server_lives=(10.0, 60.0))


@pytest.mark.parametrize(
    ("weather", "servers", "summation"),
    [(VANISH, 1, SECURE), (LINK, 1, mn.Plain()), (LINK, 1, SECURE), (STORM, 2, SECURE)],
    ids=["some vanish", "ten minutes without a link", "the same, SecAgg", "losses, crashes, two server processes"],
)
def test_every_sum_is_exact_and_the_study_ends(tmp_path, weather, servers, summation):
    with Federation(tmp_path, 4, weather, seed=3, servers=servers) as federation:
        federation.submit(summation, 2, mn.Cohort(minimum=3))
        federation.run(20_000.0)
        watch = federation.watch
        assert watch.over
        assert watch.violations == []
        assert watch.exact == watch.released
        assert watch.released + watch.abandoned == 2
        if weather is LINK:
            assert federation.stage.now > 600
            assert watch.released >= 1  # a sum that is under way then may be abandoned


def test_a_course_is_determined_by_its_seed(tmp_path):
    def course(folder, seed):
        folder.mkdir()
        with Federation(folder, 4, Weather(HARSH, vanish=0.2), seed=seed) as federation:
            federation.submit(mn.Plain(), 2, mn.Cohort(minimum=1))
            federation.run(20_000.0)
            watch = federation.watch
            return federation.requests, federation.killed, federation.stage.now, watch.answers, watch.attempts

    found = [course(tmp_path / f"a{seed}", seed) for seed in range(3)]
    assert [course(tmp_path / f"b{seed}", seed) for seed in range(3)] == found
    assert len(set(map(str, found))) == 3


def test_stragglers_are_not_waited_for_and_told_that_they_came_too_late(tmp_path):
    """Five of eight are wanted and seven asked: a sum is closed with the fifth, and later vectors are thrown away."""
    slow = {0: 50.0, 1: 60.0, 2: 70.0}
    with Federation(tmp_path, 8, Weather(slow=slow), seed=1) as federation:
        hash = federation.submit(mn.Plain(), 4, mn.Cohort(size=5, minimum=3))
        federation.run(20_000.0)
        assert federation.watch.violations == []
        assert federation.watch.answers == [5] * 4
        assert all(record.count == 7 for record in records(federation))
        late = {site: outcomes(federation, site).count("left out") for site in range(8)}
        assert sum(late[site] for site in slow) >= 1
        assert sum(late.values()) == sum(late[site] for site in slow)
        over = study(federation, hash)
        blobs = {path.name for path in (tmp_path / "server" / "blobs").iterdir() if path.is_file()}
        assignments = {record.assignment for record in records(federation)}
        assert blobs <= {over.bundle, over.state, over.result} | assignments


def test_who_leaves_a_study_is_not_waited_for(tmp_path):
    """A site that leaves says so in each sum that asks it, so that no deadline is needed."""
    with Federation(tmp_path, 5, seed=1) as federation:
        hash = federation.submit(SECURE, 5, mn.Cohort(minimum=3))

        def leave():
            if study(federation, hash).round < 3:
                federation.at(federation.stage.now + 1.0, leave)
                return
            federation.sites[2].state.leave(hash)

        federation.at(1.0, leave)
        federation.run(20_000.0)
        assert federation.watch.violations == []
        assert federation.watch.released == 5
        assert federation.watch.answers[:2] == [5, 5]
        assert federation.watch.answers[-1] == 4
        assert federation.stage.now < 100  # no phase, and no work, was waited for to its end
        assert study(federation, hash).phase == "finished"
        with federation.store.snapshot() as view:
            told = documents.decisions(view, hash)[federation.sites[2].identity.public_hex]
        assert told == (False, "The site has left the study.")


def test_who_is_taken_off_the_roster_takes_part_no_more(tmp_path):
    """Also where that happens while a sum waits for answers: the sum is called again, under the new roster."""
    with Federation(tmp_path, 5, Weather(cuts=(Cut(4.0, 400.0),)), seed=1) as federation:
        hash = federation.submit(SECURE, 3, mn.Cohort(minimum=3))
        federation.at(300.0, federation.remove, 4)
        federation.run(20_000.0)
        assert federation.watch.violations == []
        assert study(federation, hash).phase == "finished"
        assert federation.watch.released >= 2
        for record in records(federation):
            if record.roster == 6:
                assert included(federation, record) == {0, 1, 2, 3}
        assert records(federation)[-1].roster == 6
        assert not federation.sites[4].state.tasks()  # it has heard how the sum ended that it was in


def test_a_study_that_too_few_are_left_for_is_abandoned_sum_by_sum(tmp_path):
    with Federation(tmp_path, 4, Weather(cuts=(Cut(4.0, 300.0),)), seed=1) as federation:
        hash = federation.submit(mn.Plain(), 3, mn.Cohort(minimum=4))
        federation.at(200.0, federation.remove, 0)
        federation.run(20_000.0)
        assert federation.watch.violations == []
        assert study(federation, hash).phase == "finished"
        assert federation.watch.released <= 1
        with federation.store.snapshot() as view:
            rows = [row for row in view.rows(documents.history_log(hash)) if b"abandoned" in row]
        assert len(rows) >= 2


def test_studies_wait_for_each_other_and_run_beside_each_other(tmp_path):
    settings = dataclasses.replace(SETTINGS, running=2)
    with Federation(tmp_path, 4, seed=1, settings=settings) as federation:
        kinds = (mn.Plain(), SECURE, mn.Plain())
        hashes = [federation.submit(kind, 2, mn.Cohort(minimum=3), f"study {n}") for n, kind in enumerate(kinds)]
        most, both = [], []

        def look():
            with federation.store.snapshot() as view:
                running = [s for s in documents.studies(view) if s.phase == "running"]
            most.append(len(running))
            both.append(sum(bool(s.open) for s in running))
            federation.at(federation.stage.now + 0.5, look)

        federation.at(0.5, look)
        federation.run(20_000.0)
        assert max(most) == max(both) == 2
        assert [study(federation, hash).phase for hash in hashes] == ["finished"] * 3
        assert federation.watch.exact == 6
        assert federation.watch.violations == []


def test_who_refuses_a_study_is_not_waited_for(tmp_path):
    with Federation(tmp_path, 4, seed=1) as federation:
        hash = federation.submit(mn.Plain(), 2, mn.Cohort(minimum=3))
        policy = federation.sites[1].folder / "policy.toml"
        federation.kill(1)
        policy.write_text(policy.read_text().replace('allowed = ["SecAgg", "Plain"]', 'allowed = ["SecAgg"]'))
        federation.at(1.0, federation.start, 1)
        federation.run(20_000.0)
        assert federation.watch.answers == [3, 3]
        assert federation.stage.now < 60
        with federation.store.snapshot() as view:
            accepted, reason = documents.decisions(view, hash)[federation.sites[1].identity.public_hex]
        assert not accepted
        assert "Plain" in reason


def test_the_watch_finds_what_is_wrong(tmp_path):
    """A sum that is not of those whom the server names, an acknowledged upload that is left out, a site that is in it twice."""
    with Federation(tmp_path, 3, seed=1) as federation:
        hash = federation.submit(mn.Plain(), 1, mn.Cohort(minimum=3))
        federation.run(20_000.0)
        watch, (record,), state = federation.watch, records(federation), study(federation, hash).state
        assert watch.violations == []
        # Whoever comes last hears of the sum's end at once; the three come at one moment, so it may be any of them.
        acknowledged = next(key for key in record.included if watch._places[key] in {site for site, _ in watch._told})
        without = [key for key in record.included if key != acknowledged]
        watch._judge(dataclasses.replace(record, included=without), state)
        assert len(watch.wrong) == len(watch.lost) == 1
        watch._judge(dataclasses.replace(record, included=[*record.included, record.included[0]]), state)
        assert len(watch.double) == 1
