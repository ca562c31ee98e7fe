"""The ledger: nothing is spent twice, nothing is forgotten, nothing is altered unseen."""

from __future__ import annotations

import json
import shutil
import sqlite3
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent import accounting as ac
from manent.core.canonical import canonical
from manent.crypto import InsecureTestRNG, SystemRandom
from manent.storage import MemoryStore, open_store

BUDGET = ac.Budget(4.0, 1e-5, "client", "add_or_remove")
UNIT = {"privacy_unit": "client", "neighboring_relation": "add_or_remove"}
KNOWN = {**UNIT, "study": "ab" * 32, "random": SystemRandom()}
ROUNDS = ac.Repeated(ac.Gaussian(20.0), 10)


def opened(store=None, budget=BUDGET, **options):
    ledger = ac.Ledger(store or MemoryStore(), **options)
    ledger.open("heart", budget)
    return ledger


def epsilon_of(event, **options):
    return ac.epsilon(event, 1e-5, "add_or_remove", **options).epsilon


def test_a_study_from_reservation_to_release():
    ledger = opened()
    reservation = ledger.reserve("heart", ROUNDS, **KNOWN)
    account = ledger.account("heart")
    assert (account.spent, account.runs) == (0, 1)
    assert account.reserved == pytest.approx(epsilon_of(ROUNDS))
    assert account.left == pytest.approx(4.0 - account.reserved)
    ledger.commit(reservation, "cd" * 32)
    account = ledger.account("heart")
    assert (account.reserved, account.spent) == (0, pytest.approx(epsilon_of(ROUNDS)))
    assert ledger.find(reservation.id) == (reservation, "spent")
    assert ledger.verify() == 3


def test_no_more_releases_are_reserved_than_the_event_has():
    ledger = opened()
    for event, most in ((ROUNDS, 10), (ac.Gaussian(20.0), 1), (ac.Composed((ROUNDS, ac.Gaussian(9.0))), 11)):
        with pytest.raises(mn.InvalidInput, match=f"at most {most} releases, as many as the event has; found {most + 1}"):
            ledger.reserve("heart", event, releases=most + 1, **KNOWN)
        assert ledger.reserve("heart", event, releases=most, **KNOWN)


def test_what_is_asked_and_not_returned_stays_spent(tmp_path):
    """As after a crash: another process finds the reservation, and it counts."""
    opened(open_store(tmp_path / "ledger.db")).reserve("heart", ROUNDS, **KNOWN)
    later = ac.Ledger(open_store(tmp_path / "ledger.db"))
    assert later.account("heart").reserved == pytest.approx(epsilon_of(ROUNDS))
    whole = ac.Gaussian(ac.calibrate(4.0, 1e-5, ac.Gaussian, "add_or_remove"))
    opened(open_store(tmp_path / "other.db")).reserve("heart", whole, **KNOWN)
    with pytest.raises(mn.BudgetSpent):
        later.reserve("heart", whole, **KNOWN)


def test_events_compose_rather_than_epsilons():
    ledger = opened()
    for _ in range(10):
        ledger.commit(ledger.reserve("heart", ac.Gaussian(20.0), **KNOWN), "00")
    assert ledger.account("heart").spent == pytest.approx(epsilon_of(ROUNDS))
    assert ledger.account("heart").spent < 10 * epsilon_of(ac.Gaussian(20.0)) / 2
    assert ac.epsilon(ledger.history("heart"), 1e-5, "add_or_remove").epsilon == pytest.approx(epsilon_of(ROUNDS))


def test_a_later_study_is_accounted_as_adaptive():
    """With one study its parameters were fixed in advance; with two, a PLD is no longer proven to hold."""
    ledger, event = opened(), ac.training(1.0, 100, 0.01)
    ledger.reserve("heart", event, **KNOWN)
    assert "distribution" in ledger.account("heart").accountant
    ledger.reserve("heart", event, **KNOWN)
    assert "Rényi" in ledger.account("heart").accountant
    assert ledger.account("heart").reserved == pytest.approx(epsilon_of(ac.training(1.0, 200, 0.01), accountant="rdp"))


def test_the_budget_is_not_exceeded():
    ledger = opened()
    ledger.reserve("heart", ROUNDS, **KNOWN)
    before, rows = ledger.account("heart"), ledger.verify()
    with pytest.raises(mn.BudgetSpent, match=r"epsilon 4 at delta 1e-05, of which .* with this study it would be"):
        ledger.reserve("heart", ac.Gaussian(1.0), **KNOWN)
    assert ledger.account("heart") == before
    assert ledger.verify() == rows


