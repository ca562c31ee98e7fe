"""FedAdagrad: an adaptive server."""

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
        return v + squared
