"""SCAFFOLD: control variates that correct the drift of each client towards its own optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from manent.algorithms.gradient import (
    Correction,
    GradientAlgorithm,
    Terms,
    Totals,
    Weighting,
    full_gradient,
    need_plain_sgd,
)
from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.examples import Client, Public
from manent.core.protocols import Assignment
from manent.core.training import LocalTraining
from manent.core.vectors import Array, Arrays, Block, Layout, Vector


@final
@dataclass(frozen=True)
class SCAFFOLD(GradientAlgorithm):
    """Each local gradient is shifted by c - c_i, the server's control variate minus the client's own.

    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    Algorithm 1. The server keeps c = mean of all clients' c_i: c += (answers / clients) * mean of the changes.

    Attributes:
        control: how the new c_i is computed. "difference" is option II, c_i - c + (x - y) / (steps * lr), which costs nothing
            (the default). "gradient" is option I, the full gradient at x, which costs one more pass over the data.
        server_lr: the paper's global step size, 1 by default.
        weighting: "equal", as in the paper. With "examples" the changes of c_i are weighted like the updates, so that the shifts
            cancel in the weighted mean; then c is the clients' weighted mean only if everyone takes part.

    Raises InvalidInput for momentum or Adam on the clients, for lr = 0 with "difference", and for arguments of another type.
    Raises Refused for "gradient" in private training, as that gradient has no noise.
    """

    weighting: Weighting = "equal"
    control: Literal["difference", "gradient"] = "difference"
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.number("SCAFFOLD", "server_lr", self.server_lr)
        validate.one_of("SCAFFOLD", "control", self.control, ("difference", "gradient"))
        need_plain_sgd(self, "control variates are differences of plain steps")
        if self.local.lr == 0 and self.control == "difference":
            raise InvalidInput("SCAFFOLD with control='difference' divides by lr; found lr=0. Use control='gradient'.")
        if self.local.privacy is not None and self.control == "gradient":
            raise Refused(
                "SCAFFOLD with control='gradient' would use a gradient without noise. With DPSGD use control='difference'."
            )

    def slots(self, size: int) -> dict[str, Array]:
        """ "control", c, float64[p], starts at zero."""
        return {"control": np.zeros(size)}

    def sends(self) -> tuple[str, ...]:
        """c goes to each client."""
        return ("control",)

    def extra_blocks(self) -> tuple[Block, ...]:
        """The change of c_i, shaped like the parameters."""
        return (self.parameter_block("control"),)

    def memory(self, public: Public) -> Layout | None:
        """c_i, float32[p]."""
        return Layout((self.parameter_block("control"),))

    def kernel(self, assignment: Assignment, memory: Vector | None) -> Correction:
        """The shift c - c_i."""
        return Correction(shift=assignment.arrays["control"] - _own(memory))

    def terms(self, update: Vector, work: LocalTraining, assignment: Assignment, memory: Vector | None, client: Client) -> Terms:
        """The update and the change of c_i; the new c_i is kept."""
        own = _own(memory)
        if self.control == "gradient":
            new = full_gradient(self, work.start, client)
        else:
            new = own - assignment.arrays["control"] - update / np.float32(len(work.batches) * work.lr)
        return Terms({"update": update, "control": new - own}, memory=new)

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        """x plus server_lr times the mean update; c plus the mean change, times answers / clients."""
        control = state["control"] + totals.mean("control") * (totals.answers / float(state["clients"]))
        return parameters + self.server_lr * totals.mean("update"), {"control": control}


def _own(memory: Vector | None) -> Vector:
    if memory is None:
        raise InvalidInput("SCAFFOLD needs each client's memory, but the engine gave none.")
    return memory
