"""One process a folder: whoever comes second is told who was first, and any death releases it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from manent.accounting import FileCounter
from manent.core.errors import InvalidInput, Refused
from manent.storage import lock as locks
from manent.storage import open_store
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


MOUNTED = """\
22 27 0:21 / / rw,relatime - ext4 /dev/sda rw
30 22 0:40 / /home rw,relatime shared:7 - nfs4 server:/home rw,vers=4.2,local_lock=none
31 22 0:41 / /old rw,relatime - nfs server:/old rw,vers=3,nolock,local_lock=all
32 22 0:42 / /half rw,relatime - nfs server:/half rw,vers=3,local_lock=flock
33 22 0:43 / /far\\040away rw,nosuid - fuse.sshfs me@there:/ rw,user_id=0
34 22 0:44 / /share rw,relatime - cifs //server/share rw,nobrl
35 31 0:45 / /old/local rw,relatime - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("/work", ""),
        ("/home/me", ""),
        ("/old", "nfs mounted with local_lock=all"),
        ("/old/deep/down", "nfs mounted with local_lock=all"),
        ("/old/local/run", ""),
        ("/older", ""),
        ("/half/run", "nfs mounted with local_lock=flock"),
        ("/far away/run", "fuse.sshfs keeps them for this machine alone"),
        ("/share", "cifs mounted with nobrl"),
    ],
)
def test_a_file_system_that_keeps_locks_for_one_machine_alone_is_refused_unless_told(tmp_path, monkeypatch, folder, why):
    (tmp_path / "mounts").write_text(MOUNTED)
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "mounts")
    if not why:
        locks.check_keeps_locks(Path(folder))
        return
    with pytest.raises(Refused, match=why):
        locks.check_keeps_locks(Path(folder))
    monkeypatch.setenv("MANENT_UNLOCKED", "1")
    locks.check_keeps_locks(Path(folder))


def test_stores_counters_runs_and_sites_ask_for_locks(tmp_path, monkeypatch):
    (tmp_path / "mounts").write_text("22 27 0:21 / / rw - nfs server:/ rw,nolock\n")
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "mounts")
    for use in (
        lambda: open_store(tmp_path / "ledger.db"),
        lambda: FileCounter(tmp_path / "count").advance(1),
        lambda: hold(tmp_path / "run", "run").__enter__(),
    ):
        with pytest.raises(Refused, match="MANENT_UNLOCKED=1"):
            use()
    assert sorted(os.listdir(tmp_path)) in (["mounts"], ["mounts", "run"])


def test_where_the_system_does_not_tell_nothing_is_refused(tmp_path, monkeypatch):
    for text in (None, "", "nonsense\n", "1 2 3 4 5 6 7 8 9 10\n"):
        monkeypatch.setattr(locks, "MOUNTS", tmp_path / "none")
        if text is not None:
            (tmp_path / "none").write_text(text)
        locks.check_keeps_locks(tmp_path)


def test_a_lock_that_is_given_to_two_is_no_lock(tmp_path, monkeypatch):
    """Some file systems answer yes to everyone."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(Refused, match="gives one lock to two"), hold(tmp_path, "run"):
        pass
    monkeypatch.setenv("MANENT_UNLOCKED", "1")
    with hold(tmp_path, "run"):
        pass
