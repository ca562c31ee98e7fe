"""What a study costs: the noise that its budget needs, and one guarantee for each observer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from manent.accounting import Guarantee, calibrate, epsilon
from manent.accounting.budget import PrivacyUnit
from manent.accounting.events import Event, NeighboringRelation, Sampling, text
from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput, Refused
from manent.core.layers import Cost, Gathering, Layer
from manent.core.protocols import AlgorithmTraits, PrivacyBudget, Summation, SummationTraits, SumSpec, traits
from manent.core.study import Study
from manent.privacy.cohorts import gathering_of, releases, sampling, usual_relation
from manent.privacy.observers import Seen, all_releases, cost_of, views
from manent.privacy.stack import Stack, build, declared_by, noise_layer

_FOUND: dict[tuple[object, ...], float] = {}


@dataclass(frozen=True)
class Privacy:
    """The differential privacy of a study.

    Attributes:
        event: everything that may be released.
        releases: how many sums that is.
        unit, relation, delta: what the guarantees are about.
        observers: by name, the guarantee against each, or None; and why.
        noise_multiplier: the noise of a sum, relative to its sensitivity; from the declaration or the budget.
        noise_stddev: by the name of a sum, the deviation of its noise in the unit of its vectors.
    """

    event: Event
    releases: int
    unit: PrivacyUnit
    relation: NeighboringRelation
    delta: float
    observers: Mapping[str, tuple[Guarantee | None, str]]
    noise_multiplier: float
    noise_stddev: Mapping[str, float]


@dataclass(frozen=True)
class Accounted:
    """A study, with what it costs.

    Attributes:
        study: with its noise, where that was derived.
        stacks: the layers of each kind of sum, by its name.
        gathering: what is public about a cohort.
        privacy: None where nothing that is released has noise.
    """

    study: Study
    stacks: dict[str, Stack]
    gathering: Gathering
    privacy: Privacy | None


@dataclass(frozen=True)
class _Private:
    """A private study, before its noise is known.

    Attributes:
        specs: every kind of sum.
        by: how each cohort is secretly drawn, or None.
    """

    study: Study
    specs: tuple[SumSpec, ...]
    summation: Summation
    gathering: Gathering
    by: Sampling | None
    relation: NeighboringRelation

    def stacks(self, z: float, trial: bool = False) -> dict[str, Stack]:
        """The stack of each sum with this noise multiplier; see `build`."""
        return _stacks(self.study, self.specs, replace(self.gathering, noise_multiplier=z), trial)

    def costs(self, stacks: Mapping[str, Stack]) -> list[tuple[Cost, int]]:
        """What one release of each sum costs, and how many there are."""
        return [(cost_of(stacks[spec.name]), releases(spec, self.study.rounds)) for spec in self.specs]

    def seen(self, stacks: Mapping[str, Stack]) -> dict[str, Seen]:
        """What each observer sees."""
        return views(self.costs(stacks), self.by, self.summation)


def account(study: Study, clients: int, specs: Sequence[SumSpec], summation: Summation, remembers: bool = False) -> Accounted:
    """The study with the stacks of its sums, the cohort's public facts, and its privacy where a layer adds noise.

    Args:
        clients: how many there are.
        remembers: whether the algorithm's clients keep anything from round to round.

    Raises:
        Refused: for a study with no honest statement.
        InvalidInput: for a delta that allows to publish whole clients, or noise that nothing sizes.
    """
    noise = noise_layer(study.layers)
    _check_clippable(study, specs)
    _check_budget_fits(study, clients, noise)
    gathering = gathering_of(study.cohort, clients, noise, summation)
    hidden = summation.view == "the sum alone"
    gathering = replace(
        gathering, rounds=study.rounds, min_separation=study.cohort.min_separation, whole=hidden, kinds=len(specs)
    )
    if noise is None:
        return Accounted(study, _stacks(study, specs, gathering), gathering, None)
    if traits(summation, SummationTraits).output != "sum":
        raise Refused(
            f"The noise is sized for a sum, and {type(summation).__name__} forms none. Use Plain(), or leave noise out."
        )
    declared = declared_by(noise)
    for spec in specs:
        declared.check_sum(spec.name, spec.every)
    trial = _stacks(study, specs, replace(gathering, noise_multiplier=1.0), trial=True)
    remembers = remembers or any(stack.memory() is not None for stack in trial.values())
    relation = study.budget.neighboring_relation if study.budget else usual_relation(study.cohort)
    private = _Private(study, tuple(specs), summation, gathering, sampling(study.cohort, clients, remembers), relation)
    z = _found(private) if declared.noise_multiplier is None else declared.noise_multiplier
    stacks = private.stacks(z)
    privacy = _privacy(private, stacks, z, study.budget.delta if study.budget else min(1e-6, 1 / (10 * clients)))
    if study.budget is not None:
        _check_within(privacy, study.budget)
    return Accounted(study, stacks, gathering, privacy)


def _stacks(study: Study, specs: Sequence[SumSpec], gathering: Gathering, trial: bool = False) -> dict[str, Stack]:
    return {spec.name: build(spec, study.layers, gathering, trial) for spec in specs}


def _privacy(private: _Private, stacks: Mapping[str, Stack], z: float, delta: float) -> Privacy:
    """The guarantees of stacks that were built with this noise multiplier."""
    costs, relation = private.costs(stacks), private.relation
    return Privacy(
        event=all_releases(costs, private.by),
        releases=sum(count for _, count in costs),
        unit="client",
        relation=relation,
        delta=delta,
        observers={name: (_guarantee(seen, delta, relation), seen.why) for name, seen in private.seen(stacks).items()},
        noise_multiplier=z,
        noise_stddev={name: cost_of(stack).stddev for name, stack in stacks.items()},
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
    if study.cohort.min_separation is not None and budget.neighboring_relation == "add_or_remove":
        raise Refused(
            "Groups that take turns are dealt from a fixed population: one client more deals them anew. Use "
            "neighboring_relation='zero_out' (its contribution is zero) or 'replace_one', or leave min_separation out."
        )
    if noise is None:
        raise Refused(
            "A budget was declared, but no layer adds noise. Use layers=[Clip(norm), CentralNoise()], or leave budget out."
        )


def _guarantee(seen: Seen, delta: float, relation: NeighboringRelation) -> Guarantee | None:
    return None if seen.event is None else guarantee(seen.event, delta, relation, seen.knows_sample)


@lru_cache(maxsize=1024)
def guarantee(event: Event, delta: float, relation: NeighboringRelation, knows_sample: bool = False) -> Guarantee:
    """See `accounting.epsilon`. Each guarantee is computed once."""
    return epsilon(event, delta, relation, knows_sample=knows_sample)


def shown(found: Guarantee) -> str:
    """epsilon in a message."""
    return f"{found.epsilon:.4g}" if math.isfinite(found.epsilon) else "without bound"


def _found(private: _Private) -> float:
    """The noise multiplier that keeps the budget against every observer that the noise is to protect from.

    Raises InvalidInput where there is no budget.
    """
    budget = private.study.budget
    if budget is None:
        raise InvalidInput("The noise needs noise_multiplier=..., or Study(budget=Budget(...)) to derive it from.")

    def strictest(z: float) -> tuple[Event, bool]:
        seen = private.seen(private.stacks(z, trial=True))
        # The server comes first. Where the noise protects against it too, it knows the sample, and so learns the most.
        return next((one.event, one.knows_sample) for one in seen.values() if one.event is not None)

    first, knows = strictest(1.0)
    # The event at one multiplier, and the layers, tell the whole family. So `check` and then `simulate` search only once.
    layers = canonical(to_plain(list(private.study.layers)))
    key = (budget.epsilon, budget.delta, private.relation, knows, text(first), layers)
    return remembered(
        key, lambda: calibrate(budget.epsilon, budget.delta, lambda z: strictest(z)[0], private.relation, knows_sample=knows)
    )


def remembered(key: tuple[object, ...], find: Callable[[], float]) -> float:
    """The number that was found for this key before, or is found now."""
    if key not in _FOUND:
        _FOUND[key] = find()
    return _FOUND[key]


def _check_within(privacy: Privacy, budget: PrivacyBudget) -> None:
    """Raises Refused where an observer's epsilon is above the budget."""
    for name, (found, _) in privacy.observers.items():
        if found is not None and not found.epsilon <= budget.epsilon * (1 + 1e-9):
            raise Refused(
                f"With noise_multiplier={privacy.noise_multiplier:g} epsilon is {shown(found)} against the {name}; the budget is "
                f"{budget.epsilon:g}. Leave noise_multiplier out, to derive it from the budget; or run fewer rounds."
            )