@pytest.mark.parametrize("event", [ac.RoundedGaussian(0.01, 1e-9), ac.Repeated(ac.RoundedGaussian(1.0, 1e-3), 10)])
def test_a_study_without_a_finite_epsilon_does_not_fit_and_that_is_said(event):
    ledger = opened()
    ledger.reserve("heart", ROUNDS, **KNOWN)
    before = ledger.account("heart")
    with pytest.raises(mn.BudgetSpent, match=rf"{before.left:.4g} left; this study has no finite epsilon"):
        ledger.reserve("heart", event, **KNOWN)
    assert ledger.account("heart") == before
    cost = ledger.cost("heart", event, **UNIT)
    assert (cost.after, cost.fits) == (float("inf"), False)


def test_noise_found_from_the_budget_fits_it():
    make = lambda z: ac.training(z, 50, 0.1)  # noqa: E731
    ledger = opened()
    ledger.reserve("heart", make(ac.calibrate(4.0, 1e-5, make, "add_or_remove")), **KNOWN)
    assert ledger.account("heart").left < 1e-2


def test_nothing_seen_goes_back_and_anything_seen_does_not():
    ledger = opened()
    first, second = (ledger.reserve("heart", ROUNDS, **KNOWN) for _ in range(2))
    ledger.give_back(first, "too few clients answered")
    assert ledger.account("heart").reserved == pytest.approx(epsilon_of(ROUNDS))
    assert ledger.account("heart").runs == 1
    ledger.commit(second, "00")
    with pytest.raises(mn.InvalidInput, match="nothing was seen"):
        ledger.give_back(second, "changed my mind")
    with pytest.raises(mn.InvalidInput, match="nothing was seen"):
        ledger.give_back(first, "again")
    with pytest.raises(mn.InvalidInput, match="over"):
        ledger.commit(first, "00")


def test_rounds_that_did_not_run_go_back():
    ledger = opened()
    reservation = ledger.reserve("heart", ROUNDS, **KNOWN)
    with pytest.raises(mn.InvalidInput, match="not running"):
        ledger.finish(reservation, 3)
    for _ in range(3):
        ledger.commit(reservation, "00")
    for wrong in (2, 11, 3.0, True, None):
        with pytest.raises(mn.InvalidInput, match="released"):
            ledger.finish(reservation, wrong)
    ledger.finish(reservation, 4)
    assert ledger.account("heart").spent == pytest.approx(epsilon_of(ac.Repeated(ac.Gaussian(20.0), 4)))
    for late in (lambda: ledger.commit(reservation, "00"), lambda: ledger.finish(reservation, 4)):
        with pytest.raises(mn.InvalidInput):
            late()
    assert ledger.verify() == 6


def test_a_study_stopped_early_is_accounted_as_adaptive_or_whole():
    """Where to stop may depend on results: a PLD of what ran bounds nothing. One of all that was reserved does."""
    event, of = ac.training(1.0, 300, 0.02), ac.training(1.0, 300, 0.02).event
    whole = epsilon_of(event, accountant="pld")
    for rounds in (270, 2):
        ledger = opened()
        reservation = ledger.reserve("heart", event, **KNOWN)
        ledger.commit(reservation, "00")
        ledger.finish(reservation, rounds)
        part = ac.Repeated(of, rounds)
        bounds = {"Rényi": epsilon_of(part, accountant="rdp"), "distribution": whole}
        assert epsilon_of(part, accountant="pld") < min(bounds.values())
        assert ledger.account("heart").spent == pytest.approx(min(bounds.values()), rel=1e-12)
        assert min(bounds, key=bounds.get) in ledger.account("heart").accountant
    assert bounds["Rényi"] < bounds["distribution"]


@pytest.mark.parametrize(
    "change", [{"privacy_unit": "example"}, {"neighboring_relation": "zero_out"}, {"neighboring_relation": "replace_one"}]
)
def test_other_units_and_relations_do_not_compose(change):
    ledger = opened()
    with pytest.raises(mn.Refused, match="does not compose"):
        ledger.reserve("heart", ROUNDS, **{**KNOWN, **change})
    with pytest.raises(mn.Refused, match="does not compose"):
        ledger.cost("heart", ROUNDS, **{**UNIT, **change})
    assert ledger.verify() == 1


