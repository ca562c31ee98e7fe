"""FedNova: each update is divided by the local work behind it, so that clients who work more do not pull harder."""

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
    and for the proximal term). With equal numbers of steps it is FedAvg. Defaults: mu 0, server_lr 1.

    Attributes:
        mu: strength of the proximal term, as in FedProx.
        server_lr: the server's learning rate.

    Raises InvalidInput for an optimiser other than SGD, for mu together with momentum, and for a number out of range.
    """

    mu: float = 0.0
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.not_negative("FedNova", "mu", self.mu)
        validate.number("FedNova", "server_lr", self.server_lr)
        if self.local.optimizer != "sgd":
            raise InvalidInput(
                f"FedNova knows how steps add up for SGD only; found optimizer={self.local.optimizer!r}. Use optimizer='sgd'."
            )
        if self.mu and self.local.momentum:
            raise InvalidInput("FedNova has a closed form for momentum or for mu, not for both; set one of them to 0.")

    @property
    def scalable(self) -> bool:
        """False: a number of steps and an update have no common norm, so they cannot be clipped together."""
        return False

    def extra_blocks(self) -> tuple[Block, ...]:
        """tau_i, one number."""
        return (scalar("effective_steps"),)

    def kernel(self, assignment: Assignment, memory: Vector | None) -> Correction:
        """A pull of strength mu towards x."""
        return Correction(prox=self.mu)

    def terms(self, update: Vector, work: LocalTraining, assignment: Assignment, memory: Vector | None, client: Client) -> Terms:
        """The update divided by tau_i, and tau_i; both are weighted."""
        tau = accumulated(len(work.batches), self.local.momentum, self.mu * work.lr)
        return Terms({"update": update / np.float32(tau), "effective_steps": np.array([tau], np.float32)})

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        """x plus server_lr * tau_eff * mean of the divided updates."""
        steps = totals.mean("effective_steps")[0]
        return parameters + self.server_lr * steps * totals.mean("update"), {}


def accumulated(steps: int, momentum: float, shrink: float) -> float:
    """The L1 norm of a_i: over all steps, how much of the learning rate each gradient finally gets (Wang et al. 2020, section 4).

    Args:
        steps: how many the client took.
        momentum: heavy-ball momentum, or 0.
        shrink: mu times the learning rate; used only without momentum.
    """
    if momentum:
        return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    if shrink:
        return (1 - (1 - shrink) ** steps) / shrink
    return float(steps)
