"""The demonstration as a federation of processes: it comes to an end, its report says what happened, and nothing is left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manent.app.demo.processes import Processes, ProcessFailed
from tests.app.program import manent, program


def left(folder: Path) -> list[str]:
    """Command lines of processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.resolve().is_relative_to(folder):
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_hospitals_learn_together_between_processes(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    found = manent("demo", "hospitals", "--private", "--rounds", 2, "--seeds", 2, "--folder", folder)
    assert found.exit_code == 0
    said = re.sub(r"\s+", " ", found.stdout)
    assert "2 together with the server can subtract their own" in said
    assert re.search(r"VA Long Beach: epsilon [1-8]\S* of 8 is spent [^,]", said)  # and nothing is set aside any more
    assert left(tmp_path) == []
    report = re.sub(r"\s+", " ", (folder / "report.html").read_text())
    assert "is bounded: epsilon 4" in report
    assert "manent demo hospitals --private --rounds 2" in report
    assert "each centre's own 15 numbers" not in report
    assert "Nothing was measured on the way" in report
    assert "it signs the roster itself (a quick start" in report
    assert "matplotlib is installed" not in report
    assert report.count("<small>once</small>") == 16  # two ways, two metrics, four centres
    assert manent("demo", "hospitals", "--folder", folder).exit_code == 2


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    process = program("demo", "hospitals", "--rounds", 100, "--folder", tmp_path / "demo")
    invitation = tmp_path / "demo" / "federation" / "server" / "invitation.txt"
    end = time.monotonic() + 60
    while not invitation.exists() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(2)
    assert left(tmp_path) != []
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130
    assert "nothing of it is running" in errors
    assert left(tmp_path) == []


def test_options_of_the_network_are_none_of_a_simulation() -> None:
    assert manent("demo", "hospitals", "--simulate", "--private").exit_code == 2


def test_without_the_packages_of_a_network_it_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("manent.network.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = manent("demo", "hospitals", "--folder", tmp_path / "demo")
    assert found.exit_code == 1
    said = re.sub(r"\s+", " ", found.stderr)
    assert "'uvicorn'" in said
    assert "pip install 'manent[server]'" in said
    assert "manent demo hospitals --simulate" in said
    assert not (tmp_path / "demo").exists()


def test_a_process_that_fails_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("site", "site", "status", "--folder", "nowhere")
        with pytest.raises(ProcessFailed, match=r"site ended with code 2[\s\S]*is no site"):
            processes.wait(lambda: False, 30, "Nothing")
    assert left(tmp_path) == []


def test_what_does_not_come_in_time_is_said(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(ProcessFailed, match=r"The end has not come within 0.1 s"):
        processes.wait(lambda: False, 0.1, "The end")
