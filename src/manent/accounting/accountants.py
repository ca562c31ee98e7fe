"""epsilon of what ran: the smallest that any accountant gives which holds for it. It is always an upper bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal, get_args

from manent.accounting import losses
from manent.accounting.curves import best_epsilon, from_gaussian, from_zcdp, renyi
from manent.accounting.mechanisms.composition import composed
from manent.accounting.protocol import (
    Event,
    NeighboringRelation,
    check_event,
    check_relation,
    composed_epsilon,
    counted,
    unsampled_multiplier,
)
from manent.core import validate
from manent.core.canonical import to_plain
from manent.core.errors import Refused

Accountant = Literal["auto", "pld", "rdp", "zcdp", "analytic", "pure"]
Bag = tuple[tuple[Event, int], ...]
Conversion = Callable[[float], float]
"""From delta to epsilon, of one bag."""
INTERVAL = 1e-4
"""The largest interval of a PLD that is not told its own."""
_FINEST, _COARSEST = 1e-10, 1.0
_REVISION = 3  # counted up when an accountant's answers change
_POINTS = 300_000
_FOLLOWED = 100_000  # intervals in the losses of one release, at most, where the interval follows epsilon
_RESOLUTION = 50.0  # intervals in the epsilon of one of the rounds, whose losses add up as random ones do
_PLD_DELTA = 1e-12
_PLD_EPSILON = 1e4
_PLD_SMALLEST = 1e-6
_PLD_WIDTH = 1e3  # of the losses of one release
_PLD_RELEASES = 10**9
_NAMES = {
    "pld": "privacy loss distribution",
    "rdp": "Rényi differential privacy",
    "zcdp": "zero-concentrated differential privacy",
    "analytic": "analytic Gaussian",
    "pure": "sum of pure epsilons",
}


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy under one relation, how it was computed, and what it takes for granted.

    Attributes:
        epsilon: an upper bound. It is infinite where no accountant bounds the event, and where delta cannot pay for the errors
            of samplers and of cohorts that are cut; the assumptions say so then.
        delta: in (0, 1).
        accountant: by name, for people.
        version: of dp-accounting, and of manent's own part.
        assumptions: one sentence each.
    """

    epsilon: float
    delta: float
    neighboring_relation: NeighboringRelation
    accountant: str
    version: str
    assumptions: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {str(name): value for name, value in to_plain(self, skip_own=True).items() if name != "type"}

    def __str__(self) -> str:
        who = f"{self.accountant} [{self.version}]"
        head = f"epsilon {self.epsilon:.4g} at delta {self.delta:g} ({self.neighboring_relation}), by {who}"
        return "\n".join([head, *(f"  - {line}" for line in self.assumptions)])


@dataclass(frozen=True)
class _Asked:
    """What a bag is accounted for.

    Attributes:
        interval: of a PLD; None for one that follows epsilon.
        coarse: how many times coarser than that an interval of its own is; for a first estimate.
    """

    delta: float
    relation: NeighboringRelation
    adaptive: bool = False
    interval: float | None = None
    coarse: float = 1.0


@dataclass(frozen=True)
class _Found:
    """epsilon, by which accountant, and notes on it."""

    epsilon: float
    name: str
    notes: tuple[str, ...] = ()


