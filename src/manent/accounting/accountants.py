"""epsilon of what ran: privacy loss distributions by default, Rényi divergences where those do not reach; always a bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal, get_args

from manent.accounting.curves import (
    FEW_ORDERS,
    concentrated,
    error_of,
    from_concentrated,
    from_gaussian,
    from_renyi,
    joint_multiplier,
    overflow,
    pure_epsilon,
    renyi,
)
from manent.accounting.events import (
    DiscreteGaussian,
    DiscreteLaplace,
    DistributedDiscreteGaussian,
    Event,
    FixedSize,
    Gaussian,
    MatrixFactorisation,
    NeighboringRelation,
    Poisson,
    PureRelease,
    RoundedGaussian,
    Sampled,
    Skellam,
    TruncatedPoisson,
    ZeroConcentrated,
    check_relation,
    composed,
    counted,
    without_sampling,
)
from manent.core.canonical import to_plain
from manent.core.errors import InvalidInput, Refused

Accountant = Literal["auto", "pld", "rdp", "zcdp", "analytic"]
Bag = tuple[tuple[Event, int], ...]
INTERVAL = 1e-4
_REVISION = 1  # counted up when an accountant's answers change
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
    """(epsilon, delta)-differential privacy under one relation, who computed it, and what it takes for granted.

    `epsilon` is an upper bound; it is infinite where no accountant bounds the event, or delta cannot pay for the errors of
    samplers and of cohorts that are cut. The assumptions say so then.
    """

    epsilon: float
    delta: float
    neighboring_relation: NeighboringRelation
    accountant: str
    version: str
    assumptions: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """JSON values only."""
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

    Args:
        delta: in (0, 1), the whole of it; errors of samplers are taken from it.
        neighboring_relation: what may differ: "add_or_remove" one unit, "replace_one" by any other, "zero_out" one contribution.
        accountant: "auto" takes the analytic Gaussian for Gaussian noise alone, zCDP for matrix factorisation, RDP for
            distributed noise and fixed-size samples, and PLD for the rest.
        knows_sample: whether the observer knows who was sampled; then sampling counts for nothing.
        adaptive: whether later events were chosen after earlier results. Then a PLD is not proven to hold, and is not used.
        interval: of the PLD's discretisation.

    Raises:
        InvalidInput: for a delta, relation, accountant or event that does not exist.
        Refused: for an event that the accountant has no bound for under this relation, and for the central limit approximation.
    """
    check_relation(neighboring_relation)
    _check_delta(delta)
    if not (math.isfinite(interval) and interval > 0):
        raise InvalidInput(f"interval is the step of the discretisation, > 0; found {interval!r}.")
    bag = counted(without_sampling(event) if knows_sample else event)
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


def _check_delta(delta: float) -> None:
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise InvalidInput(f"delta is in (0, 1), and below one over the number of units; found {delta!r}.")


def _choose(bag: dict[Event, int], delta: float, relation: NeighboringRelation, wanted: str, adaptive: bool) -> str:
    if wanted in ("gdp", "clt", "gdp_clt"):
        raise Refused(
            "The central limit approximation of Gaussian DP is below the truth, so it is not a bound; use 'pld' or 'rdp'."
        )
    if wanted not in get_args(Accountant):
        raise InvalidInput(f"accountant is one of {', '.join(map(repr, get_args(Accountant)))}; found {wanted!r}.")
    gaussian = joint_multiplier(composed(bag)) is not None
    zcdp = all(concentrated(event, relation) is not None for event in bag)
    unsuited = next((event for event in bag if not _has_pld(event, relation)), None)
    if wanted == "auto":
        if gaussian or not bag:
            return "analytic"
        if zcdp and any(isinstance(event, MatrixFactorisation | ZeroConcentrated | DiscreteGaussian) for event in bag):
            return "zcdp"
        distributed = unsuited is not None or any(isinstance(event, MatrixFactorisation) for event in bag)
        return "rdp" if distributed or adaptive or delta < _PLD_DELTA else "pld"
    if wanted == "pld" and adaptive:
        raise Refused("A PLD is proven for events that are fixed in advance; for adaptively chosen ones use 'rdp'.")
    if wanted == "pld" and delta < _PLD_DELTA:
        raise Refused(f"A PLD in double precision says nothing below delta {_PLD_DELTA:g}; use 'rdp'.")
    if wanted == "pld" and unsuited is not None:
        raise Refused(f"There is no PLD for {_label(unsuited)} under {relation!r}; use 'auto' or 'rdp'.")
    if wanted == "zcdp" and not zcdp:
        raise Refused("zCDP accounts unsampled releases alone; use 'auto'.")
    if wanted == "analytic" and bag and not gaussian:
        raise Refused("The analytic Gaussian accounts unsampled Gaussian noise alone; use 'auto'.")
    return wanted


