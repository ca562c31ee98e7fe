"""What the adaptive servers share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from manent.algorithms.gradient import GradientAlgorithm, Totals
from manent.core import validate
from manent.core.vectors import Array, Arrays, Vector


@dataclass(frozen=True)
class AdaptiveServer(GradientAlgorithm):
    """m = beta1 * m + (1 - beta1) * u;  v by the algorithm's own rule;  x += server_lr * m / (sqrt(v) + tau).

    u is the mean update. Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan 2021, "Adaptive Federated Optimization",
    Algorithm 2: no bias correction, v starts at tau^2. Defaults are the paper's: beta1 0.9, beta2 0.99, tau 0.001.
    """

    server_lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.number(type(self).__name__, "server_lr", self.server_lr)
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            validate.fraction(type(self).__name__, name, value, one=False)
        validate.positive(type(self).__name__, "tau", self.tau)

    @abstractmethod
    def second_moment(self, v: Array, squared: Array) -> Array:
        """The next v [p], from the last and the squared mean update."""

    def slots(self, size: int) -> dict[str, Array]:
        return {"m": np.zeros(size), "v": np.full(size, self.tau**2)}

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        update = totals.mean("update")
        m = self.beta1 * state["m"] + (1 - self.beta1) * update
        v = self.second_moment(state["v"], update**2)
        return parameters + self.server_lr * m / (np.sqrt(v) + self.tau), {"m": m, "v": v}
