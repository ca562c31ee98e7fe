"""`manent audit-log`."""

from __future__ import annotations

import json

import pytest

from manent.network.trust.journal import AuditLog
from manent.storage import open_store
from tests.app.program import manent
from tests.network.trust.test_journal import by_hand


@pytest.fixture
def server(tmp_path):
    store = open_store(tmp_path / "server.db")
    log = AuditLog(store, clock=lambda: 1_800_000_000.0)
    log.append("site:" + "a" * 64, "join", "karolinska")
    log.append("server", "release", "ab" * 32, {"round": 1, "answers": 4})
    log.append("address:10.0.0.1", "refused", "GET /v1/\x1b[2Jé", {"reason": "no \x9b31m\n", "none": ""})
    store.close()
    return tmp_path


def test_a_sound_log_verifies_and_can_be_noted(server):
    result = manent("audit-log", "verify", server)
    assert (result.exit_code, "3 rows, each as it was written." in result.stdout) == (0, True)
    noted = result.stdout.split()[-1]
    again = manent("audit-log", "verify", server, "--noted", noted)
    assert (again.exit_code, "those that were noted" in again.stdout) == (0, True)
    other = manent("audit-log", "verify", server, "--noted", "3:" + "0" * 64)
    assert (other.exit_code, "row 2 is not the one that was the last" in other.stderr) == (1, True)
    assert manent("audit-log", "verify", server, "--noted", "x").exit_code == 2


def test_an_altered_row_is_named_with_exit_code_1(server):
    by_hand(server / "server.db", "UPDATE logs SET row = replace(row, 'karolinska', 'karolinskb') WHERE sequence = 0")
    for command in ("verify", "show"):
        result = manent("audit-log", command, server)
        assert (result.exit_code, "row 0 is not the one that row 1 names" in result.stderr) == (1, True)


def test_show_cannot_change_a_terminal(server):
    text = manent("audit-log", "show", server).stdout
    assert text.isascii()
    assert all(character.isprintable() or character == "\n" for character in text)
    lines = text.splitlines()
    assert lines[0] == f"     0  2027-01-15T08:00:00  site:{'a' * 64}  join  karolinska"
    assert lines[1].endswith("release  " + "ab" * 32 + "  answers=4 round=1")
    assert lines[2].endswith(r'reason="no \u009b31m\n"')


def test_show_picks(server):
    assert len(manent("audit-log", "show", server, "--last", 2).stdout.splitlines()) == 2
    assert "release" in manent("audit-log", "show", server, "--about", "abab").stdout
    (row,) = map(json.loads, manent("audit-log", "show", server, "--action", "refused", "--json").stdout.splitlines())
    assert (row["actor"], row["sequence"]) == ("address:10.0.0.1", 2)
    assert manent("audit-log", "show", server, "--actor", "nobody").stdout == ""
