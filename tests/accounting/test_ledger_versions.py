"""A ledger of the version before is read, verified and gone on with: its rows mean what they meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manent import accounting as ac
from manent.core.errors import BudgetSpent, InvalidInput, ProtocolAbort
from manent.crypto import SystemRandom
from manent.rounds.spending import settle_by_hand
from manent.storage import MemoryStore

OLD = json.loads((Path(__file__).parent / "ledger-1.json").read_text())
UNIT = {"privacy_unit": "client", "neighboring_relation": "add_or_remove"}
KNOWN = {**UNIT, "study": "cd" * 32, "random": SystemRandom()}
RUNNING, UNSEEN = f"{1:032x}", f"{3:032x}"  # 5 releases of 3 rounds, which version 1 did not refuse; and none


def old(**changed: str) -> MemoryStore:
    store = MemoryStore()
    with store.transaction() as transaction:
        for row in OLD["rows"]:
            transaction.append("ledger", row.encode())
        for key, document in {**OLD["documents"], **changed}.items():
            transaction.put(key, document.encode())
    return store


def test_it_is_read_and_verified():
    ledger = ac.Ledger(old())
    assert ledger.verify() == len(OLD["rows"])
    heart, kidneys, lungs = ledger.summary()
    event = ac.training(1.0, 100, 0.02)
    whole, part = ac.epsilon(event, 1e-5, "add_or_remove"), ac.epsilon(ac.training(1.0, 97, 0.02), 1e-5, "add_or_remove", "rdp")
    assert heart.spent == pytest.approx(min(whole.epsilon, part.epsilon))  # 97 of 100 rounds ran: never more than all of them
    assert (kidneys.runs, kidneys.reserved > 0, lungs.runs) == (1, True, 1)
    assert {one.reservation.id for one in ledger.unsettled()} == {RUNNING, UNSEEN}


def test_it_goes_on():
    ledger = ac.Ledger(old())
    running, _ = ledger.find(RUNNING)
    ledger.commit(running, "00")  # it does not say how many releases there may be
    ledger.commit(running, "11", sum=(1, 0))
    ledger.commit(running, "11", sum=(1, 0))
    for id in (RUNNING, UNSEEN):
        settle_by_hand(ledger, id, None)
    held = ledger.reserve("heart", ac.Repeated(ac.Gaussian(20.0), 2), **KNOWN)
    ledger.commit(held, "00")
    ledger.finish(held, 1)
    with pytest.raises(InvalidInput, match="over"):
        ledger.commit(held, "00")
    last = ledger.reserve("heart", ac.Gaussian(20.0), **KNOWN)
    ledger.commit(last, "00")
    with pytest.raises(BudgetSpent, match="for 1 release"):
        ledger.commit(last, "00")
    assert ledger.verify() == len(OLD["rows"]) + 10
    assert ledger.account("heart").runs == 3


@pytest.mark.parametrize("key", [key for key in OLD["documents"] if key != "ledger/head"])
def test_a_document_that_was_altered_is_found(key):
    text = OLD["documents"][key].replace('"runs":1', '"runs":0').replace('"releases":', '"releases":1')
    assert text != OLD["documents"][key]
    with pytest.raises(ProtocolAbort, match="does not follow from the rows"):
        ac.Ledger(old(**{key: text})).verify()


def test_a_digest_that_was_altered_is_found():
    store = MemoryStore()
    ledger = ac.Ledger(store)
    ledger.open("heart", ac.Budget(4.0, 1e-5, **UNIT))
    held = ledger.reserve("heart", ac.Repeated(ac.Gaussian(20.0), 2), **KNOWN)
    ledger.commit(held, "00", sum=(1, 0))
    with store.snapshot() as view:
        (key,) = view.keys("ledger/release/")
    with store.transaction() as transaction:
        transaction.put(key, b"11")
    with pytest.raises(ProtocolAbort, match="does not follow from the rows"):
        ledger.verify()
