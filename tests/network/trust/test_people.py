"""Tokens: shown once, kept as hashes, taken back; and who may do what with whose study."""

from __future__ import annotations

import itertools
import re
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, NotAuthorized
from manent.network.trust import people as module
from manent.network.trust.journal import AuditLog
from manent.network.trust.people import ROLES, People, Person, may
from manent.storage import MemoryStore, open_store


def test_a_token_says_who_someone_is():
    people = People(MemoryStore(), clock=lambda: 7.0)
    token = people.create("alice", "researcher")
    other = people.create("bob", "viewer")
    assert re.fullmatch(r"manent-token-1\.[0-9a-f]{16}\.[0-9a-f]{64}", token)
    found = people.check(token)
    assert (found.name, found.role, found.since, found.revoked, found.actor) == ("alice", "researcher", 7.0, None, "person:alice")
    assert people.check(other).name == "bob"
    assert [person.name for person in people.list()] == ["alice", "bob"]


def test_nothing_in_the_store_is_a_token(tmp_path):
    store = open_store(tmp_path / "s.db")
    token = People(store).create("alice", "administrator")
    store.close()
    secret = token.split(".")[2]
    dump = "\n".join(sqlite3.connect(tmp_path / "s.db").iterdump())
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for form in (secret.encode(), bytes.fromhex(secret)):
        assert form not in files
        assert form.hex() not in dump.lower()


@pytest.mark.parametrize("role", ["", "admin", "Viewer", "owner", "viewer "])
def test_a_role_is_one_of_three(role):
    with pytest.raises(InvalidInput, match="viewer, researcher, administrator"):
        People(MemoryStore()).create("alice", role)


@pytest.mark.parametrize("name", ["", "a b", "../a", "\x1b[2J", "x" * 65, "é"])
def test_a_name_can_stand_in_a_path_and_a_terminal(name):
    with pytest.raises(InvalidInput, match="A name"):
        People(MemoryStore()).create(name, "viewer")


@given(st.one_of(st.text(), st.from_regex(r"manent-token-1\.[0-9a-f]{16}\.[0-9a-f]{64}", fullmatch=True)))
def test_no_other_text_is_a_token(text):
    people = People(MemoryStore())
    people.create("alice", "administrator")
    with pytest.raises(NotAuthorized, match="unknown or was revoked"):
        people.check(text)


def test_a_part_or_a_mixture_of_tokens_is_none():
    people = People(MemoryStore())
    a, b = people.create("alice", "viewer"), people.create("bob", "administrator")
    head, id, secret = b.split(".")
    head, head_and_id = f"{head}.", f"{head}.{id}."
    wrong = [head_and_id + a.split(".")[2], a[:-1], a + "0", a.upper(), f"Bearer {a}", f"{a}\n", head, secret]
    wrong += [head_and_id + secret[:-1] + ("0" if secret[-1] != "0" else "1")]
    for token in wrong:
        with pytest.raises(NotAuthorized):
            people.check(token)
    assert people.check(b).name == "bob"


def test_hashes_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or False)
    people = People(MemoryStore())
    token = people.create("alice", "viewer")
    for text in (token, "manent-token-1." + "0" * 16 + "." + "0" * 64, "nothing"):
        with pytest.raises(NotAuthorized):
            people.check(text)
    assert compared == [(64, 64)] * 3  # known, unknown and no token at all take the same steps


def test_a_revoked_token_does_not_hold():
    now = [1.0]
    people = People(MemoryStore(), clock=lambda: now[0])
    token = people.create("alice", "researcher")
    with pytest.raises(InvalidInput, match="has a token already"):
        people.create("alice", "viewer")
    now[0] = 5.0
    people.revoke("alice")
    with pytest.raises(NotAuthorized, match="revoked"):
        people.check(token)
    with pytest.raises(InvalidInput, match="'alice' has no token; there are: none"):
        people.revoke("alice")
    again = people.create("alice", "viewer")
    assert people.check(again).role == "viewer"
    assert [(person.role, person.revoked) for person in people.list()] == [("researcher", 5.0), ("viewer", None)]
    with pytest.raises(NotAuthorized):
        people.check(token)


def test_another_process_sees_it_at_once(tmp_path):
    one, other = People(open_store(tmp_path / "s.db")), People(open_store(tmp_path / "s.db"))
    token = one.create("alice", "viewer")
    assert other.check(token).name == "alice"
    one.revoke("alice")
    with pytest.raises(NotAuthorized):
        other.check(token)


def test_the_audit_log_tells_of_tokens_without_showing_them():
    store = MemoryStore()
    people = People(store, clock=lambda: 0.0)
    token = people.create("alice", "researcher", "operator:root")
    people.revoke("alice", "operator:root")
    rows = list(AuditLog(store).rows())
    assert [(row["actor"], row["action"], row["about"]) for row in rows] == [
        ("operator:root", "person added", "alice"),
        ("operator:root", "person revoked", "alice"),
    ]
    assert token.split(".")[2] not in str(rows)


ALLOWED = {
    ("viewer", "see", "own"), ("viewer", "see", "other"), ("viewer", "see", "none"),
    ("researcher", "submit", "own"), ("researcher", "submit", "other"), ("researcher", "submit", "none"),
    ("researcher", "see", "own"), ("researcher", "model", "own"), ("researcher", "stop", "own"),
    *(("administrator", action, of) for action in ("see", "model", "submit", "stop") for of in ("own", "other", "none")),
}  # fmt: skip


CASES = list(itertools.product(ROLES, ("see", "model", "submit", "stop"), ("own", "other", "none")))


@pytest.mark.parametrize(("role", "action", "of"), CASES)
def test_who_may_do_what_with_whose_study(role, action, of):
    person = Person("alice", role, "0" * 16, 0.0)
    owner = {"own": "person:alice", "other": "person:bob", "none": None}[of]
    assert may(person, action, owner) is ((role, action, of) in ALLOWED)


@pytest.mark.parametrize("owner", ["", "alice", "server", "a" * 64, "person:Alice", "person:alice2"])
def test_nobody_owns_what_another_kind_of_actor_submitted(owner):
    assert not may(Person("alice", "researcher", "0" * 16, 0.0), "model", owner)
