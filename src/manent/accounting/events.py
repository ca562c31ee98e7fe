"""What ran, as one tree of frozen facts. Every epsilon is computed from it, and the ledger keeps it.

A noise multiplier is the standard deviation over the most that one unit's own contribution can be (its clip norm): the
sensitivity of adding or removing it. Replacing a unit by another changes a sum by up to twice that; the accountants allow for it.

The meaning of a name and version never changes: what means something else is another version. Unknown ones are refused.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from manent.core.canonical import canonical
from manent.core.errors import InvalidInput

NeighboringRelation = Literal["add_or_remove", "replace_one", "zero_out"]
_DEEPEST = 32


@dataclass(frozen=True)
class Gaussian:
    """Gaussian noise on a vector of bounded L2 norm, as mathematics; no release of manent's is this one, see RoundedGaussian."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")


@dataclass(frozen=True)
class RoundedGaussian:
    """Integers plus Gaussian noise rounded to integers: post-processing of the Gaussian mechanism, so accounted as it.

    Attributes:
        noise_multiplier: over the L2 norm of the integers.
        sampler_error: bound on the total variation between the noise that was drawn and its law, in one release. It joins delta.
    """

    noise_multiplier: float
    sampler_error: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")
        _number(self, "sampler_error", lambda x: 0 <= x < 1, "in [0, 1)")


@dataclass(frozen=True)
class DiscreteGaussian:
    """Discrete Gaussian noise on integers, added in one place (Canonne, Kamath and Steinke 2020, Theorem 4): 1/(2 z^2)-zCDP."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")


@dataclass(frozen=True)
class DiscreteLaplace:
    """Integers plus noise with P(k) proportional to exp(-|k| / scale).

    Attributes:
        scale: of the noise, in steps of the grid.
        sensitivity: the largest L1 norm of one unit's integers.
    """

    scale: float
    sensitivity: int

    def __post_init__(self) -> None:
        _positive(self, "scale")
        _whole(self, "sensitivity", 1)


@dataclass(frozen=True)
class DistributedDiscreteGaussian:
    """A sum of integers to which each of several parties has added its own discrete Gaussian (Kairouz, Liu and Steinke 2021).

    Attributes:
        local_stddev: sigma of one party's noise, in steps of the grid.
        parties: how many honest parties' noise is certainly in the sum.
        l2_sensitivity: the largest L2 norm of one unit's integers, rounding included (see `rounded_norm`).
        l1_sensitivity: the largest L1 norm of the same.
        dimension: how many integers.
    """

    local_stddev: float
    parties: int
    l2_sensitivity: float
    l1_sensitivity: float
    dimension: int

    def __post_init__(self) -> None:
        _positive(self, "local_stddev", "l2_sensitivity", "l1_sensitivity")
        _whole(self, "parties", 1)
        _whole(self, "dimension", 1)


@dataclass(frozen=True)
class Skellam:
    """A sum of integers with Skellam noise (Agarwal, Kairouz and Liu 2021).

    Attributes:
        variance: of the noise that is certainly in the sum, in squared steps of the grid.
        l2_sensitivity, l1_sensitivity: the largest norms of one unit's integers.
    """

    variance: float
    l2_sensitivity: float
    l1_sensitivity: float

    def __post_init__(self) -> None:
        _positive(self, "variance", "l2_sensitivity", "l1_sensitivity")


@dataclass(frozen=True)
class MatrixFactorisation:
    """All rounds of DP-FTRL: noise correlated between rounds, for cohorts that are not sampled secretly (Denisov et al. 2022).

    Attributes:
        noise_multiplier: over the L2 norm that one unit's participations can reach together, after encoding.
        rounds: how many sums.
        participations: the most that one unit takes part in.
        min_separation: the fewest rounds from one participation to the next.
        sampler_error: as in RoundedGaussian, over all rounds.
    """

    noise_multiplier: float
    rounds: int
    participations: int
    min_separation: int
    sampler_error: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")
        _whole(self, "rounds", 1)
        _whole(self, "participations", 1)
        _whole(self, "min_separation", 1)
        _number(self, "sampler_error", lambda x: 0 <= x < 1, "in [0, 1)")
        if (self.participations - 1) * self.min_separation >= self.rounds:
            raise InvalidInput(
                f"{self.participations} participations at least {self.min_separation} rounds apart do not fit into "
                f"{self.rounds} rounds."
            )


@dataclass(frozen=True)
class ZeroConcentrated:
    """A release that is rho-zCDP when a unit is added, removed or zeroed (Bun and Steinke 2016)."""

    rho: float

    def __post_init__(self) -> None:
        _positive(self, "rho")


@dataclass(frozen=True)
class PureRelease:
    """A release that is epsilon-differentially private under one relation: randomised response, a choice, a test."""

    epsilon: float
    neighboring_relation: NeighboringRelation

    def __post_init__(self) -> None:
        _positive(self, "epsilon")
        check_relation(self.neighboring_relation)


@dataclass(frozen=True)
class Poisson:
    """Each unit takes part independently with this probability; the cohort may be empty or large."""

    probability: float

    def __post_init__(self) -> None:
        _number(self, "probability", lambda x: 0 < x <= 1, "in (0, 1]")


@dataclass(frozen=True)
class TruncatedPoisson:
    """Poisson, and of a cohort larger than `largest` a random part of that size is kept.

    Attributes:
        probability: of each unit.
        largest: size of the largest cohort that is not cut.
        population: how many units there are.
    """

    probability: float
    largest: int
    population: int

    def __post_init__(self) -> None:
        _number(self, "probability", lambda x: 0 < x <= 1, "in (0, 1]")
        _whole(self, "largest", 1)
        _whole(self, "population", 1)


@dataclass(frozen=True)
class FixedSize:
    """`size` of `population` units, drawn without replacement; the population's size is public."""

    size: int
    population: int

    def __post_init__(self) -> None:
        _whole(self, "size", 1)
        _whole(self, "population", 1)
        if self.size > self.population:
            raise InvalidInput(f"FixedSize cannot draw {self.size} of {self.population}; ask for fewer.")


