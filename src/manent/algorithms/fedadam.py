"""FedAdam: a server that adapts its step size by a moving average of squared updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from manent.algorithms.adaptive import AdaptiveServer
from manent.core.vectors import Array


@final
@dataclass(frozen=True)
class FedAdam(AdaptiveServer):
    """v = beta2 * v + (1 - beta2) * u^2.

    Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2.
    """

    def second_moment(self, v: Array, squared: Array) -> Array:
        """The moving average of u^2, float64[p]."""
        return self.beta2 * v + (1 - self.beta2) * squared
