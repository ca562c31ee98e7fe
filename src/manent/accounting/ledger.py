"""The ledger: what every run has spent on each data set.

| what happens | what the ledger says |
|---|---|
| a run begins | its whole cost is reserved, durably, before data are touched |
| a run crashes | the reservation stays, and counts as spent |
| nothing of a run was seen | the reservation may be returned |
| something was released | all that was reserved is spent; rounds that never ran may go back, which never raises what is spent |
| more is released than was reserved | it is refused before anybody is told |
| a sum is released again, as by a copied run folder | the same noised total costs nothing; another one is refused |
| several runs on one data set | epsilon of all that ran together, by composition; epsilons are not added up |
| rows or totals are altered or removed | `verify` notices |
| the last rows are cut off | it is noticed at once, and nothing more is granted |
| the whole ledger is replaced by an older copy | it is noticed only with a `Counter` outside the ledger |

The epsilon of a budget holds for all studies on its data together. What the ledger calls spent is how far they have come, by the
smallest bound that holds (see `bags`). Any number of processes may share a ledger: what a transaction of its store has read is
still true when it decides.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from manent.accounting.bags import Bag
from manent.accounting.books import VERSION, Held, State, Totals, check_composes, step, unused
from manent.accounting.budget import Budget, Period, PrivacyUnit, check_period, check_unit
from manent.accounting.counter import Counter
from manent.accounting.events import Event, NeighboringRelation, check_relation, counted, to_plain
from manent.accounting.window import Window
from manent.core import validate
from manent.core.errors import BudgetSpent, InvalidInput, ProtocolAbort, Refused
from manent.core.randomness import PrivateRandom
from manent.core.store import Snapshot, Store, Transaction
from manent.storage.chain import Chain

_DATA_SET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}")
_ID = re.compile(r"[0-9a-f]{32}")
_TOTALS, _HELD, _TOLD = "ledger/data/", "ledger/reservation/", "ledger/release/"
_CHAIN = Chain("ledger", "The ledger", "Restore it from a sound copy; until then it grants nothing.")


@dataclass(frozen=True)
class Reservation:
    """A part of a data set's budget that is set aside, and counts as spent unless it is returned.

    Attributes:
        id: unique in the ledger, 32 hexadecimal digits.
        data_set: whose budget it is taken from.
        event: what may now run.
    """

    id: str
    data_set: str
    event: Event

    @staticmethod
    def new_id() -> str:
        """An id that nobody else has."""
        return secrets.token_hex(16)


@dataclass(frozen=True)
class Running:
    """A reservation under which something may still be released: its study runs, or was interrupted.

    Attributes:
        releases: how many were made.
        most: how many it allows; None for one of an older ledger, which does not say.
        study: the study's hash, or "" where that is not known.
        since: when it was made, as ISO text in UTC, or "" where that is not known.
    """

    reservation: Reservation
    state: State
    releases: int
    most: int | None
    study: str
    since: str


@dataclass(frozen=True)
class Account:
    """How a data set's budget stands. Every epsilon is at the budget's delta.

    Attributes:
        spent: epsilon of the studies that have released something, with all rounds that they may still run.
        reserved: what is added to that by studies that have released nothing, crashed ones included.
        left: the rest of the budget's epsilon.
        runs: reservations that were not returned.
        accountant: that computed it, by name.
        period: the most in any so many days, or None.
        lately: epsilon of what counts in the period now; 0 without one.
    """

    data_set: str
    budget: Budget
    spent: float
    reserved: float
    left: float
    runs: int
    accountant: str
    period: Period | None = None
    lately: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What a planned event would do to a data set's account.

    Attributes:
        before, after: epsilon of all that is spent or reserved, without the event and with it.
        fits: whether the budget allows it.
        wait: where only the budget's period is in the way, when it will fit, as a sentence; else "".
        later: whether it will fit at some time, if nothing else is reserved.
    """

    data_set: str
    before: float
    after: float
    fits: bool
    wait: str = ""
    later: bool = False

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

    def open(self, data_set: str, budget: Budget, period: Period | None = None) -> None:
        """Give a data set its budget, once. The same budget again changes nothing.

        Args:
            period: also caps what is spent in any so many days, within the budget.

        Raises:
            InvalidInput: for a name that is not allowed, or a budget or period that differs from the one the data set has.
        """
        check_period(period, budget)
        if not isinstance(data_set, str) or not _DATA_SET.fullmatch(data_set):
            raise InvalidInput(f"A data set's name is 1 to 200 letters, digits or . _ : @ -, not {data_set!r}.")
        with self._writing() as transaction:
            known = _totals(transaction, data_set)
            if known is None:
                rate = {} if period is None else {"period": period.to_plain()}
                self._record(transaction, {"kind": "budget", "data_set": data_set, "budget": budget.to_plain(), **rate})
            elif (known.budget, known.period) != (budget, period):
                raise InvalidInput(
                    f"Data set {data_set!r} has {known.budget} and {known.period or 'no period'}; a budget is not changed. "
                    f"Found {budget} and {period or 'no period'}."
                )

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
        releases: int | None = None,
        id: str | None = None,
    ) -> Reservation:
        """Set aside what an event costs, before any data are touched. It is on the disk when this returns.

        Args:
            event: all that may run: a study's rounds as one event, so that its parameters are fixed in advance.
            privacy_unit, neighboring_relation: what the event's noise was derived for.
            study: the study's hash.
            random: the source that noise will be drawn from; a predictable one is refused.
            code: version of the code, for the record; by default that of manent.
            releases: how many may be made under it; None takes as many as the event says.
            id: that the caller has noted before, so that no kill can part it from its reservation; None takes a new one. The
                same reservation again, under the same id, is returned and costs nothing.

        Raises:
            BudgetSpent: where the budget does not cover it, or not within its period. Nothing is set aside then.
            Refused: for a unit or relation that is not the budget's, and for a source of randomness that is not secure.
            InvalidInput: for a data set without a budget, and for an id that is no id, or that of another reservation or of one
                that is over.
        """
        check_unit(privacy_unit)
        check_relation(neighboring_relation)
        _check_asked(random, id)
        most = _most(event, releases)
        reservation = Reservation(id or Reservation.new_id(), data_set, event)
        row = {
            "kind": "reserve",
            "state": "reserved",
            "data_set": data_set,
            "reservation": reservation.id,
            "event": to_plain(event),
            "privacy_unit": privacy_unit,
            "neighboring_relation": neighboring_relation,
            "study": study,
            "releases": most,
            "code": code or f"manent {version('manent')}",
            "random": type(random).__name__,
        }
        with self._writing() as transaction:
            before, held = _known(_totals(transaction, data_set), data_set), _held(transaction, reservation.id)
            if held is not None and (held.data_set, held.event, held.study, held.most) == (data_set, event, study, most):
                if held.over:
                    raise InvalidInput(f"Reservation {reservation.id!r} is over; take another id.")
                return reservation
            after = self._record(transaction, row)
            _check_covers(data_set, before, after)
            _check_period(data_set, before, after, counted(event), self._now(transaction))
        return reservation

    def commit(
        self,
        reservation: Reservation,
        release: str,
        transaction: Transaction | None = None,
        *,
        sum: tuple[int, int] | None = None,
    ) -> None:
        """Record a release under a reservation, before anybody is told of it. A study may release several times.

        Args:
            release: digest of what is released, noise included, or its name.
            transaction: of the ledger's own store, in which the release is made; then either both are recorded, or neither.
            sum: its round and its number in it. The same digest for the same sum again changes nothing, so a process that was
                killed in between may go on; None for a release that comes once.

        Raises:
            Refused: for another digest than was recorded for the sum.
            BudgetSpent: for one release more than was reserved.
            InvalidInput: for a reservation that is unknown or over.
        """
        content: dict[str, Any] = {"kind": "commit", "state": "spent", "release": release, "data_set": reservation.data_set}
        if sum is not None:
            content |= {"round": sum[0], "sum": sum[1]}
        if transaction is None:
            with self._writing() as own:
                self._commit(own, {**content, "reservation": reservation.id})
        else:  # the counter is advanced by the next change; until then it is behind the ledger, which is allowed
            self._check_age(transaction)
            self._commit(transaction, {**content, "reservation": reservation.id})

    def _commit(self, transaction: Transaction, row: dict[str, Any]) -> None:
        place = _place(row)
        told = None if place is None else transaction.get(place)
        if told is not None and told.decode() != row["release"]:
            raise Refused(
                f"Sum {row['sum']} of round {row['round']} was released under reservation {row['reservation']!r} already, with "
                f"other noise (noted {told.decode()[:16]}, now {row['release'][:16]}): both would tell more than was paid for. "
                f"A copy of the run's folder was resumed, or two processes run it. Go on in the folder that released it, or "
                f"begin a new run, which pays for itself."
            )
        if told is None:
            self._record(transaction, row)

    def finish(self, reservation: Reservation, rounds: int) -> None:
        """End a study of which only some of the reserved repetitions ran; the rest goes back to the budget.

        It goes back where the budget covers everything by an accountant that allows for a study that was stopped because of its
        results; else the study stays spent whole, see `bags`. What is spent is never more afterwards.

        Args:
            rounds: how many repetitions ran. A round that was abandoned after its sum was seen has run.

        Raises:
            InvalidInput: for fewer than were released or more than were reserved, for an event without repetitions, and for a
                reservation under which nothing was released, or that is over.
        """
        with self._writing() as transaction:
            held = _held(transaction, reservation.id)
            if held is not None and held.state == "spent" and not held.over:
                rest = unused(held, rounds)
                back = bool(rest) and _known(_totals(transaction, held.data_set), held.data_set).filtered
            else:
                back = False
            row = {"kind": "finish", "state": "spent", "used": rounds, "returned": back}
            self._record(transaction, {**row, "data_set": reservation.data_set, "reservation": reservation.id})

    def close(self, reservation: Reservation) -> None:
        """End a study that stays spent whole.

        Raises InvalidInput for a reservation under which nothing was released, or that is over.
        """
        row = {"kind": "close", "state": "spent"}
        with self._writing() as transaction:
            self._record(transaction, {**row, "data_set": reservation.data_set, "reservation": reservation.id})

    def give_back(self, reservation: Reservation, reason: str) -> None:
        """Return a whole reservation. Allowed only where nothing was seen: no sum was formed where anyone could look.

        Raises:
            InvalidInput: where something was released under it, or it was returned before.
        """
        row = {"kind": "return", "state": "returned", "reason": reason}
        with self._writing() as transaction:
            self._record(transaction, {**row, "data_set": reservation.data_set, "reservation": reservation.id})

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

    def unsettled(self) -> tuple[Running, ...]:
        """Every reservation under which something may still be released, oldest first."""
        with self._reading() as view:
            found = [(key.removeprefix(_HELD), Held.read(document)) for key, document in view.items(_HELD)]
        rows = [
            Running(Reservation(id, held.data_set, held.event), held.state, held.releases, held.most, held.study, held.since)
            for id, held in found
            if not held.over
        ]
        return tuple(sorted(rows, key=lambda one: (one.since, one.reservation.id)))

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
            totals, now = _known(_totals(view, data_set), data_set), self._now(view)
        check_composes(data_set, totals.budget, privacy_unit, neighboring_relation)
        budget, bag = totals.budget, counted(event)
        before, after = totals.guarantee().epsilon, totals.with_reserved(bag).guarantee().epsilon
        rate = totals.period
        if after <= budget.epsilon and rate is not None and not totals.window.fits(budget, rate, bag, now):
            wait = totals.window.wait(budget, rate, bag, now) + "."
            return Cost(data_set, before, after, False, wait, Window().fits(budget, rate, bag, now))
        return Cost(data_set, before, after, after <= budget.epsilon)

    def account(self, data_set: str) -> Account:
        """How a data set's budget stands. Raises InvalidInput where it has none."""
        with self._reading() as view:
            return _account(data_set, _known(_totals(view, data_set), data_set), self._now(view))

    def summary(self) -> tuple[Account, ...]:
        """How the budget of every data set stands, in the order of their names."""
        with self._reading() as view:
            found = {name: _totals(view, name) for name in (key.removeprefix(_TOTALS) for key in view.keys(_TOTALS))}
            now = self._now(view)
        return tuple(_account(name, totals, now) for name, totals in found.items() if totals is not None)

    def verify(self) -> int:
        """Check the whole ledger, row by row, and say how many rows it has.

        Raises:
            ProtocolAbort: where a row was altered, removed, moved or cut off, or the totals do not follow from the rows.
        """
        with self._reading() as view:
            rows = 0
            books = Books()
            for row in _CHAIN.rows(view):
                try:
                    books.take(row)
                except (InvalidInput, Refused, BudgetSpent, KeyError, TypeError) as error:
                    raise _CHAIN.altered(f"row {rows} cannot follow those before it ({error})") from None
                rows += 1
            expected = books.documents()
            found = {key: view.get(key) for key in view.keys("ledger/") if key != _CHAIN.head_key}
            wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
            if wrong:
                raise _CHAIN.altered(f"{wrong[0]} does not follow from the rows")
        return rows

    def _record(self, transaction: Transaction, row: dict[str, Any]) -> Totals:
        """Write a row and what follows from it. Returns the data set's totals after it."""
        data_set, reservation = row["data_set"], row.get("reservation", "")
        row = {"version": VERSION, "time": _text(self._now(transaction)), **row}
        totals, held = step(row, _totals(transaction, data_set), _held(transaction, reservation))
        _CHAIN.add(transaction, row)
        transaction.put(_TOTALS + data_set, totals.document())
        if held is not None:
            transaction.put(_HELD + reservation, held.document())
        place = _place(row)
        if place is not None:
            transaction.put(place, row["release"].encode())
        return totals

    def _now(self, view: Snapshot) -> datetime:
        """The time, or that of the last row where the clock was set back: no period ends sooner for that."""
        last = [json.loads(row)["time"] for row in view.rows(_CHAIN.log, max(0, view.count(_CHAIN.log) - 1))]
        return max([self._clock().astimezone(UTC), *(datetime.fromisoformat(time) for time in last)])

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