Sampling = Poisson | TruncatedPoisson | FixedSize


@dataclass(frozen=True)
class Sampled:
    """A release on a secret random part of the units. It amplifies only against those who do not know who was drawn."""

    event: Event
    by: Sampling

    def __post_init__(self) -> None:
        _is_event(self.event)
        if not isinstance(self.by, Sampling):
            raise InvalidInput(f"Sampled expects by=Poisson(...), TruncatedPoisson(...) or FixedSize(...); found {self.by!r}.")


@dataclass(frozen=True)
class Repeated:
    """The same event a number of times, each with fresh noise and, where it is sampled, a fresh sample."""

    event: Event
    count: int

    def __post_init__(self) -> None:
        _is_event(self.event)
        _whole(self, "count", 0)


@dataclass(frozen=True)
class Composed:
    """Several events on the same data; with none, nothing ran."""

    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", tuple(self.events))
        for event in self.events:
            _is_event(event)


Leaf = (
    Gaussian
    | RoundedGaussian
    | DiscreteGaussian
    | DiscreteLaplace
    | DistributedDiscreteGaussian
    | Skellam
    | MatrixFactorisation
    | ZeroConcentrated
    | PureRelease
)
Event = Leaf | Sampled | Repeated | Composed

_KINDS: dict[tuple[str, int], type[Any]] = {(kind.__name__, 1): kind for kind in (*get_args(Event), *get_args(Sampling))}


def to_plain(event: Event | Sampling) -> dict[str, Any]:
    """JSON values: the name and version of each event, and its fields. `parse` gives the event back."""
    _known(event)
    values: dict[str, Any] = {"type": type(event).__name__, "version": 1}
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, tuple):
            values[field.name] = [to_plain(item) for item in value]
        elif type(value) in _KINDS.values():
            values[field.name] = to_plain(value)
        else:
            values[field.name] = value
    return values


def text(event: Event) -> str:
    """The canonical JSON text: equal events have equal texts."""
    return canonical(to_plain(event)).decode()


def parse(values: object) -> Event:
    """The event of its plain form or JSON text.

    Raises:
        InvalidInput: for anything that is not exactly a known event: an unknown name or version, a missing or further field,
            a value out of range.
    """
    if isinstance(values, str | bytes):
        try:
            values = json.loads(values)
        except (ValueError, RecursionError):
            raise InvalidInput("Expected an event as JSON text; this is not JSON.") from None
    event = _parse(values, 0)
    _is_event(event)
    return event  # type: ignore[no-any-return]


def _parse(values: object, depth: int) -> Any:
    if depth > _DEEPEST:
        raise InvalidInput(f"Events are nested at most {_DEEPEST} deep; this one is deeper.")
    if not isinstance(values, Mapping):
        raise InvalidInput(f"Expected an event as a JSON object; found {type(values).__name__}.")
    name, version = values.get("type"), values.get("version")
    kind = _KINDS.get((name, version)) if isinstance(name, str) and type(version) is int else None
    if kind is None:
        known = ", ".join(sorted({known for known, _ in _KINDS}))
        raise InvalidInput(f"Unknown event {name!r}, version {version!r}. This manent knows version 1 of: {known}.")
    expected = [field.name for field in fields(kind)]
    if set(values) != {"type", "version", *expected}:
        found = ", ".join(sorted(set(map(str, values)) - {"type", "version"}))
        raise InvalidInput(f"{name} expects exactly the fields {', '.join(expected)}; found {found or 'none'}.")
    arguments: dict[str, Any] = {}
    for field in expected:
        value = values[field]
        if isinstance(value, Mapping):
            value = _parse(value, depth + 1)
        elif isinstance(value, list):
            value = tuple(_parse(item, depth + 1) for item in value)
        arguments[field] = value
    return kind(**arguments)


