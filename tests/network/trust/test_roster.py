"""Rosters: what they say holds only by the consortium's signature, its number and its date."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, NotAuthorized
from manent.crypto import SigningKey
from manent.network.trust.identity import Identity
from manent.network.trust.roster import CLOCK, DAY, Entry, RosterBook, SignedRoster, read_roster
from manent.summation.parties.call import Roster

CONSORTIUM, OTHER = SigningKey(bytes(32)), SigningKey(bytes([1] * 32))
SITES = {name: SigningKey(bytes([n] * 32)).public for n, name in enumerate(("karolinska", "charite", "mayo", "nhs"), 10)}
ENTRIES = tuple(Entry(name, key.hex(), 1_700_000_000) for name, key in SITES.items())
ISSUED = 1_800_000_000
SIGNED = SignedRoster.sign(CONSORTIUM, 7, ISSUED, ISSUED + 90 * DAY, ENTRIES)
NOW = ISSUED + 5.0


def test_it_becomes_the_roster_of_secure_aggregation():
    roster = SIGNED.verify(CONSORTIUM.public, NOW, newest_seen=7)
    assert roster == Roster(7, tuple(sorted(SITES.values())))
    assert roster.root == Roster.of(7, list(SITES.values())).root
    assert SIGNED.keys == {key.hex(): key for key in SITES.values()}
    assert SIGNED.names[SITES["mayo"].hex()] == "mayo"


def test_it_comes_back_as_it_was():
    again = SignedRoster.read(SIGNED.encode())
    assert again == SIGNED
    again.verify(CONSORTIUM.public, NOW)


def signed(**changes):
    fields = {"number": 7, "issued": ISSUED, "expires": ISSUED + DAY, "entries": ENTRIES, **changes}
    return SignedRoster.sign(CONSORTIUM, **fields)


@pytest.mark.parametrize(
    ("roster", "now", "newest", "reason"),
    [
        (SIGNED, NOW, 8, "older"),
        (SIGNED, ISSUED + 90 * DAY, 7, "expired"),
        (SIGNED, ISSUED + 900 * DAY, 0, "expired"),
        (SIGNED, ISSUED - CLOCK - 1, 0, "in the future"),
        (SignedRoster.sign(OTHER, 7, ISSUED, ISSUED + DAY, ENTRIES), NOW, 0, "not by the consortium"),
        (replace(SignedRoster.sign(OTHER, 7, ISSUED, ISSUED + DAY, ENTRIES), signer=CONSORTIUM.public.hex()), NOW, 0, "forged"),
        (replace(SIGNED, number=8), NOW, 0, "altered"),
        (replace(SIGNED, expires=ISSUED + 91 * DAY), NOW, 0, "altered"),
        (replace(SIGNED, entries=ENTRIES[1:]), NOW, 0, "altered"),
        (replace(SIGNED, entries=ENTRIES[::-1]), NOW, 0, "altered"),
        (signed(entries=(*ENTRIES, Entry("mayo", "ff" * 32, 0))), NOW, 0, "twice"),
        (signed(entries=(*ENTRIES, Entry("again", SITES["mayo"].hex(), 0))), NOW, 0, "twice"),
    ],
)  # fmt: skip
def test_what_is_refused(roster, now, newest, reason):
    with pytest.raises(NotAuthorized, match=reason):
        roster.verify(CONSORTIUM.public, now, newest)


@pytest.mark.parametrize(("now", "newest"), [(ISSUED - CLOCK, 0), (ISSUED + 90 * DAY - 0.1, 7), (NOW, 7)])
def test_the_edges_of_what_is_taken(now, newest):
    assert SIGNED.verify(CONSORTIUM.public, now, newest).number == 7


def test_two_rosters_of_one_number_are_noticed():
    seen = SIGNED.verify(CONSORTIUM.public, NOW)
    SIGNED.verify(CONSORTIUM.public, NOW, seen.number, seen.root)
    second = signed(entries=ENTRIES[1:])
    with pytest.raises(NotAuthorized, match="another roster of the same number"):
        second.verify(CONSORTIUM.public, NOW, seen.number, seen.root)
    signed(number=8, entries=ENTRIES[1:]).verify(CONSORTIUM.public, NOW, seen.number, seen.root)


@settings(max_examples=300)
@given(st.integers(0, 8 * len(SIGNED.encode()) - 1))
def test_no_bit_can_be_changed(bit):
    data = bytearray(SIGNED.encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises((InvalidInput, NotAuthorized)):
        SignedRoster.read(bytes(data)).verify(CONSORTIUM.public, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(["number", "issued", "expires", "entries", "signer", "signature"]), JSON)


@given(st.binary(max_size=60) | JSON.map(canonical))
def test_other_bytes_are_no_roster(data):
    with pytest.raises(InvalidInput):
        SignedRoster.read(data)


@given(FIELDS.filter(bool))
def test_fields_of_other_kinds_are_refused(changes):
    import json

    values = json.loads(SIGNED.encode())
    try:
        found = SignedRoster.read(canonical({**values, **changes}))
    except InvalidInput:
        return
    with pytest.raises(NotAuthorized):
        found.verify(CONSORTIUM.public, NOW)


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"a":' * 50_000, b'{"number":' + b"9" * 5000 + b"}", b'"\\ud800"', b"NaN", b" {}"]
)
def test_bytes_made_to_break_a_parser(data):
    with pytest.raises(InvalidInput):
        SignedRoster.read(data)


def test_one_that_is_too_large_is_not_even_parsed():
    with pytest.raises(InvalidInput, match="at most"):
        SignedRoster.read(bytes((1 << 24) + 1))


@pytest.mark.parametrize("key", ["number", "issued", "expires"])
@pytest.mark.parametrize("value", [-1, 2**53, True, 1.0])
def test_numbers_are_whole_and_bounded(key, value):
    with pytest.raises(InvalidInput):
        replace(SIGNED, **{key: value})


# The consortium's book.


@pytest.fixture
def book(tmp_path):
    made = RosterBook.create(tmp_path / "c", "heart")
    for entry in ENTRIES:
        made = made.add(entry.name, entry.public, ISSUED)
    return made


@pytest.fixture
def key(book):
    return Identity.load(RosterBook.key_path(book.folder)).signing_key


def test_a_book_signs_what_is_in_it(book, key):
    assert RosterBook.load(book.folder) == book
    assert (book.number, book.signer) == (0, key.public.hex())
    book, first = book.sign(key, ISSUED, 30)
    assert (first.number, first.expires) == (1, ISSUED + 30 * DAY)
    assert [entry.name for entry in first.entries] == list(SITES)
    assert read_roster(RosterBook.roster_path(book.folder)) == first
    assert RosterBook.load(book.folder) == book
    assert first.verify(key.public, NOW).identities == tuple(sorted(SITES.values()))


def test_a_removal_bumps_the_number_and_outdates_what_was_signed_before(book, key):
    book, first = book.sign(key, ISSUED)
    book, second = book.remove("mayo").sign(key, ISSUED + 1)
    assert second.number == first.number + 1 == RosterBook.load(book.folder).number
    assert SITES["mayo"] not in second.verify(key.public, NOW, first.number).identities
    with pytest.raises(NotAuthorized, match="older"):
        first.verify(key.public, NOW, newest_seen=second.number)


def test_every_signing_has_a_number_of_its_own(book, key):
    book, first = book.sign(key, ISSUED)
    book, renewed = RosterBook.load(book.folder).sign(key, ISSUED + 80 * DAY)
    assert (first.number, renewed.number) == (1, 2)
    assert renewed.entries == first.entries


def test_a_signing_that_was_interrupted_leaves_a_number_out(book, key, monkeypatch):
    from manent.network.trust import roster

    real = roster.replace_file

    def fails(path, content, mode=0o644):
        if path.name == "roster.json":
            raise KeyboardInterrupt
        real(path, content, mode)

    monkeypatch.setattr(roster, "replace_file", fails)
    with pytest.raises(KeyboardInterrupt):
        book.sign(key, ISSUED)
    monkeypatch.undo()
    _, signed = RosterBook.load(book.folder).sign(key, ISSUED)
    assert signed.number == 2


def test_the_key_may_be_kept_elsewhere(tmp_path):
    book = RosterBook.create(tmp_path / "c", "heart", tmp_path / "usb" / "k")
    assert not RosterBook.key_path(tmp_path / "c").exists()
    book.sign(Identity.load(tmp_path / "usb" / "k").signing_key, ISSUED)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (lambda book: book.add("mayo", "ff" * 32, 0), "remove it first"),
        (lambda book: book.add("new", SITES["mayo"].hex(), 0), "remove it first"),
        (lambda book: book.add("a b", "ff" * 32, 0), "name"),
        (lambda book: book.add("new", "ff" * 31, 0), "64 hexadecimal"),
        (lambda book: book.remove("maya"), "did you mean mayo"),
        (lambda book: book.remove("zzz"), "roster show"),
        (lambda book: book.sign(OTHER, ISSUED), "file with the book's key"),
        (lambda book: book.sign(Identity.load(RosterBook.key_path(book.folder)).signing_key, ISSUED, 0), "days"),
        (lambda book: RosterBook.create(book.folder, "again"), "not overwritten"),
    ],
)
def test_what_a_book_refuses_changes_nothing(book, action, reason):
    with pytest.raises(InvalidInput, match=reason):
        action(book)
    assert RosterBook.load(book.folder) == book


def test_a_book_that_is_missing_or_altered(book, tmp_path):
    with pytest.raises(InvalidInput, match="manent roster init"):
        RosterBook.load(tmp_path / "none")
    path = tmp_path / "c" / "book.json"
    for altered in (b"", b"{}", path.read_bytes()[:-9], path.read_bytes().replace(b"number", b"nummer"), SIGNED.encode()):
        path.write_bytes(altered)
        with pytest.raises(InvalidInput):
            RosterBook.load(book.folder)