def _label(event: Event) -> str:
    if isinstance(event, Sampled):
        inside = ", ".join(type(leaf).__name__ for leaf in counted(event.event)) or "nothing"
        return f"{type(event.by).__name__} sampling of {inside}"
    return type(event).__name__


def _has_pld(event: Event, relation: NeighboringRelation) -> bool:
    if isinstance(event, Sampled):
        if joint_multiplier(event.event) is not None:
            return not isinstance(event.by, FixedSize)
        alone = list(counted(event.event).items())
        single = len(alone) == 1 and isinstance(alone[0][0], DiscreteLaplace) and alone[0][1] == 1
        return single and isinstance(event.by, Poisson) and relation != "replace_one"
    return not isinstance(event, DiscreteGaussian | DistributedDiscreteGaussian | Skellam | ZeroConcentrated)


@lru_cache(maxsize=4096)
def _computed(bag: Bag, delta: float, relation: NeighboringRelation, name: str, interval: float) -> tuple[float, tuple[str, ...]]:
    """epsilon by one accountant, and notes. Errors of samplers are paid from delta: (1 + e^epsilon) times their sum."""
    notes: tuple[str, ...] = ()
    if name == "pld":
        at, notes = _pld(bag, delta, relation, interval)
    elif name == "zcdp":
        rho = math.fsum(count * (concentrated(event, relation) or 0.0) for event, count in bag)
        at = lambda d: from_concentrated(rho, d) if rho else 0.0  # noqa: E731
    elif name == "analytic":
        z = joint_multiplier(composed(dict(bag)))
        doubled = 2 if relation == "replace_one" else 1
        at = lambda d: from_gaussian(z / doubled, d) if z else 0.0  # noqa: E731
    else:
        curve = renyi({_untruncated(event): count for event, count in bag}, relation)
        at = lambda d: from_renyi(curve, d)  # noqa: E731
    error = math.fsum(count * error_of(event) for event, count in bag)
    if name == "rdp":
        error += math.fsum(
            count * overflow(e.by) for e, count in bag if isinstance(e, Sampled) and isinstance(e.by, TruncatedPoisson)
        )
    if error == 0:
        return at(delta), notes
    value = _after_errors(at, delta, error)
    if value == math.inf:
        notes += (f"no finite epsilon: noise or cohorts may differ from their law by {error:g}, too much for delta {delta:g}",)
    return value, notes


def _untruncated(event: Event) -> Event:
    if isinstance(event, Sampled) and isinstance(event.by, TruncatedPoisson):
        return Sampled(event.event, Poisson(event.by.probability))
    return event


def _after_errors(at: Callable[[float], float], delta: float, error: float) -> float:
    """epsilon at what the errors leave of delta: with a larger epsilon they cost more, so it may be that none is enough."""
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


def _pld(
    bag: Bag, delta: float, relation: NeighboringRelation, interval: float
) -> tuple[Callable[[float], float], tuple[str, ...]]:
    """epsilon as a function of delta by PLD, pessimistic; the interval grows where the distribution would not fit into memory."""
    about = roughly(composed(dict(bag)), delta, relation)
    if not about < _PLD_EPSILON:
        return (lambda d: math.inf), (f"no PLD beyond epsilon {_PLD_EPSILON:g}",)
    width = max((_width(event, relation) for event, _ in bag), default=0.0)
    step = max(interval, width / _POINTS, about / _POINTS / 4)
    total = _distribution(bag, relation, step)
    note = f"PLD: pessimistic (an upper bound), discretisation interval {step:g}"
    if step > interval:
        note += f", coarser than {interval:g} because the noise is small"
    return (lambda d: float(total.get_epsilon_for_delta(d))), (note,)


@lru_cache(maxsize=8)
def _distribution(bag: Bag, relation: NeighboringRelation, step: float) -> Any:
    total = _loss(bag[0], relation, step)
    for item in bag[1:]:
        total = total.compose(_loss(item, relation, step))
    return total


def roughly(event: Event, delta: float, relation: NeighboringRelation) -> float:
    """A quick upper bound on epsilon, by Rényi divergences at a few orders; errors of samplers, which are tiny, are left out."""
    bag = {_untruncated(leaf): count for leaf, count in counted(event).items()}
    return from_renyi(renyi(bag, relation, FEW_ORDERS), delta, FEW_ORDERS)