def epsilon(
    event: Event,
    delta: float,
    neighboring_relation: NeighboringRelation,
    accountant: Accountant = "auto",
    *,
    knows_sample: bool = False,
    adaptive: bool = False,
    interval: float | None = None,
) -> Guarantee:
    """The guarantee that an event gives to one unit.

    | case | epsilon |
    |---|---|
    | nothing ran | 0 |
    | purely private releases, whatever else ran | at most the sum of their epsilons, and the epsilon of the rest |
    | sampled releases | at most that of the same releases to an observer who knows the samples |
    | delta cannot pay for errors of samplers, or for cohorts that are cut | infinite, and the assumptions say so |
    | so little noise that a PLD would not fit into memory | by a coarser interval, or by RDP; the assumptions say so |
    | no accountant bounds the event under the relation | Refused |

    Args:
        delta: in (0, 1), the whole of it: errors of samplers are taken from it. At least 1e-50, as nothing computes below.
        neighboring_relation: what may differ: "add_or_remove" one unit, "replace_one" by any other, "zero_out" one contribution.
        accountant: "auto" takes the smallest of all that hold for the event, and the guarantee says which one that is.
        knows_sample: whether the observer knows who was sampled; then sampling counts for nothing.
        adaptive: whether later events were chosen after earlier results. Then a PLD is not proven to hold, and is not used.
        interval: of the PLD's discretisation, in [1e-10, 1]. None follows epsilon: at most 1e-4, finer where epsilon is small.

    Raises:
        InvalidInput: for a delta, relation, accountant or event that does not exist.
        Refused: for an event that the accountant has no bound for under this relation, and for the central limit approximation.
    """
    check_arguments(delta, neighboring_relation, interval)
    check_event(event)
    bag = counted(event.without_sampling() if knows_sample else event)
    asked = _Asked(float(delta), neighboring_relation, bool(adaptive), None if interval is None else float(interval))
    found = smallest(bag, asked, accountant)
    return Guarantee(
        found.epsilon,
        asked.delta,
        neighboring_relation,
        _NAMES[found.name],
        f"dp-accounting {version('dp-accounting')}, revision {_REVISION}",
        (*_assumptions(event, bag, neighboring_relation, knows_sample, adaptive), *found.notes),
    )


def roughly(event: Event, target: tuple[float, NeighboringRelation, bool], accountant: Accountant, coarse: float) -> float:
    """A quick upper bound on what `epsilon` finds.

    Args:
        target: delta, relation, and whether later events were chosen after earlier results.
        coarse: how many times coarser a PLD is; infinite for none, where anything else holds.
    """
    delta, relation, adaptive = target
    bag = counted(event)
    if coarse == math.inf and accountant in ("auto", "pld"):
        accountant = "rdp"
    return smallest(bag, _Asked(delta, relation, adaptive, coarse=coarse), accountant).epsilon


def check_arguments(delta: float, relation: NeighboringRelation, interval: float | None) -> None:
    """Raises InvalidInput for a delta or an interval out of range, and for an unknown relation; see `epsilon`."""
    check_relation(relation)
    validate.fraction("epsilon", "delta", delta, ", below one over the number of units", zero=False, one=False)
    validate.within("epsilon", "delta", delta, validate.SMALLEST, 1.0)
    if interval is not None:
        validate.positive("epsilon", "interval", interval, ": the step of the PLD's discretisation")
        validate.within("epsilon", "interval", interval, _FINEST, _COARSEST)


def smallest(bag: dict[Event, int], asked: _Asked, wanted: Accountant) -> _Found:
    """The smallest epsilon of a bag by the wanted accountant, or by any for "auto". Raises Refused where there is none."""
    if wanted in ("gdp", "clt", "gdp_clt"):
        raise Refused(
            "The central limit approximation of Gaussian DP is below the truth, so it is not a bound; use 'pld' or 'rdp'."
        )
    validate.one_of("epsilon", "accountant", wanted, get_args(Accountant))
    if wanted == "auto" and unsampled_multiplier(bag, asked.relation) is not None:
        wanted = "analytic"  # exact, so that nothing is smaller
    found = _by(bag, asked, wanted)
    sampled = counted(composed(bag).without_sampling()) != bag
    if sampled and wanted in ("auto", "pld"):
        found = min(found, _without_samples(bag, asked, wanted), key=_epsilon)
    if wanted != "pure":
        found = min(found, _beside_pure(bag, asked, wanted), key=_epsilon)
    return found


def _epsilon(found: _Found) -> float:
    return found.epsilon


_NOTHING = _Found(math.inf, "auto")


def _without_samples(bag: dict[Event, int], asked: _Asked, wanted: Accountant) -> _Found:
    """The bag's epsilon to an observer who knows its samples: knowing more, they bound everybody else."""
    another = any(event.brings_another() for event in bag)
    relation: NeighboringRelation = "replace_one" if another and asked.relation == "add_or_remove" else asked.relation
    known = counted(composed(bag).without_sampling())
    name: Accountant = "analytic" if unsampled_multiplier(known, relation) is not None else wanted
    try:
        found = _by(known, _Asked(asked.delta, relation, asked.adaptive, asked.interval, asked.coarse), name)
    except Refused:
        return _NOTHING
    note = "as if the observer knew who was sampled: sampling gains nothing here"
    return _Found(found.epsilon, found.name, (*found.notes, note))


