"""A study is checked before it runs: `resolve` makes the plan that engines carry out, `check` states who sees what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from manent.core.errors import InvalidInput, Refused
from manent.core.examples import Client, Population, Public
from manent.core.layers import Gathering
from manent.core.protocols import Assignment, Summation, SumSpec
from manent.core.randomness import repeatable
from manent.core.study import Cohort, Study
from manent.core.vectors import Layout
from manent.layers.correlated import CorrelatedNoise
from manent.privacy.examples import account_examples, declared
from manent.privacy.guarantee import Privacy, account
from manent.privacy.stack import Stack
from manent.privacy.statement import Observer, Protection, Statement, SumLine
from manent.summation.plain import Plain


@dataclass(frozen=True)
class Plan:
    """A checked study, resolved for one population. Engines run only this.

    Attributes:
        summation: the study's, or `Plain()` where it declares none.
        sums: every kind of sum, by name.
        stacks: the layers of each kind of sum, resolved.
        gathering: what is public about a cohort; `minimum` is the fewest answers with which a sum is released.
        privacy: the differential privacy, or None where no layer adds noise.
        memory: what each client keeps between rounds, or None: the algorithm's, then that of the layers of each sum.
        kept: where in it the layers of a sum have theirs, by the name of the sum.
    """

    study: Study
    public: Public
    summation: Summation
    sums: dict[str, SumSpec]
    stacks: dict[str, Stack]
    gathering: Gathering
    privacy: Privacy | None
    memory: Layout | None
    kept: Mapping[str, slice]
    statement: Statement

    @property
    def own(self) -> int:
        """How many of the numbers that a client keeps are the algorithm's; they come first."""
        size = 0 if self.memory is None else self.memory.size
        return min((part.start for part in self.kept.values()), default=size)

    @property
    def divisor(self) -> float | None:
        """What private totals are divided by, and what is told instead of the number of answers."""
        return None if self.privacy is None or self.privacy.unit != "client" else self.gathering.expected

    @property
    def abandoned_is_spent(self) -> bool:
        """Whether a sum that is abandoned after vectors were sent is spent: where someone whom the guarantee is about saw them,
        or they were masked, and the server might have learned their sum."""
        if self.privacy is None:
            return False
        return self.summation.view == "the sum alone" or self.privacy.observers["server"][0] is not None


