"""A storm over a small protocol: it holds, its mistakes are found, and a seed is a round, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from manent.core.errors import InvalidInput, ManentError
from manent.storm import Faults, Limits, play, run, scenario
from manent.storm.trace import text
from tests.storm.collecting import FLAWS, Collecting

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("faults", "rounds"), [(None, 300), (Faults.harsh(), 100)], ids=["drawn", "harsh"])
def test_the_sound_protocol_holds_and_every_fault_was_met(faults, rounds):
    outcome = run(Collecting, range(rounds), faults)
    assert outcome.failures == ()
    assert outcome.rounds == sum(outcome.outcomes.values()) == rounds
    assert set(outcome.outcomes) == {"done", "done without some", "aborted"}
    assert set(outcome.met) == {
        "dropped", "repeated", "response lost", "unreachable", "outage", "crashes", "torn write", "gone for good"
    }  # fmt: skip


def test_without_faults_everybody_is_counted():
    outcome = run(Collecting, range(10), Faults.none())
    assert (outcome.outcomes, outcome.failures, outcome.met) == ({"done": 10}, (), {})


@pytest.mark.parametrize(("flaw", "violation"), FLAWS.items(), ids=list(FLAWS))
def test_each_flaw_is_found_by_the_storm_and_only_by_it(flaw, violation):
    flawed = partial(Collecting, flaw)
    assert run(flawed, range(20), Faults.none()).failures == ()
    found = run(flawed, range(200))
    assert violation in found.violations()
    assert found.violations()[violation] <= len(found.failures)
    failure = found.failures[0]
    assert play(flawed, failure.seed)[1] == failure


def test_parties_that_answer_each_other_without_end_are_found():
    faults = Faults(drop=0.3, duplicate=0.5)
    assert run(Collecting, range(30), faults, Limits(events=5000)).failures == ()
    assert set(run(partial(Collecting, "echoes"), range(30), faults, Limits(events=5000)).violations()) == {"no end"}


def test_the_outcome_does_not_depend_on_workers():
    flawed, heard = partial(Collecting, "client keeps nothing"), []
    alone = run(flawed, range(40))
    assert alone.failures
    assert run(flawed, range(40), workers=3, told=heard.append) == alone
    assert sorted(verdict.seed for verdict in heard) == list(range(40))


def test_a_worker_that_dies_is_an_error():
    class Deadly(Collecting):
        def check(self, world):
            os._exit(3)

    with pytest.raises(ManentError, match="died"):
        run(Deadly, range(4), workers=2)


def test_a_check_that_raises_does_not_lose_the_seed():
    class Broken(Collecting):
        def check(self, world):
            raise ZeroDivisionError

    outcome = run(Broken, range(2))
    assert outcome.violations() == {"unchecked": 2}


def digest(seeds: range) -> str:
    """Of the traces of rounds."""
    return sha256("\n".join(text(play(Collecting, seed)[0].trace) for seed in seeds).encode()).hexdigest()


def test_a_seed_is_one_course_in_every_process():
    code = "from tests.storm.test_campaign import digest; print(digest(range(10)))"
    found = {digest(range(10))}
    for hashing in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashing}
        command = [sys.executable, "-c", code]
        found.add(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    assert len(found) == 1
    assert len({text(play(Collecting, seed)[0].trace) for seed in range(10)}) == 10


def test_a_trace_shows_types_sizes_and_whether_bodies_are_equal():
    world, _ = play(Collecting, 1, Faults.none())
    lines = text(world.trace).splitlines()
    sent = next(line for line in lines if " sends " in line and "-> server" in line)
    assert "type 01       9 B" in sent
    same = [line for line in lines if sent.split()[-1] in line]
    assert len(same) >= 2  # sent, and received
    assert "<- " in same[1]
    assert text(world.trace, 5).splitlines() == [f"... {len(lines) - 5:,} earlier lines", *lines[-5:]]


def test_an_unknown_scenario_is_a_message():
    with pytest.raises(InvalidInput, match="no scenario 'x'"):
        scenario("x")
