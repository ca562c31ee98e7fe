"""How the statement of a study is written, from what was found out about it."""

from __future__ import annotations

import math
from dataclasses import replace

from manent.accounting import attacks
from manent.core.examples import Public
from manent.core.protocols import Assignment, Summation, SumSpec
from manent.core.study import Study
from manent.privacy.cohorts import describe_cohort
from manent.privacy.guarantee import Accounted, Privacy
from manent.privacy.observers import looking
from manent.privacy.statement import Observer, Protection, Statement, SumLine

_UNBOUNDED = "Nothing bounds what the result gives away about one person or one client; a budget would."
_TERMS = "A total tells of its terms: one that most clients know all but one of gives that one away."


def describe(
    study: Study,
    public: Public,
    summation: Summation,
    sums: tuple[SumSpec, ...],
    accounted: Accounted,
    first: Assignment | None,
) -> Statement:
    """The statement of a study.

    Args:
        study: as it was declared; the statement bears its hash.
        summation: the study's, or what takes its place where it declares none.
        sums: every kind of sum.
        accounted: what it costs.
        first: the first assignment, for what clients are sent; None where there is none.

    Raises Refused for vectors that the summation cannot hold.
    """
    stacks, gathering, private = accounted.stacks, accounted.gathering, accounted.privacy is not None
    hidden = summation.seen_by("server").view == "the sum alone"
    explained = [summation.explain(stacks[spec.name].form, gathering.most, gathering.minimum) for spec in sums]
    sent = ", ".join(f"{name} ({array.size:,} numbers)" for name, array in first.arrays.items()) if first else "nothing"
    statement = Statement(
        study=study.hash,
        clients=public.clients,
        rounds=study.rounds,
        cohort=describe_cohort(study.cohort),
        summation=type(summation).__name__,
        layers=next(iter(stacks.values())).names,
        sums=tuple(
            SumLine(spec.name, spec.purpose, spec.every, tuple((b.name, b.size) for b in stacks[spec.name].layout.blocks))
            for spec in sums
        ),
        observers=_observers(summation, accounted.colluding, sent),
        not_covered=(*_not_covered(hidden, private), *_left_open(accounted)),
        summing=tuple(dict.fromkeys(line for lines in explained for line in lines)),
    )
    return statement if accounted.privacy is None else _with_guarantees(statement, accounted.privacy, gathering.expected)


def _observers(summation: Summation, colluding: int, sent: str) -> tuple[Observer, ...]:
    """Who looks, what they see and hold, before anything is said of privacy."""
    hidden = summation.seen_by("server").view == "the sum alone"
    vectors = "every client's vector in each sum, and who sent it; and the totals"
    told = ", who takes part" if summation.seen_by("clients").cohort else ""
    them = "1 client" if colluding == 1 else f"{colluding} clients"
    sees = {
        "server": "only the total of each sum" if hidden else vectors,
        "clients": f"their own part{told}, and what they are sent in each round: {sent}",
        "public": "the result, if it is published",
        "colluders": f"what up to {them} are sent and hold: their vectors, and their noise",
        "server and colluders": f"all that the server sees, and takes the vectors and the noise of up to {them} off it",
    }
    return tuple(Observer(name, sees[name]) for name in looking(colluding))


def _not_covered(hidden: bool, private: bool) -> list[str]:
    """What the summation leaves open, and what nothing bounds in a study without noise."""
    bare = [] if private else [_UNBOUNDED]
    if hidden:
        return [
            *bare,
            *([] if private else [_TERMS]),
            "Nothing checks what a client that lies puts into the sum; the server is trusted to use the sum it learns.",
        ]
    return [
        "The server sees each client's vector, from which training data can often be rebuilt.",
        *bare,
        "The server is trusted to send every client the same, and to form the sum it claims.",
    ]


def _left_open(accounted: Accounted) -> tuple[str, ...]:
    """What differential privacy for this unit does not cover, and what the layers leave open."""
    layers = tuple(dict.fromkeys(line for stack in accounted.stacks.values() for line in stack.not_covered()))
    if accounted.privacy is None:
        return layers
    return (
        "Each client clips and rounds its own vector: one that does not follow the protocol is not bounded."
        if accounted.privacy.unit == "client"
        else "Examples of one person, at one client or at several, are protected each by itself, not together.",
        "Whether and when a client answers, and how long that takes, must not depend on its data; no round is closed early.",
        "Settings that were chosen by runs on the same data, and whatever else was released of them, cost privacy of their own.",
        *layers,
    )


def _with_guarantees(statement: Statement, privacy: Privacy, divisor: float) -> Statement:
    """The statement with the guarantee that holds against each observer."""
    protection = Protection(
        privacy.unit,
        privacy.relation,
        privacy.noise_multiplier,
        tuple(privacy.noise_stddev.items()),
        privacy.releases,
        divisor,
        privacy.noise_unit,
    )
    observers = tuple(_with_guarantee(observer, privacy) for observer in statement.observers)
    return replace(statement, observers=observers, protection=protection)


def _with_guarantee(observer: Observer, privacy: Privacy) -> Observer:
    guarantee, why = privacy.observers[observer.name]
    if guarantee is None:
        return replace(observer, why=why)
    if not math.isfinite(guarantee.epsilon):
        return replace(observer, why="No accountant bounds what this much noise allows.")
    return replace(
        observer,
        epsilon=guarantee.epsilon,
        delta=guarantee.delta,
        why=why,
        accountant=f"{guarantee.accountant} [{guarantee.version}]",
        assumptions=guarantee.assumptions,
        attacks=attacks.within(guarantee.epsilon, guarantee.delta),
    )
