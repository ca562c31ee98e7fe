"""Which mechanisms are audited, and how each is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

import manent as mn
from audits import training
from audits.bounds import Kind, Worlds, lower_bound
from audits.give import Give, released
from audits.pipeline import known_clients, plan_of, releases, seen, spread_canary, two_worlds, wide
from manent.core.observers import ObserverName
from manent.privacy import Plan, Statement

DELTA = 1e-5
RELATIONS = ("add_or_remove", "zero_out", "replace_one")
Way = Literal["wide", "narrow", "how many", "simulated"]


@dataclass(frozen=True)
class Case:
    """One mechanism.

    Attributes:
        way: "wide", canaries of one coordinate each in one release; "narrow", a canary over two blocks in many releases;
            "how many", where everybody sends zeros and the size of the noise is looked at; "simulated", as narrow, through
            `mn.simulate`.
        epsilon: of the budget from which the noise is derived; None where the layers say how much.
        order: of the clip's norm.
        kind: of the privacy loss.
        share: of the samples.
        others: what the other clients send, in canaries: 0, or -1 for its opposite.
        norm: of the canary, in clip norms; above 1 it is clipped.
        colluding: how many clients collude, where anybody does.
        takes_part: in which rounds the canary takes part.
    """

    mechanism: str
    layers: Sequence[Any]
    way: Way = "narrow"
    relations: Sequence[str] = RELATIONS
    epsilon: float | None = None
    clients: int = 2
    size: int = 4
    order: int = 2
    kind: Kind = "gaussian"
    cohort: mn.Cohort = field(default_factory=mn.Cohort)
    summation: Any = None
    share: float = 1.0
    others: int = 0
    norm: float = 10.0
    colluding: int = 0
    rounds: int = 1
    takes_part: tuple[int, ...] = (1,)

    def study(self, relation: str | None, rounds: int | None = None) -> mn.Study:
        """The study; without a relation it has no budget."""
        budget: Any = None
        if relation is not None:
            budget = mn.Budget(self.epsilon or 200.0, DELTA, "client", relation)  # type: ignore[arg-type]
        return mn.Study(
            Give(self.size),
            rounds=rounds or self.rounds,
            cohort=self.cohort,
            layers=list(self.layers),
            summation=self.summation,
            budget=budget,
        )

    @property
    def hidden(self) -> bool:
        """Whether the summation hides vectors from the server."""
        return bool(self.summation is not None and self.summation.seen_by("server").view == "the sum alone")


CLIP = mn.Clip(1.0)
FIRST = mn.Clip(1.0, order=1)
SECURE = mn.SecAgg(minimum_cohort=3, corrupt=0.0, dropped=0.0, modelled=True)
NOT_ALL = mn.SecAgg(minimum_cohort=3, corrupt=0.0, dropped=0.25, modelled=True)
WITH_COLLUDERS = mn.SecAgg(minimum_cohort=3, corrupt=0.2, dropped=0.0, modelled=True)
HALF = mn.Cohort(sampling_probability=0.5)
TURNS = mn.Cohort(min_separation=2)
FIXED = ("zero_out", "replace_one")
SUMMED = {"clients": 4, "summation": SECURE, "relations": FIXED, "share": 0.1}


def correlated(name: str, **settings: Any) -> Case:
    """Correlated noise over four rounds, of which a client takes part in two."""
    layers, size = [CLIP, mn.CorrelatedNoise(1.5, **settings)], 40_000
    every = {"cohort": TURNS, "rounds": 4, "takes_part": (1, 3), "clients": 4, "size": size}
    return Case(f"correlated noise, {name}", layers, "wide", **every)  # type: ignore[arg-type]


CASES = (
    *(
        Case(f"central Gaussian, epsilon {e}", [CLIP, mn.CentralNoise()], "wide", ("add_or_remove",), float(e), size=40_000)
        for e in (1, 2, 4, 8)
    ),
    Case("central Gaussian, wide", [CLIP, mn.CentralNoise(1.5)], "wide", FIXED, size=40_000),
    Case("central Gaussian, over two blocks", [CLIP, mn.CentralNoise(1.0)], share=0.15),
    Case("central Laplace", [FIRST, mn.CentralNoise(1.0, "laplace")], "wide", size=40_000, order=1, kind="any"),
    Case("local Gaussian", [CLIP, mn.LocalNoise(1.0)], relations=FIXED, share=0.1),
    Case("local Laplace", [FIRST, mn.LocalNoise(1.0, "laplace")], order=1, kind="any", relations=FIXED, share=0.1),
    Case("distributed discrete Gaussian", [CLIP, mn.DistributedNoise(noise_multiplier=1.0)], **SUMMED),  # type: ignore[arg-type]
    Case("distributed Skellam", [CLIP, mn.DistributedNoise("skellam", 1.0)], **SUMMED),  # type: ignore[arg-type]
    Case(
        "distributed discrete Gaussian, one may vanish",
        [CLIP, mn.DistributedNoise(noise_multiplier=1.0, dropout=0.25)],
        clients=4,
        summation=NOT_ALL,
        kind="any",
        relations=("add_or_remove",),
        share=0.1,
    ),
    Case(
        "distributed discrete Gaussian, one in five colludes",
        [CLIP, mn.DistributedNoise(noise_multiplier=1.0, colluders=0.2)],
        clients=5,
        summation=WITH_COLLUDERS,
        colluding=1,
        relations=FIXED,
        share=0.1,
    ),
    Case(
        "distributed discrete Gaussian, on a coarse grid",
        [CLIP, mn.Discretize(grid=0.05), mn.DistributedNoise(noise_multiplier=1.0)],
        kind="any",
        **SUMMED,  # type: ignore[arg-type]
    ),
    Case(
        "distributed Skellam, rotated, 20 bits",
        [CLIP, mn.Discretize(bits=20, rotation=True), mn.DistributedNoise("skellam", 1.0)],
        kind="any",
        **SUMMED,  # type: ignore[arg-type]
    ),
    correlated("bands", bands=2),
    correlated("buffers"),
    Case(
        "adaptive clip, central Gaussian",
        [mn.AdaptiveClip(initial=1.0, count_stddev=1.0), mn.CentralNoise(1.0)],
        norm=0.999,
        relations=FIXED,
        share=0.1,
    ),
    Case("central Gaussian, Poisson cohort", [CLIP, mn.CentralNoise(1.0)], cohort=HALF, kind="any", share=0.15),
    Case(
        "central Laplace, Poisson cohort",
        [FIRST, mn.Discretize(grid=0.001), mn.CentralNoise(0.5, "laplace")],
        cohort=HALF,
        order=1,
        kind="any",
        relations=("add_or_remove", "zero_out"),
        share=0.1,
    ),
    Case(
        "central Gaussian, cohort of 2 in 3",
        [CLIP, mn.CentralNoise(1.0)],
        cohort=mn.Cohort(size=2),
        clients=3,
        others=-1,
        kind="any",
        share=0.1,
    ),
    Case(
        "central Laplace, cohort of 5 in 6",
        [FIRST, mn.CentralNoise(1.0, "laplace")],
        cohort=mn.Cohort(size=5),
        clients=6,
        others=-1,
        order=1,
        kind="any",
        share=0.1,
    ),
    Case(
        "local Gaussian, cohort of 2 in 3",
        [CLIP, mn.LocalNoise(1.0)],
        cohort=mn.Cohort(size=2),
        clients=3,
        others=-1,
        kind="any",
        share=0.1,
    ),
    Case(
        "distributed discrete Gaussian, cohort of 5 in 6",
        [CLIP, mn.DistributedNoise(noise_multiplier=1.0)],
        cohort=mn.Cohort(size=5),
        clients=6,
        others=-1,
        summation=SECURE,
        kind="any",
        share=0.05,
    ),
    Case(
        "local Gaussian, Poisson cohort, by the size of its noise",
        [CLIP, mn.LocalNoise(1.0)],
        "how many",
        cohort=HALF,
        size=400,
        kind="any",
        share=0.08,
    ),
    Case(
        "local Gaussian, by the size of its noise",
        [CLIP, mn.LocalNoise(1.0)],
        "how many",
        ("add_or_remove",),
        size=400,
        kind="any",
        share=0.03,
    ),
    Case(
        "distributed discrete Gaussian, simulated with SecAgg",
        [CLIP, mn.DistributedNoise(noise_multiplier=0.5)],
        "simulated",
        clients=3,
        summation=SECURE,
        relations=("zero_out",),
        share=0.004,
    ),
    Case(
        "central Gaussian, Poisson cohort, simulated",
        [CLIP, mn.CentralNoise(0.5)],
        "simulated",
        ("add_or_remove",),
        cohort=HALF,
        kind="any",
        share=0.004,
    ),
)
STEPS = (
    training.Step("DP-SGD, every example in every batch", training.logistic, 1.0, share=0.05),
    training.Step("DP-SGD, half of the examples in a batch", training.logistic, 0.7, 0.5, share=0.05),
    training.Step("DP-SGD of a network without Dropout", lambda: training.network(0.0), 0.7, share=0.005),
    training.Step("DP-SGD of a network with Dropout", lambda: training.network(0.5), 0.7, share=0.005),
)


@dataclass(frozen=True)
class Taken:
    """Samples against one observer, and what is stated."""

    mechanism: str
    relation: str
    observer: str
    stated: float
    delta: float
    worlds: Worlds

    def found(self, alpha: float) -> dict[str, Any]:
        """One row: `lower` holds with probability 1 - alpha."""
        lower = lower_bound(self.worlds, self.delta, alpha)
        about = {"mechanism": self.mechanism, "relation": self.relation, "observer": self.observer}
        counted = {"kind": self.worlds.kind, "samples": min(len(self.worlds.one), len(self.worlds.other))}
        return {**about, "stated": self.stated, "lower": lower, "tightness": lower / self.stated, "delta": self.delta, **counted}


Unclaimed = dict[str, str]
Outcome = tuple[list[Taken], list[Unclaimed]]


def run(case: Case | training.Step, relation: str, samples: int) -> Outcome:
    """All observers of one mechanism under one relation. What is refused, or not stated, is unclaimed, with the reason.

    Args:
        samples: of each world, for a case of share 1; half of them choose the distinguisher.
    """
    count = max(200, round(samples * case.share))
    try:
        if isinstance(case, training.Step):
            statement, worlds = training.audit(case, relation, count)
            return _observed(case.mechanism, relation, statement, lambda name: worlds)
        plan = plan_of(case.study(relation), case.clients, case.size)
        return _observed(case.mechanism, relation, plan.statement, _ways(case, plan, relation, count))
    except mn.ManentError as error:
        return [], [_unclaimed(case.mechanism, relation, "all", str(error))]


def _unclaimed(mechanism: str, relation: str, observer: str, reason: str) -> Unclaimed:
    return {"mechanism": mechanism, "relation": relation, "observer": observer, "reason": reason}


def _observed(mechanism: str, relation: str, statement: Statement, worlds_of: Any) -> Outcome:
    taken, unclaimed = [], []
    for observer in statement.observers:
        stated = observer.epsilon
        if stated is None or not 0 < stated < float("inf"):
            unclaimed.append(_unclaimed(mechanism, relation, observer.name, observer.why or f"epsilon {stated}"))
            continue
        worlds = worlds_of(observer.name)
        if worlds is None:
            reason = "This audit does not know what that observer sees."
            unclaimed.append(_unclaimed(mechanism, relation, observer.name, reason))
        else:
            taken.append(Taken(mechanism, relation, observer.name, stated, observer.delta or DELTA, worlds))
    return taken, unclaimed


def _ways(case: Case, plan: Plan, relation: str, count: int) -> Any:
    """A function from an observer's name to its samples; the releases themselves are made once."""
    noise = plan.stacks["train"].noise
    own_noise = noise is not None and noise.cost is not None and noise.cost.where != "server"
    if case.way == "wide":
        found = wide(plan, 1.0, case.order, relation, case.takes_part, case.rounds, count)
        return lambda name: found
    canary = spread_canary(case.size, case.norm / 10, case.order)
    if case.order == 1:  # the loss of Laplace noise is largest where all is in one coordinate
        canary = (np.arange(case.size) == case.size - 1).astype(np.float32) * case.norm
    pair = two_worlds(relation, case.clients, canary, case.others * canary)
    if case.way == "simulated":
        totals = [released(case.study(None, count), world) for world in pair]
        direction = canary / np.linalg.norm(canary)
        features = [(total @ direction)[:, None] for total in totals]
        worlds = Worlds(features[0], features[1], case.kind)
        return lambda name: worlds if name in ("clients", "public") else None
    if case.way == "how many":
        sizes = [np.log(1e-9 + (releases(plan, 0 * world, count).totals ** 2).sum(1))[:, None] for world in pair]
        return lambda name: Worlds(sizes[0], sizes[1], case.kind)
    names = [observer.name for observer in plan.statement.observers]
    known = {name: known_clients(name, case.clients, case.colluding, case.hidden) for name in names}
    wanted = sorted({place for places in known.values() for place in places or ()}) if own_noise else []
    # That a client takes part is not hidden from whoever sees its vector.
    visible = relation == "add_or_remove" and -case.clients in wanted
    made = [releases(plan, world, count, [place for place in wanted if place >= -len(world)]) for world in pair]
    direction = canary.astype(np.float64) / float(np.linalg.norm(canary, case.order))

    def worlds_of(name: ObserverName) -> Worlds | None:
        whose = known[name]
        if whose is None or (visible and -case.clients in whose):
            return None
        features = [seen(found, direction, [place for place in whose if place in wanted]) for found in made]
        return Worlds(features[0], features[1], case.kind)

    return worlds_of
