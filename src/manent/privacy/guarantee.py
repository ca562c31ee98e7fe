"""What a study costs: its events, the noise that its budget needs, and one guarantee for each observer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from manent.accounting import Guarantee, calibrate, epsilon
from manent.accounting.budget import PrivacyUnit
from manent.accounting.events import (
    Composed,
    Event,
    FixedSize,
    MatrixFactorisation,
    NeighboringRelation,
    Poisson,
    Repeated,
    RoundedGaussian,
    Sampled,
    Sampling,
    TruncatedPoisson,
    text,
)
from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput, Refused
from manent.core.layers import Gathering
from manent.core.protocols import PrivacyBudget, Summation, SummationTraits, SumSpec, traits
from manent.core.study import Cohort, Study
from manent.layers.correlated import CorrelatedNoise
from manent.layers.noise import DistributedNoise, NoiseStage
from manent.privacy.stack import Stack, build

_FOUND: dict[tuple[object, ...], float] = {}


@dataclass(frozen=True)
class Seen:
    """What one observer's view costs.

    Attributes:
        event: all that may be released, as this observer sees it; None where nothing protects against them.
        knows_sample: whether they know who took part in each sum.
        why: in words, what it rests on, or why there is nothing.
    """

    event: Event | None
    knows_sample: bool
    why: str


@dataclass(frozen=True)
class Privacy:
    """The differential privacy of a study.

    Attributes:
        event: everything that may be released.
        releases: how many sums that is.
        unit, relation, delta: what the guarantees are about.
        observers: guarantee of each, or None; and why.
        noise_multiplier, noise_stddev: the noise of a sum; the deviation in the unit of the vectors.
    """

    event: Event
    releases: int
    unit: PrivacyUnit
    relation: NeighboringRelation
    delta: float
    observers: Mapping[str, tuple[Guarantee | None, str]]
    noise_multiplier: float
    noise_stddev: Mapping[str, float]


def gathering_of(cohort: Cohort, clients: int, noise: object = None, summation: Summation | None = None) -> Gathering:
    """What is public about each sum's cohort. With noise, an empty Poisson cohort is released too.

    Raises Refused for a minimum that would tell how many were drawn, and where shares of noise have no certain number of bearers.
    """
    groups = cohort.min_separation or 1
    most, minimum = cohort.size or cohort.maximum or -(-clients // groups), cohort.minimum
    expected = float(cohort.size or (cohort.sampling_probability or 1.0) * clients / groups)
    if summation is not None:
        minimum = max(minimum, summation.minimum(most))
    if noise is None:
        return Gathering(expected, minimum, most)
    if cohort.maximum is not None and cohort.sampling_probability is not None:
        expected = min(expected, float(cohort.maximum))
    if isinstance(noise, DistributedNoise):
        if cohort.sampling_probability is not None:
            raise Refused(
                "Shares of noise are sized for the clients that are certain to answer, and a Poisson cohort may be of any size. "
                "Use Cohort(size=...) or everyone with DistributedNoise."
            )
        return Gathering(expected, max(minimum, noise.minimum(most)), most)
    if cohort.sampling_probability is not None and minimum > 1:
        raise Refused(
            f"A Poisson cohort is released whatever its size, or its size is told: a minimum of {minimum} forbids that. "
            f"Leave minimum out; empty cohorts release noise."
        )
    if isinstance(noise, CorrelatedNoise) and minimum > 1:
        raise Refused(
            f"CorrelatedNoise is released in every round: one that is abandoned would bring participations closer together, and "
            f"a minimum of {minimum} allows that. Leave minimum out."
        )
    return Gathering(expected, 0 if minimum <= 1 else minimum, most)


def sampling(cohort: Cohort, clients: int, remembers: bool = False) -> Sampling | None:
    """How a cohort is drawn, or None where everyone takes part, or whoever's turn it is: that is no secret sample.

    Nor is it where clients remember earlier rounds and were not drawn independently: what the others then send depends on who
    was drawn beside them, so later sums tell of an earlier sample.
    """
    q = cohort.sampling_probability
    if remembers and (cohort.size is not None or cohort.maximum is not None):
        return None
    if cohort.min_separation is not None:
        return None
    if cohort.size is not None:
        return FixedSize(cohort.size, clients) if cohort.size < clients else None
    if q is None or q == 1:
        return None
    return Poisson(q) if cohort.maximum is None or cohort.maximum >= clients else TruncatedPoisson(q, cohort.maximum, clients)


def releases(spec: SumSpec, rounds: int) -> int:
    """How often a sum is released at most."""
    return max(1, rounds // spec.every)


def noise_of(stack: Stack) -> NoiseStage:
    """The noise of a stack. Raises Refused where there is none."""
    if stack.noise is None:
        raise Refused(
            f"Every sum of a private study needs noise that is accounted; found layers {', '.join(stack.names) or 'none'}. "
            f"Use CentralNoise, LocalNoise, DistributedNoise or CorrelatedNoise."
        )
    return stack.noise


def whole(stages: Sequence[tuple[NoiseStage, int]], by: Sampling | None, single: bool = False) -> Event:
    """Everything that is released (or, with `single`, the vectors of one client), as one event."""
    parts: list[Event] = []
    for stage, count in stages:
        event = stage.seen if single else stage.event
        if event is None:
            raise Refused("Nothing protects a single vector.")
        if isinstance(event, MatrixFactorisation):  # all rounds at once
            parts.append(event)
            continue
        amplified = by is not None and (isinstance(event, RoundedGaussian) or not isinstance(by, FixedSize))
        parts.append(Repeated(Sampled(event, by) if amplified and by is not None else event, count))
    return parts[0] if len(parts) == 1 else Composed(tuple(parts))


def views(stages: Sequence[tuple[NoiseStage, int]], by: Sampling | None, summation: Summation) -> dict[str, Seen]:
    """What each observer sees of all sums."""
    where, hidden = stages[0][0].where, summation.view == "the sum alone"
    released = whole(stages, by)
    secret = "" if by is None else " Who was sampled is not known to them."
    told = Seen(released, False, f"They see what is made of the noised totals.{secret}")
    if where == "server":
        server = Seen(None, True, "The server adds the noise, and sees what it adds it to: it is trusted.")
    elif where == "each client":
        server = Seen(
            whole(stages, None, single=True), True, "Each vector carries its own noise; the server knows who was asked."
        )
    elif hidden:
        server = Seen(released, True, "It sees totals alone, each with the shares of all who are certain to answer.")
    else:
        server = Seen(
            None,
            True,
            "It sees each vector, which carries one share of the noise only: shares protect in sums that hide their terms.",
        )
    return {"server": server, "clients": told, "public": told}


def account(
    study: Study, clients: int, specs: Sequence[SumSpec], summation: Summation, remembers: bool = False
) -> tuple[dict[str, Stack], Gathering, Privacy | None]:
    """The stacks of a study's sums, the cohort's public facts, and its privacy where a layer adds noise.

    Args:
        remembers: whether the algorithm's clients keep anything from round to round.

    Raises:
        Refused: for a study with no honest statement.
        InvalidInput: for a delta that allows to publish whole clients.
    """
    noise = next((layer for layer in study.layers if getattr(layer, "place", None) == 3), None)
    _check_budget_fits(study, clients, noise)
    gathering = gathering_of(study.cohort, clients, noise, summation)
    hidden = summation.view == "the sum alone"
    gathering = replace(gathering, rounds=study.rounds, min_separation=study.cohort.min_separation, whole=hidden)
    if noise is None:
        return {spec.name: build(spec, study.layers, gathering) for spec in specs}, gathering, None
    if traits(summation, SummationTraits).output != "sum":
        raise Refused(
            f"The noise is sized for a sum, and {type(summation).__name__} forms none. Use Plain(), or leave noise out."
        )
    _check_every_round(noise, specs)
    trial = _stacks(study, specs, gathering, 1.0, trial=True)
    remembers = remembers or any(stack.memory() is not None for stack in trial.values())
    budget, by = study.budget, sampling(study.cohort, clients, remembers)
    relation = budget.neighboring_relation if budget else _usual(study.cohort)
    delta = budget.delta if budget else min(1e-6, 1 / (10 * clients))
    z = getattr(noise, "noise_multiplier", None)
    if z is None:
        z = _found(study, by, tuple(specs), summation, gathering, relation)
    stacks = _stacks(study, specs, gathering, z)
    stages = _stages(stacks, specs, study.rounds)
    privacy = Privacy(
        event=whole(stages, by),
        releases=sum(count for _, count in stages),
        unit="client",
        relation=relation,
        delta=delta,
        observers={name: (_guarantee(view, delta, relation), view.why) for name, view in views(stages, by, summation).items()},
        noise_multiplier=z,
        noise_stddev={name: noise_of(stack).stddev for name, stack in stacks.items()},
    )
    if budget is not None:
        _check_within(privacy, budget)
    return stacks, gathering, privacy


def _check_budget_fits(study: Study, clients: int, noise: object) -> None:
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


def _check_every_round(noise: object, specs: Sequence[SumSpec]) -> None:
    """Raises Refused for correlated noise on a sum that is not formed in every round."""
    rare = next((spec for spec in specs if spec.every != 1), None)
    if isinstance(noise, CorrelatedNoise) and rare is not None:
        raise Refused(
            f"CorrelatedNoise needs sums of every round; {rare.name!r} is formed every {rare.every} rounds. Leave it out."
        )


def _stacks(study: Study, specs: Sequence[SumSpec], gathering: Gathering, z: float, trial: bool = False) -> dict[str, Stack]:
    told = replace(gathering, noise_multiplier=z)
    return {spec.name: build(spec, study.layers, told, trial) for spec in specs}


def _stages(stacks: Mapping[str, Stack], specs: Sequence[SumSpec], rounds: int) -> list[tuple[NoiseStage, int]]:
    return [(noise_of(stacks[spec.name]), releases(spec, rounds)) for spec in specs]


def _usual(cohort: Cohort) -> NeighboringRelation:
    """The relation of a study without a budget: a cohort of fixed size, and groups, tell how many clients there are."""
    if cohort.min_separation is not None:
        return "zero_out"
    return "add_or_remove" if cohort.size is None else "replace_one"


def _guarantee(view: Seen, delta: float, relation: NeighboringRelation) -> Guarantee | None:
    return None if view.event is None else guarantee(view.event, delta, relation, view.knows_sample)


@lru_cache(maxsize=1024)
def guarantee(event: Event, delta: float, relation: NeighboringRelation, knows_sample: bool = False) -> Guarantee:
    """See `accounting.epsilon`; each is computed once."""
    return epsilon(event, delta, relation, knows_sample=knows_sample)


def shown(found: Guarantee) -> str:
    """epsilon in a message."""
    return f"{found.epsilon:.4g}" if math.isfinite(found.epsilon) else "without bound"


def _found(
    study: Study,
    by: Sampling | None,
    specs: tuple[SumSpec, ...],
    summation: Summation,
    gathering: Gathering,
    relation: NeighboringRelation,
) -> float:
    """The noise multiplier that keeps the budget against every observer that the noise is to protect from."""
    budget = study.budget
    if budget is None:
        raise InvalidInput("The noise needs noise_multiplier=..., or Study(budget=Budget(...)) to derive it from.")

    def strictest(z: float) -> tuple[Event, bool]:
        stages = _stages(_stacks(study, specs, gathering, z, trial=True), specs, study.rounds)
        # The server comes first: where the noise protects against it too, it knows the sample, and so learns the most.
        seen = views(stages, by, summation).values()
        return next((view.event, view.knows_sample) for view in seen if view.event is not None)

    first, knows = strictest(1.0)
    # The event at one multiplier, with the layers, tells the whole family: `check` and then `simulate` search once.
    key = (budget.epsilon, budget.delta, relation, knows, text(first), canonical(to_plain(list(study.layers))))
    return remembered(
        key, lambda: calibrate(budget.epsilon, budget.delta, lambda z: strictest(z)[0], relation, knows_sample=knows)
    )


def remembered(key: tuple[object, ...], find: Callable[[], float]) -> float:
    """What was found for this key before, or is now."""
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
