"""What a SQLite store does beyond every store."""

from __future__ import annotations

import sqlite3
import stat

import pytest

import manent as mn
from manent.storage import open_store


def test_the_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "new folder" / "store.db"
    store = open_store(path)
    with store.transaction() as t:
        t.append("log", b"row")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    store.close()
    path.chmod(0o644)
    open_store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_in_wal_mode_and_synchronises_fully(tmp_path):
    store = open_store(tmp_path / "store.db")
    connection = store._connection()
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    store.close()


@pytest.mark.parametrize("statement", ["DELETE FROM logs", "UPDATE logs SET row = x'00'"])
def test_rows_of_a_log_resist_a_slip_of_the_hand(tmp_path, statement):
    store = open_store(tmp_path / "store.db")
    with store.transaction() as t:
        t.append("log", b"row")
    store.close()
    connection = sqlite3.connect(tmp_path / "store.db")
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        connection.execute(statement)
    connection.close()


def test_a_store_that_stays_locked_is_an_abort(tmp_path):
    holder, waiter = open_store(tmp_path / "store.db"), open_store(tmp_path / "store.db", timeout=0.1)
    with holder.transaction(), pytest.raises(mn.ProtocolAbort, match="locked"), waiter.transaction():
        pass
    with waiter.transaction() as t:
        t.append("log", b"row")


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to be taken for a damaged one " * 20)
    with pytest.raises(mn.InvalidInput, match="not a sound store"):
        open_store(text)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE people (name TEXT)")
    other.commit()
    other.close()
    with pytest.raises(mn.InvalidInput, match="another program"):
        open_store(tmp_path / "other.db")
    with pytest.raises(mn.InvalidInput, match="Cannot open"):
        open_store(tmp_path)


def test_a_newer_version_is_refused(tmp_path):
    open_store(tmp_path / "store.db").close()
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(mn.InvalidInput, match="newer manent"):
        open_store(tmp_path / "store.db")
