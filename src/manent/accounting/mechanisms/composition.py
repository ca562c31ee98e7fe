"""Events that are made of events: the same one several times, and several side by side.

| composed | guarantee |
|---|---|
| events that were fixed in advance | every accountant; a PLD is the tightest |
| events chosen after earlier results | RDP, zCDP and the analytic Gaussian; a PLD is not proven to hold, and not used |
| none, or none times | epsilon 0: nothing ran |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manent.accounting.protocol import Event, check_part, set_count
from manent.core.errors import InvalidInput


@dataclass(frozen=True)
class Repeated(Event):
    """The same event a number of times, each with fresh noise and, where it is sampled, a fresh sample.

    Attributes:
        event: what is repeated.
        count: how often; >= 0.
    """

    event: Event
    count: int

    def __post_init__(self) -> None:
        check_part(self.event)
        set_count(self, "count", minimum=0)

    def parts(self) -> tuple[tuple[Event, int], ...]:
        """The event, so many times."""
        return ((self.event, self.count),)

    def nesting(self) -> int:
        """See `Event`."""
        return 1 + self.event.nesting()

    def without_sampling(self) -> Event:
        """See `Event`."""
        return Repeated(self.event.without_sampling(), self.count)

    @property
    def repetitions(self) -> int:
        """Its count: what did not run can be given back."""
        return self.count

    @property
    def releases(self) -> int:
        """See `Event`."""
        return max(1, self.count * self.event.releases)

    def per_release(self, releases: int) -> int:
        """An equal part for each release: one round, or the steps of private training."""
        return self.count // releases

    def unused(self, used: int) -> Event:
        """The rest of the repetitions. Raises InvalidInput where more were used than there are."""
        return Repeated(self.event, self.count - used)

    def to_dp_event(self) -> Any:
        """See `Event`."""
        import dp_accounting as dp

        return dp.SelfComposedDpEvent(self.event.to_dp_event(), self.count)


@dataclass(frozen=True)
class Composed(Event):
    """Several events on the same data; with none, nothing ran.

    Attributes:
        events: in any order.
    """

    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        try:
            events = tuple(self.events)
        except TypeError:
            raise InvalidInput(f"Composed expects events=(event, ...); found {self.events!r}.") from None
        object.__setattr__(self, "events", events)
        for event in events:
            check_part(event)

    def parts(self) -> tuple[tuple[Event, int], ...]:
        """Each event, once."""
        return tuple((event, 1) for event in self.events)

    @property
    def releases(self) -> int:
        """See `Event`."""
        return max(1, sum(event.releases for event in self.events))

    def nesting(self) -> int:
        """See `Event`."""
        return 1 + max((event.nesting() for event in self.events), default=0)

    def without_sampling(self) -> Event:
        """See `Event`."""
        return Composed(tuple(event.without_sampling() for event in self.events))

    def to_dp_event(self) -> Any:
        """See `Event`."""
        import dp_accounting as dp

        return dp.ComposedDpEvent([event.to_dp_event() for event in self.events]) if self.events else dp.NoOpDpEvent()


def composed(bag: Mapping[Event, int]) -> Event:
    """The event of a bag; the inverse of `counted`."""
    return Composed(tuple(event if count == 1 else Repeated(event, count) for event, count in bag.items()))
