"""The members of every event and of every way of sampling, with their defaults.

An event is a frozen dataclass that says what ran: one release, or a combination of events. A mechanism is one file in
`mechanisms/`: its event overrides the members below that it has an answer for, and everything else in accounting asks these.

Events are stored in ledgers. The meaning of a name and version never changes: an event that means something else gets another
version, and unknown ones are refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, Refused

NeighboringRelation = Literal["add_or_remove", "replace_one", "zero_out"]
Curve = NDArray[np.float64]
DEEPEST = 32
VERSION = 1
_KINDS: dict[tuple[str, int], type[Any]] = {}

CHANGE: Mapping[NeighboringRelation, int] = {"add_or_remove": 1, "zero_out": 1, "replace_one": 2}
"""How far a sum of bounded contributions moves between neighbours, in units of that bound."""


class Event:
    """What ran. All epsilons are computed from these members.

    A relation is always a neighbouring relation; an order is a Rényi order, > 1; an interval is a PLD's discretisation step.
    """

    prefers_zcdp: ClassVar[bool] = False
    """Whether "auto" accounts it by zCDP, or by RDP beside events that are not zCDP, rather than by PLD."""
    spans_rounds: ClassVar[bool] = False
    """Whether one event covers all rounds of a study, so that it is neither sampled nor repeated."""

    @property
    def gaussian_multiplier(self) -> float | None:
        """The noise multiplier, where the release costs what one Gaussian release costs and may be sampled; else None."""
        return None

    def parts(self) -> tuple[tuple[Event, int], ...] | None:
        """The events that it is made of, each with how often it ran; None for an event that is accounted as one."""
        return None

    def nesting(self) -> int:
        """How many levels of events are inside it."""
        return 0

    def without_sampling(self) -> Event:
        """The same for an observer who knows who was sampled."""
        return self

    @property
    def repetitions(self) -> int | None:
        """How many equal parts it has of which some may be given back unused; None where it is spent as a whole."""
        return None

    @property
    def releases(self) -> int:
        """How many sums it is about: no more may be released under a reservation of it."""
        return 1

    def per_release(self, releases: int) -> int:
        """How many of its repetitions one release uses, in a study of so many releases; 0 where it is spent as a whole."""
        return 0

    def unused(self, used: int) -> Event:
        """What is left after so many of its repetitions. Raises InvalidInput where it is spent as a whole."""
        raise InvalidInput(f"{type(self).__name__} is spent as a whole: no part of it is left. Only Repeated has parts.")

    def zcdp(self, relation: NeighboringRelation) -> float | None:
        """rho, where it is rho-zCDP; None where it is not accounted that way."""
        return None

    def renyi(self, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """Rényi divergence at each order, float64[orders]; infinite where nothing bounds it. By default that of its zCDP.

        Raises Refused where the relation has no bound.
        """
        return (self.zcdp(relation) or math.inf) * np.asarray(orders, np.float64)

    def renyi_event(self) -> Event:
        """The event whose Rényi curve is taken for this one, at the price of `renyi_error`."""
        return self

    def renyi_error(self) -> float:
        """Total variation between this event and `renyi_event`. It joins delta where RDP is used."""
        return 0.0

    def has_pld(self, relation: NeighboringRelation) -> bool:
        """Whether `pld` gives an answer under this relation."""
        return False

    def pld(self, relation: NeighboringRelation, interval: float, count: int) -> Any:
        """The privacy loss distribution (a `dp_accounting` one) of so many of it. Raises Refused where `has_pld` is false."""
        raise Refused(f"There is no PLD for {self.label()}.")

    def pld_width(self, relation: NeighboringRelation) -> float:
        """Roughly the range of the privacy loss of one; 0 where it is small. A wide range gets a coarser interval."""
        return 0.0

    def has_sampled_pld(self, relation: NeighboringRelation) -> bool:
        """Whether `sampled_pld` gives an answer under this relation."""
        return False

    def sampled_pld(self, probability: float, interval: float) -> Any:
        """The PLD of one, on a Poisson sample. Raises Refused where `has_sampled_pld` is false."""
        raise Refused(f"There is no PLD for Poisson sampling of {self.label()}.")

    def error(self) -> float:
        """Bound on the total variation between what ran and what is accounted, from sampler and rounding. It joins delta."""
        return 0.0

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """What it takes for granted beyond its own numbers, one sentence each."""
        return ()

    def label(self) -> str:
        """Its name in messages."""
        return type(self).__name__

    def to_dp_event(self) -> Any:
        """The `dp_accounting.DpEvent` of it, for other tools and for comparison.

        Multipliers are against adding or removing a unit, as dp-accounting's PLD accountant has them. Its RDP accountant
        measures a Gaussian against the sensitivity of the relation: halve the multiplier there for "replace_one".

        Raises Refused for an event that dp-accounting has no word for.
        """
        raise Refused(f"dp-accounting has no event for {type(self).__name__}; use manent.accounting.epsilon.")


class Sampling:
    """How the units of one release are drawn. Sampling amplifies privacy only against those who do not know who was drawn."""

    brings_another: ClassVar[bool] = False
    """Whether a unit that is not drawn makes room for another, so that a sum moves by twice the bound under every relation."""

    @property
    def everyone(self) -> bool:
        """Whether it draws every unit for certain, so that it is no sampling."""
        return False

    def amplifies(self, event: Event) -> bool:
        """Whether there is a bound for this event, sampled so."""
        return True

    def renyi(self, event: Event, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """Rényi divergence of the sampled event at each order, float64[orders]. Raises Refused where nothing bounds it."""
        raise Refused(f"There is no Rényi curve for {type(self).__name__} sampling.")

    def uncut(self) -> Sampling:
        """The sampling whose Rényi curve is taken for this one, at the price of `overflow`."""
        return self

    def overflow(self) -> float:
        """Probability that this sampling draws otherwise than `uncut`."""
        return 0.0

    def has_pld(self, event: Event, relation: NeighboringRelation) -> bool:
        """Whether `pld` gives an answer."""
        return False

    def pld(self, event: Event, relation: NeighboringRelation, interval: float) -> Any:
        """The PLD of the event, sampled once. Raises Refused where `has_pld` is false."""
        raise Refused(f"There is no PLD for {type(self).__name__} sampling of {event.label()}.")

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """What it takes for granted, one sentence each."""
        return ()

    def to_dp_event(self, event: Event) -> Any:
        """The `dp_accounting.DpEvent` of the event, sampled so. Raises Refused where dp-accounting has none."""
        raise Refused(f"dp-accounting has no event for {type(self).__name__}; use manent.accounting.epsilon.")


def register(*kinds: type[Event | Sampling]) -> None:
    """Make events and samplings known under their class names. Only known ones are accounted, stored and read.

    Raises InvalidInput for a name that is taken: what a stored name means never changes.
    """
    for kind in kinds:
        known = _KINDS.setdefault((kind.__name__, VERSION), kind)
        if known is not kind:
            raise InvalidInput(f"There is an event {kind.__name__!r} already, in {known.__module__}. Give this one another name.")


def kind_of(name: object, version: object) -> type[Any]:
    """The class of a stored name and version. Raises InvalidInput for an unknown one."""
    kind = _KINDS.get((name, version)) if isinstance(name, str) and type(version) is int else None
    if kind is None:
        known = ", ".join(sorted({known for known, _ in _KINDS}))
        raise InvalidInput(f"Unknown event {name!r}, version {version!r}. This manent knows version {VERSION} of: {known}.")
    return kind


def check_known(event: object) -> None:
    """Raises InvalidInput for anything but a registered event or sampling."""
    if type(event) not in _KINDS.values():
        raise InvalidInput(f"Unknown event {type(event).__name__}: only manent's own events can be accounted.")


def check_event(event: object) -> None:
    """Raises InvalidInput for anything but a registered event."""
    check_known(event)
    if not isinstance(event, Event):
        raise InvalidInput(f"Expected an event, found a way of sampling, {event!r}; write Sampled(event, by=...).")


def check_part(event: object) -> None:
    """Raises InvalidInput for what cannot be a part of another event: no event, or one that is nested too deep."""
    check_event(event)
    if isinstance(event, Event) and event.nesting() >= DEEPEST:
        raise InvalidInput(f"Events are nested at most {DEEPEST} deep; compose them side by side.")


def check_relation(relation: object, owner: str = "Accounting") -> None:
    """Raises InvalidInput, naming the owner, for anything that is not a neighbouring relation."""
    validate.one_of(owner, "neighboring_relation", relation, get_args(NeighboringRelation))


def to_plain(event: Event | Sampling) -> dict[str, Any]:
    """JSON values: the name and version of each event, and its fields. `events.parse` gives the event back."""
    check_known(event)
    values: dict[str, Any] = {"type": type(event).__name__, "version": VERSION}
    for field in fields(event):  # type: ignore[arg-type]  # every registered kind is a dataclass
        value = getattr(event, field.name)
        if isinstance(value, tuple):
            values[field.name] = [to_plain(item) for item in value]
        else:
            values[field.name] = to_plain(value) if isinstance(value, Event | Sampling) else value
    return values


def text(event: Event) -> str:
    """The canonical JSON text: equal events have equal texts."""
    return canonical(to_plain(event)).decode()


def counted(event: Event) -> dict[Event, int]:
    """The event as a bag: how often each single release ran, sorted by text. Equal bags have equal epsilons.

    A sampled event is one entry, however many releases are made from its sample.

    Raises InvalidInput for what is no event.
    """
    bag: dict[Event, int] = {}
    _count(event, 1, bag)
    return dict(sorted(bag.items(), key=lambda item: text(item[0])))


def _count(event: Event, times: int, bag: dict[Event, int]) -> None:
    check_event(event)
    parts = event.parts()
    if parts is not None:
        for part, count in parts:
            _count(part, times * count, bag)
    elif times:
        bag[event] = bag.get(event, 0) + times


def single(event: Event) -> Event | None:
    """The one release that the event consists of; None where it is none or several."""
    bag = list(counted(event).items())
    return bag[0][0] if len(bag) == 1 and bag[0][1] == 1 else None


def joint_multiplier(event: Event) -> float | None:
    """The multiplier of the one Gaussian release that costs as much as all of these; None unless all are Gaussian.

    Several Gaussian releases of the same data are one release of the scaled vectors side by side: 1 / multiplier^2 adds up.
    """
    terms = []
    for leaf, count in counted(event).items():
        z = leaf.gaussian_multiplier
        if z is None:
            return None
        terms.append(count / z**2)
    return 1 / math.sqrt(math.fsum(terms)) if terms else None


def set_number(event: object, name: str) -> None:
    """Store a field as a float. What is no number stays as it is, for the checks that follow."""
    value = getattr(event, name)
    if isinstance(value, bool | np.bool_ | str | bytes | np.ndarray):
        return
    with suppress(TypeError, ValueError, OverflowError):
        object.__setattr__(event, name, float(value))


def set_positive(event: object, *names: str) -> None:
    """Store these fields as floats. Raises InvalidInput unless each is a finite number > 0."""
    for name in names:
        set_number(event, name)
        validate.positive(type(event).__name__, name, getattr(event, name))


def set_fraction(event: object, name: str, *, zero: bool = True, one: bool = True) -> None:
    """Store a field as a float. Raises InvalidInput unless it is between 0 and 1; `zero`, `one`: whether the end is allowed."""
    set_number(event, name)
    validate.fraction(type(event).__name__, name, getattr(event, name), zero=zero, one=one)


def set_count(event: object, *names: str, minimum: int = 1) -> None:
    """Store these fields as whole numbers. Raises InvalidInput unless each is one of at least `minimum`."""
    for name in names:
        value = getattr(event, name)
        if not isinstance(value, bool | np.bool_):
            with suppress(TypeError):
                object.__setattr__(event, name, operator.index(value))
        validate.count(type(event).__name__, name, getattr(event, name), minimum=minimum)
