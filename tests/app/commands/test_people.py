"""`manent people`."""

from __future__ import annotations

import json

import pytest

from manent.core.errors import NotAuthorized
from manent.network.trust.people import People
from manent.storage import open_store
from tests.app.program import manent


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "srv"
    folder.mkdir()
    open_store(folder / "server.db").close()
    return folder


def test_from_a_token_to_its_end(server):
    added = manent("people", "add", server, "alice", "--role", "researcher")
    assert added.exit_code == 0
    token = added.stdout.split()[-1]
    people = People(open_store(server / "server.db"))
    assert people.check(token).role == "researcher"
    shown = manent("people", "list", server)
    assert "alice  researcher" in shown.stdout
    assert token not in shown.stdout
    assert token not in manent("people", "list", server, "--json").stdout
    assert manent("people", "revoke", server, "alice").exit_code == 0
    with pytest.raises(NotAuthorized):
        people.check(token)
    (row,) = json.loads(manent("people", "list", server, "--json").stdout)
    assert row["revoked"] is not None
    assert "revoked 2" in manent("people", "list", server).stdout
    shown = manent("audit-log", "show", server).stdout
    assert "person added  alice" in shown
    assert "person revoked  alice" in shown
    assert token.split(".")[2] not in shown


def test_a_server_is_named_by_folder_file_or_url(server):
    for where in (server, server / "server.db", f"sqlite:///{server / 'server.db'}"):
        result = manent("people", "list", where)
        assert (result.exit_code, result.stdout) == (0, "Nobody has a token.\n")


def test_no_server_is_made_by_looking_for_one(tmp_path):
    for where in (tmp_path, tmp_path / "none", tmp_path / "none.db"):
        result = manent("people", "add", where, "alice", "--role", "viewer")
        assert (result.exit_code, "There is no server in" in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "alice", "--role", "king"), "viewer, researcher, administrator"),
        (("add", "a b", "--role", "viewer"), "A name has"),
        (("revoke", "nobody"), "has no token; there are: none"),
    ],
)
def test_what_does_not_fit_is_said(server, arguments, said):
    command, *rest = arguments
    result = manent("people", command, server, *rest)
    assert (result.exit_code, said in result.stderr) == (2, True)