def _beside_pure(bag: dict[Event, int], asked: _Asked, wanted: Accountant) -> _Found:
    """The sum of the pure epsilons, and the epsilon of the rest: basic composition."""
    private = {event: count for event, count in bag.items() if event.pure_epsilon(asked.relation) is not None}
    whole = composed_epsilon(private, asked.relation)
    rest = {event: count for event, count in bag.items() if event not in private}
    if not private or whole is None:
        return _NOTHING
    if not rest:
        return _Found(whole, "pure", ("the epsilons of purely private releases add up",))
    if wanted == "auto" and unsampled_multiplier(rest, asked.relation) is not None:
        wanted = "analytic"
    found = _by(rest, asked, wanted)
    note = f"purely private releases are counted beside it, at the sum of their epsilons, {whole:.4g}"
    return _Found(whole + found.epsilon, found.name, (*found.notes, note))


def _by(bag: dict[Event, int], asked: _Asked, wanted: Accountant) -> _Found:
    """The bag as a whole, by one accountant, or by the best one for "auto". Raises Refused where none has a bound."""
    if not bag:
        return _Found(0.0, wanted if wanted != "auto" else "analytic")
    if wanted != "auto":
        _check(bag, asked, wanted)
        return _computed(tuple(bag.items()), asked, wanted)
    found, refused = [], None
    names: tuple[Accountant, ...] = ("rdp", "zcdp", "pld")
    for name in names:
        try:
            _check(bag, asked, name)
            found.append(_computed(tuple(bag.items()), asked, name))
        except Refused as error:
            refused = refused or error
    if not found:
        raise refused or Refused("No accountant has a bound for this event.")
    return min(found, key=_epsilon)


def _check(bag: dict[Event, int], asked: _Asked, wanted: Accountant) -> None:
    """Raises Refused where the wanted accountant has no bound for the bag."""
    relation = asked.relation
    if wanted == "pld":
        _check_pld(next((event for event in bag if not event.has_pld(relation)), None), asked)
    if wanted == "zcdp" and any(event.zcdp(relation) is None for event in bag):
        raise Refused("zCDP accounts unsampled releases alone; use 'auto'.")
    if wanted == "analytic" and unsampled_multiplier(bag, relation) is None:
        raise Refused("The analytic Gaussian accounts unsampled Gaussian noise alone; use 'auto'.")
    if wanted == "pure" and composed_epsilon(bag, relation) is None:
        raise Refused("Only purely private releases have a sum of epsilons with delta 0; use 'auto'.")


def _check_pld(unsuited: Event | None, asked: _Asked) -> None:
    """Raises Refused where a PLD bounds nothing; `unsuited` is an event that has none."""
    if asked.adaptive:
        raise Refused("A PLD is proven for events that are fixed in advance; for adaptively chosen ones use 'rdp'.")
    if asked.delta < _PLD_DELTA:
        raise Refused(f"A PLD in double precision says nothing below delta {_PLD_DELTA:g}; use 'rdp'.")
    if unsuited is not None:
        raise Refused(f"There is no PLD for {unsuited.label()} under {asked.relation!r}; use 'auto' or 'rdp'.")


@lru_cache(maxsize=4096)
def _computed(bag: Bag, asked: _Asked, name: str) -> _Found:
    """epsilon by one accountant, and notes. Errors of samplers are paid from delta: (1 + e^epsilon) times their sum."""
    notes: tuple[str, ...] = ()
    delta, relation = asked.delta, asked.relation
    error = math.fsum(count * event.error() for event, count in bag)
    if name == "pld":
        at, notes = _pld(bag, asked)
    elif name == "zcdp":
        at = _zcdp(bag, relation)
    elif name == "analytic":
        at = _analytic(bag, relation)
    elif name == "pure":
        whole = composed_epsilon(dict(bag), relation)
        at = lambda delta: math.inf if whole is None else whole  # noqa: E731
    else:
        at = _rdp(bag, relation)
        error += math.fsum(count * event.renyi_error(relation) for event, count in bag)
    if error == 0:
        return _Found(at(delta), name, notes)
    value = _after_errors(at, delta, error)
    if value == math.inf:
        notes += (f"no finite epsilon: noise or cohorts may differ from their law by {error:g}, too much for delta {delta:g}",)
    return _Found(value, name, notes)


