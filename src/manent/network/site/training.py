"""A site's answer to an assignment: computed, checked, and brought into the form in which it is summed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

import numpy as np

from manent.core.errors import ClientFailed, InvalidInput, ManentError
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
    plan: Plan, trainer: Trainer, assignment: Assignment, row: Vector | None, context: ClientContext, random: PrivateRandom
) -> tuple[Array, Vector | None]:
    """The vector [d] as it is summed, and what is to be kept if it is. Layers, rounding and noise are manent's own.

    Args:
        row: what the client has kept, the algorithm's part first; None for a study that keeps nothing.

    Raises ClientFailed where the client cannot answer; but in a sum with noise one that fails sends zeros, as its failure would
    tell something of its data.
    """
    stack, part = plan.stacks[assignment.sum], plan.kept.get(assignment.sum)
    own = None if row is None or not plan.own else row[: plan.own]
    try:
        found = _checked(plan, assignment, trainer.answer(assignment, own, context), own, context)
    except Exception as error:
        reason = str(error) if isinstance(error, ManentError) else f"{type(error).__name__}: {error}"
        if stack.noise is None:
            failed = ClientFailed(context.client, context.round, assignment.sum, reason)
            raise (error if isinstance(error, ClientFailed) else failed) from error
        log.warning("zeros are sent: the client failed", extra={"reason": reason, "round": context.round})
        found = Contribution(np.zeros(plan.sums[assignment.sum].layout.size, np.float32), own)
    vectors = found.vector[None]
    if row is None:
        return stack.client(vectors, assignment.arrays, random)[0], None
    after = np.array(row, np.float32)
    if found.memory is not None:
        after[: plan.own] = found.memory
    if part is None:
        return stack.client(vectors, assignment.arrays, random)[0], after
    vectors, after[None, part] = stack.remember(vectors, after[None, part], assignment.arrays, random)
    return vectors[0], after


def _checked(plan: Plan, assignment: Assignment, found: Contribution, own: Vector | None, context: ClientContext) -> Contribution:
    """The contribution, where it fits; behind a clip, zeros in the place of one that is not finite."""
    layout = plan.sums[assignment.sum].layout
    layout.check_size(found.vector)
    if found.memory is not None and found.memory.shape != (plan.own,):
        raise InvalidInput(f"It is to keep an array of shape {found.memory.shape}; its algorithm declares {plan.own} numbers.")
    tensor = layout.not_finite(found.vector)
    if tensor is None:
        return found
    if not plan.stacks[assignment.sum].clips:
        raise ClientFailed(context.client, context.round, assignment.sum, f"{tensor!r} holds NaN or infinity.")
    log.warning("zeros are sent: not finite", extra={"tensor": tensor, "round": context.round})
    return replace(found, vector=np.zeros_like(found.vector), memory=own)
