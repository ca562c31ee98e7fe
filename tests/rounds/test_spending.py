"""What simulations and sites share of spending: reserved whole, counted, and given back as far as it was not used."""

from __future__ import annotations

import pytest

from manent.accounting import Ledger, Repeated
from manent.core.errors import BudgetSpent, InvalidInput
from manent.crypto import SystemRandom
from manent.privacy import resolve
from manent.rounds.spending import abandoned_counts, all_released, reserve, settle, uses
from manent.storage import MemoryStore
from tests.privacy.studies import DATA, budget, study

PLAN, BARE = resolve(study(), DATA), resolve(study([]), DATA)
WORDS = {"nothing": "nothing was released", "unrecorded": "of a crash"}


def ledger(epsilon: float = 50.0) -> Ledger:
    found = Ledger(MemoryStore())
    found.open("data", budget(epsilon))
    return found


def reserved(books: Ledger):
    return reserve(books, "data", PLAN.privacy.event, PLAN, PLAN.study.hash, SystemRandom())


def test_all_rounds_are_reserved_before_anything_runs():
    books = ledger()
    assert reserved(books).event == PLAN.privacy.event
    assert books.account("data").reserved > 0
    with pytest.raises(BudgetSpent):
        reserved(ledger(0.01))
    with pytest.raises(InvalidInput, match="spends nothing"):
        reserve(books, "data", PLAN.privacy.event, BARE, BARE.study.hash, SystemRandom())


def test_a_release_uses_its_share_of_what_repeats():
    event = PLAN.privacy.event
    assert isinstance(event, Repeated)
    assert uses(PLAN, event) == event.count // PLAN.privacy.releases == 1
    assert uses(PLAN, event.event) == 0
    assert uses(BARE, event) == 0


def test_releases_are_counted_against_the_plan():
    assert [all_released(PLAN, n) for n in (2, 3, 4)] == [False, True, True]
    assert not all_released(BARE, 10**6)
    assert abandoned_counts(PLAN, 1) == PLAN.abandoned_is_spent
    assert not abandoned_counts(PLAN, 0)
    assert not abandoned_counts(BARE, 5)


def test_what_was_not_used_goes_back():
    books = ledger()
    nothing, some, crashed = (reserved(books) for _ in range(3))
    settle(books, nothing, 0, 1, **WORDS)
    books.commit(some, "a total")
    settle(books, some, 2, 1, **WORDS)
    settle(books, crashed, 1, 1, **WORDS)
    states = [books.find(one.id)[1] for one in (nothing, some, crashed)]
    assert states == ["returned", "spent", "spent"]
    assert not any(books.running(one) for one in (nothing, some, crashed))
    assert books.account("data").reserved == 0
    before = books.account("data")
    settle(books, some, 0, 1, **WORDS)  # settled already
    assert books.account("data") == before
    books.verify()


def test_of_what_does_not_repeat_nothing_goes_back():
    books = ledger()
    one = reserved(books)
    whole = books.account("data").reserved
    settle(books, one, 1, 0, **WORDS)
    assert books.find(one.id)[1] == "spent"
    assert not books.running(one)
    assert books.account("data").spent == pytest.approx(whole)
