"""Federated averaging, and its special case FedSGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from manent.algorithms.gradient import GradientAlgorithm, Totals, blocks
from manent.core import validate
from manent.core.protocols import Model
from manent.core.training import LocalSGD
from manent.core.vectors import Array, Arrays, Vector


@final
@dataclass(frozen=True)
class FedAvg(GradientAlgorithm):
    """x += server_lr * weighted mean of the clients' updates.

    McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, "Communication-Efficient Learning of Deep Networks from Decentralized
    Data", Algorithm 1. There server_lr is 1, as by default here, and a client's weight is its number of examples.

    Raises InvalidInput unless server_lr is a finite number.
    """

    server_lr: float = 1.0
    parted: ClassVar[bool] = True  # `step` takes the total part by part

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.number("FedAvg", "server_lr", self.server_lr)

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        """x plus server_lr times the mean update, computed part by part."""
        moved = np.empty_like(parameters)
        for part in blocks(parameters.size):  # for a large model, whole arrays of float64 would be most of the server's memory
            moved[part] = parameters[part] + self.server_lr * (totals.part("update", part) / totals.weight)
        return moved, {}


def FedSGD(model: Model, lr: float) -> FedAvg:  # noqa: N802 - the algorithm's name
    """FedAvg with one full-batch step for each client and round: gradient descent on the pooled objective.

    McMahan et al. 2017, section 2. `lr` is the learning rate.
    """
    return FedAvg(model, LocalSGD(lr=lr, steps=1))
