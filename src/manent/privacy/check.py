"""A study is checked before it runs: `resolve` makes the plan that engines carry out, `check` states who sees what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import FunctionType

from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.examples import Population, Public
from manent.core.layers import Gathering
from manent.core.protocols import PopulationTraits, Summation, SummationTraits, SumSpec, traits
from manent.core.randomness import repeatable
from manent.core.study import Study
from manent.core.vectors import Layout
from manent.privacy.cohorts import sampling
from manent.privacy.describe import describe
from manent.privacy.examples import account_examples, declared
from manent.privacy.guarantee import Accounted, Privacy, account
from manent.privacy.stack import Stack, noise_layer
from manent.privacy.statement import Statement
from manent.summation.plain import Plain


@dataclass(frozen=True)
class Plan:
    """A checked study, resolved for one population. Engines run only this.

    Attributes:
        declared: the study as it was declared. Its hash is that of the run, everywhere.
        study: the study that is run: the declared one, with the noise of private training where a budget derives it.
        public: what everyone may know of the population.
        summation: the study's, or `Plain()` where it declares none.
        sums: every kind of sum, by name.
        stacks: the layers of each kind of sum, resolved.
        gathering: what is public about a cohort; `minimum` is the fewest answers with which a sum is released.
        privacy: the differential privacy, or None where no layer adds noise.
        memory: what each client keeps between rounds, or None. The algorithm's part comes first, then that of the layers of each
            sum.
        kept: by the name of a sum, which part of that memory its layers have.
        statement: who sees what.
    """

    declared: Study
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
    def hash(self) -> str:
        """The hash of the declared study, as the statement bears it. It was computed once."""
        return self.statement.study

    @property
    def noise_multiplier(self) -> float | None:
        """The noise that is used, declared or derived from the budget; None for a study without privacy."""
        return None if self.privacy is None else float(self.privacy.noise_multiplier)

    @property
    def own(self) -> int:
        """How many of the numbers that a client keeps are the algorithm's. They come first."""
        size = 0 if self.memory is None else self.memory.size
        return min((part.start for part in self.kept.values()), default=size)

    @property
    def divisor(self) -> float | None:
        """The public number that divides private totals, told in place of the number of answers; None where that is told."""
        return None if self.privacy is None or self.privacy.unit != "client" else self.gathering.expected

    @property
    def secret_cohort(self) -> bool:
        """Whether the guarantee counts on a sample of clients that clients do not know.

        Then nothing that the server tells them may say who was asked, or how many.
        """
        if self.privacy is None or self.privacy.unit != "client":
            return False
        network = traits(self.summation, SummationTraits).network
        sampled = sampling(self.study.cohort, self.public.clients, self.memory is not None) is not None
        return sampled and network is not None and not network.tells_cohort

    def noised_inside(self, sum: str) -> bool:
        """Whether the clients' own training noises their vectors to a sum, so that one without examples sends noise alone."""
        return sum == "train" and declared(self.study) is not None

    @property
    def abandoned_is_spent(self) -> bool:
        """Whether a sum that is abandoned after vectors were sent counts as spent.

        It does where someone whom the guarantee is about saw the vectors, or where they were masked, as the server might then
        have learned their sum.
        """
        if self.privacy is None:
            return False
        return self.summation.seen_by("server").view == "the sum alone" or self.privacy.observers["server"][0] is not None


def check(study: Study, data: Population) -> Statement:
    """Who sees what, with every number. Nothing is run.

    Raises:
        InvalidInput: for a declaration that does not fit itself or the data.
        Refused: for a study with no honest statement.
    """
    return resolve(study, data).statement


def resolve(study: Study, data: Population) -> Plan:
    """The plan of a study for a population. Raises as `check`."""
    _check_kinds(study, data)
    public, algorithm = data.public, study.algorithm
    study.cohort.check(public.clients)
    sums = algorithm.sums(public)
    if not sums:
        raise InvalidInput(f"{type(algorithm).__name__} declares no sum; an algorithm needs at least one.")
    for client in traits(data, PopulationTraits).clients:
        algorithm.check(client)
    summation = study.summation or Plain()
    own = algorithm.memory(public)
    accounted = _account(study, public.clients, sums, summation, own is not None)
    algorithm = accounted.study.algorithm
    first = algorithm.assign(algorithm.init(public, repeatable(0, "check")), 1, 0)
    memory, kept = _memory(own, accounted.stacks)
    return Plan(
        declared=study,
        study=accounted.study,
        public=public,
        summation=summation,
        sums={spec.name: spec for spec in sums},
        stacks=accounted.stacks,
        gathering=accounted.gathering,
        privacy=accounted.privacy,
        memory=memory,
        kept=kept,
        statement=describe(study, public, summation, sums, accounted, first),
    )


def _check_kinds(study: Study, data: Population) -> None:
    """Raises InvalidInput for what is no study, and for data that are no population."""
    if isinstance(data, Study):
        raise InvalidInput("The study comes first, then the data; found a study as the data. Write (study, data).")
    validate.part("The call", "study", study, "a study", ("algorithm", "cohort", "layers"), "Study(algorithm, rounds=10)")
    if isinstance(data, FunctionType):
        name = data.__name__
        raise InvalidInput(f"Expected a federation as data; found the function {name}. Call it: {name}().")
    validate.part("The call", "data", data, "a federation", ("public", "names"), "data.heart_disease()")


def _account(study: Study, clients: int, sums: tuple[SumSpec, ...], summation: Summation, remembers: bool) -> Accounted:
    """What the study costs, by the unit that it protects.

    Noise layers protect clients. Without them, private training protects examples.
    """
    if declared(study) is None or noise_layer(study.layers) is not None:
        return account(study, clients, sums, summation, remembers)
    if study.budget is not None and study.budget.privacy_unit == "client":
        raise Refused(
            "DPSGD protects single examples; the budget is for each 'client'. Set privacy_unit='example', or add "
            "layers=[Clip(norm), CentralNoise()]."
        )
    resolved, privacy = account_examples(study, clients, sums, summation)
    return replace(account(replace(resolved, budget=None), clients, sums, summation), study=resolved, privacy=privacy)


def _memory(own: Layout | None, stacks: Mapping[str, Stack]) -> tuple[Layout | None, dict[str, slice]]:
    """What a client keeps, the algorithm's part first; and which part of it the layers of each sum have."""
    parts, kept, at = [] if own is None else [own], {}, 0 if own is None else own.size
    for name, stack in stacks.items():
        layout = stack.memory(f"{name}.")
        if layout is not None:
            kept[name] = slice(at, at + layout.size)
            parts.append(layout)
            at += layout.size
    return (Layout(tuple(block for part in parts for block in part.blocks)) if parts else None), kept
