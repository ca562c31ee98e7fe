"""The members of every event and of every way of sampling, with their defaults.

An event is a frozen dataclass that says what ran: one release, or a combination of events. A mechanism is one file in
`mechanisms/`: its event overrides the members below that it has an answer for, and everything else in accounting asks these.

Events are stored in ledgers. The meaning of a name and version never changes: an event that means something else gets another
version, and unknown ones are refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, Refused

NeighboringRelation = Literal["add_or_remove", "replace_one", "zero_out"]
Curve = NDArray[np.float64]
DEEPEST = 32
VERSIONS = (1, 2)
MOST = 2**53
"""The largest count: every whole number up to it is a float64."""
_KINDS: dict[tuple[str, int], type[Any]] = {}

CHANGE: Mapping[NeighboringRelation, int] = {"add_or_remove": 1, "zero_out": 1, "replace_one": 2}
"""How far a sum of bounded contributions moves between neighbours, in units of that bound, at most."""
REPLACED = "replaced"
"""The field, from version 2 of an event on, that says how far a replacement moves its sum. In version 1 it is twice the norm."""


class Event:
    """What ran. All epsilons are computed from these members.

    A relation is always a neighbouring relation; an order is a Rényi order, > 1; an interval is a PLD's discretisation step.
    """

    spans_rounds: ClassVar[bool] = False
    """Whether one event covers all rounds of a study, so that it is neither sampled nor repeated."""

    @property
    def gaussian_multiplier(self) -> float | None:
        """The noise multiplier, where the release costs what one Gaussian release costs and may be sampled; else None."""
        return None

    @property
    def unsampled_multiplier(self) -> float | None:
        """The noise multiplier, where the release costs what one Gaussian release costs, as long as it is not sampled."""
        return self.gaussian_multiplier

    def change(self, relation: NeighboringRelation) -> float:
        """How far what the noise hides moves between neighbours, in units of the norm of one unit: at most 2 for a replacement.

        An event with a field `replaced` says it itself.
        """
        return float(getattr(self, REPLACED)) if relation == "replace_one" and has_ratio(type(self)) else CHANGE[relation]

    def pure_epsilon(self, relation: NeighboringRelation) -> float | None:
        """epsilon of one, with delta 0, where it is purely private; else None."""
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

    def brings_another(self) -> bool:
        """Whether a unit that leaves a sample makes room for another: then removing one moves a sum as a replacement does."""
        return False

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

    def renyi_error(self, relation: NeighboringRelation) -> float:
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

    def loosened(self, error: float) -> Event | None:
        """The same, off its law by so much more in total variation; None for an event that has no word for that."""
        return self if error == 0 else None

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

    same_number: ClassVar[bool] = False
    """Whether always the same number of units is drawn."""

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

    def known_to_member(self) -> tuple[Sampling | None, float]:
        """How the others are drawn, for a unit that knows whether it was drawn itself; None where that is no secret from it.

        Beside it, a bound on the total variation of each sample from that, to be paid from delta.
        """
        return None, 0.0

    def uncut(self) -> Sampling:
        """The sampling whose Rényi curve is taken for this one, at the price of `overflow`."""
        return self

    def overflow(self, relation: NeighboringRelation) -> float:
        """Probability that this sampling draws otherwise than `uncut`, with the larger of two neighbours."""
        return 0.0

    def pure_epsilon(self, epsilon: float, relation: NeighboringRelation) -> float | None:
        """epsilon of a purely private release of this epsilon, sampled so; None where that is not known."""
        return None

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
        for version in VERSIONS if has_ratio(kind) else VERSIONS[:1]:
            known = _KINDS.setdefault((kind.__name__, version), kind)
            if known is not kind:
                raise InvalidInput(
                    f"There is an event {kind.__name__!r} already, in {known.__module__}. Give this one another name."
                )


def has_ratio(kind: type[Any]) -> bool:
    """Whether events of this class say how far a replacement moves them; see `REPLACED`."""
    return any(field.name == REPLACED for field in fields(kind)) if is_dataclass(kind) else False


def version_of(event: Event | Sampling) -> int:
    """The version that an event is stored under: the first one that has all that it says."""
    return 2 if has_ratio(type(event)) and getattr(event, REPLACED) != CHANGE["replace_one"] else 1


def stored_fields(kind: type[Any], version: int) -> list[str]:
    """The names of the fields that an event of this class has in this version."""
    return [field.name for field in fields(kind) if version > 1 or field.name != REPLACED]


def kind_of(name: object, version: object) -> type[Any]:
    """The class of a stored name and version. Raises InvalidInput for an unknown one."""
    kind = _KINDS.get((name, version)) if isinstance(name, str) and type(version) is int else None
    if kind is None:
        known = ", ".join(sorted({known for known, _ in _KINDS}))
        raise InvalidInput(
            f"Unknown event {name!r}, version {version!r}. This manent knows version 1 of: {known}; of some, version 2."
        )
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
    version = version_of(event)
    values: dict[str, Any] = {"type": type(event).__name__, "version": version}
    for name in stored_fields(type(event), version):
        value = getattr(event, name)
        if isinstance(value, tuple):
            values[name] = [to_plain(item) for item in value]
        else:
            values[name] = to_plain(value) if isinstance(value, Event | Sampling) else value
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
        if bag[event] > MOST:
            raise InvalidInput(f"{event.label()} would run more than 2^53 times; nothing accounts that. Declare fewer rounds.")


def single(event: Event) -> Event | None:
    """The one release that the event consists of; None where it is none or several."""
    bag = list(counted(event).items())
    return bag[0][0] if len(bag) == 1 and bag[0][1] == 1 else None


def joint_multiplier(event: Event) -> float | None:
    """The multiplier of the one Gaussian release that costs as much as all of these; None unless all are Gaussian.

    Several Gaussian releases of the same data are one release of the scaled vectors side by side: 1 / multiplier^2 adds up.
    """
    return _joint((leaf.gaussian_multiplier, 1.0, count) for leaf, count in counted(event).items())


def sampled_multiplier(event: Event, least: float = 0.0) -> float | None:
    """`joint_multiplier`, against how far one unit in the place of another moves the releases; at least `least` of the norm."""
    bag = counted(event).items()
    return _joint((leaf.gaussian_multiplier, max(least, leaf.change("replace_one")), count) for leaf, count in bag)


def unsampled_multiplier(bag: Mapping[Event, int], relation: NeighboringRelation) -> float | None:
    """`joint_multiplier` of releases that are not sampled, against how far neighbours move them."""
    return _joint((leaf.unsampled_multiplier, leaf.change(relation), count) for leaf, count in bag.items())


def _joint(parts: Iterable[tuple[float | None, float, int]]) -> float | None:
    """From multipliers, how far each release moves, and how often each is made."""
    terms = []
    for z, change, count in parts:
        if z is None:
            return None
        terms.append(count * (change / z) ** 2)
    return 1 / math.sqrt(math.fsum(terms)) if terms else None


def composed_epsilon(bag: Mapping[Event, int], relation: NeighboringRelation) -> float | None:
    """The epsilon of purely private events together, with delta 0: their sum. None unless all are; 0 of none.

    It is the smaller of the sums of the numbers as they are and as they are written: three times 0.1 is 0.3.
    """
    exact, written = Fraction(0), Fraction(0)
    for event, count in bag.items():
        each = event.pure_epsilon(relation)
        if each is None:
            return None
        exact, written = exact + count * Fraction(each), written + count * Fraction(repr(each))
    return float(min(exact, written))


def set_number(event: object, name: str) -> None:
    """Store a field as a float. What is no number stays as it is, for the checks that follow."""
    value = getattr(event, name)
    if isinstance(value, bool | np.bool_ | str | bytes | np.ndarray):
        return
    with suppress(TypeError, ValueError, OverflowError):
        object.__setattr__(event, name, float(value))


def set_positive(event: object, *names: str) -> None:
    """Store these fields as floats. Raises InvalidInput unless each is a number that `validate.sized` takes."""
    for name in names:
        set_number(event, name)
        validate.sized(type(event).__name__, name, getattr(event, name))


def set_ratio(event: object) -> None:
    """Store the field `replaced` as a float. Raises InvalidInput unless it is in (0, 2]."""
    set_positive(event, REPLACED)
    if getattr(event, REPLACED) > CHANGE["replace_one"]:
        raise InvalidInput(
            f"{type(event).__name__} expects 0 < replaced <= 2, as the ends of two vectors are at most two norms apart; found "
            f"{getattr(event, REPLACED)!r}."
        )


def set_fraction(event: object, name: str, *, zero: bool = True, one: bool = True) -> None:
    """Store a field as a float. Raises InvalidInput unless it is between 0 and 1; `zero`, `one`: whether the end is allowed.

    Where 0 is not allowed, neither is what is below `validate.SMALLEST`.
    """
    set_number(event, name)
    validate.fraction(type(event).__name__, name, getattr(event, name), zero=zero, one=one)
    if not zero:
        validate.within(type(event).__name__, name, getattr(event, name), validate.SMALLEST, 1.0)


def set_count(event: object, *names: str, minimum: int = 1) -> None:
    """Store these fields as whole numbers. Raises InvalidInput unless each is one of at least `minimum`, and at most `MOST`."""
    for name in names:
        value = getattr(event, name)
        if not isinstance(value, bool | np.bool_):
            with suppress(TypeError):
                object.__setattr__(event, name, operator.index(value))
        validate.count(type(event).__name__, name, getattr(event, name), minimum=minimum)
        validate.within(type(event).__name__, name, getattr(event, name), minimum, MOST)
