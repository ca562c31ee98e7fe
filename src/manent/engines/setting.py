"""What a simulation is given: the plan, the data, and what is assumed of the world around them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from manent.core.canonical import to_plain
from manent.core.errors import InvalidInput
from manent.core.examples import Client
from manent.core.metrics import default_metrics, measure
from manent.core.protocols import AlgorithmTraits, Model, traits
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.data.federation import Federation
from manent.engines.conditions import Conditions
from manent.privacy.check import Plan


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Attributes:
        seed: of everything repeatable.
        evaluate_every: rounds between two looks at the test parts.
        metrics: what to look at; None takes those that fit the model.
        random: source of noise and rounding; None is the operating system's.
    """

    plan: Plan
    data: Federation
    seed: int
    conditions: Conditions
    evaluate_every: int
    metrics: tuple[str, ...] | None
    random: PrivateRandom | None = None

    @property
    def hash(self) -> str:
        """The declared study's hash."""
        return self.plan.hash

    @cached_property
    def model(self) -> Model | None:
        """What is trained; None for a query."""
        return traits(self.plan.study.algorithm, AlgorithmTraits).model

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics to look at; none where no model is trained."""
        if self.model is None:
            return ()
        extra = ("auc", "f1") if self.model.kind == "binary" else ()
        return self.metrics or (*default_metrics(self.model.kind), *extra)

    def measure(self, vector: Array, client: Client) -> dict[str, float]:
        """A model's metrics on a client's own test part. Raises InvalidInput where there is no model or no test part."""
        if self.model is None or client.test is None:
            raise InvalidInput(f"Client {client.name!r} has no test part to measure on.")
        return measure(self.metric_names, self.model.evaluate(vector, client.test), self.model.classes)

    def to_plain(self) -> dict[str, Any]:
        """What a resumed run must agree in, as plain data."""
        return {
            "hash": self.hash,
            "study": self.plan.declared.to_plain(),
            "noise_multiplier": self.plan.noise_multiplier,
            "seed": self.seed,
            "conditions": to_plain(self.conditions),
            "evaluate_every": self.evaluate_every,
            "data": self.data.fingerprint(),
        }
