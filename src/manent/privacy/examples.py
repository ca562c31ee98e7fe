"""What private training (DP-SGD) costs one example: every client draws its own batches, in secret, and noises every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from manent.accounting import calibrate
from manent.accounting.events import Event, Poisson, Repeated, RoundedGaussian, Sampled
from manent.core.dpsgd import DPSGD
from manent.core.errors import Refused
from manent.core.protocols import SumSpec
from manent.core.study import Study
from manent.core.training import LocalSGD
from manent.crypto.gradients import sampler_error
from manent.privacy.guarantee import Privacy, guarantee, remembered

WHY = "Every step of every client is noised before anything leaves it, and batches are drawn in secret by the client itself."


@dataclass(frozen=True)
class _Training:
    """A study's private training: what is declared, and how many steps an example can be drawn for."""

    local: LocalSGD
    declared: DPSGD
    parameters: int
    steps: int

    def event(self, z: float) -> Event:
        release = RoundedGaussian(z, sampler_error(self.parameters))
        probability = self.declared.probability(self.local.batch_size or 1)
        # Who is in a cohort is known to the server, so only the clients' own draws count: an example's client may always be in.
        return Repeated(Sampled(release, Poisson(probability)), self.steps)


def declared(study: Study) -> DPSGD | None:
    """The study's DPSGD, or None."""
    found = getattr(getattr(study.algorithm, "local", None), "privacy", None)
    return found if isinstance(found, DPSGD) else None


def account_examples(study: Study, clients: int, specs: Sequence[SumSpec]) -> tuple[Study, Privacy | None]:
    """The study with its noise, and what it guarantees to one example; None where some of what is released has no noise.

    Raises:
        Refused: under a budget, where the declared noise is too little, or something is released without noise.
    """
    algorithm: Any = study.algorithm
    privacy, budget = algorithm.local.privacy, study.budget
    training = _Training(algorithm.local, privacy, int(algorithm.parameters), study.rounds * int(algorithm.local.steps))
    bare = [spec.name for spec in specs if spec.name != "train"]
    if bare and budget is not None:
        raise Refused(
            f"The sum {bare[0]!r} is released without noise, which the budget does not allow. Leave evaluation out: evaluate on "
            f"the server's test set, and in a simulation see run.probe."
        )
    units = clients * (privacy.examples or 1)
    if budget is not None:
        budget.check_population(units)
    relation = budget.neighboring_relation if budget else "add_or_remove"
    delta = budget.delta if budget else min(1e-6, 1 / (10 * units))
    z = privacy.noise_multiplier
    if z is None:
        if budget is None:
            raise Refused("DPSGD needs noise_multiplier=..., or Study(budget=Budget(...)) to derive it from.")
        key = ("example", budget.epsilon, delta, relation, training.event(1.0))
        z = remembered(key, lambda: calibrate(budget.epsilon, delta, training.event, relation))
        local = replace(algorithm.local, privacy=replace(privacy, noise_multiplier=z))
        study = replace(study, algorithm=replace(algorithm, local=local))
    found = guarantee(training.event(z), delta, relation)
    if budget is not None and not found.epsilon <= budget.epsilon * (1 + 1e-9):
        raise Refused(
            f"With noise_multiplier={z:g} epsilon is {found.epsilon:.4g} for each example; the budget is {budget.epsilon:g}. "
            f"Leave noise_multiplier out of DPSGD, to derive it from the budget; or run fewer rounds or steps."
        )
    if bare:
        return study, None
    observers = dict.fromkeys(("server", "clients", "public"), (found, WHY))
    return study, Privacy(training.event(z), study.rounds, "example", relation, delta, observers, z, {})
