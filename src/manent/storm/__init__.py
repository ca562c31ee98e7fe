"""Seeded storms over any sans-I/O parties: lost, late and repeated messages, crashes, torn writes; each replayed by its seed."""

from manent.storm.campaign import Outcome, Verdict, play, run
from manent.storm.disk import Disk
from manent.storm.faults import Faults
from manent.storm.scenarios import SCENARIOS, Scenario, ScenarioFactory, changed_messages, scenario
from manent.storm.secagg import SecAggScenario
from manent.storm.world import Actor, Limits, World

SCENARIOS["secagg"] = SecAggScenario

__all__ = [
    "SCENARIOS",
    "Actor",
    "Disk",
    "Faults",
    "Limits",
    "Outcome",
    "Scenario",
    "ScenarioFactory",
    "Verdict",
    "World",
    "changed_messages",
    "play",
    "run",
    "scenario",
]
