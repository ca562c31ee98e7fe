"""Audits of private local training: one step of a client, over and over, with and without one of its examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import manent as mn
from audits.bounds import Samples, Worlds
from manent.core.examples import Client, Examples, Schema
from manent.core.protocols import ClientContext
from manent.crypto import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws
from manent.data.federation import Federation
from manent.privacy import Statement, resolve
from manent.rounds.server import assignment_of, first_state

FEATURES = 3
CLIP = 0.5


@dataclass(frozen=True)
class Step:
    """One step of DP-SGD.

    Attributes:
        model: makes the model.
        probability: with which each example is drawn.
        share: of the samples that the cheaper audits take.
    """

    mechanism: str
    model: Callable[[], Any]
    noise: float = 1.0
    probability: float = 1.0
    share: float = 1.0


def logistic() -> Any:
    """A model in numpy."""
    return mn.LogisticModel(FEATURES)


def network(dropout: float) -> Any:
    """A small network in torch, with Dropout."""
    from torch import nn

    return mn.TorchModel(
        nn.Sequential(nn.Linear(FEATURES, 12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 2)), loss="cross_entropy"
    )


def examples(relation: str) -> tuple[Examples, Examples]:
    """Two neighbouring sets of rows: the first row of one is left out of the other, or replaced by its opposite."""
    rng = np.random.default_rng(5)
    x, y = 3 * rng.normal(size=(24, FEATURES)).astype(np.float32), rng.integers(0, 2, 24)
    x[0], y[0] = 50.0, 1
    one = Examples(x, y)
    if relation == "replace_one":
        moved = y.copy()
        moved[0] = 0
        return one, Examples(x, moved)
    return one, Examples(x[1:], y[1:])


def audit(step: Step, relation: str, count: int) -> tuple[Statement, Worlds]:
    """What is stated, and what is sent in both worlds. Raises Refused where the model cannot be trained in private.

    Every sample is the first step of the same round, from the same weights: whatever is repeatable is known to an observer.
    """
    privacy = mn.DPSGD(CLIP, step.noise, sampling_probability=step.probability)
    local = mn.LocalSGD(lr=1.0, steps=1, batch_size=max(1, round(24 * step.probability)), privacy=privacy)
    budget: Any = mn.Budget(200.0, 1e-5, "example", relation)  # type: ignore[arg-type]
    study = mn.Study(mn.FedAvg(step.model(), local, weighting="equal"), budget=budget)
    worlds = []
    for rows in examples(relation):
        client = Client("client", rows)
        data = Federation(clients=(client,), schema=Schema(shape=(FEATURES,), classes=2), name="audit")
        plan = resolve(study, data)
        worlds.append(_sent(plan, client, count))
    gaussian = step.probability == 1
    return plan.statement, Worlds(worlds[0], worlds[1], "gaussian" if gaussian else "any")


def _sent(plan: Any, client: Client, count: int) -> Samples:
    """[count, p], the vectors that the client's algorithm gives."""
    assignment = assignment_of(plan, first_state(plan, 1), 1, 0)
    random, algorithm = SystemRandom(), plan.study.algorithm
    vectors: list[NDArray[np.float32]] = []
    for _ in range(count):
        context = ClientContext(client.name, 1, 1, draws=ExactDraws(random))
        vectors.append(algorithm.answer(assignment, [client], [None], [context])[0].vector)
    return np.array(vectors, np.float64)
