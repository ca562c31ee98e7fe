"""A sum is kept in the folder, then paid for, then told: whatever dies or is copied, no sum is told with two noises."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

import manent as mn
from manent.accounting import Ledger
from manent.core.errors import Refused
from manent.engines.spending import RESERVATION
from manent.storage import open_store
from tests.engines.telling import ROUNDS, StopAfter, Stopped, telling
from tests.privacy.studies import DATA, budget

ROOT = Path(__file__).parents[2]
SCRIPT = """
    import os, sys
    sys.path.insert(0, {root!r})
    import manent as mn
    from manent.accounting import ledger as books
    from manent.engines import folder, loop, record, spending
    from tests.engines.telling import telling
    from tests.privacy.studies import DATA

    def dies(owner, name, call, after, fits=lambda *of: True):
        inner, calls = getattr(owner, name), []
        def mortal(*of, **named):
            counts = fits(*of)
            calls.extend([1] if counts else [])
            if counts and len(calls) == call and not after:
                os._exit(9)
            found = inner(*of, **named)
            if counts and len(calls) == call and after:
                os._exit(9)
            return found
        setattr(owner, name, mortal)

    noted = lambda self, name, value: name == spending.RESERVATION
    begun = lambda self, name, value: name == "study.json"
    dies(*{point})
    mn.simulate(telling(), DATA, workers=0, folder={folder!r}, ledger={ledger!r}, resume={resume}, watcher=())
    os._exit(0)
