"""FedAvgM: momentum on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from manent.algorithms.gradient import GradientAlgorithm, Totals
from manent.core import validate
from manent.core.vectors import Array, Arrays, Vector


@final
@dataclass(frozen=True)
class FedAvgM(GradientAlgorithm):
    """v = momentum * v + mean update; x += server_lr * v.

    Hsu, Qi, Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    section 4. Defaults: momentum 0.9, server_lr 1.

    Raises InvalidInput unless momentum lies in [0, 1) and server_lr is a finite number.
    """

    momentum: float = 0.9
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.number(type(self).__name__, "server_lr", self.server_lr)
        validate.fraction("FedAvgM", "momentum", self.momentum, one=False)

    def slots(self, size: int) -> dict[str, Array]:
        """ "velocity", float64[p], starts at zero."""
        return {"velocity": np.zeros(size)}

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        """One step along the velocity."""
        velocity = self.momentum * state["velocity"] + totals.mean("update")
        return parameters + self.server_lr * velocity, {"velocity": velocity}
