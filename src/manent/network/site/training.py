"""A site's answer to an assignment: computed, checked, and brought into the form in which it is summed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

import numpy as np

from manent.core.errors import ClientFailed, ManentError
from manent.core.examples import Client
from manent.core.protocols import Assignment, ClientContext, Contribution
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Vector
from manent.privacy.check import Plan

log = logging.getLogger("manent.site")


class Trainer(Protocol):
    """Computes a client's contribution, wherever that is done."""

    def answer(self, assignment: Assignment, memory: Vector | None, context: ClientContext) -> Contribution:
        """Raises ClientFailed, or another error, where the code does."""
        ...


class OwnProcess:
    """A study of built-in parts, in the site's own process."""

    def __init__(self, plan: Plan, client: Client) -> None:
        plan.study.algorithm.check(client)
        self._plan, self._client = plan, client

    def answer(self, assignment: Assignment, memory: Vector | None, context: ClientContext) -> Contribution:
        (found,) = self._plan.study.algorithm.answer(assignment, [self._client], [memory], [context])
        return found


def contribution(
    plan: Plan, trainer: Trainer, assignment: Assignment, memory: Vector | None, context: ClientContext, random: PrivateRandom
) -> tuple[Array, Vector | None]:
    """The vector [d] as it is summed, and the memory to keep if it is. Layers, rounding and noise are manent's own.

    Raises ClientFailed where the client cannot answer; but in a sum with noise one that fails sends zeros, as its failure would
    tell something of its data.
    """
    stack, spec = plan.stacks[assignment.sum], plan.sums[assignment.sum]
    try:
        found = trainer.answer(assignment, memory, context)
        spec.layout.check_size(found.vector)
        tensor = spec.layout.not_finite(found.vector)
        if tensor is not None and stack.clips:
            log.warning("zeros are sent: not finite", extra={"tensor": tensor, "round": context.round})
            found = replace(found, vector=np.zeros_like(found.vector), memory=memory)
        elif tensor is not None:
            raise ClientFailed(context.client, context.round, assignment.sum, f"{tensor!r} holds NaN or infinity.")
    except Exception as error:
        reason = str(error) if isinstance(error, ManentError) else f"{type(error).__name__}: {error}"
        if stack.noise is None:
            failed = ClientFailed(context.client, context.round, assignment.sum, reason)
            raise (error if isinstance(error, ClientFailed) else failed) from error
        log.warning("zeros are sent: the client failed", extra={"reason": reason, "round": context.round})
        found = Contribution(np.zeros(spec.layout.size, np.float32), memory)
    return stack.client(found.vector[None], assignment.arrays, random)[0], found.memory
