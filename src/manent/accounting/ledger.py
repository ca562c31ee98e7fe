"""The ledger: what every run has spent on each data set.

| what happens | what the ledger says |
|---|---|
| a run begins | its whole cost is reserved, durably, before data are touched |
| a run crashes | the reservation stays, and counts as spent |
| nothing of a run was seen | the reservation may be returned |
| something was released | all that was reserved is spent; rounds that never ran may go back at the end |
| several runs on one data set | epsilon of all that ran together, by composition; epsilons are not added up |
| rows or totals are altered or removed | `verify` notices |
| the last rows are cut off | it is noticed at once, and nothing more is granted |
| the whole ledger is replaced by an older copy | it is noticed only with a `Counter` outside the ledger |
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from manent.accounting.books import Held, State, Totals, check_composes, step
from manent.accounting.budget import Budget, PrivacyUnit, check_unit
from manent.accounting.counter import Counter
from manent.accounting.events import Event, NeighboringRelation, check_relation, counted, to_plain
from manent.core.errors import BudgetSpent, InvalidInput, ProtocolAbort, Refused
from manent.core.randomness import PrivateRandom
from manent.core.store import Snapshot, Store, Transaction
from manent.storage.chain import Chain

_DATA_SET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}")
_TOTALS, _HELD = "ledger/data/", "ledger/reservation/"
_VERSION = 1
_CHAIN = Chain("ledger", "The ledger", "Restore it from a sound copy; until then it grants nothing.")


@dataclass(frozen=True)
class Reservation:
    """A part of a data set's budget that is set aside, and counts as spent unless it is returned.

    Attributes:
        id: unguessable, unique in the ledger.
        data_set: whose budget it is taken from.
        event: what may now run.
    """

    id: str
    data_set: str
    event: Event


@dataclass(frozen=True)
class Account:
    """How a data set's budget stands. Every epsilon is at the budget's delta.

    Attributes:
        spent: epsilon of the studies that have released something, with all rounds that they may still run.
        reserved: what is added to that by studies that have released nothing, crashed ones included.
        left: the rest of the budget's epsilon.
        runs: reservations that were not returned.
        accountant: that computed it, by name.
    """

    data_set: str
    budget: Budget
    spent: float
    reserved: float
    left: float
    runs: int
    accountant: str


@dataclass(frozen=True)
class Cost:
    """What a planned event would do to a data set's account.

    Attributes:
        before, after: epsilon of all that is spent or reserved, without the event and with it.
        fits: whether the budget allows it.
    """

    data_set: str
    before: float
    after: float
    fits: bool

    @property
    def epsilon(self) -> float:
        """What the event adds."""
        return self.after - self.before


class Ledger:
    """Budgets and spending of data sets, in a Store.

    A data set has a name that its holder gives it once. A new version of the same people's data keeps the name.

    Args:
        store: where rows are kept.
        counter: a number outside the store, by which a ledger that was restored from an old copy is noticed; or None.
        clock: gives the present time; by default that of the system.
    """

    def __init__(self, store: Store, counter: Counter | None = None, clock: Callable[[], datetime] | None = None) -> None:
        self._store = store
        self._counter = counter
        self._clock = clock or (lambda: datetime.now(UTC))

    def open(self, data_set: str, budget: Budget) -> None:
        """Give a data set its budget, once. The same budget again changes nothing.

        Raises:
            InvalidInput: for a name that is not allowed, or a budget that differs from the one the data set has.
        """
        if not isinstance(data_set, str) or not _DATA_SET.fullmatch(data_set):
            raise InvalidInput(f"A data set's name is 1 to 200 letters, digits or . _ : @ -, not {data_set!r}.")
        with self._writing() as transaction:
            known = _totals(transaction, data_set)
            if known is None:
                self._record(transaction, {"kind": "budget", "data_set": data_set, "budget": budget.to_plain()})
            elif known.budget != budget:
                raise InvalidInput(f"Data set {data_set!r} has {known.budget}; a budget is not changed. Found {budget}.")

    def reserve(
        self,
        data_set: str,
        event: Event,
        *,
        privacy_unit: PrivacyUnit,
        neighboring_relation: NeighboringRelation,
        study: str,
        random: PrivateRandom,
        code: str | None = None,
    ) -> Reservation:
        """Set aside what an event costs, before any data are touched. It is on the disk when this returns.

        Args:
            event: all that may run: a study's rounds as one event, so that its parameters are fixed in advance.
            privacy_unit, neighboring_relation: what the event's noise was derived for.
            study: the study's hash.
            random: the source that noise will be drawn from; a predictable one is refused.
            code: version of the code, for the record; by default that of manent.

        Raises:
            BudgetSpent: where the budget does not cover it. Nothing is set aside then.
            Refused: for a unit or relation that is not the budget's, and for a source of randomness that is not secure.
            InvalidInput: for a data set without a budget.
        """
        check_unit(privacy_unit)
        check_relation(neighboring_relation)
        if not random.secure:
            raise Refused(f"No epsilon holds for noise from {type(random).__name__}, so it is not accounted; use SystemRandom.")
        reservation = Reservation(secrets.token_hex(16), data_set, event)
        row = {
            "kind": "reserve",
            "state": "reserved",
            "data_set": data_set,
            "reservation": reservation.id,
            "event": to_plain(event),
            "privacy_unit": privacy_unit,
            "neighboring_relation": neighboring_relation,
            "study": study,
            "code": code or f"manent {version('manent')}",
            "random": type(random).__name__,
        }
        with self._writing() as transaction:
            before = _known(_totals(transaction, data_set), data_set)
            after = self._record(transaction, row)
            found, limit = after.guarantee().epsilon, after.budget.epsilon
            if not found <= limit:
                taken = before.guarantee().epsilon
                asked = f"with this study it would be {found:.4g}" if math.isfinite(found) else "this study has no finite epsilon"
                raise BudgetSpent(
                    f"Data set {data_set!r} has epsilon {limit:g} at delta {after.budget.delta:g}, of which {taken:.4g} is spent "
                    f"or reserved and {max(0.0, limit - taken):.4g} left; {asked}. Add noise, or run fewer rounds."
                )
        return reservation

    def commit(self, reservation: Reservation, release: str, transaction: Transaction | None = None) -> None:
        """Record a release under a reservation. A study may release several times.

        Args:
            release: digest of what was released, or its name.
            transaction: of the ledger's own store, in which the release is made; then either both are recorded, or neither.

        Raises:
            InvalidInput: for a reservation that is unknown or over.
        """
        content = {"kind": "commit", "state": "spent", "release": release}
        if transaction is None:
            self._note(reservation, content)
        else:  # the counter is advanced by the next change; until then it is behind the ledger, which is allowed
            self._check_age(transaction)
            self._record(transaction, {**content, "data_set": reservation.data_set, "reservation": reservation.id})

    def finish(self, reservation: Reservation, rounds: int) -> None:
        """End a study of which only some of the reserved repetitions ran; the rest goes back to the budget.

        Args:
            rounds: how many repetitions ran. A round that was abandoned after its sum was seen has run.

        Raises:
            InvalidInput: for fewer than were released or more than were reserved, for an event without repetitions, and for a
                reservation under which nothing was released, or that is over.
        """
        self._note(reservation, {"kind": "finish", "state": "spent", "used": rounds})

    def give_back(self, reservation: Reservation, reason: str) -> None:
        """Return a whole reservation. Allowed only where nothing was seen: no sum was formed where anyone could look.

        Raises:
            InvalidInput: where something was released under it, or it was returned before.
        """
        self._note(reservation, {"kind": "return", "state": "returned", "reason": reason})

    def find(self, reservation: str) -> tuple[Reservation, State]:
        """A reservation by its id, and its state, for a process that was restarted. Raises InvalidInput for an unknown id."""
        with self._reading() as view:
            held = _held(view, reservation)
        if held is None:
            raise InvalidInput(f"There is no reservation {reservation!r} in this ledger.")
        return Reservation(reservation, held.data_set, held.event), held.state

    def running(self, reservation: Reservation) -> bool:
        """Whether releases may still be made under a reservation: it is known, and neither finished nor returned."""
        with self._reading() as view:
            held = _held(view, reservation.id)
        return held is not None and not held.over

    def history(self, data_set: str) -> Event:
        """Everything that ran or is reserved on a data set, as one event.

        A further study composes with it, and may have been chosen after its results (adaptive=True).

        Raises InvalidInput where the data set has no budget.
        """
        with self._reading() as view:
            return _known(_totals(view, data_set), data_set).everything()

    def cost(self, data_set: str, event: Event, *, privacy_unit: PrivacyUnit, neighboring_relation: NeighboringRelation) -> Cost:
        """What an event would cost now. Nothing is set aside; the arguments are those of `reserve`.

        Raises:
            Refused: for a unit or relation that is not the budget's.
            InvalidInput: for a data set without a budget.
        """
        with self._reading() as view:
            totals = _known(_totals(view, data_set), data_set)
        check_composes(data_set, totals.budget, privacy_unit, neighboring_relation)
        before, after = totals.guarantee().epsilon, totals.with_reserved(counted(event)).guarantee().epsilon
        return Cost(data_set, before, after, after <= totals.budget.epsilon)

    def account(self, data_set: str) -> Account:
        """How a data set's budget stands. Raises InvalidInput where it has none."""
        with self._reading() as view:
            return _account(data_set, _known(_totals(view, data_set), data_set))

    def summary(self) -> tuple[Account, ...]:
        """How the budget of every data set stands, in the order of their names."""
        with self._reading() as view:
            found = {name: _totals(view, name) for name in (key.removeprefix(_TOTALS) for key in view.keys(_TOTALS))}
        return tuple(_account(name, totals) for name, totals in found.items() if totals is not None)

    def verify(self) -> int:
        """Check the whole ledger, row by row, and say how many rows it has.

        Raises:
            ProtocolAbort: where a row was altered, removed, moved or cut off, or the totals do not follow from the rows.
        """
        totals: dict[str, Totals] = {}
        held: dict[str, Held] = {}
        rows = 0
        with self._reading() as view:
            for row in _CHAIN.rows(view):
                try:
                    data_set, reservation = row["data_set"], row.get("reservation", "")
                    totals[data_set], after = step(row, totals.get(data_set), held.get(reservation))
                    if after is not None:
                        held[reservation] = after
                except (InvalidInput, Refused, KeyError, TypeError) as error:
                    raise _CHAIN.altered(f"row {rows} cannot follow those before it ({error})") from None
                rows += 1
            expected = {_TOTALS + name: known.document() for name, known in totals.items()}
            expected |= {_HELD + name: known.document() for name, known in held.items()}
            found = {key: view.get(key) for key in view.keys("ledger/") if key != _CHAIN.head_key}
            wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
            if wrong:
                raise _CHAIN.altered(f"{wrong[0]} does not follow from the rows")
        return rows

    def _note(self, reservation: Reservation, content: dict[str, Any]) -> None:
        with self._writing() as transaction:
            self._record(transaction, {**content, "data_set": reservation.data_set, "reservation": reservation.id})

    def _record(self, transaction: Transaction, row: dict[str, Any]) -> Totals:
        """Write a row and what follows from it. Returns the data set's totals after it."""
        data_set, reservation = row["data_set"], row.get("reservation", "")
        totals, held = step(row, _totals(transaction, data_set), _held(transaction, reservation))
        now = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        _CHAIN.add(transaction, {"version": _VERSION, "time": now, **row})
        transaction.put(_TOTALS + data_set, totals.document())
        if held is not None:
            transaction.put(_HELD + reservation, held.document())
        return totals

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        with self._store.transaction() as transaction:
            self._check_age(transaction)
            yield transaction
            count, _ = _CHAIN.head(transaction)
        # After the commit, so that a crash in between leaves the counter behind the ledger, never ahead of it.
        if self._counter is not None:
            self._counter.advance(count)

    @contextmanager
    def _reading(self) -> Iterator[Snapshot]:
        with self._store.snapshot() as view:
            self._check_age(view)
            yield view

    def _check_age(self, view: Snapshot) -> None:
        # The counter is read before the rows: another process may add rows meanwhile, which leaves it behind, never ahead.
        known = 0 if self._counter is None else self._counter.read()
        count, _ = _CHAIN.head(view)
        if known > count:
            raise ProtocolAbort(
                f"The ledger has {count} rows and had {known}: it was restored from an old copy, without what was spent since. "
                f"Bring back the newest copy."
            )


def _totals(view: Snapshot, data_set: str) -> Totals | None:
    document = view.get(_TOTALS + data_set)
    return None if document is None else Totals.read(document)


def _held(view: Snapshot, reservation: str) -> Held | None:
    document = view.get(_HELD + reservation)
    return None if document is None else Held.read(document)


def _known(totals: Totals | None, data_set: str) -> Totals:
    if totals is None:
        raise InvalidInput(f"Data set {data_set!r} has no budget; open it with one.")
    return totals


def _account(data_set: str, totals: Totals) -> Account:
    everything, spent = totals.guarantee(), totals.guarantee(reserved=False).epsilon
    reserved, left = max(0.0, everything.epsilon - spent), max(0.0, totals.budget.epsilon - everything.epsilon)
    return Account(data_set, totals.budget, spent, reserved, left, totals.runs, everything.accountant)