class Books:
    """What the rows of a ledger so far add up to: its documents, as they must stand."""

    def __init__(self) -> None:
        self.totals: dict[str, Totals] = {}
        self._held: dict[str, Held] = {}
        self._told: dict[str, bytes] = {}
        self._versions: dict[str, int] = {}

    def take(self, row: Mapping[str, Any]) -> None:
        """Take in a row. Raises InvalidInput, Refused or BudgetSpent for one that cannot follow."""
        data_set, reservation, place = row["data_set"], row.get("reservation", ""), _place(row)
        self.totals[data_set], after = step(row, self.totals.get(data_set), self._held.get(reservation))
        self._versions[data_set] = row["version"]
        if after is not None:
            self._held[reservation] = after
        if place is not None:
            if place in self._told:
                raise InvalidInput(f"Sum {row['sum']} of round {row['round']} was released before.")
            self._told[place] = row["release"].encode()

    def documents(self) -> dict[str, bytes]:
        """The documents by key, but the head."""
        totals = {_TOTALS + name: known.document(self._versions[name]) for name, known in self.totals.items()}
        return {**totals, **{_HELD + name: known.document() for name, known in self._held.items()}, **self._told}


def _totals(view: Snapshot, data_set: str) -> Totals | None:
    document = view.get(_TOTALS + data_set)
    found = None if document is None else Totals.read(document)
    if document is None or found is not None:
        return found
    books = Books()  # of an older ledger, whose totals do not say what was given back
    for row in view.rows(_CHAIN.log):
        books.take(json.loads(row))
    return books.totals[data_set]


