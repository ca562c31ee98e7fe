"""FedDyn: dynamic regularisation, which makes the clients' optima agree with the optimum of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from manent.algorithms.gradient import Correction, GradientAlgorithm, Terms, Totals, Weighting
from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.examples import Client, Public
from manent.core.protocols import Assignment
from manent.core.training import LocalTraining
from manent.core.vectors import Array, Arrays, Layout, Vector


@final
@dataclass(frozen=True)
class FedDyn(GradientAlgorithm):
    """Each client minimises its loss - <g_i, w> + alpha/2 * |w - x|^2, where g_i is its gradient at the end of its last round.

    Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama 2021, "Federated Learning Based on Dynamic Regularization",
    Algorithm 1: g_i -= alpha * update; h -= alpha * sum of updates / number of clients; x = mean of the models - h / alpha.
    The paper tunes alpha over 0.001, 0.01 and 0.1; the default is 0.01. All clients weigh the same, as the proof needs.

    Raises InvalidInput unless alpha is finite and above 0, and weighting is "equal".
    """

    weighting: Weighting = "equal"
    alpha: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.positive("FedDyn", "alpha", self.alpha)
        if self.weighting != "equal":
            raise InvalidInput(f"FedDyn weighs its clients equally; found weighting={self.weighting!r}. Leave weighting out.")

    def slots(self, size: int) -> dict[str, Array]:
        """ "h", float64[p], starts at zero."""
        return {"h": np.zeros(size)}

    def memory(self, public: Public) -> Layout | None:
        """g_i, float32[p]."""
        return Layout((self.parameter_block("gradient"),))

    def kernel(self, assignment: Assignment, memory: Vector | None) -> Correction:
        """A pull of strength alpha towards x, and the shift -g_i."""
        return Correction(prox=self.alpha, shift=-_own(memory))

    def terms(self, update: Vector, work: LocalTraining, assignment: Assignment, memory: Vector | None, client: Client) -> Terms:
        """The update; g_i - alpha * update is kept."""
        return Terms({"update": update}, memory=_own(memory) - np.float32(self.alpha) * update)

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        """The mean of the models, corrected by h / alpha."""
        h = state["h"] - self.alpha * totals.sum("update") / float(state["clients"])
        return parameters + totals.mean("update") - h / self.alpha, {"h": h}


def _own(memory: Vector | None) -> Vector:
    if memory is None:
        raise InvalidInput("FedDyn needs each client's memory, but the engine gave none.")
    return memory
