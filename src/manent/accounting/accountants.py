"""epsilon of what ran: by privacy loss distributions where they reach, else by Rényi divergences. It is always an upper bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal, get_args

from manent.accounting.curves import FEW_ORDERS, from_gaussian, from_renyi, from_zcdp, renyi
from manent.accounting.mechanisms.composition import composed
from manent.accounting.protocol import (
    CHANGE,
    Event,
    NeighboringRelation,
    check_event,
    check_relation,
    counted,
    joint_multiplier,
)
from manent.core import validate
from manent.core.canonical import to_plain
from manent.core.errors import Refused

Accountant = Literal["auto", "pld", "rdp", "zcdp", "analytic"]
Bag = tuple[tuple[Event, int], ...]
Conversion = Callable[[float], float]
"""From delta to epsilon, of one bag."""
INTERVAL = 1e-4
_REVISION = 2  # counted up when an accountant's answers change
_POINTS = 300_000
_PLD_DELTA = 1e-12
_PLD_EPSILON = 1e4
_NAMES = {
    "pld": "privacy loss distribution",
    "rdp": "Rényi differential privacy",
    "zcdp": "zero-concentrated differential privacy",
    "analytic": "analytic Gaussian",
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


def epsilon(
    event: Event,
    delta: float,
    neighboring_relation: NeighboringRelation,
    accountant: Accountant = "auto",
    *,
    knows_sample: bool = False,
    adaptive: bool = False,
    interval: float = INTERVAL,
) -> Guarantee:
    """The guarantee that an event gives to one unit.

    | case | epsilon |
    |---|---|
    | nothing ran | 0 |
    | delta cannot pay for errors of samplers, or for cohorts that are cut | infinite, and the assumptions say so |
    | so little noise that a PLD would not fit into memory | by a coarser interval, or by RDP; the assumptions say so |
    | no accountant bounds the event under the relation | Refused |

    Args:
        delta: in (0, 1), the whole of it: errors of samplers are taken from it.
        neighboring_relation: what may differ: "add_or_remove" one unit, "replace_one" by any other, "zero_out" one contribution.
        accountant: "auto" takes the analytic Gaussian for Gaussian noise alone, zCDP for matrix factorisation, RDP for
            distributed noise and fixed-size samples, and PLD for the rest.
        knows_sample: whether the observer knows who was sampled; then sampling counts for nothing.
        adaptive: whether later events were chosen after earlier results. Then a PLD is not proven to hold, and is not used.
        interval: of the PLD's discretisation; > 0.

    Raises:
        InvalidInput: for a delta, relation, accountant or event that does not exist.
        Refused: for an event that the accountant has no bound for under this relation, and for the central limit approximation.
    """
    check_arguments(delta, neighboring_relation, interval)
    check_event(event)
    bag = counted(event.without_sampling() if knows_sample else event)
    name = _choose(bag, delta, neighboring_relation, accountant, adaptive)
    value, notes = _computed(tuple(bag.items()), float(delta), neighboring_relation, name, float(interval))
    if name == "pld" and accountant == "auto" and value == math.inf:
        name = "rdp"
        value, notes = _computed(tuple(bag.items()), float(delta), neighboring_relation, name, float(interval))
    return Guarantee(
        value,
        float(delta),
        neighboring_relation,
        _NAMES[name],
        f"dp-accounting {version('dp-accounting')}, revision {_REVISION}",
        (*_assumptions(event, bag, neighboring_relation, knows_sample, adaptive), *notes),
    )


def check_arguments(delta: float, relation: NeighboringRelation, interval: float) -> None:
    """Raises InvalidInput for a delta or an interval out of range, and for an unknown relation; see `epsilon`."""
    check_relation(relation)
    validate.fraction("epsilon", "delta", delta, ", below one over the number of units", zero=False, one=False)
    validate.positive("epsilon", "interval", interval, ": the step of the PLD's discretisation")


def _choose(bag: dict[Event, int], delta: float, relation: NeighboringRelation, wanted: str, adaptive: bool) -> str:
    """The accountant of a bag. Raises Refused where the wanted one has no bound for it."""
    if wanted in ("gdp", "clt", "gdp_clt"):
        raise Refused(
            "The central limit approximation of Gaussian DP is below the truth, so it is not a bound; use 'pld' or 'rdp'."
        )
    validate.one_of("epsilon", "accountant", wanted, get_args(Accountant))
    gaussian = joint_multiplier(composed(bag)) is not None
    zcdp = all(event.zcdp(relation) is not None for event in bag)
    unsuited = next((event for event in bag if not event.has_pld(relation)), None)
    if wanted == "auto":
        return _best(bag, gaussian, zcdp, unsuited is None and not adaptive and delta >= _PLD_DELTA)
    if wanted == "pld":
        _check_pld(unsuited, delta, relation, adaptive)
    if wanted == "zcdp" and not zcdp:
        raise Refused("zCDP accounts unsampled releases alone; use 'auto'.")
    if wanted == "analytic" and bag and not gaussian:
        raise Refused("The analytic Gaussian accounts unsampled Gaussian noise alone; use 'auto'.")
    return wanted


def _check_pld(unsuited: Event | None, delta: float, relation: NeighboringRelation, adaptive: bool) -> None:
    """Raises Refused where a PLD bounds nothing; `unsuited` is an event that has none."""
    if adaptive:
        raise Refused("A PLD is proven for events that are fixed in advance; for adaptively chosen ones use 'rdp'.")
    if delta < _PLD_DELTA:
        raise Refused(f"A PLD in double precision says nothing below delta {_PLD_DELTA:g}; use 'rdp'.")
    if unsuited is not None:
        raise Refused(f"There is no PLD for {unsuited.label()} under {relation!r}; use 'auto' or 'rdp'.")


def _best(bag: dict[Event, int], gaussian: bool, zcdp: bool, pld: bool) -> str:
    """What "auto" means for a bag that is Gaussian, zCDP, or has a PLD."""
    if gaussian or not bag:
        return "analytic"
    if any(event.prefers_zcdp for event in bag):
        return "zcdp" if zcdp else "rdp"
    return "pld" if pld else "rdp"


@lru_cache(maxsize=4096)
def _computed(bag: Bag, delta: float, relation: NeighboringRelation, name: str, interval: float) -> tuple[float, tuple[str, ...]]:
    """epsilon by one accountant, and notes. Errors of samplers are paid from delta: (1 + e^epsilon) times their sum."""
    notes: tuple[str, ...] = ()
    error = math.fsum(count * event.error() for event, count in bag)
    if name == "pld":
        at, notes = _pld(bag, delta, relation, interval)
    elif name == "zcdp":
        at = _zcdp(bag, relation)
    elif name == "analytic":
        at = _analytic(bag, relation)
    else:
        at = _rdp(bag, relation)
        error += math.fsum(count * event.renyi_error() for event, count in bag)
    if error == 0:
        return at(delta), notes
    value = _after_errors(at, delta, error)
    if value == math.inf:
        notes += (f"no finite epsilon: noise or cohorts may differ from their law by {error:g}, too much for delta {delta:g}",)
    return value, notes


def _after_errors(at: Conversion, delta: float, error: float) -> float:
    """epsilon at what the errors leave of delta. A larger epsilon makes errors cost more, so it may be that none is enough."""
    value = at(delta)
    for _ in range(100):
        rest = delta - (1 + math.exp(min(value, 700.0))) * error
        if rest <= 0:
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
    z = joint_multiplier(composed(dict(bag)))
    return lambda delta: from_gaussian(z / CHANGE[relation], delta) if z else 0.0


def _rdp(bag: Bag, relation: NeighboringRelation) -> Conversion:
    curve = renyi(_renyi_events(bag), relation)
    return lambda delta: from_renyi(curve, delta)


def _pld(bag: Bag, delta: float, relation: NeighboringRelation, interval: float) -> tuple[Conversion, tuple[str, ...]]:
    """By PLD, pessimistic, with notes. The interval grows where the distribution would not fit into memory."""
    if not bag:
        return (lambda delta: 0.0), ()
    about = roughly(composed(dict(bag)), delta, relation)
    if not about < _PLD_EPSILON:
        return (lambda delta: math.inf), (f"no PLD beyond epsilon {_PLD_EPSILON:g}",)
    width = max(event.pld_width(relation) for event, _ in bag)
    step = max(interval, width / _POINTS, about / _POINTS / 4)
    total = _distribution(bag, relation, step)
    note = f"PLD: pessimistic (an upper bound), discretisation interval {step:g}"
    if step > interval:
        note += f", coarser than {interval:g} because the noise is small"
    return (lambda delta: float(total.get_epsilon_for_delta(delta))), (note,)


@lru_cache(maxsize=8)
def _distribution(bag: Bag, relation: NeighboringRelation, step: float) -> Any:
    (first, count), *others = bag
    total = first.pld(relation, step, count)
    for event, count in others:
        total = total.compose(event.pld(relation, step, count))
    return total


def roughly(event: Event, delta: float, relation: NeighboringRelation) -> float:
    """A quick upper bound on epsilon, by Rényi divergences at a few orders. Errors of samplers, which are tiny, are left out."""
    bag = _renyi_events(counted(event).items())
    return from_renyi(renyi(bag, relation, FEW_ORDERS), delta, FEW_ORDERS)


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
