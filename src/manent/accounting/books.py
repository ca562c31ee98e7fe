"""What the rows of a ledger add up to. One function, `step`, takes every row: when it is written, and when all are verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from manent.accounting.accountants import Guarantee, epsilon
from manent.accounting.budget import Budget
from manent.accounting.events import Event, composed, counted, parse, text, to_plain
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, Refused

State = Literal["reserved", "spent", "returned"]
Bag = Mapping[Event, int]


@dataclass(frozen=True)
class Totals:
    """All that ran, or may still run, on one data set.

    Attributes:
        reserved: how often each event may run, of studies that have released nothing.
        spent: how often each event ran, or may still run, of studies that have released something.
        runs: reservations that were not returned.
        cut: whether a study ended early and gave back the rest.
    """

    budget: Budget
    reserved: Bag = field(default_factory=dict)
    spent: Bag = field(default_factory=dict)
    runs: int = 0
    cut: bool = False

    def guarantee(self, reserved: bool = True) -> Guarantee:
        """The guarantee of everything; without `reserved`, of the studies that have released something.

        With two studies, the later may have been chosen after results of the earlier. A study that ended early may have been
        stopped because of its results. In both cases only accountants that hold for adaptive choices are used.
        """
        event = self.everything() if reserved else composed(self.spent)
        budget, adaptive = self.budget, self.runs > 1 or self.cut
        return epsilon(event, budget.delta, budget.neighboring_relation, adaptive=adaptive)

    def everything(self) -> Event:
        """All that is spent or reserved, as one event."""
        return composed(_plus(self.spent, self.reserved))

    def with_reserved(self, bag: Bag) -> Totals:
        """The totals after a further reservation."""
        return replace(self, reserved=_plus(self.reserved, bag), runs=self.runs + 1)

    def document(self) -> bytes:
        """The totals as canonical bytes; `read` gives them back."""
        bags = {name: {text(event): count for event, count in bag.items()} for name, bag in self._bags()}
        return canonical({"budget": self.budget.to_plain(), "runs": self.runs, "cut": self.cut, **bags})

    def _bags(self) -> tuple[tuple[str, Bag], ...]:
        return (("reserved", self.reserved), ("spent", self.spent))

    @staticmethod
    def read(document: bytes) -> Totals:
        """The totals of a `document`."""
        values = json.loads(document)
        bags = {name: {_parsed(event): count for event, count in values[name].items()} for name in ("reserved", "spent")}
        return Totals(Budget(**values["budget"]), bags["reserved"], bags["spent"], values["runs"], values["cut"])


@dataclass(frozen=True)
class Held:
    """One reservation.

    Attributes:
        event: all that may run under it.
        releases: how many were made under it.
        over: whether it was finished or returned, so that nothing more may be released.
    """

    data_set: str
    event: Event
    state: State
    releases: int = 0
    over: bool = False

    def document(self) -> bytes:
        """The reservation as canonical bytes; `read` gives it back."""
        return canonical(
            {
                "data_set": self.data_set,
                "event": to_plain(self.event),
                "state": self.state,
                "releases": self.releases,
                "over": self.over,
            }
        )

    @staticmethod
    def read(document: bytes) -> Held:
        """The reservation of a `document`."""
        values = json.loads(document)
        return Held(values["data_set"], parse(values["event"]), values["state"], values["releases"], values["over"])


@lru_cache(maxsize=4096)
def _parsed(event: str) -> Event:
    return parse(event)


def _plus(a: Bag, b: Bag, sign: int = 1) -> dict[Event, int]:
    total = dict(a)
    for event, count in b.items():
        total[event] = total.get(event, 0) + sign * count
        if total[event] < 0:
            raise InvalidInput(f"More of {text(event)} would be returned than was reserved.")
        if total[event] == 0:
            del total[event]
    return total


def step(row: Mapping[str, Any], totals: Totals | None, held: Held | None) -> tuple[Totals, Held | None]:
    """What the totals of the row's data set, and the row's reservation, are after it.

    Raises:
        InvalidInput: for a row that cannot follow the rows before it.
        Refused: for a reservation of another unit or relation than the budget's.
    """
    kind, data_set = row["kind"], row["data_set"]
    if kind == "budget":
        if totals is not None:
            raise InvalidInput(f"Data set {data_set!r} has a budget already; a budget is not changed.")
        return Totals(Budget(**row["budget"])), None
    if totals is None:
        raise InvalidInput(f"Data set {data_set!r} has no budget; open it with one.")
    if kind == "reserve":
        return _reserve(row, totals, held)
    if held is None or held.data_set != data_set:
        raise InvalidInput(f"There is no reservation {row['reservation']!r} on data set {data_set!r}.")
    return {"commit": _commit, "finish": _finish, "return": _give_back}[kind](row, totals, held)


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
    return totals.with_reserved(counted(event)), Held(row["data_set"], event, "reserved")


def _commit(row: Mapping[str, Any], totals: Totals, held: Held) -> tuple[Totals, Held]:
    if held.over:
        raise InvalidInput(f"Reservation {row['reservation']!r} is over; reserve again before another release.")
    if held.state == "reserved":
        bag = counted(held.event)
        totals = replace(totals, reserved=_plus(totals.reserved, bag, -1), spent=_plus(totals.spent, bag))
    return totals, replace(held, state="spent", releases=held.releases + 1)


def _finish(row: Mapping[str, Any], totals: Totals, held: Held) -> tuple[Totals, Held]:
    used, event = row["used"], held.event
    if held.state != "spent" or held.over:
        raise InvalidInput(f"Reservation {row['reservation']!r} is not running: nothing was released, or it is over.")
    most = 1 if event.repetitions is None else event.repetitions
    if event.repetitions is None or type(used) is not int or not max(1, held.releases) <= used <= most:
        raise InvalidInput(f"Of {most} reserved rounds, at least the {held.releases} released ones ran; found {used!r}.")
    rest = counted(event.unused(used))
    return replace(totals, spent=_plus(totals.spent, rest, -1), cut=totals.cut or bool(rest)), replace(held, over=True)


def _give_back(row: Mapping[str, Any], totals: Totals, held: Held) -> tuple[Totals, Held]:
    if held.state != "reserved":
        raise InvalidInput(f"Reservation {row['reservation']!r} is {held.state}; only one of which nothing was seen goes back.")
    reserved = _plus(totals.reserved, counted(held.event), -1)
    return replace(totals, reserved=reserved, runs=totals.runs - 1), replace(held, state="returned", over=True)
