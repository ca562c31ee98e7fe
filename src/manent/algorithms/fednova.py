"""FedNova: updates normalised by the local work behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from manent.algorithms.gradient import Correction, GradientAlgorithm, Terms, Totals
from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.examples import Client
from manent.core.protocols import Assignment
from manent.core.training import LocalTraining
from manent.core.vectors import Array, Arrays, Block, Vector, scalar


@final
@dataclass(frozen=True)
class FedNova(GradientAlgorithm):
    """x += tau_eff * weighted mean of (update / tau_i), with tau_eff the weighted mean of tau_i.

    Wang, Liu, Liang, Joshi, Poor 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    eq. 6-7 and section 4: tau_i is the L1 norm of the accumulation vector a_i (steps for plain SGD; closed forms for momentum
    and for the proximal term). With equal steps it is FedAvg. Defaults: mu = 0, server_lr = 1.
    """

    mu: float = 0.0
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.not_negative("FedNova", "mu", self.mu)
        validate.number("FedNova", "server_lr", self.server_lr)
        if self.local.optimizer != "sgd":
            raise InvalidInput(f"FedNova knows the accumulation of SGD only; found optimizer={self.local.optimizer!r}.")
        if self.mu and self.local.momentum:
            raise InvalidInput("FedNova has a closed form for momentum or for mu, not for both; set one of them to 0.")

    @property
    def scalable(self) -> bool:
        return False  # a number of steps shares no norm with an update

    def extra_blocks(self) -> tuple[Block, ...]:
        return (scalar("effective_steps"),)

    def kernel(self, assignment: Assignment, memory: Vector | None) -> Correction:
        return Correction(prox=self.mu)

    def terms(self, update: Vector, work: LocalTraining, assignment: Assignment, memory: Vector | None, client: Client) -> Terms:
        tau = accumulated(len(work.batches), self.local.momentum, self.mu * work.lr)
        return Terms({"update": update / np.float32(tau), "effective_steps": np.array([tau], np.float32)})

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        steps = totals.mean("effective_steps")[0]
        return parameters + self.server_lr * steps * totals.mean("update"), {}


def accumulated(steps: int, momentum: float, shrink: float) -> float:
    """L1 norm of a_i: how much of the learning rate each gradient finally gets, added up (Wang et al. 2020, section 4)."""
    if momentum:
        return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    if shrink:
        return (1 - (1 - shrink) ** steps) / shrink
    return float(steps)
