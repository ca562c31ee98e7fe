"""FedDyn: dynamic regularisation."""

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
    """Each client minimises its loss - <g_i, w> + alpha/2 * |w - x|^2, with g_i the gradient it ended the last time with.

    Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama 2021, "Federated Learning Based on Dynamic Regularization",
    Algorithm 1: g_i -= alpha * update; h -= alpha * sum of updates / number of clients; x = mean of the models - h / alpha.
    The paper tunes alpha over 0.001, 0.01 and 0.1; the default is 0.01. Weights are equal, as its proof needs.
    """

    weighting: Weighting = "equal"
    alpha: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.positive("FedDyn", "alpha", self.alpha)
        if self.weighting != "equal":
            raise InvalidInput(f"FedDyn weighs its clients equally; found weighting={self.weighting!r}.")

    def slots(self, size: int) -> dict[str, Array]:
        return {"h": np.zeros(size)}

    def memory(self, public: Public) -> Layout | None:
        return Layout((self.parameter_block("gradient"),))

    def kernel(self, assignment: Assignment, memory: Vector | None) -> Correction:
        return Correction(prox=self.alpha, shift=-_own(memory))

    def terms(self, update: Vector, work: LocalTraining, assignment: Assignment, memory: Vector | None, client: Client) -> Terms:
        return Terms({"update": update}, memory=_own(memory) - np.float32(self.alpha) * update)

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        h = state["h"] - self.alpha * totals.sum("update") / float(state["clients"])
        return parameters + totals.mean("update") - h / self.alpha, {"h": h}


def _own(memory: Vector | None) -> Vector:
    if memory is None:
        raise InvalidInput("FedDyn needs each client's memory; the engine gave none.")
    return memory