def _width(event: Event, relation: NeighboringRelation) -> float:
    """About how wide the privacy loss of one event is."""
    z = joint_multiplier(event.event) if isinstance(event, Sampled) else getattr(event, "noise_multiplier", None)
    if z is None:
        return 0.0
    z = z / 2 if relation == "replace_one" or (isinstance(event, Sampled) and isinstance(event.by, TruncatedPoisson)) else z
    return float(1 / (2 * z**2) + 10 / z)


def _loss(item: tuple[Event, int], relation: NeighboringRelation, interval: float) -> Any:
    """The privacy loss distribution of one event, repeated."""
    from dp_accounting import NeighboringRelation as Relation
    from dp_accounting.pld import privacy_loss_distribution as pld

    event, count = item
    kind = {
        "add_or_remove": Relation.ADD_OR_REMOVE_ONE,
        "replace_one": Relation.REPLACE_ONE,
        "zero_out": Relation.REPLACE_SPECIAL,
    }[relation]
    step, doubled = {"value_discretization_interval": interval}, 2 if relation == "replace_one" else 1
    if isinstance(event, Gaussian | RoundedGaussian | MatrixFactorisation):
        return pld.from_gaussian_mechanism(event.noise_multiplier / math.sqrt(count), neighboring_relation=kind, **step)
    if isinstance(event, PureRelease):
        return pld.from_privacy_parameters(_pure_parameters(event, relation), **step).self_compose(count)
    if isinstance(event, DiscreteLaplace):
        if doubled * event.sensitivity > 10_000:
            # So many distinct losses cost more than they tell.
            return pld.from_privacy_parameters(_pure_parameters(event, relation), **step).self_compose(count)
        return pld.from_discrete_laplace_mechanism(1 / event.scale, doubled * event.sensitivity, **step).self_compose(count)
    if not isinstance(event, Sampled) or isinstance(event.by, FixedSize):
        raise Refused(f"There is no PLD for {_label(event)}.")
    z, q = joint_multiplier(event.event), event.by.probability
    if z is None:
        once = _sampled_laplace(event, q, interval)
    elif isinstance(event.by, TruncatedPoisson):
        size = event.by.population, q, event.by.largest
        once = pld.from_truncated_subsampled_gaussian_mechanism(*size, z, neighboring_relation=kind, **step)
    else:
        once = pld.from_gaussian_mechanism(z, sampling_prob=q, neighboring_relation=kind, **step)
    return once.self_compose(count)


def _sampled_laplace(event: Sampled, q: float, interval: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld

    noise = next(leaf for leaf in counted(event.event) if isinstance(leaf, DiscreteLaplace))
    return pld.from_discrete_laplace_mechanism(
        1 / noise.scale, noise.sensitivity, sampling_prob=q, value_discretization_interval=interval
    )


def _pure_parameters(event: PureRelease | DiscreteLaplace, relation: NeighboringRelation) -> Any:
    from dp_accounting.pld import common

    return common.DifferentialPrivacyParameters(pure_epsilon(event, relation), 0.0)


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
        lines += _claims(item, relation)
    if knows and bag != counted(event):
        lines.append("The observer knows who was sampled, so sampling counts for nothing, and who took part is not hidden.")
    if adaptive:
        lines.append("Later events may be chosen after earlier results.")
    return tuple(dict.fromkeys(lines))


def _claims(event: Event, relation: NeighboringRelation) -> list[str]:
    """What one event takes for granted beyond its own numbers."""
    if isinstance(event, Sampled):
        hidden = "afresh each time, and the observer does not know who was"
        by = event.by
        if isinstance(by, FixedSize):
            claims = [
                f"{by.size} of {by.population} units are sampled without replacement, {hidden}; the population's size is public."
            ]
        else:
            claims = [f"Each unit is sampled independently with probability {by.probability:g} (Poisson), {hidden}."]
        if isinstance(by, TruncatedPoisson):
            claims.append(
                f"Of more than {by.largest} sampled, of a population of {by.population}, a random {by.largest} are kept."
            )
        if relation == "replace_one" and not isinstance(by, FixedSize):
            claims.append("Of all replacements, the opposite contribution is taken to be the worst.")
        return claims + [claim for leaf in counted(event.event) for claim in _claims(leaf, relation)]
    if isinstance(event, MatrixFactorisation):
        return [f"Each unit takes part at most {event.participations} times, at least {event.min_separation} rounds apart."]
    if isinstance(event, DistributedDiscreteGaussian):
        return [f"At least {event.parties} honest parties have each added their noise to the sum."]
    if isinstance(event, Skellam):
        return [f"Noise of variance {event.variance:g}, at least, was added to the sum by honest parties."]
    return []