def counted(event: Event) -> dict[Event, int]:
    """The tree as a bag: how often each leaf or sampled event ran. Equal bags have equal epsilons.

    Composition inside a sampled event stays inside: one sample, several releases.
    """
    bag: dict[Event, int] = {}
    _count(event, 1, bag)
    return dict(sorted(bag.items(), key=lambda item: text(item[0])))


def _count(event: Event, times: int, bag: dict[Event, int]) -> None:
    if isinstance(event, Composed):
        for part in event.events:
            _count(part, times, bag)
    elif isinstance(event, Repeated):
        _count(event.event, times * event.count, bag)
    elif isinstance(event, Sampled) and isinstance(event.by, Poisson) and event.by.probability == 1:
        _count(event.event, times, bag)
    else:
        _known(event)
        if times:
            bag[event] = bag.get(event, 0) + times


def composed(bag: Mapping[Event, int]) -> Event:
    """The event of a bag; the inverse of `counted`."""
    return Composed(tuple(event if count == 1 else Repeated(event, count) for event, count in bag.items()))


def without_sampling(event: Event) -> Event:
    """The event for an observer who knows who was drawn: sampling hides nothing from them."""
    if isinstance(event, Sampled):
        return without_sampling(event.event)
    if isinstance(event, Repeated):
        return Repeated(without_sampling(event.event), event.count)
    if isinstance(event, Composed):
        return Composed(tuple(without_sampling(part) for part in event.events))
    return event


def training(noise_multiplier: float, rounds: int, sampling_probability: float | None = None) -> Event:
    """The common case: so many rounds of a Gaussian release, on Poisson samples or on everyone."""
    release = Gaussian(noise_multiplier)
    return Repeated(release if sampling_probability is None else Sampled(release, Poisson(sampling_probability)), rounds)


def released(event: Event, count: int, by: Sampling | None) -> Event:
    """So many releases of an event. Each is on a fresh sample, where one is drawn (`by`) and is known to amplify the event.

    A MatrixFactorisation is all rounds already, and stays as it is. A sample of fixed size amplifies a RoundedGaussian only.
    """
    if isinstance(event, MatrixFactorisation):
        return event
    amplified = by is not None and (isinstance(event, RoundedGaussian) or not isinstance(by, FixedSize))
    return Repeated(Sampled(event, by) if amplified and by is not None else event, count)


def check_relation(relation: object) -> None:
    """Raises InvalidInput for anything that is not a neighbouring relation."""
    if relation not in get_args(NeighboringRelation):
        known = ", ".join(map(repr, get_args(NeighboringRelation)))
        raise InvalidInput(f"neighboring_relation is one of {known}; found {relation!r}.")


def _known(event: object) -> None:
    if type(event) not in _KINDS.values():
        raise InvalidInput(f"Unknown event {type(event).__name__}: only manent's own events can be accounted.")


def _is_event(event: object) -> None:
    _known(event)
    if not isinstance(event, Event):
        raise InvalidInput(f"Expected an event, found a way of sampling, {event!r}; write Sampled(event, by=...).")
    if _depth(event) >= _DEEPEST:
        raise InvalidInput(f"Events are nested at most {_DEEPEST} deep; compose them side by side.")


def _depth(event: Event) -> int:
    if isinstance(event, Sampled | Repeated):
        return 1 + _depth(event.event)
    return 1 + max(map(_depth, event.events), default=0) if isinstance(event, Composed) else 0


def _positive(event: object, *names: str) -> None:
    for name in names:
        _number(event, name, lambda x: x > 0, "> 0")


def _number(event: object, name: str, fits: Callable[[float], bool], wanted: str) -> None:
    value = getattr(event, name)
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or not fits(number):
        raise InvalidInput(f"{type(event).__name__} expects a finite {name} {wanted}; found {value!r}.")
    object.__setattr__(event, name, number)


def _whole(event: object, name: str, minimum: int) -> None:
    value = getattr(event, name)
    try:
        number = minimum - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = minimum - 1
    if number < minimum:
        raise InvalidInput(f"{type(event).__name__} expects a whole {name} >= {minimum}; found {value!r}.")
    object.__setattr__(event, name, number)
