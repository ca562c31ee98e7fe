"""What private training (DP-SGD) costs one example: every client draws its batches in secret, and adds noise to every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from manent.accounting import example_event, example_noise
from manent.core.errors import Refused
from manent.core.observers import ObserverName
from manent.core.protocols import AlgorithmTraits, Summation, SumSpec, traits
from manent.core.study import Study
from manent.core.training import LocalSGD
from manent.core.training.dpsgd import ASSUMPTION, DPSGD
from manent.privacy.guarantee import Privacy, guarantee, remembered, shown, unprotected
from manent.privacy.observers import colluding_of, looking

WHY = "Every step of every client is noised before anything leaves it, and batches are drawn in secret by the client itself."


def declared(study: Study) -> DPSGD | None:
    """What the study declares of private training, or None."""
    local = traits(study.algorithm, AlgorithmTraits).local
    return local.privacy if isinstance(local, LocalSGD) else None


def account_examples(study: Study, clients: int, specs: Sequence[SumSpec], summation: Summation) -> tuple[Study, Privacy | None]:
    """The study with its noise, and what it guarantees to one example. The latter is None where a sum is released without noise.

    All noise is added before anything leaves a client, and batches are that client's own secret: every observer learns the same.

    Raises:
        Refused: under a budget, where the declared noise is too little, something is released without noise, or the budget is
            against colluders, and none are declared.
        InvalidInput: for a delta that allows to publish whole examples.
    """
    algorithm: Any = study.algorithm
    budget, local = study.budget, algorithm.local
    size = study.rounds, int(algorithm.parameters)
    bare = [spec.name for spec in specs if spec.name != "train"]
    if bare and budget is not None:
        raise Refused(
            f"The sum {bare[0]!r} is released without noise, which the budget does not allow. Leave evaluation out: evaluate on "
            f"the server's test set, and in a simulation see run.probe."
        )
    names = _looking(study, clients, summation)
    units = clients * examples_each(local)
    if budget is not None:
        budget.check_population(units)
    relation = budget.neighboring_relation if budget else "add_or_remove"
    delta = budget.delta if budget else min(1e-6, 1 / (10 * units))
    if local.privacy.noise_multiplier is None:
        if budget is None:
            raise Refused("DPSGD needs noise_multiplier=..., or Study(budget=Budget(...)) to derive it from.")
        key = ("example", budget.epsilon, delta, relation, example_event(local.with_noise(1.0), *size))
        local = local.with_noise(remembered(key, lambda: example_noise(local, *size, budget)))
        study = replace(study, algorithm=replace(algorithm, local=local))
    z, event = float(local.privacy.noise_multiplier), example_event(local, *size)
    found = guarantee(event, delta, relation)
    if budget is not None and not found.epsilon <= budget.epsilon * (1 + 1e-9):
        raise Refused(
            f"With noise_multiplier={z:g} epsilon is {shown(found)} for each example; the budget is {budget.epsilon:g}. "
            f"Leave noise_multiplier out of DPSGD, to derive it from the budget; or run fewer rounds or steps."
        )
    if bare:
        return study, None
    found = replace(found, assumptions=(*found.assumptions, ASSUMPTION))
    everyone = dict.fromkeys(names, (found, WHY)), dict.fromkeys(names, event), names
    return study, Privacy(study.rounds, "example", relation, delta, *everyone, z, {})


def _looking(study: Study, clients: int, summation: Summation) -> tuple[ObserverName, ...]:
    """Who looks. Raises Refused for a budget against colluders where none are declared."""
    names = looking(colluding_of(summation, study.cohort.size or study.cohort.maximum or clients))
    against = study.budget.against if study.budget is not None else None
    for name in against or ():
        if name not in names:
            raise Refused(unprotected(name, ""))
    return names


def examples_each(local: LocalSGD) -> int:
    """How many examples a client has, or is taken to have. It is what is declared, as the true number is private."""
    privacy, batch = local.privacy, local.batch_size or 1
    if privacy is None:
        return 1
    return privacy.examples or math.ceil(batch / privacy.probability(batch))
