"""The audit log: whatever is done to it by hand is found and named; strangers cannot fill it."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import ProtocolAbort
from manent.network.trust.journal import LONGEST, AuditLog, Refusals, note
from manent.storage import MemoryStore, open_store
from tests.storage.test_chain import broken_off


def filled(path, count=6):
    store = open_store(path)
    log = AuditLog(store, clock=lambda: 1_800_000_000.0)
    for number in range(count):
        log.append(f"site:{number:064x}", "join", f"site{number}", {"number": number})
    assert log.verify() == count
    store.close()


def by_hand(path, *statements):
    connection = sqlite3.connect(path)
    for trigger in ("logs_keep_rows", "logs_keep_content"):
        connection.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()


def altered(number):
    return f"UPDATE logs SET row = replace(row, 'site{number}', 'siteX') WHERE sequence = {number}"


CLOSE_UP = "UPDATE logs SET sequence = sequence - 1 WHERE sequence > 3"
TAMPERED = {
    "first altered": ([altered(0)], "row 0 is not the one that row 1 names"),
    "altered": ([altered(3)], "row 3 is not the one that row 4 names"),
    "last altered": ([altered(5)], "row 5 is not the one that the head names"),
    "link altered": (
        ["UPDATE logs SET row = replace(row, '\"previous\":\"', '\"previous\":\"0') WHERE sequence = 4"],
        "row 4 is not the one that row 5 names",
    ),
    "not a row": (["UPDATE logs SET row = x'7b' WHERE sequence = 2"], "row 2 is not in the form"),
    "removed": (["DELETE FROM logs WHERE sequence = 3"], "row 3 is missing"),
    "removed and closed up": (["DELETE FROM logs WHERE sequence = 3", CLOSE_UP], "6 rows, and there are 5"),
    "removed, closed up, counted": (
        [
            "DELETE FROM logs WHERE sequence = 3",
            CLOSE_UP,
            "UPDATE documents SET document = replace(document, ':6', ':5') WHERE key = 'audit/head'",
        ],
        "row 3 is missing, and in its place stands one numbered 4",
    ),
    "exchanged": (
        [
            "UPDATE logs SET sequence = 99 WHERE sequence = 2",
            "UPDATE logs SET sequence = 2 WHERE sequence = 4",
            "UPDATE logs SET sequence = 4 WHERE sequence = 99",
        ],
        "row 2 is missing, and in its place stands one numbered 4",
    ),
    "cut off": (["DELETE FROM logs WHERE sequence >= 4"], "6 rows, and there are 4"),
    "added": (["INSERT INTO logs SELECT log, 6, row FROM logs WHERE sequence = 5"], "6 rows, and there are 7"),
    "head gone": (["DELETE FROM documents WHERE key = 'audit/head'"], "0 rows, and there are 6"),
}  # fmt: skip


@pytest.mark.parametrize(("statements", "named"), TAMPERED.values(), ids=list(TAMPERED))
def test_whatever_is_done_by_hand_is_found_and_named(tmp_path, statements, named):
    filled(tmp_path / "server.db")
    by_hand(tmp_path / "server.db", *statements)
    log = AuditLog(open_store(tmp_path / "server.db"))
    with pytest.raises(ProtocolAbort, match=f"The audit log has been altered: .*{named}"):
        log.verify()
    with pytest.raises(ProtocolAbort, match=named):
        list(log.rows())


def test_the_store_itself_keeps_rows_from_a_slip_of_the_hand(tmp_path):
    filled(tmp_path / "server.db")
    connection = sqlite3.connect(tmp_path / "server.db")
    for statement in ("DELETE FROM logs", "UPDATE logs SET sequence = 9 WHERE sequence = 1"):
        with pytest.raises(sqlite3.IntegrityError, match="a log only grows"):
            connection.execute(statement)


def test_a_head_that_was_noted_finds_a_whole_new_log(tmp_path):
    filled(tmp_path / "server.db")
    store = open_store(tmp_path / "server.db")
    noted = AuditLog(store).head()
    AuditLog(store).append("server", "release")
    assert AuditLog(store).verify(noted) == 7
    forged = AuditLog(MemoryStore())
    for number in range(8):
        forged.append("server", "release", str(number))
    assert forged.verify() == 8
    with pytest.raises(ProtocolAbort, match="row 5 is not the one that was the last"):
        forged.verify(noted)


def test_a_row_is_written_together_with_what_it_tells_of():
    store = MemoryStore()
    with pytest.raises(KeyError):
        broken_off(store, lambda transaction: note(transaction, 0.0, "server", "release"))
    assert AuditLog(store).verify() == 0
    with store.transaction() as transaction:
        assert note(transaction, 0.0, "server", "release", "ab", {"round": 1}) == 0
    (row,) = AuditLog(store).rows()
    assert (row["time"], row["actor"], row["about"], row["details"]) == (
        "1970-01-01T00:00:00.000+00:00",
        "server",
        "ab",
        {"round": 1},
    )


@given(st.text(st.characters(), max_size=50), st.text(st.characters(), max_size=50))
def test_any_text_can_be_written_down(actor, reason):
    log = AuditLog(MemoryStore())
    log.append(actor, "refused", reason, {"reason": reason, "list": [reason], reason: 1})
    assert log.verify() == 1


def test_a_long_text_is_cut_off():
    log = AuditLog(MemoryStore())
    log.append("server", "refused", "x" * 10**6)
    assert len(next(log.rows())["about"]) == LONGEST


def test_strangers_cannot_fill_the_log():
    now = [0.0]
    log = AuditLog(MemoryStore())
    refusals = Refusals(log, most=5, seconds=60.0, clock=lambda: now[0])
    for number in range(1000):
        refusals.note("address:1.2.3.4", "GET /v1/tasks", str(number))
    assert log.verify() == 5
    now[0] = 61.0
    refusals.note("address:1.2.3.4", "GET /v1/tasks", "again")
    refusals.note("address:1.2.3.4", "GET /v1/tasks", "and again")
    *_, first, second = log.rows()
    assert first["details"] == {"reason": "again", "left_out": 995}
    assert second["details"] == {"reason": "and again"}


def test_a_log_that_cannot_be_written_does_not_stop_the_server(caplog):
    store = MemoryStore()
    AuditLog(store).append("server", "release")
    store.close()
    Refusals(AuditLog(store)).note("address:1.2.3.4", "GET /", "no")
    assert "was not written down" in caplog.text
