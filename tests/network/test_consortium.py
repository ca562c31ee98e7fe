"""Rosters that an offline key signs: from the joining of sites to a server that shows an older one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from manent.core.errors import InvalidInput, NotAuthorized
from manent.network.server.rosters import Rosters, settle
from manent.network.site.state import SiteState
from manent.network.trust.identity import Identity
from manent.network.trust.join import JoinToken
from manent.network.trust.roster import DAY, RosterBook
from manent.storage import MemoryStore
from tests.app.program import manent
from tests.network.processes import Federation, until

NOW = 1_800_000_000.0
KEYS = ["aa" * 32, "bb" * 32]


def book_of(folder, count=2):
    book = RosterBook.create(folder, "consortium")
    for index, key in enumerate(KEYS[:count]):
        book = book.add(f"site{index}", key, NOW)
    return book, Identity.load(RosterBook.key_path(folder)).signing_key


@pytest.mark.slow
def test_the_whole_cycle_between_processes(tmp_path):
    book = tmp_path / "consortium"
    manent("roster", "init", "hearts", "--folder", book)
    key = RosterBook.load(book).signer
    with Federation(tmp_path, "mn.SecAgg(minimum_cohort=3, dropped=0.2)", rounds=1) as federation:
        server = federation.folder / "srv"
        federation.serve("--consortium", key)
        assert all(JoinToken.decode(token).consortium == key for token in federation.tokens)
        for index in range(4):
            federation.join(index)
        until(lambda: "waiting: 4" in manent("roster", "waiting", server).stdout, 60, federation.logs)
        for line in manent("roster", "waiting", server).stdout.splitlines()[1:]:
            assert manent(*line.split()[1:], "--folder", book).exit_code == 0
        assert json.loads((server.parent / "site0.log").read_text().splitlines()[-1])["message"].startswith("waits for a roster")
        manent("roster", "sign", "--folder", book)
        first = shutil.copy(RosterBook.roster_path(book), tmp_path / "first.json")
        assert "in force" in manent("roster", "publish", server, first).stdout
        federation.result(60)
        said = (federation.over[0] / "statement.txt").read_text()
        assert f"the consortium says: it signs the roster with the key {key[:16]}" in said

        # A site leaves; the first roster does not come back, neither by hand nor by a server that was set back.
        federation.kill("server")
        shutil.copytree(server, tmp_path / "before")
        manent("roster", "remove", "site3", "--folder", book)
        manent("roster", "sign", "--folder", book)
        assert manent("roster", "publish", server, RosterBook.roster_path(book)).exit_code == 0
        refused = manent("roster", "publish", server, first)
        assert refused.exit_code == 1
        assert "older (number 1)" in refused.stderr.replace("\n", " ")
        federation.serve()
        until(lambda: SiteState(tmp_path / "site0").newest_roster == 2, 60, federation.logs)
        until(lambda: "roster 2 does not name this site" in (tmp_path / "site3.log").read_text(), 60, federation.logs)
        federation.kill("server")
        shutil.rmtree(server)
        shutil.move(tmp_path / "before", server)
        federation.serve()
        until(lambda: "takes no older one" in (tmp_path / "site0.log").read_text(), 60, federation.logs)


def test_a_server_keeps_to_whom_it_began_with():
    store = MemoryStore()
    assert settle(store, bytes([1] * 32)) == bytes([1] * 32)
    assert settle(store, None) == bytes([1] * 32)
    with pytest.raises(InvalidInput, match="takes rosters signed by 0101"):
        settle(store, bytes([2] * 32))
    quick = MemoryStore()
    assert settle(quick, None) is None
    with pytest.raises(InvalidInput, match="a quick start"):
        settle(quick, bytes([1] * 32))


def test_what_is_handed_in_is_the_consortiums_newest(tmp_path):
    book, key = book_of(tmp_path / "book")
    rosters = Rosters(MemoryStore(), None, bytes.fromhex(book.signer))
    book, first = book.sign(key, NOW)
    assert rosters.publish(first, NOW)
    assert not rosters.publish(first, NOW)
    other_book, other_key = book_of(tmp_path / "other")
    with pytest.raises(NotAuthorized, match="not by the consortium's key"):
        rosters.publish(other_book.sign(other_key, NOW)[1], NOW)
    book, second = book.remove("site1").sign(key, NOW)
    assert rosters.publish(second, NOW)
    with pytest.raises(NotAuthorized, match="older"):
        rosters.publish(first, NOW)
    fork = RosterBook.load(tmp_path / "book")
    with pytest.raises(NotAuthorized, match="another roster of the same number"):
        rosters.publish(replace(fork, number=1).add("site9", "cc" * 32, NOW).sign(key, NOW)[1], NOW)


def test_who_asked_waits_until_it_is_on_a_roster_whatever_it_is_called_there(tmp_path):
    book, key = book_of(tmp_path / "book", 1)
    store = MemoryStore()
    rosters, token = Rosters(store, None, bytes.fromhex(book.signer)), JoinToken.create("https://fl.example")
    rosters.invite(token, 2)
    assert not rosters.join(token.secret, "first", KEYS[0], NOW)
    assert not rosters.join(token.secret, "second", KEYS[1], NOW)
    with store.snapshot() as view:
        assert rosters.waiting(view) == {KEYS[0]: "first", KEYS[1]: "second"}
    rosters.publish(book.sign(key, NOW)[1], NOW)
    with store.snapshot() as view:
        assert rosters.waiting(view) == {KEYS[1]: "second"}
    assert rosters.join(token.secret, "first", KEYS[0], NOW)


def test_a_quick_start_takes_no_roster(tmp_path):
    book, key = book_of(tmp_path / "book")
    with pytest.raises(InvalidInput, match="signs its own rosters"):
        Rosters(MemoryStore(), None, None).publish(book.sign(key, NOW)[1], NOW)


def test_a_renewed_roster_vouches_for_the_one_that_a_study_began_under(tmp_path):
    book, key = book_of(tmp_path / "book")
    site, signer = SiteState.create(tmp_path / "site", "site0"), bytes.fromhex(book.signer)
    book, first = book.sign(key, NOW, days=1)
    site.take_roster(first, signer, NOW)
    later = NOW + 2 * DAY
    with pytest.raises(NotAuthorized, match="expired"):
        site.take_roster(first, signer, later)
    book, second = book.sign(key, later - DAY / 2, days=1)
    site.take_roster(second, signer, later)
    assert site.take_roster(first, signer, later).number == 1  # everyone on it is on the second
    with pytest.raises(NotAuthorized, match="expired"):
        site.take_roster(first, signer, later + DAY)  # which has expired too
    _, third = book.remove("site1").sign(key, later)
    site.take_roster(third, signer, later)
    with pytest.raises(NotAuthorized, match="who has left"):
        site.take_roster(first, signer, later)
