"""A period caps what is spent in any so many days, within the budget; when it has passed, what was spent stays spent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent import accounting as ac
from manent.core.errors import BudgetSpent, InvalidInput
from manent.crypto import SystemRandom
from manent.storage import MemoryStore

UNIT = {"privacy_unit": "client", "neighboring_relation": "add_or_remove"}
KNOWN = {**UNIT, "study": "ab" * 32, "random": SystemRandom()}
BUDGET, PERIOD = ac.Budget(4.0, 1e-5, **UNIT), ac.Period(epsilon=1.0, days=30)
ONE = ac.Repeated(ac.Gaussian(20.0), 4)  # epsilon .34
BEGAN = datetime(2030, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.days = 0.0

    def __call__(self) -> datetime:
        return BEGAN + timedelta(days=self.days)


def opened(period=PERIOD, budget=BUDGET):
    clock = Clock()
    ledger = ac.Ledger(MemoryStore(), clock=clock)
    ledger.open("heart", budget, period)
    return ledger, clock


def epsilon_of(event):
    return ac.epsilon(event, 1e-5, "add_or_remove").epsilon


def ran(ledger, event=ONE, rounds=None):
    """A study that released something and is over."""
    held = ledger.reserve("heart", event, **KNOWN)
    ledger.commit(held, "a total")
    if rounds is None:
        ledger.close(held)
    else:
        ledger.finish(held, rounds)
    return held


def test_a_period_frees_rate_and_never_the_budget():
    ledger, clock = opened()
    for done in range(1, 40):
        granted = 0
        while True:
            try:
                ran(ledger)
                granted += 1
            except BudgetSpent as error:
                said = str(error)
                break
        account = ledger.account("heart")
        assert account.spent <= 4.0
        if "for any 30 days" not in said:
            break
        assert granted == 7  # 28 Gaussian rounds at 20 have epsilon .98, and 32 more than 1
        assert account.spent == pytest.approx(epsilon_of(ac.Repeated(ac.Gaussian(20.0), 28 * done)))
        assert account.lately == pytest.approx(epsilon_of(ac.Repeated(ac.Gaussian(20.0), 28)))
        clock.days += 30
    assert "has epsilon 4 at delta" in said
    assert done > 5
    clock.days += 10_000
    with pytest.raises(BudgetSpent, match="has epsilon 4 at delta"):
        ran(ledger)
    ledger.verify()


def test_it_is_said_when_a_study_fits():
    ledger, clock = opened()
    for day in (0, 3, 3, 5, 7, 7, 7):
        clock.days = day
        ran(ledger)
    clock.days = 8
    two = ac.Repeated(ac.Gaussian(20.0), 8)
    cost = ledger.cost("heart", two, **UNIT)
    assert (cost.fits, cost.after < 4.0) == (False, True)
    assert cost.wait == "It fits from 2030-02-03T00:00:00+00:00 on, if nothing else is reserved meanwhile."
    with pytest.raises(BudgetSpent, match=r"epsilon 1 for any 30 days, of which 0\.9.* It fits from 2030-02-03"):
        ledger.reserve("heart", two, **KNOWN)
    clock.days = 32.9
    assert not ledger.cost("heart", two, **UNIT).fits
    clock.days = 33
    assert ledger.cost("heart", two, **UNIT) == mn.accounting.Cost("heart", cost.before, cost.after, True)
    ledger.reserve("heart", two, **KNOWN)
    with pytest.raises(BudgetSpent, match="It never fits: alone it costs more than the period's epsilon 1"):
        ledger.reserve("heart", ac.Gaussian(2.0), **KNOWN)


def test_what_may_still_release_counts_however_old_it_is():
    ledger, clock = opened()
    whole = ac.Repeated(ac.Gaussian(20.0), 20)
    held = ledger.reserve("heart", whole, **KNOWN)
    clock.days = 100
    with pytest.raises(BudgetSpent, match="It fits 30 days after studies that may still release are over"):
        ran(ledger, whole)
    ledger.commit(held, "a total")
    ledger.finish(held, 20)
    clock.days = 129  # its release was on day 100
    with pytest.raises(BudgetSpent, match="It fits from 2030-05-11"):
        ran(ledger, whole)
    clock.days = 130
    ran(ledger, whole)


def test_what_goes_back_frees_the_rate_too():
    ledger, _ = opened()
    whole = ac.Repeated(ac.Gaussian(20.0), 20)
    ledger.give_back(ledger.reserve("heart", whole, **KNOWN), "nothing was seen")
    ran(ledger, whole, 10)
    ran(ledger, ac.Repeated(ac.Gaussian(20.0), 10))
    with pytest.raises(BudgetSpent, match="any 30 days"):
        ran(ledger, whole)


def test_what_does_not_go_back_to_the_budget_does_not_free_the_rate_either():
    """A study that fits by a loss distribution alone is spent whole, however early it ends."""
    event = ac.training(1.0, 1000, 0.01)
    fixed, chosen = (ac.epsilon(event, 1e-5, "add_or_remove", adaptive=adaptive).epsilon for adaptive in (False, True))
    most = (fixed + chosen) / 2
    ledger, _ = opened(ac.Period(most, 30), ac.Budget(most, 1e-5, **UNIT))
    ran(ledger, event, rounds=10)
    assert ledger.account("heart").lately == pytest.approx(fixed)
    assert ledger.verify() == 4


def test_a_clock_that_goes_back_frees_nothing():
    """And none that goes back and forth: the ledger's time never goes back."""
    ledger, clock = opened()
    clock.days = 50
    whole = ac.Repeated(ac.Gaussian(20.0), 20)
    ran(ledger, whole)
    for day in (-1000, 0, 19, 49, 79.9):
        clock.days = day
        with pytest.raises(BudgetSpent, match="any 30 days"):
            ran(ledger, whole)
    clock.days = 80
    ran(ledger, whole)


