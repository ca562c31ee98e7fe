"""SCAFFOLD: control variates against client drift."""

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
    """Every local gradient is shifted by c - c_i, the server's control minus the client's own.

    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    Algorithm 1. The server keeps c = mean of all clients' c_i: c += (answers / clients) * mean of the changes.

    Attributes:
        control: the new c_i: "difference" is option II, c_i - c + (x - y) / (steps * lr), at no cost (the default);
            "gradient" is option I, the full gradient at x, one more pass.
        server_lr: the paper's global step size, 1 by default.
        weighting: "equal", as in the paper. With "examples" the changes are weighted like the updates, so that the shifts
            cancel in the weighted mean; c is then the clients' weighted mean exactly when everyone takes part.
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
            raise InvalidInput("SCAFFOLD's control update II divides by lr; found lr=0. Use control='gradient'.")
        if self.local.privacy is not None and self.control == "gradient":
            raise Refused("SCAFFOLD's control update I is a gradient without noise. With DPSGD use control='difference'.")

    def slots(self, size: int) -> dict[str, Array]:
        return {"control": np.zeros(size)}

    def sends(self) -> tuple[str, ...]:
        return ("control",)

    def extra_blocks(self) -> tuple[Block, ...]:
        return (self.parameter_block("control"),)

    def memory(self, public: Public) -> Layout | None:
        return Layout((self.parameter_block("control"),))

    def kernel(self, assignment: Assignment, memory: Vector | None) -> Correction:
        return Correction(shift=assignment.arrays["control"] - _own(memory))

    def terms(self, update: Vector, work: LocalTraining, assignment: Assignment, memory: Vector | None, client: Client) -> Terms:
        own = _own(memory)
        if self.control == "gradient":
            new = full_gradient(self, work.start, client)
        else:
            new = own - assignment.arrays["control"] - update / np.float32(len(work.batches) * work.lr)
        return Terms({"update": update, "control": new - own}, memory=new)

    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        control = state["control"] + totals.mean("control") * (totals.answers / float(state["clients"]))
        return parameters + self.server_lr * totals.mean("update"), {"control": control}


def _own(memory: Vector | None) -> Vector:
    if memory is None:
        raise InvalidInput("SCAFFOLD needs each client's memory; the engine gave none.")
    return memory
