"""What a study costs: the noise that its budget needs, and one guarantee for each observer."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from manent.accounting import Guarantee, calibrate, epsilon
from manent.accounting.budget import PrivacyUnit
from manent.accounting.events import Event, NeighboringRelation, text
from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput, Refused
from manent.core.layers import Cost, Gathering, Layer
from manent.core.observers import ObserverName
from manent.core.protocols import AlgorithmTraits, PrivacyBudget, Summation, SummationTraits, SumSpec, traits
from manent.core.study import Study
from manent.privacy.cohorts import (
    drawn_at_random,
    gathering_of,
    population_shown,
    releases,
    sampling,
    secrecy,
    usual_relation,
)
from manent.privacy.observers import Secrecy, Seen, colluding_of, cost_of, held_off, views
from manent.privacy.stack import Stack, build, declared_by, noise_layer

_FOUND: dict[tuple[object, ...], float] = {}


@dataclass(frozen=True)
class Privacy:
    """The differential privacy of a study.

    Attributes:
        releases: how many sums may be released.
        unit, relation, delta: what the guarantees are about.
        observers: by name, the guarantee against each, or None; and why.
        events: by name, everything that may be released, as each of those learns of it against whom there is a guarantee.
        against: whom a budget holds against that names nobody: the clients, the public, and whoever else the noise protects from.
        noise_multiplier: the noise of a sum, relative to its sensitivity; from the declaration or the budget.
        noise_stddev: by the name of a sum, the deviation of its noise in the unit of its vectors.
        noise_unit: that unit, where it is not that of the algorithm's vectors.
    """

    releases: int
    unit: PrivacyUnit
    relation: NeighboringRelation
    delta: float
    observers: Mapping[ObserverName, tuple[Guarantee | None, str]]
    events: Mapping[ObserverName, Event]
    against: tuple[ObserverName, ...]
    noise_multiplier: float
    noise_stddev: Mapping[str, float]
    noise_unit: str = ""

    @property
    def event(self) -> Event:
        """Everything that may be released, as the dearest of those learns of it whom `against` names."""
        return self.charged()

    def charged(self, against: Collection[ObserverName] | None = None) -> Event:
        """Everything that may be released, as the dearest of some observers learns of it: what a budget against them is charged.

        Args:
            against: their names. None: those of `self.against`.

        Raises Refused for an observer whom nothing protects from.
        """
        names = self.against if against is None else tuple(against)
        for name in names:
            if name not in self.events:
                raise Refused(unprotected(name, self.observers.get(name, (None, ""))[1]))
        found = [self.events[name] for name in names]
        # The events of one study are ordered: who knows more is the dearer. One who knows the sample learns all that one learns
        # who does not, however loosely the latter is accounted.
        bare = [event.without_sampling() for event in found]
        found = [event for event, known in zip(found, bare, strict=True) if event == known or known not in found]
        return max(found, key=lambda event: guarantee(event, self.delta, self.relation).epsilon)


@dataclass(frozen=True)
class Accounted:
    """A study, with what it costs.

    Attributes:
        study: with its noise, where that was derived.
        stacks: the layers of each kind of sum, by its name.
        gathering: what is public about a cohort.
        privacy: None where nothing that is released has noise.
        colluding: how many clients are declared to collude.
    """

    study: Study
    stacks: dict[str, Stack]
    gathering: Gathering
    privacy: Privacy | None
    colluding: int


@dataclass(frozen=True)
class _Private:
    """A private study, before its noise is known.

    Attributes:
        specs: every kind of sum.
        secrecy: how cohorts are secretly drawn.
        colluding: how many clients are declared to collude.
        random: whether cohorts are drawn at random.
    """

    study: Study
    specs: tuple[SumSpec, ...]
    summation: Summation
    gathering: Gathering
    secrecy: Secrecy
    colluding: int
    random: bool
    delta: float

    def stacks(self, z: float, trial: bool = False) -> dict[str, Stack]:
        """The stack of each sum with this noise multiplier; see `build`."""
        return _stacks(self.study, self.specs, replace(self.gathering, noise_multiplier=z), trial)

    def seen(self, stacks: Mapping[str, Stack]) -> dict[ObserverName, Seen]:
        """What each observer sees."""
        costs = _costs(self.study, self.specs, stacks)
        return views(costs, self.secrecy, self.summation, self.colluding, self.random)

    def budget_for(self, seen: Mapping[ObserverName, Seen]) -> tuple[ObserverName, ...]:
        """Whom the budget holds against. Raises Refused for one of them whom nothing protects from."""
        own = self.study.budget.against if self.study.budget else None
        names = held_off(seen) if own is None else own
        for name in names if self.study.budget else ():
            if name not in seen or seen[name].event is None:
                raise Refused(unprotected(name, seen[name].why if name in seen else ""))
        return names


def account(study: Study, clients: int, specs: Sequence[SumSpec], summation: Summation, remembers: bool = False) -> Accounted:
    """The study with the stacks of its sums, the cohort's public facts, and its privacy where a layer adds noise.

    Args:
        clients: how many there are.
        remembers: whether the algorithm's clients keep anything from round to round.

    Raises:
        Refused: for a study with no honest statement.
        InvalidInput: for a delta that allows to publish whole clients, or noise that nothing sizes.
    """
    study = _beside(study, summation)
    noise = noise_layer(study.layers)
    _check_clippable(study, specs)
    _check_budget_fits(study, clients, noise)
    gathering = gathering_of(study.cohort, clients, noise, summation)
    hidden = summation.seen_by("server").view == "the sum alone"
    apart = study.cohort.min_separation
    gathering = replace(gathering, rounds=study.rounds, min_separation=apart, whole=hidden, kinds=len(specs))
    if noise is None:
        return Accounted(study, _stacks(study, specs, gathering), gathering, None, colluding_of(summation, gathering.most))
    if traits(summation, SummationTraits).output != "sum":
        raise Refused(
            f"The noise is sized for a sum, and {type(summation).__name__} forms none. Use Plain(), or leave noise out."
        )
    declared = declared_by(noise)
    for spec in specs:
        declared.check_sum(spec.name, spec.every)
    trial = _stacks(study, specs, replace(gathering, noise_multiplier=1.0), trial=True)
    remembers = remembers or any(stack.memory() is not None for stack in trial.values())
    private = _private(study, clients, specs, summation, gathering, trial, remembers)
    seen = private.seen(trial)
    relation, against = _relation(private, seen), private.budget_for(seen)
    z = _found(private, relation, against) if declared.noise_multiplier is None else declared.noise_multiplier
    stacks = private.stacks(z)
    privacy = _privacy(private, stacks, z, relation)
    if study.budget is not None:
        _check_within(privacy, study.budget, against)
    return Accounted(study, stacks, gathering, privacy, private.colluding)


def _beside(study: Study, summation: Summation) -> Study:
    """The study with layers that expect what the summation does of the clients; see `LayerTraits.beside`."""
    hiding = traits(summation, SummationTraits).hiding
    if hiding is None:
        return study
    asked = [(layer, declared_by(layer).beside) for layer in study.layers]
    layers = tuple(layer if beside is None else beside(hiding.corrupt, hiding.dropped) for layer, beside in asked)
    return study if layers == study.layers else replace(study, layers=layers)


def _stacks(study: Study, specs: Sequence[SumSpec], gathering: Gathering, trial: bool = False) -> dict[str, Stack]:
    return {spec.name: build(spec, study.layers, gathering, trial) for spec in specs}


def _costs(study: Study, specs: Sequence[SumSpec], stacks: Mapping[str, Stack]) -> list[tuple[Cost, int]]:
    """What one release of each sum costs, and how many there are."""
    return [(cost_of(stacks[spec.name]), releases(spec, study.rounds)) for spec in specs]


def _private(
    study: Study,
    clients: int,
    specs: Sequence[SumSpec],
    summation: Summation,
    gathering: Gathering,
    trial: Mapping[str, Stack],
    remembers: bool,
) -> _Private:
    """A private study whose stacks, with any noise, are known; `remembers`: whether clients keep anything between rounds."""
    costs = _costs(study, specs, trial)
    delta = study.budget.delta if study.budget else min(1e-6, 1 / (10 * clients))
    tells = any(cost.tells_number for cost, _ in costs)
    secret = secrecy(sampling(study.cohort, clients, remembers), tells, sum(count for _, count in costs), delta)
    colluding = colluding_of(summation, gathering.most, max(cost.colluders for cost, _ in costs))
    random = drawn_at_random(study.cohort, clients)
    return _Private(study, tuple(specs), summation, gathering, secret, colluding, random, delta)


def _relation(private: _Private, seen: Mapping[ObserverName, Seen]) -> NeighboringRelation:
    """The budget's relation, or the usual one. Raises Refused where the budget's is not to be had."""
    cohort, budget = private.study.cohort, private.study.budget
    protected = [one for one in seen.values() if one.event is not None]
    tells = any(cost_of(stack).tells_number for stack in private.stacks(1.0, trial=True).values())
    shown = population_shown(cohort, tells, not any(one.knows_sample for one in protected))
    if any(private.summation.seen_by(name).cohort for name, one in seen.items() if one.event is not None):
        shown = shown or "Whoever takes part in a sum learns who else does."
    if budget is None:
        return usual_relation(cohort, shown)
    if budget.neighboring_relation == "add_or_remove" and shown is not None:
        raise Refused(
            f"{shown} So 'add_or_remove' cannot hold. Use neighboring_relation='zero_out' (its contribution is zero) or "
            f"'replace_one'."
        )
    return budget.neighboring_relation


def _privacy(private: _Private, stacks: Mapping[str, Stack], z: float, relation: NeighboringRelation) -> Privacy:
    """The guarantees of stacks that were built with this noise multiplier."""
    seen = private.seen(stacks)
    return Privacy(
        releases=sum(count for _, count in _costs(private.study, private.specs, stacks)),
        unit="client",
        relation=relation,
        delta=private.delta,
        observers={name: (_guarantee(one, private.delta, relation), one.why) for name, one in seen.items()},
        events={name: one.event for name, one in seen.items() if one.event is not None},
        against=tuple(name for name in held_off(seen) if seen[name].event is not None),
        noise_multiplier=z,
        noise_stddev={name: cost_of(stack).stddev for name, stack in stacks.items()},
        noise_unit=next((stage.form.unit for stack in stacks.values() for stage in stack.stages if stage.form.unit), ""),
    )


def unprotected(name: str, why: str) -> str:
    """Why a budget cannot hold against an observer, and the cure."""
    if "colluders" in name and not why:
        return (
            f"A budget against the {name} needs a study that declares how many collude, and this one declares none. Use "
            f"SecAgg(corrupt=...) or DistributedNoise(colluders=...), or leave them out of Budget(against=...)."
        )
    return (
        f"Nothing protects from the {name}, against whom the budget is to hold. {why} Use DistributedNoise with SecAgg, "
        f"LocalNoise or DPSGD; or leave {name!r} out of Budget(against=...)."
    )


def _check_clippable(study: Study, specs: Sequence[SumSpec]) -> None:
    """Raises Refused where noise is asked for, and the algorithm forms no sum that could be clipped."""
    trains = traits(study.algorithm, AlgorithmTraits).model is not None
    asked = any(declared_by(layer).place in ("clip", "noise") for layer in study.layers)
    if study.budget is not None:
        asked = asked or not trains or study.budget.privacy_unit == "client"
    if asked and not any(spec.scalable for spec in specs):
        cure = ", or use an algorithm whose updates can be scaled down, such as FedAvg" if trains else ""
        raise Refused(
            f"Noise cannot be added to {type(study.algorithm).__name__} yet: its sums have no bound of their own, and cannot be "
            f"clipped. Leave layers and budget out{cure}."
        )


def _check_budget_fits(study: Study, clients: int, noise: Layer | None) -> None:
    """Raises Refused for a budget that no layer serves, or of another unit; InvalidInput for its delta."""
    budget = study.budget
    if budget is None:
        return
    budget.check_population(clients)
    if budget.privacy_unit != "client":
        raise Refused(
            f"Noise on clients' vectors protects whole clients; the budget is for each {budget.privacy_unit!r}. "
            f"Set privacy_unit='client'; or train with LocalSGD(privacy=DPSGD(...)), and no noise layer."
        )
    if noise is None:
        raise Refused(
            "A budget was declared, but no layer adds noise. Use layers=[Clip(norm), CentralNoise()], or leave budget out."
        )


_KNOWN = "The observer may know who was sampled, so sampling counts for nothing, and who took part is not hidden."


_NUMBER = (
    "How many clients there are, and the divisor, are public numbers that do not change with the one client more or less; that "
    "it is on the roster is not hidden."
)


def _guarantee(seen: Seen, delta: float, relation: NeighboringRelation) -> Guarantee | None:
    if seen.event is None:
        return None
    found = guarantee(seen.event, delta, relation)
    more: tuple[str, ...] = (_KNOWN,) if seen.knows_sample else ()
    if relation == "add_or_remove":
        more += (_NUMBER,)
    return replace(found, assumptions=(*found.assumptions, *more)) if more else found


@lru_cache(maxsize=1024)
def guarantee(event: Event, delta: float, relation: NeighboringRelation) -> Guarantee:
    """See `accounting.epsilon`. Each guarantee is computed once."""
    return epsilon(event, delta, relation)


def shown(found: Guarantee) -> str:
    """epsilon in a message."""
    return f"{found.epsilon:.4g}" if math.isfinite(found.epsilon) else "without bound"


def _found(private: _Private, relation: NeighboringRelation, against: Collection[ObserverName]) -> float:
    """The noise multiplier that keeps the budget against each of these observers.

    Raises InvalidInput where there is no budget.
    """
    budget = private.study.budget
    if budget is None:
        raise InvalidInput("The noise needs noise_multiplier=..., or Study(budget=Budget(...)) to derive it from.")

    def seen_by(name: ObserverName) -> Callable[[float], Event]:
        def event(z: float) -> Event:
            found = private.seen(private.stacks(z, trial=True))[name].event
            if found is None:
                raise Refused(unprotected(name, ""))
            return found

        return event

    first = {seen_by(name)(1.0): seen_by(name) for name in against}  # several observers may learn the same
    layers = canonical(to_plain(list(private.study.layers)))
    needed = 0.0
    # The dearest comes first. What it needs is then mostly enough for the others, which is quicker to see than what they need.
    for event in sorted(first, key=lambda event: -guarantee(event, budget.delta, relation).epsilon):
        make = first[event]
        if needed and guarantee(make(needed), budget.delta, relation).epsilon <= budget.epsilon:
            continue
        # The event at one multiplier, and the layers, tell the whole family. So `check` and then `simulate` search only once.
        key = (budget.epsilon, budget.delta, relation, text(event), layers)
        found = remembered(key, partial(calibrate, budget.epsilon, budget.delta, make, relation))
        needed = max(needed, found)
    return needed


def remembered(key: tuple[object, ...], find: Callable[[], float]) -> float:
    """The number that was found for this key before, or is found now."""
    if key not in _FOUND:
        _FOUND[key] = find()
    return _FOUND[key]


def _check_within(privacy: Privacy, budget: PrivacyBudget, against: Collection[ObserverName]) -> None:
    """Raises Refused where the epsilon of one of these observers is above the budget."""
    for name in against:
        found, _ = privacy.observers[name]
        if found is not None and not found.epsilon <= budget.epsilon * (1 + 1e-9):
            raise Refused(
                f"With noise_multiplier={privacy.noise_multiplier:g} epsilon is {shown(found)} against the {name}; the budget is "
                f"{budget.epsilon:g}. Leave noise_multiplier out, to derive it from the budget; or run fewer rounds."
            )