def check(study: Study, data: Population) -> Statement:
    """Who sees what, with every number. Nothing is run.

    Raises:
        InvalidInput: for a declaration that does not fit itself or the data.
        Refused: for a study with no honest statement.
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
    declared_hash = study.hash
    remembers = study.algorithm.memory(public) is not None
    stacks, gathering, privacy, study = _account(study, public.clients, sums, summation, remembers)
    state = study.algorithm.init(public, repeatable(0, "check"))
    first = study.algorithm.assign(state, 1, 0)
    memory, kept = _memory(study.algorithm.memory(public), stacks)
    plan = Plan(
        study=study,
        public=public,
        summation=summation,
        sums={spec.name: spec for spec in sums},
        stacks=stacks,
        gathering=gathering,
        privacy=privacy,
        memory=memory,
        kept=kept,
        statement=_state(replace(study, summation=summation), declared_hash, public, sums, stacks, first, gathering),
    )
    correlated = any(isinstance(layer, CorrelatedNoise) for layer in study.layers)
    return plan if privacy is None else replace(plan, statement=_private(plan.statement, privacy, gathering, correlated))


def _account(
    study: Study, clients: int, sums: tuple[SumSpec, ...], summation: Summation, remembers: bool
) -> tuple[dict[str, Stack], Gathering, Privacy | None, Study]:
    """Stacks, cohort and privacy, by the unit that the study protects; and the study with its noise.

    Noise layers protect clients. Without them, private training protects examples.
    """
    noisy = any(getattr(layer, "place", None) == 3 for layer in study.layers)
    if declared(study) is None or noisy:
        return (*account(study, clients, sums, summation, remembers), study)
    if study.budget is not None and study.budget.privacy_unit == "client":
        raise Refused(
            "DPSGD protects single examples; the budget is for each 'client'. Set privacy_unit='example', or add "
            "layers=[Clip(norm), CentralNoise()]."
        )
    resolved, privacy = account_examples(study, clients, sums)
    stacks, gathering, _ = account(replace(resolved, budget=None), clients, sums, summation)
    return stacks, gathering, privacy, resolved


def _memory(own: Layout | None, stacks: Mapping[str, Stack]) -> tuple[Layout | None, dict[str, slice]]:
    """What a client keeps, and where in it the layers of each sum have theirs."""
    parts, kept, at = [] if own is None else [own], {}, 0 if own is None else own.size
    for name, stack in stacks.items():
        layout = stack.memory(f"{name}.")
        if layout is not None:
            kept[name] = slice(at, at + layout.size)
            parts.append(layout)
            at += layout.size
    return (Layout(tuple(block for part in parts for block in part.blocks)) if parts else None), kept


def _state(
    study: Study,
    declared_hash: str,
    public: Public,
    sums: tuple[SumSpec, ...],
    stacks: Mapping[str, Stack],
    first: Assignment | None,
    gathering: Gathering,
) -> Statement:
    summation = study.summation or Plain()
    hidden = summation.view == "the sum alone"
    explained = [summation.explain(stacks[spec.name].form, gathering.most, gathering.minimum) for spec in sums]
    sent = ", ".join(f"{name} ({array.size:,} numbers)" for name, array in first.arrays.items()) if first else "nothing"
    observers = (
        Observer(
            "server",
            "only the total of each sum" if hidden else "every client's vector in each sum, and who sent it; and the totals",
        ),
        Observer("clients", f"what they are sent in each round: {sent}"),
        Observer("public", "the result, if it is published"),
    )
    not_covered = ["Nothing bounds what the result gives away about one person or one client; a budget would."]
    if hidden:
        not_covered.append("A total tells of its terms: one that most clients know all but one of gives that one away.")
        not_covered.append(
            "Nothing checks what a client that lies puts into the sum; the server is trusted to use the sum it learns."
        )
    else:
        not_covered.insert(0, "The server sees each client's vector, from which training data can often be rebuilt.")
        not_covered.append("The server is trusted to send every client the same, and to form the sum it claims.")
    return Statement(
        study=declared_hash,
        clients=public.clients,
        rounds=study.rounds,
        cohort=describe_cohort(study.cohort),
        summation=type(study.summation).__name__,
        layers=next(iter(stacks.values())).names,
        sums=tuple(
            SumLine(spec.name, spec.purpose, spec.every, tuple((b.name, b.size) for b in stacks[spec.name].layout.blocks))
            for spec in sums
        ),
        observers=observers,
        not_covered=tuple(not_covered),
        summing=tuple(dict.fromkeys(line for lines in explained for line in lines)),
    )


def _private(statement: Statement, privacy: Privacy, gathering: Gathering, correlated: bool) -> Statement:
    """The statement with the guarantees that hold against each observer."""
    observers = []
    for observer in statement.observers:
        guarantee, why = privacy.observers[observer.name]
        if guarantee is None or not math.isfinite(guarantee.epsilon):
            reason = why if guarantee is None else "No accountant bounds what this much noise allows."
            observers.append(replace(observer, why=reason))
            continue
        accountant = f"{guarantee.accountant} [{guarantee.version}]"
        found = replace(observer, epsilon=guarantee.epsilon, delta=guarantee.delta, why=why)
        observers.append(replace(found, accountant=accountant, assumptions=guarantee.assumptions))
    protection = Protection(
        privacy.unit,
        privacy.relation,
        privacy.noise_multiplier,
        tuple(privacy.noise_stddev.items()),
        privacy.releases,
        gathering.expected,
    )
    client = privacy.unit == "client"
    kept = (
        "The server keeps noise of the last rounds, in its checkpoint too: whoever reads it takes that noise off the totals.",
        "All rounds are accounted at once: a run that ends early has spent as much as a whole one.",
    )
    not_covered = (
        *(line for line in statement.not_covered if not line.startswith(("Nothing bounds", "A total tells"))),
        "Each client clips and rounds its own vector: one that does not follow the protocol is not bounded."
        if client
        else "Examples of one person, at one client or at several, are protected each by itself, not together.",
        "Whether and when a client answers, and how long that takes, must not depend on its data; no round is closed early.",
        "Settings that were chosen by runs on the same data, and whatever else was released of them, cost privacy of their own.",
        *(kept if correlated else ()),
    )
    return replace(statement, observers=tuple(observers), protection=protection, not_covered=not_covered)


def describe_cohort(cohort: Cohort) -> str:
    """Who takes part in a sum, in words."""
    if cohort.min_separation is not None:
        some = "all" if cohort.size is None else f"{cohort.size} drawn at random"
        return f"{some} of one of {cohort.min_separation} groups, which take turns, out"
    if cohort.size is not None:
        return f"{cohort.size} drawn at random for each sum, out"
    if cohort.sampling_probability is not None:
        most = "" if cohort.maximum is None else f", at most {cohort.maximum},"
        return f"each with probability {cohort.sampling_probability:g} for each sum{most}, out"
    return "all"
