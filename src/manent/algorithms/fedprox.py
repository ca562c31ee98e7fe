"""FedProx: local training with a pull towards the model that the round began with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from manent.algorithms.gradient import Correction, GradientAlgorithm, Totals
from manent.core import validate
from manent.core.protocols import Assignment
from manent.core.vectors import Array, Arrays, Vector


@final
@dataclass(frozen=True)
class FedProx(GradientAlgorithm):
    """Each client minimises its loss plus mu/2 * |w - x|^2, as far as it gets. The partial work of stragglers counts.

    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, "Federated Optimization in Heterogeneous Networks", Algorithm 2 and eq. 2.
    The paper tunes mu over 0.001, 0.01, 0.1 and 1; the default is 0.01. With mu = 0 it is FedAvg.

    Raises InvalidInput unless mu is finite and at least 0, and server_lr is a finite number.
    """

    mu: float = 0.01
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.number(type(self).__name__, "server_lr", self.server_lr)
        validate.not_negative("FedProx", "mu", self.mu)

    def kernel(self, assignment: Assignment, memory: Vector | None) -> Correction:
        """A pull of strength mu towards x."""
        return Correction(prox=self.mu)

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        """x plus server_lr times the mean update."""
        return parameters + self.server_lr * totals.mean("update"), {}