def _place(row: Mapping[str, Any]) -> str | None:
    """The key of the digest of a released sum; None for a row that is about none."""
    if row["kind"] != "commit" or "sum" not in row:
        return None
    return f"{_TOLD}{row['reservation']}/{row['round']:09d}/{row['sum']:09d}"


def _text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


def _most(event: Event, releases: int | None) -> int:
    """How many releases a reservation allows: as many as the event has, or as are asked for. Raises InvalidInput for more."""
    if releases is None:
        return event.releases
    validate.count("reserve", "releases", releases)
    if releases > event.releases:
        raise InvalidInput(
            f"reserve expects at most {event.releases:,} releases, as many as the event has; found {releases:,}. Reserve an "
            f"event with more, or fewer releases."
        )
    return releases


def _check_asked(random: PrivateRandom, id: object) -> None:
    """Raises Refused for a source that is not secure, and InvalidInput for anything but the id of a reservation, or None."""
    if not random.secure:
        raise Refused(f"No epsilon holds for noise from {type(random).__name__}, so it is not accounted; use SystemRandom.")
    if id is not None and not (isinstance(id, str) and _ID.fullmatch(id)):
        raise InvalidInput(f"The id of a reservation is 32 hexadecimal digits in lower case, not {id!r}.")


def _check_covers(data_set: str, before: Totals, after: Totals) -> None:
    """Raises BudgetSpent where the budget does not cover what is reserved now."""
    found, limit = after.guarantee().epsilon, after.budget.epsilon
    if found <= limit:
        return
    taken = before.guarantee().epsilon
    asked = f"with this study it would be {found:.4g}" if math.isfinite(found) else "this study has no finite epsilon"
    raise BudgetSpent(
        f"Data set {data_set!r} has epsilon {limit:g} at delta {after.budget.delta:g}, of which {taken:.4g} is spent "
        f"or reserved and {max(0.0, limit - taken):.4g} left; {asked}. Add noise, or run fewer rounds."
    )


