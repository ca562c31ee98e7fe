"""What the rows of a ledger add up to. One function, `step`, takes every row: when it is written, and when all are verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from manent.accounting.accountants import Guarantee
from manent.accounting.bags import Bag, bounded, least, of_plain, plain, plus
from manent.accounting.budget import Budget, Period
from manent.accounting.events import Event, composed, counted, parse, to_plain
from manent.accounting.window import Window
from manent.core.canonical import canonical
from manent.core.errors import BudgetSpent, InvalidInput, Refused

State = Literal["reserved", "spent", "returned"]
VERSION = 2
"""Of rows. Those of version 1 bound no releases, give back whatever did not run, and know of no period."""


@dataclass(frozen=True)
class Totals:
    """All that ran, or may still run, on one data set.

    Attributes:
        reserved: how often each event may run, of studies that have released nothing.
        spent: how often each event ran, or may still run, of studies that have released something.
        runs: reservations that were not returned.
        cut: what studies that ended early gave back.
        period: the most that may be spent in any so many days; None for no such cap.
        window: what counts in the period; empty without one.
    """

    budget: Budget
    reserved: Bag = field(default_factory=dict)
    spent: Bag = field(default_factory=dict)
    runs: int = 0
    cut: Bag = field(default_factory=dict)
    period: Period | None = None
    window: Window = field(default_factory=Window)

    def guarantee(self, reserved: bool = True) -> Guarantee:
        """The guarantee of everything; without `reserved`, of the studies that have released something.

        See `bags.least`. Raises Refused where no accountant bounds what ran.
        """
        ran = plus(self.spent, self.reserved) if reserved else self.spent
        return least(ran, plus(ran, self.cut), self.budget, self.runs)

    @property
    def filtered(self) -> bool:
        """Whether the budget covers everything by an accountant that holds for adaptive choices."""
        return bounded(self.everything(), self.budget) <= self.budget.epsilon

    def everything(self) -> Event:
        """All that is spent or reserved, as one event."""
        return composed(plus(self.spent, self.reserved))

    def with_reserved(self, bag: Bag) -> Totals:
        """The totals after a further reservation."""
        return replace(self, reserved=plus(self.reserved, bag), runs=self.runs + 1)

    def document(self, version: int = VERSION) -> bytes:
        """The totals as canonical bytes, as rows of that version leave them; `read` gives them back."""
        bags = {"reserved": plain(self.reserved), "spent": plain(self.spent)}
        values = {"budget": self.budget.to_plain(), "runs": self.runs, **bags}
        if version == 1:
            return canonical({**values, "cut": bool(self.cut)})
        rate = {} if self.period is None else {"period": self.period.to_plain(), **self.window.to_plain()}
        return canonical({**values, "cut": plain(self.cut), **rate})

    @staticmethod
    def read(document: bytes) -> Totals | None:
        """The totals of a `document`; None for one of version 1 that does not say what was given back."""
        values = json.loads(document)
        if values["cut"] is True:
            return None
        bags = {name: of_plain(values[name] or {}) for name in ("reserved", "spent", "cut")}
        budget, rate = Budget(**values["budget"]), (_period(values), Window.of_plain(values))
        return Totals(budget, bags["reserved"], bags["spent"], values["runs"], bags["cut"], *rate)


@dataclass(frozen=True)
class Held:
    """One reservation.

    Attributes:
        event: all that may run under it.
        releases: how many were made under it.
        over: whether it was finished or returned, so that nothing more may be released.
        most: how many releases it allows; None for one of version 1, which does not say.
        study: the study's hash; "" for one of version 1.
        since: when it was made; "" for one of version 1.
    """

    data_set: str
    event: Event
    state: State
    releases: int = 0
    over: bool = False
    most: int | None = None
    study: str = ""
    since: str = ""

    def document(self) -> bytes:
        """The reservation as canonical bytes; `read` gives it back."""
        values = {
            "data_set": self.data_set,
            "event": to_plain(self.event),
            "state": self.state,
            "releases": self.releases,
            "over": self.over,
        }
        more = {} if self.most is None else {"most": self.most, "study": self.study, "since": self.since}
        return canonical({**values, **more})

    @staticmethod
    def read(document: bytes) -> Held:
        """The reservation of a `document`."""
        values = json.loads(document)
        return Held(**{**values, "event": parse(values["event"])})


def step(row: Mapping[str, Any], totals: Totals | None, held: Held | None) -> tuple[Totals, Held | None]:
    """What the totals of the row's data set, and the row's reservation, are after it.

    Raises:
        InvalidInput: for a row that cannot follow the rows before it.
        Refused: for a reservation of another unit or relation than the budget's.
        BudgetSpent: for one release more than was reserved.
    """
    kind, data_set = row["kind"], row["data_set"]
    if kind == "budget":
        if totals is not None:
            raise InvalidInput(f"Data set {data_set!r} has a budget already; a budget is not changed.")
        return Totals(Budget(**row["budget"]), period=_period(row)), None
    if totals is None:
        raise InvalidInput(f"Data set {data_set!r} has no budget; open it with one.")
    if kind != "reserve" and (held is None or held.data_set != data_set):
        raise InvalidInput(f"There is no reservation {row['reservation']!r} on data set {data_set!r}.")
    after, now = _KINDS[kind](row, totals, held)
    if after.period is not None:
        after = replace(after, window=after.window.after(row, now.event, after.period))
    return after, now


def _period(values: Mapping[str, Any]) -> Period | None:
    return Period(**values["period"]) if "period" in values else None


def check_composes(data_set: str, budget: Budget, unit: str, relation: str) -> None:
    """Raises Refused for a study whose privacy unit or relation is not that of the data set's budget."""
    if (unit, relation) != (budget.privacy_unit, budget.neighboring_relation):
        raise Refused(
            f"Data set {data_set!r} is accounted for unit {budget.privacy_unit!r} under {budget.neighboring_relation!r}; "
            f"{unit!r} under {relation!r} does not compose with it."
        )


