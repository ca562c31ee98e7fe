"""FedYogi: FedAdam, with a second moment that changes by at most (1 - beta2) u^2 in a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from manent.algorithms.adaptive import AdaptiveServer
from manent.core.vectors import Array


@final
@dataclass(frozen=True)
class FedYogi(AdaptiveServer):
    """v -= (1 - beta2) * u^2 * sign(v - u^2).

    Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2.
    """

    def second_moment(self, v: Array, squared: Array) -> Array:
        """v moved towards u^2, by (1 - beta2) u^2, float64[p]."""
        moment: Array = v - (1 - self.beta2) * squared * np.sign(v - squared)
        return moment
