"""Benchmarks that drive parts of the program from inside, in their smallest form: so that they do not fall behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(("sum", "sites"), [("Plain", 6), ("SecAgg", 12)])
def test_load_of_a_few_sites(sum, sites):
    options = ["--sites", str(sites), "--fewer", "0", "--megabytes", "0.01", "--sums", sum, "--json"]
    command = [sys.executable, str(FOLDER / "load.py"), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["sites"], found["failed"], found[sum]["phase"]) == (sites, 0, "finished")
    assert found["server_memory_mb"] > 10
    assert 0 < found["p50_s"] <= found["p99_s"]


@pytest.mark.slow
def test_a_kill_of_the_server_changes_nothing():
    options = ["--kills", "1", "--rounds", "4", "--seed", "1", "--json"]
    command = [sys.executable, str(FOLDER / "crash.py"), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=400, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["kills"], found["kills_server"]) == (1, 1)
    assert (found["lost"], found["double"], found["failed"]) == (0, 0, [])
    assert (found["ledger_equal"], found["model_equal"], found["history_equal"]) == (True, True, True)
