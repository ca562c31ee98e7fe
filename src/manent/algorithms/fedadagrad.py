"""FedAdagrad: a server that adapts its step size by the sum of squared updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from manent.algorithms.adaptive import AdaptiveServer
from manent.core.vectors import Array


@final
@dataclass(frozen=True)
class FedAdagrad(AdaptiveServer):
    """v += u^2 (beta2 is not used).

    Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2.
    """

    def second_moment(self, v: Array, squared: Array) -> Array:
        """v + u^2, float64[p]."""
        return v + squared
