"""One process a folder: whoever comes second is told who was first, and any death releases it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from manent.core.errors import InvalidInput, Refused
from manent.storage.lock import FILE, hold, holder

HOLDS = """
import sys, time
from pathlib import Path
from manent.storage.lock import hold
with hold(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(600)
"""


def other(folder):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_it_and_a_kill_releases_it(tmp_path):
    first = other(tmp_path)
    try:
        with pytest.raises(InvalidInput, match=rf"in use by a run \(process {first.pid} on .*since 20"), hold(tmp_path, "run"):
            pass
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with hold(tmp_path, "site"):
        assert f"process {os.getpid()} " in holder(tmp_path)


def test_two_holders_in_one_process_exclude_each_other(tmp_path):
    with hold(tmp_path, "run"), pytest.raises(InvalidInput, match="in use by a run"), hold(tmp_path, "run"):
        pass
    with hold(tmp_path / "new" / "folder", "run"):
        pass


FORKS = """
import os, sys, time
from pathlib import Path
from manent.storage.lock import hold
with hold(Path(sys.argv[1]), "run"):
    if os.fork() == 0:
        print("held", os.getpid(), flush=True)
    time.sleep(600)
"""


def test_a_forked_child_does_not_hold_it(tmp_path):
    """It may outlive its parent, as a worker that has not noticed yet."""
    process = subprocess.Popen([sys.executable, "-c", FORKS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    said, child = process.stdout.readline().split()
    assert said == "held"
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(int(child), 0)
        with hold(tmp_path, "run"):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_folder_without_locks_is_refused_unless_told(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(Refused, match=r"keeps no locks .*MANENT_UNLOCKED=1"), hold(tmp_path, "run"):
        pass
    monkeypatch.setenv("MANENT_UNLOCKED", "1")
    with hold(tmp_path, "run"):
        pass


def test_nothing_is_left_but_what_was_written(tmp_path):
    with hold(tmp_path / "empty", "run"):
        assert (tmp_path / "empty" / FILE).exists()
    assert not (tmp_path / "empty").exists()
    with hold(tmp_path / "full", "run"):
        (tmp_path / "full" / "row").touch()
    assert os.listdir(tmp_path / "full") == ["row"]


def test_holders_that_come_and_go_never_hold_at_once(tmp_path):
    """The lock file is removed by each: one that was opened before that is not taken for the next."""
    inside, met, told = threading.Semaphore(1), [], []

    def work() -> None:
        for _ in range(200):
            try:
                with hold(tmp_path / "folder", "run"):
                    met.append(inside.acquire(blocking=False))
                    inside.release()
            except InvalidInput as error:
                told.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(met)
    assert len(met) + len(told) == 800
    assert len(met) > 100


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_lock_file_left_behind_means_nothing(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    assert holder(tmp_path) == "another process"
    with hold(tmp_path, "run"):
        pass


def test_a_folder_that_cannot_be_written_is_refused_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="Name a folder that can be written"), hold(tmp_path / "file" / "folder", "run"):
        pass
