"""The consortium's commands."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from manent.crypto import SigningKey
from manent.network.trust.roster import read_roster
from tests.app.program import manent

SITES = {name: SigningKey(bytes([n] * 32)).public for n, name in enumerate(("karolinska", "charite", "mayo"), 1)}


@pytest.fixture
def consortium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert manent("roster", "init", "heart").exit_code == 0
    for name, key in SITES.items():
        assert manent("roster", "add", name, key.hex()).exit_code == 0
    return tmp_path / "consortium"


def shown(*arguments: str) -> dict:
    result = manent("roster", "show", *arguments, "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_from_the_first_site_to_a_roster_that_sites_take(consortium: Path) -> None:
    signed = manent("roster", "sign", "--days", 30)
    assert signed.exit_code == 0
    assert "Roster 1 of 3 sites signed, until" in signed.stdout
    public = shown()["signer"]
    roster = read_roster(consortium / "roster.json")
    assert roster.verify(bytes.fromhex(public), roster.issued).identities == tuple(sorted(SITES.values()))
    assert roster.expires - roster.issued == 30 * 86400
    assert stat.S_IMODE((consortium / "consortium.key").stat().st_mode) == 0o600


def test_what_init_prints_is_the_key_that_signs(tmp_path: Path) -> None:
    folder, key = tmp_path / "c", tmp_path / "usb" / "k"
    result = manent("roster", "init", "heart", "--folder", folder, "--key", key)
    assert str(key) in result.stdout
    assert manent("roster", "sign", "--folder", folder, "--key", key).exit_code == 0
    assert read_roster(folder / "roster.json").signer == result.stdout.split()[-1]


def test_a_removal_counts_from_the_next_signing_on(consortium: Path) -> None:
    manent("roster", "sign")
    assert "not signed yet" in manent("roster", "remove", "mayo").stdout
    assert shown()["unsigned_changes"] == ["- mayo"]
    assert "Not signed yet: - mayo" in manent("roster", "show").stdout
    assert [site["name"] for site in shown("consortium/roster.json")["sites"]] == list(SITES)
    manent("roster", "sign")
    assert (shown()["number"], shown()["unsigned_changes"]) == (2, [])
    found = read_roster(consortium / "roster.json")
    assert (found.number, SITES["mayo"].hex() in found.keys) == (2, False)


def test_show_says_what_a_roster_holds_and_whose_it_is(consortium: Path) -> None:
    manent("roster", "sign")
    path, public = "consortium/roster.json", shown()["signer"]
    plain = manent("roster", "show", path).stdout
    assert "was not checked" in plain
    assert all(name in plain and key.hex() in plain for name, key in SITES.items())
    checked = manent("roster", "show", path, "--consortium", public)
    assert (checked.exit_code, "not checked" in checked.stdout) == (0, False)
    other = manent("roster", "show", path, "--consortium", "ab" * 32)
    assert (other.exit_code, "not by the consortium's key" in other.stderr) == (1, True)


def test_show_refuses_an_altered_and_an_expired_roster(consortium: Path) -> None:
    manent("roster", "sign")
    path = consortium / "roster.json"
    whole = path.read_text()
    path.write_text(whole.replace("mayo", "maya"))
    altered = manent("roster", "show", path)
    assert (altered.exit_code, "altered" in altered.stderr) == (1, True)
    path.write_text(whole[:-5])
    assert manent("roster", "show", path).exit_code == 2
    from manent.network.trust.identity import Identity
    from manent.network.trust.roster import SignedRoster

    key = Identity.load(consortium / "consortium.key").signing_key
    path.write_bytes(SignedRoster.sign(key, 1, 1_000_000_000, 1_000_086_400, ()).encode())
    expired = manent("roster", "show", path)
    assert (expired.exit_code, "expired" in expired.stderr, "2001-09-10" in expired.stdout) == (1, True, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "karolinska", "ab" * 32), "remove it first"),
        (("add", "new", "zz"), "64 hexadecimal"),
        (("add", "../x", "ab" * 32), "letters"),
        (("remove", "maya"), "did you mean mayo"),
        (("sign", "--days", 0), "3650 days"),
        (("sign", "--key", "none"), "Cannot read"),
        (("init", "again"), "not overwritten"),
        (("show", "--consortium", "ab" * 32), "name its file"),
        (("show", "none.json"), "Cannot read"),
        (("show", "consortium/book.json"), "format"),
        (("show", "--folder", "elsewhere"), "manent roster init"),
    ],
)
def test_mistakes_are_a_message_and_change_nothing(consortium: Path, arguments: tuple, said: str) -> None:
    before = (consortium / "book.json").read_bytes()
    result = manent("roster", *arguments)
    assert (result.exit_code, said in result.stderr.replace("\n", " ")) == (2, True), result.stderr
    assert (consortium / "book.json").read_bytes() == before