def _check_period(data_set: str, before: Totals, after: Totals, bag: Bag, now: datetime) -> None:
    """Raises BudgetSpent where the budget's period has no room for what is reserved now."""
    budget, period = after.budget, after.period
    if period is None or before.window.fits(budget, period, bag, now):
        return
    taken = before.window.epsilon(budget, period, now)
    raise BudgetSpent(
        f"Data set {data_set!r} has epsilon {period.epsilon:g} for any {period.days:g} days, of which {taken:.4g} is spent or "
        f"reserved in the last ones. {before.window.wait(budget, period, bag, now)}. Wait, add noise, or run fewer rounds."
    )


def _held(view: Snapshot, reservation: str) -> Held | None:
    document = view.get(_HELD + reservation)
    return None if document is None else Held.read(document)


def _known(totals: Totals | None, data_set: str) -> Totals:
    if totals is None:
        raise InvalidInput(f"Data set {data_set!r} has no budget; open it with one.")
    return totals


def _account(data_set: str, totals: Totals, now: datetime) -> Account:
    everything, spent = totals.guarantee(), totals.guarantee(reserved=False).epsilon
    reserved, left = max(0.0, everything.epsilon - spent), max(0.0, totals.budget.epsilon - everything.epsilon)
    lately = 0.0 if totals.period is None else totals.window.epsilon(totals.budget, totals.period, now)
    of = (totals.runs, everything.accountant, totals.period, lately)
    return Account(data_set, totals.budget, spent, reserved, left, *of)
