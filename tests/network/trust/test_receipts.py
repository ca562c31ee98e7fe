"""Receipts: what is missing, altered, repeated or moved is found; and the guarantee is that of the statement."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import manent as mn
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, ProtocolAbort
from manent.crypto import SigningKey
from manent.crypto.digest import digest
from manent.network.trust.identity import Identity
from manent.network.trust.receipts import FORMAT, Promise, Receipt, Receipts, by_study, hash_of, stored, verify
from manent.storage import MemoryStore
from tests.network.trust.test_journal import by_hand
from tests.network.world import data_of, study_of
from tests.storage.test_chain import broken_off

KEY = SigningKey(bytes([7] * 32))
PROMISE = Promise({"server": None, "clients": 2.5, "public": 2.5}, 1e-5, "client", "add_or_remove", 3)
FIRST = Receipt("ab" * 32, "train", 1, 0, 1, "cd" * 32, "released", 4, 3, "SecAgg", PROMISE)
COURSE = [
    FIRST,
    replace(FIRST, index=1, sum="evaluate"),
    replace(FIRST, round=2, outcome="abandoned", survivors=None, attempt=3),
    replace(FIRST, study="ef" * 32, guarantee=Promise({"server": None, "clients": None, "public": None})),
    replace(FIRST, round=3, outcome="left out"),
]


def receipts_of(store, key=KEY):
    return Receipts(store, Identity("karolinska", key), clock=lambda: 1_800_000_000.0)


def filled(store=None):
    store = store or MemoryStore()
    for receipt in COURSE:
        receipts_of(store).append(receipt)
    return store


def test_what_was_signed_is_what_is_read():
    rows, last = stored(filled())
    assert list(verify(rows, KEY.public, last)) == COURSE
    assert {study[:2]: len(of) for study, of in by_study(COURSE).items()} == {"ab": 4, "ef": 1}
    assert last == hash_of(rows)
    values = json.loads(rows[0])
    assert (values["time"], values["sequence"], values["upload"]) == ("2027-01-15T08:00:00.000+00:00", 0, "cd" * 32)
    assert verify((), KEY.public, hash_of(())) == ()


def test_another_key_signed_nothing():
    rows, last = stored(filled())
    with pytest.raises(ProtocolAbort, match="row 0 is not signed by the key"):
        verify(rows, SigningKey(bytes([8] * 32)).public, last)


@pytest.mark.parametrize("number", range(len(COURSE)))
def test_a_missing_receipt_is_named(number):
    rows, last = stored(filled())
    less = rows[:number] + rows[number + 1 :]
    found = "row 3 is not the one that the head names" if number == 4 else f"row {number} is missing"
    with pytest.raises(ProtocolAbort, match=found):
        verify(less, KEY.public, last)


@pytest.mark.parametrize("number", range(len(COURSE)))
def test_an_altered_receipt_is_named_also_where_the_chain_was_mended(number):
    rows, last = stored(filled())
    changed = [
        *rows[:number],
        canonical({**json.loads(rows[number]), "outcome": "left out", "survivors": 2}),
        *rows[number + 1 :],
    ]
    with pytest.raises(ProtocolAbort, match=f"row {number} is not the one"):
        verify(changed, KEY.public, last)
    for at in range(number + 1, len(changed)):
        changed[at] = canonical({**json.loads(changed[at]), "previous": hash_of(changed[:at])})
    with pytest.raises(ProtocolAbort, match=f"row {number} is not signed"):
        verify(changed, KEY.public, hash_of(changed))


def test_repeated_and_moved_receipts_are_named():
    rows, last = stored(filled())
    with pytest.raises(ProtocolAbort, match="row 2 is missing, and in its place stands one numbered 1"):
        verify((*rows[:2], *rows[1:]), KEY.public, last)
    with pytest.raises(ProtocolAbort, match="row 1 is missing, and in its place stands one numbered 2"):
        verify((rows[0], rows[2], rows[1], *rows[3:]), KEY.public, last)


@pytest.mark.parametrize("again", [FIRST, replace(FIRST, attempt=2), replace(FIRST, index=1), replace(FIRST, round=3)])
def test_a_sum_that_the_site_itself_signed_for_twice_is_found(again):
    store = filled()
    receipts_of(store).append(again)
    rows, last = stored(store)
    with pytest.raises(ProtocolAbort, match="row 5 is of round .* repeated or moved"):
        verify(rows, KEY.public, last)


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "fine"},
        {"cohort": "4"},
        {"surprise": 1},
        {"guarantee": {"epsilon": {"server": "none"}}},
        {"guarantee": None},
        {"upload": None},
    ],
)
def test_what_is_no_receipt_is_refused_even_when_it_is_signed(change):
    store = filled()
    values = {**json.loads(stored(store)[0][0]), **change, "sequence": 0}
    del values["signature"]
    signed = canonical({**values, "signature": KEY.sign(digest(FORMAT, canonical(values))).hex()})
    with pytest.raises(ProtocolAbort, match="Receipt 0"):
        verify((signed,), KEY.public)


def test_a_receipt_is_written_together_with_what_it_tells_of():
    store = MemoryStore()
    with pytest.raises(KeyError):
        broken_off(store, lambda transaction: receipts_of(store).add(transaction, FIRST))
    assert stored(store)[0] == ()


def test_in_a_database_by_hand(tmp_path):
    from manent.storage import open_store

    store = filled(open_store(tmp_path / "site.db"))
    noted = f"5:{hash_of(stored(store)[0])}"
    assert stored(store, noted)
    store.close()
    by_hand(
        tmp_path / "site.db",
        "DELETE FROM logs WHERE log = 'receipts' AND sequence = 4",
        "UPDATE documents SET document = replace(document, ':5', ':4') WHERE key = 'receipts/head'",
    )
    cut = open_store(tmp_path / "site.db")
    rows, last = stored(cut)
    with pytest.raises(ProtocolAbort, match="row 3 is not the one that the head names"):
        verify(rows, KEY.public, last)
    with pytest.raises(ProtocolAbort, match="row 4 is not the one that was the last"):
        stored(cut, noted)
    with pytest.raises(InvalidInput, match="noted head"):
        stored(cut, "x")


def test_the_promise_is_that_of_the_statement():
    budget = mn.Budget(3.0, 1e-5, "client", "add_or_remove")
    algorithm = mn.FedAvg(mn.LogisticModel(3), mn.LocalSGD(lr=0.1, steps=2, batch_size=4), weighting="equal")
    study = study_of(algorithm=algorithm, layers=[mn.Clip(1.0), mn.CentralNoise()], budget=budget)
    statement = mn.check(study, data_of(4))
    found = Promise.of(statement)
    assert found.epsilon["server"] is None
    assert found.epsilon["public"] == pytest.approx(3.0, rel=1e-3)
    assert (found.delta, found.unit, found.relation, found.releases) == (1e-5, "client", "add_or_remove", 2)
    assert str(found).startswith(
        "epsilon 3 against the clients, 3 against the public; none against the server; delta 1e-05, for each"
    )
    nothing = Promise.of(mn.check(study_of(), data_of(4)))
    assert nothing == Promise({"server": None, "clients": None, "public": None})
    assert str(nothing) == "no differential privacy"
    assert Promise.of(statement.without_epsilon("A test.")) == nothing
