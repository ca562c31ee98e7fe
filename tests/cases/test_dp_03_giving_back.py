"""A run that released fewer sums than it reserved has spent no more than it reserved, and no more than the budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent import accounting as ac
from manent.core.errors import BudgetSpent, InvalidInput
from manent.crypto import SystemRandom
from manent.storage import MemoryStore

UNIT = {"privacy_unit": "example", "neighboring_relation": "add_or_remove"}
KNOWN = {**UNIT, "study": "ab" * 32, "random": SystemRandom()}
DELTA = 1e-5


def opened(epsilon: float, delta: float = DELTA) -> ac.Ledger:
    ledger = ac.Ledger(MemoryStore())
    ledger.open("data", ac.Budget(epsilon, delta, **UNIT))
    return ledger


def total(ledger: ac.Ledger) -> float:
    account = ledger.account("data")
    return account.spent + account.reserved


@pytest.mark.parametrize(
    ("z", "q", "rounds", "delta"), [(1.0, 1e-4, 10_000, 1e-6), (1.0, 0.01, 1000, 1e-5), (2.0, 0.1, 50, 1e-3)]
)
@pytest.mark.parametrize("room", [1.0, 20.0])
def test_one_unanswered_round_costs_nothing(z, q, rounds, delta, room):
    """With no room to spare, and with room for every accountant's bound."""
    event = ac.training(z, rounds, q)
    planned = ac.epsilon(event, delta, "add_or_remove").epsilon
    ledger = opened(room * planned, delta)
    held = ledger.reserve("data", event, **KNOWN)
    ledger.commit(held, "first")
    before = ledger.account("data").spent
    ledger.finish(held, rounds - 1)
    assert ledger.account("data").spent <= before <= planned * (1 + 1e-12)
    assert ledger.account("data").spent <= room * planned


def test_what_fits_by_a_distribution_alone_gives_nothing_back():
    """To stop may depend on results. No bound that allows for that covered the runs that would have gone on."""
    event = ac.training(1.0, 300, 0.02)
    whole, few = (ac.epsilon(e, DELTA, "add_or_remove").epsilon for e in (event, ac.Repeated(event.event, 2)))
    assert few < whole < 2.3 < ac.epsilon(event, DELTA, "add_or_remove", "rdp").epsilon
    ledger = opened(2.3)
    held = ledger.reserve("data", event, **KNOWN)
    ledger.commit(held, "first")
    ledger.finish(held, 2)
    assert ledger.account("data").spent == pytest.approx(whole)
    with pytest.raises(BudgetSpent):
        ledger.reserve("data", event, **KNOWN)


def test_a_reservation_of_three_releases_bounds_them():
    for event in (ac.training(5.0, 3, 0.1), ac.MatrixFactorisation(5.0, 3, 1, 1), ac.Composed((ac.Gaussian(9.0),) * 3)):
        ledger = opened(4.0)
        held = ledger.reserve("data", event, **KNOWN)
        for one in range(3):
            ledger.commit(held, f"{one}")
        rows = ledger.verify()
        with pytest.raises(BudgetSpent, match="for 3 releases, and that many were made"):
            ledger.commit(held, "one more")
        assert ledger.verify() == rows
    ledger = opened(4.0)
    held = ledger.reserve("data", ac.training(5.0, 30, 0.1), **KNOWN, releases=1)
    ledger.commit(held, "30 steps of private training")
    with pytest.raises(BudgetSpent, match="for 1 release, and"):
        ledger.commit(held, "one more")


EVENTS = (ac.training(1.0, 40, 0.01), ac.Repeated(ac.Gaussian(8.0), 12), ac.training(1.3, 300, 0.004))
moves = st.lists(
    st.tuples(st.sampled_from(["reserve", "commit", "finish", "close", "give_back"]), st.integers(0, 4), st.integers(0, 40)),
    min_size=1,
    max_size=16,
)


class Oracle:
    """The same books, kept as a plain list of studies: [event, repetitions that count, releases, state]."""

    def __init__(self, epsilon: float) -> None:
        self.limit = epsilon
        self.studies: list[list] = []

    def adaptive(self, studies) -> float:
        parts = tuple(ac.Repeated(event.event, ran) for event, ran, *_ in studies)
        return ac.epsilon(ac.Composed(parts), DELTA, "add_or_remove", adaptive=True).epsilon

    def total(self, studies=None) -> float:
        kept = [one for one in (self.studies if studies is None else studies) if one[3] != "returned"]
        bounds = [self.adaptive(kept)]
        if len(kept) == 1:
            bounds.append(ac.epsilon(kept[0][0], DELTA, "add_or_remove").epsilon)
        return min(bounds)

    def do(self, move: str, which: int, number: int) -> bool:
        """Whether the move is allowed; if so, it is made."""
        if move == "reserve":
            event = EVENTS[which % len(EVENTS)]
            fresh = [event, event.count, 0, "reserved"]
            if not self.total([*self.studies, fresh]) <= self.limit:
                return False
            self.studies.append(fresh)
            return True
        if which >= len(self.studies):
            return False
        one = self.studies[which]
        event, _, releases, state = one
        if move == "commit" and state in ("reserved", "spent") and releases < event.count:
            one[2:] = [releases + 1, "spent"]
        elif move == "finish" and state == "spent" and max(1, releases) <= number <= event.count:
            if self.adaptive([s for s in self.studies if s[3] != "returned"]) <= self.limit:
                one[1] = number
            one[3] = "over"
        elif move == "close" and state == "spent":
            one[3] = "over"
        elif move == "give_back" and state == "reserved":
            one[3] = "returned"
        else:
            return False
        return True


@settings(max_examples=60, deadline=None)
@given(moves, st.sampled_from([0.45, 0.8, 3.0, 30.0]))
def test_any_history_agrees_with_a_plain_list_and_giving_back_never_raises(course, limit):
    ledger, oracle, made = opened(limit), Oracle(limit), []
    for move, which, number in course:
        before, allowed = total(ledger), oracle.do(move, which, number)
        try:
            if move == "reserve":
                made.append(ledger.reserve("data", EVENTS[which % len(EVENTS)], **KNOWN))
            elif which >= len(made):
                continue
            elif move == "finish":
                ledger.finish(made[which], number)
            elif move == "give_back":
                ledger.give_back(made[which], "nothing was seen")
            else:
                {"commit": lambda one: ledger.commit(one, "00"), "close": ledger.close}[move](made[which])
        except (BudgetSpent, InvalidInput):
            assert not allowed
        else:
            assert allowed
        after = total(ledger)
        assert after == pytest.approx(oracle.total(), rel=1e-9)
        assert after <= limit
        assert move == "reserve" or after <= before * (1 + 1e-12)
    ledger.verify()
    assert math.isfinite(total(ledger))
