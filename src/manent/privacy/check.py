"""A study is checked before it runs: `resolve` makes the plan that engines carry out, `check` states who sees what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from manent.core.errors import InvalidInput
from manent.core.examples import Client, Population, Public
from manent.core.protocols import Assignment, Summation, SumSpec
from manent.core.randomness import repeatable
from manent.core.study import Cohort, Study
from manent.core.vectors import Layout
from manent.privacy.statement import Observer, Statement, SumLine
from manent.summation.plain import Plain


@dataclass(frozen=True)
class Plan:
    """A checked study, resolved for one population. Engines run only this.

    Attributes:
        summation: the study's, or `Plain()` where it declares none.
        sums: every kind of sum, by name.
        memory: what each client keeps between rounds, or None.
    """

    study: Study
    public: Public
    summation: Summation
    sums: dict[str, SumSpec]
    memory: Layout | None
    statement: Statement


def check(study: Study, data: Population) -> Statement:
    """Who sees what, with every number. Nothing is run.

    Raises InvalidInput for a declaration that does not fit itself or the data.
    """
    return resolve(study, data).statement


def resolve(study: Study, data: Population) -> Plan:
    """The plan of a study for a population; see `check`."""
    public = data.public
    study.cohort.check(public.clients)
    sums = study.algorithm.sums(public)
    if not sums:
        raise InvalidInput(f"{type(study.algorithm).__name__} declares no sum; an algorithm needs at least one.")
    clients: Sequence[Client] = getattr(data, "clients", ())
    for client in clients:
        study.algorithm.check(client)
    summation = study.summation or Plain()
    state = study.algorithm.init(public, repeatable(0, "check"))
    first = study.algorithm.assign(state, 1, 0)
    return Plan(
        study=study,
        public=public,
        summation=summation,
        sums={spec.name: spec for spec in sums},
        memory=study.algorithm.memory(public),
        statement=_state(replace(study, summation=summation), public, sums, first),
    )


def _state(study: Study, public: Public, sums: tuple[SumSpec, ...], first: Assignment | None) -> Statement:
    hidden = study.summation is not None and study.summation.view == "the sum alone"
    sent = ", ".join(f"{name} ({array.size:,} numbers)" for name, array in first.arrays.items()) if first else "nothing"
    observers = (
        Observer(
            "server",
            "only the total of each sum" if hidden else "every client's vector in each sum, and who sent it; and the totals",
        ),
        Observer("clients", f"what they are sent in each round: {sent}"),
        Observer("public", "the result, if it is published"),
    )
    not_covered = [
        "Nothing bounds what the result gives away about one person or one client; a budget would.",
        "The server is trusted to send every client the same, and to form the sum it claims.",
    ]
    if not hidden:
        not_covered.insert(0, "The server sees each client's vector, from which training data can often be rebuilt.")
    return Statement(
        study=study.hash,
        clients=public.clients,
        rounds=study.rounds,
        cohort=describe_cohort(study.cohort),
        summation=type(study.summation).__name__,
        layers=tuple(type(layer).__name__ for layer in study.layers),
        sums=tuple(
            SumLine(spec.name, spec.purpose, spec.every, tuple((b.name, b.size) for b in spec.layout.blocks)) for spec in sums
        ),
        observers=observers,
        not_covered=tuple(not_covered),
    )


def describe_cohort(cohort: Cohort) -> str:
    """Who takes part in a sum, in words."""
    if cohort.size is not None:
        return f"{cohort.size} drawn at random for each sum, out"
    if cohort.sampling_probability is not None:
        return f"each with probability {cohort.sampling_probability:g} for each sum, out"
    return "all"