"""
POINTS = {
    "before the id is noted": '(folder.RunFolder, "write", 1, False, noted)',
    "once the id is noted": '(folder.RunFolder, "write", 1, True, noted)',
    "before it is reserved": '(books.Ledger, "reserve", 1, False)',
    "once it is reserved": '(books.Ledger, "reserve", 1, True)',
    "before the run has begun": '(folder.RunFolder, "write", 1, False, begun)',
    "once the run has begun": '(folder.RunFolder, "write", 1, True, begun)',
    "once noise is drawn": '(loop, "released", 2, True)',
    "before a sum is kept": '(folder.RunFolder, "save", 2, False)',
    "once a sum is kept": '(folder.RunFolder, "save", 2, True)',
    "before it is paid for": '(books.Ledger, "commit", 2, False)',
    "once it is paid for": '(books.Ledger, "commit", 2, True)',
    "before it is told": '(record.Record, "tell", 3, False)',
    "once half of it is told": '(folder.RunFolder, "append", 3, True)',
    "once it is told": '(record.Record, "tell", 3, True)',
    "once the last sum is kept": '(folder.RunFolder, "save", 4, True)',
    "once the last sum is told": '(record.Record, "tell", 5, True)',
    "before it is settled": '(books.Ledger, "finish", 1, False)',
    "once it is settled": '(books.Ledger, "finish", 1, True)',
}


def told(folder: Path) -> dict[tuple[int, str], float]:
    """What whoever reads the history sees of each sum."""
    log = folder / "history.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines]
    found = {(row["round"], row["sum"]): row["seen"] for row in rows}
    assert len(found) == len(rows)
    return found


def paid(path: Path) -> dict[tuple[int, int], str]:
    """The digest of each sum in the ledger."""
    with open_store(path).snapshot() as view:
        rows = [json.loads(row) for row in view.rows("ledger")]
    found = [((row["round"], row["sum"]), row["release"]) for row in rows if row["kind"] == "commit"]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.fixture
def opened(tmp_path):
    path = tmp_path / "ledger.db"
    Ledger(open_store(path)).open("softmax", budget(20.0))
    return path


@pytest.mark.parametrize("point", POINTS.values(), ids=list(POINTS))
def test_after_any_death_no_sum_has_two_noises_and_no_charge_is_lost(tmp_path, opened, point):
    folder = tmp_path / "run"

    def session(point: str) -> int:
        resume = (folder / "study.json").exists()
        script = SCRIPT.format(root=str(ROOT), point=point, folder=str(folder), ledger=str(opened), resume=resume)
        return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=300).returncode

    assert session(point) == 9
    before = told(folder)
    digests = paid(opened)
    assert len(before) <= len(digests)
    account = Ledger(open_store(opened)).account("softmax")
    assert account.runs == 1 or not before
    assert session('(loop, "released", 99, True)') == 0
    after = told(folder)
    assert {place: after[place] for place in before} == before
    assert len(after) == ROUNDS
    final = paid(opened)
    assert {place: final[place] for place in digests} == digests
    assert len(final) == ROUNDS
    ledger = Ledger(open_store(opened))
    assert (ledger.account("softmax").runs, ledger.account("softmax").reserved) == (1, 0)
    assert ledger.unsettled() == ()
    ledger.verify()


def until(folder: Path, ledger: Path, round: int, resume: bool = False) -> None:
    with pytest.raises(Stopped):
        mn.simulate(telling(), DATA, workers=0, folder=folder, ledger=ledger, resume=resume, watcher=StopAfter(round))


def test_a_copied_folder_releases_nothing_under_the_same_charge(tmp_path, opened):
    folder, copy = tmp_path / "run", tmp_path / "copy"
    until(folder, opened, 2)
    shutil.copytree(folder, copy)
    until(folder, opened, 3, resume=True)
    seen, digests = told(copy), paid(opened)
    with pytest.raises(Refused, match=r"Sum 0 of round 3 was released under reservation .* copy of the run's folder"):
        mn.simulate(telling(), DATA, workers=0, folder=copy, ledger=opened, resume=True, watcher=())
    assert (told(copy), paid(opened)) == (seen, digests)
    with pytest.raises(Refused, match="Sum 0 of round 3"):  # nor does it once the other noise is kept in the copy
        mn.simulate(telling(), DATA, workers=0, folder=copy, ledger=opened, resume=True, watcher=())
    assert told(copy) == seen
    mn.simulate(telling(), DATA, workers=0, folder=folder, ledger=opened, resume=True, watcher=())
    whole = told(folder)
    shutil.rmtree(copy)
    assert len(whole) == len(paid(opened)) == ROUNDS
    assert Ledger(open_store(opened)).account("softmax").runs == 1


def test_a_copy_of_a_folder_whose_run_has_ended_goes_on_with_nothing(tmp_path, opened):
    folder, copy = tmp_path / "run", tmp_path / "copy"
    until(folder, opened, 2)
    shutil.copytree(folder, copy)
    mn.simulate(telling(), DATA, workers=0, folder=folder, ledger=opened, resume=True, watcher=())
    shutil.copytree(folder, tmp_path / "ended")
    seen = told(copy)
    with pytest.raises(Refused, match=r"is settled: it was finished in a copy of its folder"):
        mn.simulate(telling(), DATA, workers=0, folder=copy, ledger=opened, resume=True, watcher=())
    assert told(copy) == seen
    mn.simulate(telling(), DATA, workers=0, folder=tmp_path / "ended", ledger=opened, resume=True, watcher=())
    assert told(tmp_path / "ended") == told(folder)


def test_a_note_that_was_never_reserved_under_is_taken(tmp_path, opened):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RESERVATION).write_text(json.dumps({"reservation": "0" * 32, "data_set": "softmax"}))
    until(tmp_path / "run", opened, 1)
    (one,) = Ledger(open_store(opened)).unsettled()
    assert (one.reservation.id, one.releases, one.most) == ("0" * 32, 1, ROUNDS)


def test_without_a_folder_each_sum_is_paid_for_under_its_round(opened):
    mn.simulate(telling(), DATA, workers=0, ledger=opened, watcher=())
    assert sorted(paid(opened)) == [(round, 0) for round in range(1, ROUNDS + 1)]


def test_rounds_with_correlated_noise_are_one_charge_and_a_digest_each(opened):
    layers = [mn.Clip(0.5), mn.CorrelatedNoise(noise_multiplier=8.0)]
    study = telling(layers, cohort=mn.Cohort(size=5, min_separation=2), rounds=4)
    ledger = Ledger(open_store(opened))
    ledger.open("separated", budget(20.0, neighboring_relation="zero_out"))
    mn.simulate(study, replace(DATA, name="separated"), workers=0, ledger=ledger, watcher=())
    assert sorted(paid(opened)) == [(round, 0) for round in range(1, 5)]
    assert len(set(paid(opened).values())) == 4
    assert ledger.account("separated").runs == 1
    assert ledger.unsettled() == ()