def _reserve(row: Mapping[str, Any], totals: Totals, held: Held | None) -> tuple[Totals, Held]:
    check_composes(row["data_set"], totals.budget, row["privacy_unit"], row["neighboring_relation"])
    if held is not None:
        raise InvalidInput(f"There is a reservation {row['reservation']!r} already.")
    event = parse(row["event"])
    made = Held(row["data_set"], event, "reserved")
    if row["version"] > 1:
        made = replace(made, most=row["releases"], study=row["study"], since=row["time"])
    return totals.with_reserved(counted(event)), made


def _commit(row: Mapping[str, Any], totals: Totals, held: Held) -> tuple[Totals, Held]:
    if held.over:
        raise InvalidInput(f"Reservation {row['reservation']!r} is over; reserve again before another release.")
    if held.most is not None and held.releases >= held.most:
        raise BudgetSpent(
            f"Reservation {row['reservation']!r} is for {held.most} release{'s' * (held.most > 1)}, and that many were made. "
            f"Nothing more may be released under it; reserve again before another release."
        )
    if held.state == "reserved":
        bag = counted(held.event)
        totals = replace(totals, reserved=plus(totals.reserved, bag, -1), spent=plus(totals.spent, bag))
    return totals, replace(held, state="spent", releases=held.releases + 1)


def _finish(row: Mapping[str, Any], totals: Totals, held: Held) -> tuple[Totals, Held]:
    _, over = _close(row, totals, held)
    rest = unused(held, row["used"])
    if row["version"] > 1 and not row["returned"]:
        return totals, over
    return replace(totals, spent=plus(totals.spent, rest, -1), cut=plus(totals.cut, rest)), over


def _close(row: Mapping[str, Any], totals: Totals, held: Held) -> tuple[Totals, Held]:
    if held.state != "spent" or held.over:
        raise InvalidInput(f"Reservation {row['reservation']!r} is not running: nothing was released, or it is over.")
    return totals, replace(held, over=True)


def unused(held: Held, used: object) -> Bag:
    """What is left of a reservation after so many repetitions. Raises InvalidInput for a number that cannot have run."""
    event = held.event
    most = 1 if event.repetitions is None else event.repetitions
    each = 1 if held.most is None else max(1, event.per_release(held.most))
    ran = max(1, held.releases * each)
    if event.repetitions is None or type(used) is not int or not ran <= used <= most:
        raise InvalidInput(f"Of {most} reserved rounds, at least the {ran} released ones ran; found {used!r}.")
    return counted(event.unused(used))


def _give_back(row: Mapping[str, Any], totals: Totals, held: Held) -> tuple[Totals, Held]:
    if held.state != "reserved":
        raise InvalidInput(f"Reservation {row['reservation']!r} is {held.state}; only one of which nothing was seen goes back.")
    reserved = plus(totals.reserved, counted(held.event), -1)
    return replace(totals, reserved=reserved, runs=totals.runs - 1), replace(held, state="returned", over=True)


_KINDS: Mapping[str, Any] = {"reserve": _reserve, "commit": _commit, "finish": _finish, "close": _close, "return": _give_back}