def test_noise_without_a_secret_is_not_accounted():
    with pytest.raises(mn.Refused, match="InsecureTestRNG"):
        opened().reserve("heart", ROUNDS, **{**KNOWN, "random": InsecureTestRNG(1)})


def test_a_budget_is_given_once():
    ledger = opened()
    ledger.open("heart", BUDGET)
    with pytest.raises(mn.InvalidInput, match="not changed"):
        ledger.open("heart", ac.Budget(8.0, 1e-5, "client", "add_or_remove"))
    for name in ("", "a b", "x" * 201, "../x", "heart\n"):
        with pytest.raises(mn.InvalidInput, match="name"):
            ledger.open(name, BUDGET)
    for ask in (
        lambda: ledger.reserve("lungs", ROUNDS, **KNOWN),
        lambda: ledger.account("lungs"),
        lambda: ledger.cost("lungs", ROUNDS, **UNIT),
    ):
        with pytest.raises(mn.InvalidInput, match="no budget"):
            ask()
    with pytest.raises(mn.InvalidInput, match="no reservation"):
        ledger.find("00")
    with pytest.raises(mn.InvalidInput, match="no reservation"):
        ledger.commit(ac.Reservation("00", "heart", ROUNDS), "00")


def test_data_sets_have_their_own_buckets():
    ledger = opened()
    ledger.open("lungs", ac.Budget(1.0, 1e-6, "example", "zero_out"))
    ledger.reserve("heart", ROUNDS, **KNOWN)
    heart, lungs = ledger.summary()
    assert (heart.data_set, lungs.data_set) == ("heart", "lungs")
    assert (lungs.reserved, lungs.left, lungs.runs) == (0, 1.0, 0)


def test_cost_sets_nothing_aside():
    ledger = opened()
    ledger.reserve("heart", ROUNDS, **KNOWN)
    cost = ledger.cost("heart", ROUNDS, **UNIT)
    assert cost.fits
    assert cost.after == pytest.approx(epsilon_of(ac.Repeated(ac.Gaussian(20.0), 20)))
    assert cost.epsilon == pytest.approx(cost.after - cost.before)
    assert not ledger.cost("heart", ac.Gaussian(0.5), **UNIT).fits
    assert ledger.verify() == 2


def test_a_row_says_what_ran():
    store, now = MemoryStore(), datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    ledger = opened(store, clock=lambda: now)
    ledger.reserve("heart", ROUNDS, **KNOWN, code="manent 9")
    with store.snapshot() as s:
        first, row = map(json.loads, s.rows("ledger"))
    assert row["previous"] == sha256(canonical(first)).hexdigest()
    assert row["time"] == "2030-01-02T03:04:05.000+00:00"
    assert row["event"] == {"type": "Repeated", "version": 1, "count": 10, "event": row["event"]["event"]}
    kept = {name: row[name] for name in ("privacy_unit", "neighboring_relation", "study", "code", "random", "state")}
    assert kept == {
        "privacy_unit": "client",
        "neighboring_relation": "add_or_remove",
        "study": "ab" * 32,
        "code": "manent 9",
        "random": "SystemRandom",
        "state": "reserved",
    }


# What someone may do to the rows by hand, and to the head and totals where they know of them.


def filled(path, releases=3):
    ledger = opened(open_store(path))
    for _ in range(releases):
        ledger.commit(ledger.reserve("heart", ROUNDS, **KNOWN), "00")
    assert ledger.verify() == 1 + 2 * releases
    ledger._store.close()


def by_hand(path, *statements):
    connection = sqlite3.connect(path)
    for trigger in ("logs_keep_rows", "logs_keep_content"):
        connection.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()