def test_what_runs_while_the_clock_is_set_back_counts_from_the_time_of_the_last_row():
    ledger, clock = opened()
    clock.days = 50
    small, large = ac.Repeated(ac.Gaussian(20.0), 1), ac.Repeated(ac.Gaussian(20.0), 20)
    ran(ledger, small)
    clock.days = -1000
    ran(ledger, large)
    clock.days = 79.9
    with pytest.raises(BudgetSpent, match="any 30 days"):
        ran(ledger, large)
    clock.days = 80
    ran(ledger, large)


def test_a_release_is_not_dated_back_by_a_clock_that_goes_back():
    """A study that was over on day 50 counts until day 80, although the clock said day 5 when it released."""
    ledger, clock = opened()
    clock.days = 50
    whole = ac.Repeated(ac.Gaussian(20.0), 20)
    held = ledger.reserve("heart", whole, **KNOWN)
    clock.days = 5
    ledger.commit(held, "a total")
    ledger.close(held)
    clock.days = 60
    with pytest.raises(BudgetSpent, match="any 30 days"):
        ran(ledger, whole)
    clock.days = 80
    ran(ledger, whole)


def test_a_period_is_given_once_and_lies_within_the_budget():
    ledger, _ = opened()
    ledger.open("heart", BUDGET, ac.Period(1.0, 30.0))
    for other in (None, ac.Period(1.0, 31.0), ac.Period(2.0, 30.0)):
        with pytest.raises(InvalidInput, match="not changed"):
            ledger.open("heart", BUDGET, other)
    for wrong in (ac.Period(4.1, 30), 1.0, (1.0, 30), {"epsilon": 1.0, "days": 30}):
        with pytest.raises(InvalidInput):
            ledger.open("lungs", BUDGET, wrong)
    for values in ((0.0, 30), (1.0, 0), (-1, 30), (float("nan"), 30), (1.0, float("inf")), (1.0, 1e6), ("1", 30), (True, 30)):
        with pytest.raises(InvalidInput):
            ac.Period(*values)


steps = st.lists(
    st.tuples(st.sampled_from(["run", "run", "stop", "hold", "release", "back"]), st.integers(0, 20), st.integers(-3, 20)),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_any_history_keeps_the_rate_in_every_window(course):
    """Against a plain list of (first day, last day that counts, rounds); a study that runs has no last day."""
    ledger, clock = opened()
    studies, running, row_at = [], [], 0.0
    for move, rounds, days in course:
        clock.days += days
        latest = max(row_at, clock.days)
        event = ac.Repeated(ac.Gaussian(20.0), rounds + 1)
        counted = sum(n for last, n in studies if last is None or last + 30 > latest)
        everything = sum(n for _, n in studies)
        allowed = epsilon_of(ac.Repeated(ac.Gaussian(20.0), counted + rounds + 1)) <= 1.0
        allowed &= epsilon_of(ac.Repeated(ac.Gaussian(20.0), everything + rounds + 1)) <= 4.0
        if move in ("run", "stop", "hold"):
            try:
                held = ledger.reserve("heart", event, **KNOWN)
            except BudgetSpent:
                assert not allowed
                continue
            assert allowed
            row_at = latest
            if move == "hold":
                studies.append([None, rounds + 1])
                running.append((held, studies[-1]))
                continue
            ledger.commit(held, "a total")
            ledger.finish(held, 1 if move == "stop" else rounds + 1)
            studies.append([latest, 1 if move == "stop" else rounds + 1])
        elif running:
            held, row = running.pop(0)
            row_at = latest
            if move == "release":
                ledger.commit(held, "a total")
                ledger.close(held)
                row[0] = latest
            else:
                ledger.give_back(held, "nothing was seen")
                studies = [one for one in studies if one is not row]
        account = ledger.account("heart")
        counted = sum(n for last, n in studies if last is None or last + 30 > latest)
        assert account.lately == pytest.approx(epsilon_of(ac.Repeated(ac.Gaussian(20.0), counted)))
        assert account.lately <= 1.0
    ledger.verify()
