"""manent storm."""

from __future__ import annotations

from functools import partial

import pytest

from manent.storm import SCENARIOS
from tests.app.program import manent
from tests.storm.collecting import Collecting


@pytest.fixture(autouse=True)
def scenarios(monkeypatch):
    monkeypatch.setitem(SCENARIOS, "collecting", Collecting)
    monkeypatch.setitem(SCENARIOS, "flawed", partial(Collecting, "client keeps nothing"))


def test_a_campaign_is_summed_up():
    result = manent("storm", "--scenario", "collecting", "--rounds", 30, "--start", 100, "--workers", 2)
    assert result.exit_code == 0
    assert "30 rounds of collecting, seeds 100 to 129" in result.stdout
    assert "ended:  done " in result.stdout
    assert "crashes" in result.stdout
    assert "every invariant held" in result.stdout
    assert "Replay" not in result.stdout


def test_a_failure_names_its_seed_and_the_command_that_replays_it():
    result = manent("storm", "--scenario", "flawed", "--rounds", 20, "--workers", 1)
    assert result.exit_code == 1
    assert "FAILED: " in result.stdout
    assert "earlier lines" in result.stdout
    command = result.stdout.strip().splitlines()[-1].removeprefix("Replay: manent ").split()
    again = manent(*command)
    assert again.exit_code == 1
    violations = [line for line in result.stdout.splitlines() if line.startswith("VIOLATED ")]
    assert violations
    assert violations[0] in again.stdout
    assert "earlier lines" not in again.stdout
    whole = manent("storm", "--scenario", "flawed", "--rounds", 20, "--workers", 1, "--trace")
    assert again.stdout.strip() in whole.stdout


def test_a_replay_of_a_sound_round_says_so():
    result = manent("storm", "--scenario", "collecting", "--seed", 7)
    assert result.exit_code == 0
    assert "faults: drop" in result.stdout
    assert "0.000  server       starts" in result.stdout
    assert "Every invariant held." in result.stdout
    assert result.stdout == manent("storm", "--scenario", "collecting", "--seed", 7).stdout


def test_an_unknown_scenario_names_those_there_are():
    result = manent("storm", "--scenario", "nothing")
    assert result.exit_code == 2
    assert "collecting, flawed" in result.stderr


def test_the_help_teaches():
    text = manent("storm", "--help").stdout
    assert "--seed" in text
    assert "manent storm --rounds 10000" in text