TAMPERED = {
    "altered": ["UPDATE logs SET row = replace(row, '20.0', '90.0') WHERE sequence = 3"],
    "altered last": ["UPDATE logs SET row = replace(row, '\"00\"', '\"11\"') WHERE sequence = 6"],
    "not canonical": ["UPDATE logs SET row = row || ' ' WHERE sequence = 6"],
    "not JSON": ["UPDATE logs SET row = x'00' WHERE sequence = 2"],
    "removed": ["DELETE FROM logs WHERE sequence = 3"],
    "removed and closed up": [
        "DELETE FROM logs WHERE sequence = 3",
        "UPDATE logs SET sequence = sequence - 1 WHERE sequence > 3",
    ],
    "reordered": [
        "UPDATE logs SET sequence = 99 WHERE sequence = 3",
        "UPDATE logs SET sequence = 3 WHERE sequence = 5",
        "UPDATE logs SET sequence = 5 WHERE sequence = 99",
    ],
    "cut off": ["DELETE FROM logs WHERE sequence >= 5"],
    "all gone": ["DELETE FROM logs"],
    "totals": ["UPDATE documents SET document = replace(document, ':30', ':20') WHERE key = 'ledger/data/heart'"],
    "totals gone": ["DELETE FROM documents WHERE key = 'ledger/data/heart'"],
    "reservation": [
        "UPDATE documents SET document = replace(document, 'spent', 'reserved') WHERE key LIKE 'ledger/reservation/%'"
    ],
    "head gone": ["DELETE FROM documents WHERE key = 'ledger/head'"],
    "head unreadable": ["UPDATE documents SET document = 'x' WHERE key = 'ledger/head'"],
}


@pytest.mark.parametrize("statements", TAMPERED.values(), ids=list(TAMPERED))
def test_whatever_is_done_by_hand_is_found(tmp_path, statements):
    filled(tmp_path / "ledger.db")
    by_hand(tmp_path / "ledger.db", *statements)
    with pytest.raises(mn.ProtocolAbort, match="altered"):
        ac.Ledger(open_store(tmp_path / "ledger.db")).verify()


def test_a_ledger_that_was_cut_off_grants_nothing(tmp_path):
    filled(tmp_path / "ledger.db")
    by_hand(tmp_path / "ledger.db", "DELETE FROM logs WHERE sequence >= 5")
    with pytest.raises(mn.ProtocolAbort, match="7 rows, and there are 5"):
        ac.Ledger(open_store(tmp_path / "ledger.db")).reserve("heart", ROUNDS, **KNOWN)


def test_a_ledger_restored_from_a_backup_is_noticed(tmp_path):
    path, counter = tmp_path / "ledger.db", ac.FileCounter(tmp_path / "elsewhere" / "count")
    ledger = opened(open_store(path), counter=counter)
    ledger.reserve("heart", ROUNDS, **KNOWN)
    ledger._store.close()
    shutil.copy(path, tmp_path / "backup.db")
    ledger = ac.Ledger(open_store(path), counter=counter)
    ledger.reserve("heart", ROUNDS, **KNOWN)
    ledger._store.close()
    assert counter.read() == 3
    shutil.copy(tmp_path / "backup.db", path)
    restored = ac.Ledger(open_store(path), counter=counter)
    for attempt in (lambda: restored.reserve("heart", ROUNDS, **KNOWN), lambda: restored.account("heart"), restored.verify):
        with pytest.raises(mn.ProtocolAbort, match="2 rows and had 3"):
            attempt()
    ac.Ledger(open_store(path)).verify()  # which without a counter cannot be told from a sound one


def test_a_counter_only_grows(tmp_path):
    counter = ac.FileCounter(tmp_path / "count")
    assert counter.read() == 0
    counter.advance(5)
    counter.advance(3)
    assert counter.read() == 5
    (tmp_path / "count").write_text("five")
    with pytest.raises(mn.InvalidInput, match="whole number"):
        counter.read()


moves = st.lists(
    st.tuples(st.sampled_from(["reserve", "commit", "finish", "give_back"]), st.integers(0, 5), st.integers(1, 10)), max_size=25
)


@settings(max_examples=30, deadline=None)
@given(moves)
def test_any_course_of_events_stays_within_the_budget_and_verifies(course):
    """Against a plain list of what may have been seen."""
    ledger, reservations, running = opened(), [], {}
    for move, which, count in course:
        try:
            if move == "reserve":
                reservation = ledger.reserve("heart", ac.Repeated(ac.Gaussian(4.0), count), **KNOWN)
                reservations.append(reservation)
                running[reservation.id] = count
                continue
            if which >= len(reservations):
                continue
            reservation = reservations[which]
            if move == "commit":
                ledger.commit(reservation, "00")
            elif move == "finish":
                ledger.finish(reservation, count)
                running[reservation.id] = count
            else:
                ledger.give_back(reservation, "nothing seen")
                running[reservation.id] = 0
        except (mn.BudgetSpent, mn.InvalidInput):
            pass
    account = ledger.account("heart")
    rounds = sum(running.values())
    assert account.spent + account.reserved == pytest.approx(epsilon_of(ac.Repeated(ac.Gaussian(4.0), rounds)))
    assert account.spent + account.reserved <= 4.0
    ledger.verify()
