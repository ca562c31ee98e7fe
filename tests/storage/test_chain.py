"""Chained rows: whatever is done to them is found, and the row to which it was done is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.store import Transaction
from manent.storage import MemoryStore
from manent.storage.chain import START, Chain

CHAIN = Chain("notes", "The notes", "Look.")


def filled(count: int, store: MemoryStore | None = None) -> MemoryStore:
    store = store or MemoryStore()
    for number in range(count):
        with store.transaction() as transaction:
            CHAIN.add(transaction, {"text": f"note {number}"})
    return store


def rows_of(store: MemoryStore) -> list[bytes]:
    with store.snapshot() as view:
        return list(view.rows("notes"))


def written(rows: list[bytes], store: MemoryStore) -> MemoryStore:
    """The same head, and other rows."""
    found = MemoryStore()
    with store.snapshot() as view, found.transaction() as transaction:
        transaction.put("notes/head", view.get("notes/head") or b"")
        for row in rows:
            transaction.append("notes", row)
    return found


def checked(store: MemoryStore) -> list[dict]:
    with store.snapshot() as view:
        return list(CHAIN.rows(view))


def test_each_row_names_the_one_before():
    first, second = rows_of(filled(2))
    assert json.loads(first) == {"text": "note 0", "sequence": 0, "previous": START}
    assert json.loads(second)["previous"] == sha256(first).hexdigest()
    assert [row["text"] for row in checked(filled(3))] == ["note 0", "note 1", "note 2"]
    assert checked(MemoryStore()) == []


def test_a_signature_covers_the_place_too():
    store, seen = MemoryStore(), []
    for text in ("a", "b"):
        with store.transaction() as transaction:
            CHAIN.add(transaction, {"text": text}, lambda row: seen.append(row) or b"\x01")
    signed = [json.loads(row) for row in seen]
    assert [row["sequence"] for row in signed] == [0, 1]
    assert [row["signature"] for row in checked(store)] == ["01", "01"]
    assert all("previous" in row and "signature" not in row for row in signed)


def broken_off(store: MemoryStore, add: Callable[[Transaction], object]) -> None:
    """A transaction that fails after it has added a row."""
    with store.transaction() as transaction:
        add(transaction)
        raise KeyError


def test_a_row_that_is_not_kept_leaves_no_trace():
    store = filled(1)
    with pytest.raises(KeyError):
        broken_off(store, lambda transaction: CHAIN.add(transaction, {"text": "lost"}))
    assert len(checked(filled(1, store))) == 2


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_the_row_that_was_altered_is_the_one_that_is_named(case):
    count, number = case
    store = filled(count)
    rows = rows_of(store)
    values = json.loads(rows[number])
    rows[number] = canonical({**values, "text": "forged"})
    with pytest.raises(ProtocolAbort, match=f"The notes has been altered: row {number} is not the one"):
        checked(written(rows, store))


@settings(max_examples=80, deadline=None)
@given(st.permutations(range(6)))
def test_the_first_row_that_was_moved_is_named(order):
    store = filled(6)
    rows = rows_of(store)
    moved = written([rows[i] for i in order], store)
    if list(order) == list(range(6)):
        assert len(checked(moved)) == 6
        return
    first = next(i for i, j in enumerate(order) if i != j)
    with pytest.raises(ProtocolAbort, match=f"row {first} is missing, and in its place stands one numbered {order[first]}"):
        checked(moved)


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_row_that_was_removed_or_repeated_is_named(number):
    store = filled(5)
    rows = rows_of(store)
    less, more = rows[:number] + rows[number + 1 :], [*rows[: number + 1], *rows[number:]]
    with pytest.raises(ProtocolAbort, match="5 rows, and there are 4"):
        checked(written(less, store))
    with pytest.raises(ProtocolAbort, match="5 rows, and there are 6"):
        checked(written(more, store))
    last = sha256(rows[-1]).hexdigest()
    if number < 4:
        with pytest.raises(ProtocolAbort, match=f"row {number} is missing, and in its place stands one numbered {number + 1}"):
            CHAIN.checked(less, last)
    with pytest.raises(ProtocolAbort, match=f"row {number + 1} is missing, and in its place stands one numbered {number}"):
        CHAIN.checked(more, last)


@pytest.mark.parametrize("row", [b"", b"{", b"[]", b'{"a": 1}', b"\xff", b"[" * 5000, b'{"sequence":1,"sequence":1}'])
def test_a_row_in_another_form_is_named(row):
    store = filled(3)
    rows = rows_of(store)
    with pytest.raises(ProtocolAbort, match="row 1 is not in the form"):
        checked(written([rows[0], row, rows[2]], store))


def test_a_chain_that_begins_elsewhere_is_no_chain():
    rows = rows_of(filled(3))
    first = canonical({**json.loads(rows[0]), "previous": "a" * 64})
    with pytest.raises(ProtocolAbort, match="row 0 names a row before it"):
        CHAIN.checked([first])


def test_a_noted_head_finds_what_the_chain_alone_cannot():
    store = filled(4)
    with store.snapshot() as view:
        count, last = CHAIN.head(view)
    assert count == 4
    whole_new, shorter, longer = MemoryStore(), filled(3), filled(3, store)
    for number in range(6):
        with whole_new.transaction() as transaction:
            CHAIN.add(transaction, {"text": f"forged {number}"})
    for forged in (whole_new, shorter):
        assert checked(forged)
        with forged.snapshot() as view, pytest.raises(ProtocolAbort, match="row 3 is not the one that was the last"):
            CHAIN.check_noted(view, f"4:{last}")
    with longer.snapshot() as view:
        CHAIN.check_noted(view, f"4:{last}")
        CHAIN.check_noted(view, f"0:{START}")
        for wrong in ("", "4", last, f"-1:{last}", f"4:{last}x"):
            with pytest.raises(InvalidInput, match="noted head"):
                CHAIN.check_noted(view, wrong)
