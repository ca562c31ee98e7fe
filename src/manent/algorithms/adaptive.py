"""What FedAdagrad, FedAdam and FedYogi share: a server that adapts its step size to each coordinate."""

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

    u is the clients' mean update. Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan 2021, "Adaptive Federated
    Optimization", Algorithm 2: without bias correction, and v starts at tau^2. The defaults are the paper's: beta1 0.9,
    beta2 0.99, tau 0.001.

    Attributes:
        server_lr: the server's learning rate.
        beta1: how much of m is kept in each round, in [0, 1).
        beta2: how much of v is kept in each round, in [0, 1).
        tau: bounds the step size where v is small; above 0.

    Raises InvalidInput for a number out of range or of another type.
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
        """float64[p], the next v, from the last one and the squared mean update."""

    def slots(self, size: int) -> dict[str, Array]:
        """float64[p] each: "m" starts at zero, "v" at tau^2."""
        return {"m": np.zeros(size), "v": np.full(size, self.tau**2)}

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        """One step along m, divided by the root of v in each coordinate."""
        update = totals.mean("update")
        m = self.beta1 * state["m"] + (1 - self.beta1) * update
        v = self.second_moment(state["v"], update**2)
        return parameters + self.server_lr * m / (np.sqrt(v) + self.tau), {"m": m, "v": v}