def _after_errors(at: Conversion, delta: float, error: float) -> float:
    """epsilon at what the errors leave of delta. A larger epsilon makes errors cost more, so it may be that none is enough."""
    value = at(delta)
    for _ in range(100):
        rest = delta - (1 + math.exp(min(value, 700.0))) * error
        if rest < validate.SMALLEST:
            break
        paid = at(rest)
        if paid <= value:
            return value
        value = paid * (1 + 1e-9)
    return math.inf


def _zcdp(bag: Bag, relation: NeighboringRelation) -> Conversion:
    rho = math.fsum(count * (event.zcdp(relation) or 0.0) for event, count in bag)
    return lambda delta: from_zcdp(rho, delta) if rho else 0.0


def _analytic(bag: Bag, relation: NeighboringRelation) -> Conversion:
    z = unsampled_multiplier(dict(bag), relation)
    return lambda delta: from_gaussian(z, delta) if z else 0.0


def _rdp(bag: Bag, relation: NeighboringRelation) -> Conversion:
    events = _renyi_events(bag)
    return lambda delta: best_epsilon(lambda orders: renyi(events, relation, orders), delta)


def _pld(bag: Bag, asked: _Asked) -> tuple[Conversion, tuple[str, ...]]:
    """By PLD, pessimistic, with notes. The interval follows epsilon, and grows where the PLD would not fit into memory."""
    about = _rdp(bag, asked.relation)(asked.delta)
    width, releases = max(event.pld_width(asked.relation) for event, _ in bag), sum(count for _, count in bag)
    for beyond, why in (
        (not about < _PLD_EPSILON, f"beyond epsilon {_PLD_EPSILON:g}"),
        (about < _PLD_SMALLEST, f"below epsilon {_PLD_SMALLEST:g}"),
        (width > _PLD_WIDTH, "of so little noise"),
        (releases > _PLD_RELEASES, f"of more than {_PLD_RELEASES:,} releases"),
    ):
        if beyond:
            return (lambda delta: math.inf), (f"no PLD {why}",)
    spread, finest = math.sqrt(releases), min(INTERVAL, width / _FOLLOWED)

    def following(about: float) -> float:
        return max(finest, min(INTERVAL, about / _RESOLUTION / spread)) * asked.coarse

    for _ in range(3):
        wanted = following(about) if asked.interval is None else asked.interval
        step = max(wanted, width / _POINTS, about / _POINTS, _FINEST)
        total = _distribution(bag, asked.relation, step)
        found = float(total.get_epsilon_for_delta(asked.delta))
        if asked.interval is not None or not found < about or following(found) > step / 2:
            break
        about = found  # so much less than Rényi divergences say that a finer interval shows
    note = f"PLD: pessimistic (an upper bound), discretisation interval {step:g}"
    if step > wanted:
        note += f", coarser than {wanted:g} because the noise is small"
    return (lambda delta: float(total.get_epsilon_for_delta(delta))), (note,)


@lru_cache(maxsize=8)
def _distribution(bag: Bag, relation: NeighboringRelation, step: float) -> Any:
    (first, count), *others = bag
    total = first.pld(relation, step, count)
    for event, count in others:
        total = losses.together(total, event.pld(relation, step, count))
    return total


def _renyi_events(bag: Iterable[tuple[Event, int]]) -> dict[Event, int]:
    """How often each event ran whose Rényi curve is taken. Several events may take the curve of one: their counts add up."""
    found: dict[Event, int] = {}
    for event, count in bag:
        taken = event.renyi_event()
        found[taken] = found.get(taken, 0) + count
    return found


_RELATIONS = {
    "add_or_remove": "Neighbours differ by one unit that takes part or does not.",
    "replace_one": "Neighbours differ by one unit that is replaced by any other: a sum changes by up to twice the norm of one.",
    "zero_out": "Neighbours differ by one unit whose contribution is zero: that it takes part is not hidden.",
}


def _assumptions(
    event: Event, bag: dict[Event, int], relation: NeighboringRelation, knows: bool, adaptive: bool
) -> tuple[str, ...]:
    lines = [
        _RELATIONS[relation],
        "Each contribution is bounded, by those who are trusted to, by the norm that the noise is measured against.",
    ]
    for item in bag:
        lines += item.claims(relation)
    if knows and bag != counted(event):
        lines.append("The observer knows who was sampled, so sampling counts for nothing, and who took part is not hidden.")
    if adaptive:
        lines.append("Later events may be chosen after earlier results.")
    return tuple(dict.fromkeys(lines))
