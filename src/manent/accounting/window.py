"""What counts in a budget's period: every study that may still release, and those whose last release is not so long ago."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from manent.accounting.bags import Bag, least, of_plain, plain, plus
from manent.accounting.budget import Budget, Period
from manent.accounting.events import Event, counted
from manent.core.errors import Refused


@dataclass(frozen=True)
class Recent:
    """A study that counts.

    Attributes:
        time: of its last row in the ledger, as ISO text in UTC.
        ran: how often each event ran, or may still run.
        cut: what it gave back when it ended early.
        over: whether nothing more may be released.
    """

    time: str
    ran: Bag
    cut: Bag = field(default_factory=dict)
    over: bool = False

    def ended(self, period: Period) -> datetime | None:
        """When it counts no longer; None while it may still release."""
        return datetime.fromisoformat(self.time) + period.length if self.over else None


@dataclass(frozen=True)
class Window:
    """The studies that count, by reservation."""

    recent: Mapping[str, Recent] = field(default_factory=dict)

    def after(self, row: Mapping[str, Any], event: Event, period: Period) -> Window:
        """The window after a row about a reservation of this event."""
        found, kind, time = dict(self.recent), row["kind"], row["time"]
        name, bag = row["reservation"], counted(event)
        if kind == "reserve":
            found = {other: one for other, one in found.items() if not _passed(one, datetime.fromisoformat(time), period)}
            found[name] = Recent(time, bag)
        elif kind == "return":
            del found[name]
        elif kind == "commit":
            found[name] = replace(found[name], time=time)
        else:
            rest = counted(event.unused(row["used"])) if kind == "finish" and row["returned"] else {}
            found[name] = replace(found[name], ran=plus(found[name].ran, rest, -1), cut=rest, over=True)
        return Window(found)

    def epsilon(self, budget: Budget, period: Period, now: datetime) -> float:
        """epsilon of all that counts now; infinite where no accountant bounds it."""
        return _epsilon([one for one in self.recent.values() if not _passed(one, now, period)], budget)

    def fits(self, budget: Budget, period: Period, bag: Bag, now: datetime) -> bool:
        """Whether the period has room for a further study."""
        added = Window({**self.recent, "": Recent("", bag)})
        return added.epsilon(budget, period, now) <= period.epsilon

    def wait(self, budget: Budget, period: Period, bag: Bag, now: datetime) -> str:
        """When a study that does not fit now will, as the end of a sentence."""
        if not Window().fits(budget, period, bag, now):
            return f"It never fits: alone it costs more than the period's epsilon {period.epsilon:g}"
        ends = sorted({end for one in self.recent.values() if (end := one.ended(period)) is not None and end > now})
        for end in ends:
            if self.fits(budget, period, bag, end):
                return f"It fits from {end.isoformat(timespec='seconds')} on, if nothing else is reserved meanwhile"
        return f"It fits {period.days:g} days after studies that may still release are over; see which are"

    def to_plain(self) -> dict[str, Any]:
        """JSON values; nothing for an empty window."""
        rows = {
            name: {"time": one.time, "ran": plain(one.ran), "cut": plain(one.cut), "over": one.over}
            for name, one in self.recent.items()
        }
        return {"window": rows} if rows else {}

    @staticmethod
    def of_plain(values: Mapping[str, Any]) -> Window:
        """The window in the plain form of a data set's totals."""
        rows = values.get("window", {})
        return Window(
            {name: Recent(one["time"], of_plain(one["ran"]), of_plain(one["cut"]), one["over"]) for name, one in rows.items()}
        )


def _passed(one: Recent, now: datetime, period: Period) -> bool:
    end = one.ended(period)
    return end is not None and end <= now


def _epsilon(studies: list[Recent], budget: Budget) -> float:
    ran: Bag = {}
    cut: Bag = {}
    for one in studies:
        ran, cut = plus(ran, one.ran), plus(cut, one.cut)
    try:
        return least(ran, plus(ran, cut), budget, len(studies)).epsilon
    except Refused:
        return math.inf
