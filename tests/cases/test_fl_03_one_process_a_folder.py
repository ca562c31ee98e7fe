"""Two processes on one folder would release sums twice for one charge: the second is told who is at work there, and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manent.network.site.state import POLICY, Server, SiteState
from manent.network.trust.identity import Identity
from manent.network.trust.policy import Policy

STUDY = """
import manent as mn
data = mn.data.heart_disease()
study = mn.Study(mn.SCAFFOLD(mn.LogisticModel(13), mn.LocalSGD(lr=0.01, steps=100, batch_size=4)), rounds=60, name="s")
"""
LOAD = "def load():\n    raise AssertionError\n"
LONG = 300.0


def manent(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "manent", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(found, process) -> None:
    end = time.monotonic() + LONG
    while not found():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_that_is_resumed_while_it_runs_is_refused_and_ends_as_alone(tmp_path):
    (tmp_path / "study.py").write_text(STUDY)
    options = ("--workers", 0, "-q")
    assert manent(tmp_path, "run", "study.py", "--folder", "alone", *options).wait(LONG) == 0
    first, log = manent(tmp_path, "run", "study.py", "--folder", "one", *options), tmp_path / "one" / "history.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size, first)
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second begins
    second = manent(tmp_path, "run", "--resume", "one", *options)
    said = second.communicate(timeout=LONG)[0]
    first.send_signal(signal.SIGCONT)
    assert first.wait(LONG) == 0
    assert second.returncode == 2
    assert f"in use by a run (process {first.pid} on " in " ".join(said.split())
    rows = [(row["round"], row["sum"]) for row in map(json.loads, log.read_text().splitlines())]
    assert len(rows) == len(set(rows)) == 60
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "alone" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_second_process_of_a_site_is_refused_until_the_first_is_gone(tmp_path, end):
    state = SiteState.create(tmp_path / "site", "clinic")
    key = Identity.create(tmp_path / "server.key", "server").public_hex
    state.put_server(Server("https://127.0.0.1:9", None, key, key, True))
    state.store.close()
    (tmp_path / "site" / POLICY).write_text(Policy.example())
    (tmp_path / "load.py").write_text(LOAD)
    work = ("site", "run", "--folder", "site", "--data", "load.py:load")
    lock = tmp_path / "site" / "lock"
    first = manent(tmp_path, *work)
    try:
        wait_for(lambda: lock.exists() and lock.stat().st_size, first)
        second = manent(tmp_path, *work)
        said = " ".join(second.communicate(timeout=LONG)[0].split())
        assert second.returncode == 2, said
        assert f"in use by a site (process {first.pid} on " in said
    finally:
        first.send_signal(end)
        first.wait(LONG)
    third = manent(tmp_path, *work)
    try:
        wait_for(lambda: lock.exists() and f'"process": {third.pid}' in lock.read_text(), third)
    finally:
        os.kill(third.pid, signal.SIGKILL)
        third.wait(LONG)
