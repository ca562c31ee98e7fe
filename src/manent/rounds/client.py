"""The client's half of a round, written once: simulations and sites call the same functions.

A client is asked for its contribution. What it answers is checked, the layers are applied, and what it is to keep is worked out.
Nothing here logs or warns: an `Outcome` says what happened, and each engine tells whom it may tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.protocols import Assignment, Contribution
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Vector
from manent.privacy.check import Plan

Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Outcome:
    """One client's answer, or why there is none.

    Attributes:
        contribution: the checked answer, or what is sent in its place.
        error: what the client's code raised, or what is wrong with its answer; None where nothing is.
        not_finite: the tensor that held NaN or infinity, so that zeros are sent; "" where none did.
        lost: whether the client cannot take part in the sum. Its contribution must not be used then.
        instead: after an error, what is sent in place of the answer: "zeros", or "noise alone".
    """

    contribution: Contribution
    error: Exception | None = None
    not_finite: str = ""
    lost: bool = False
    instead: str = "zeros"


Ask = Callable[[Sequence[Asked]], Sequence[Contribution]]


def outcomes(plan: Plan, sum: str, group: Sequence[Asked], ask: Ask[Asked], ask_empty: Ask[Asked]) -> Iterator[Outcome]:
    """Ask a group of clients for their terms of a sum: one outcome each, in order.

    Where asking several at once fails, each is asked by itself, so that the failure gets the right name. In a sum with noise a
    client that fails sends zeros: that it failed would tell something of its data, so only its own operator may know. It keeps
    the memory that it had. Where training noises each step (DP-SGD) it sends noise alone: what it would send without an example.

    A client whose training fails without an example too is lost: that fault is in the study's code, or in what clients were sent,
    and not in its data.

    Args:
        ask: runs the algorithm for some of the clients. It may raise anything.
        ask_empty: the same, as if they had no examples.
    """
    failed: Exception | None = None
    found: list[Outcome] = []
    try:
        answers = ask(group)
        if len(answers) != len(group):
            raise InvalidInput(f"answer() gave {len(answers)} contributions for {len(group)} clients.")
        found = [_taken(plan, sum, answer) for answer in answers]
    except Exception as error:  # noqa: BLE001 - a study's own code may raise anything
        failed = error
    if failed is None:
        yield from found
    elif len(group) > 1:
        for one in group:
            yield from outcomes(plan, sum, [one], ask, ask_empty)
    else:
        yield _in_place(plan, sum, failed, lambda: ask_empty(group))


def _taken(plan: Plan, sum: str, answer: Contribution) -> Outcome:
    """The outcome of an answer that came. Raises as `checked`, and where zeros would show that noised training failed."""
    found = checked(plan, sum, answer)
    if found.not_finite and plan.noised_inside(sum) and plan.stacks[sum].noise is None:
        raise InvalidInput(
            f"its vector holds NaN or infinity in {found.not_finite!r}: training diverged. Lower the learning rate."
        )
    return found


def _in_place(plan: Plan, sum: str, failed: Exception, empty: Callable[[], Sequence[Contribution]]) -> Outcome:
    """The outcome of a client that failed."""
    zeros, noised = Contribution(np.zeros(plan.sums[sum].layout.size, np.float32)), plan.stacks[sum].noise is not None
    if noised or not plan.noised_inside(sum):
        return Outcome(zeros, failed, lost=not noised)
    try:
        (answer,) = empty()
        return replace(checked(plan, sum, replace(answer, probe={})), error=failed, instead="noise alone")
    except Exception:  # noqa: BLE001 - as above; what failed first is what is told
        return Outcome(zeros, failed, lost=True)


def checked(plan: Plan, sum: str, contribution: Contribution) -> Outcome:
    """The outcome of an answer that came: the contribution itself, where it fits the sum's layout.

    Behind a clip, a vector that is not finite is replaced by zeros and the client keeps the memory that it had: there a failure
    would itself tell something of the data.

    Raises InvalidInput for a vector or a memory of the wrong size, and, where nothing clips, for NaN and infinity.
    """
    layout, kept = plan.sums[sum].layout, contribution.memory
    layout.check_size(contribution.vector)
    if kept is not None and kept.shape != (plan.own,):
        raise InvalidInput(f"It is to keep an array of shape {kept.shape}; its algorithm declares {plan.own} numbers.")
    tensor = layout.not_finite(contribution.vector)
    if tensor is None:
        return Outcome(contribution)
    if not plan.stacks[sum].clips:
        raise InvalidInput(
            f"its vector holds NaN or infinity in {tensor!r}: training diverged. Expected finite numbers; lower the learning "
            f"rate, or set max_grad_norm."
        )
    return Outcome(replace(contribution, vector=np.zeros_like(contribution.vector), memory=None), not_finite=tensor)


def summed(
    plan: Plan, assignment: Assignment, found: Contribution, kept: Callable[[], Vector] | None, random: PrivateRandom
) -> tuple[Array, Vector | None]:
    """A client's vector [d] as it is summed, and the row [m] to keep if it is in the released sum. The layers run here.

    Args:
        kept: gives a copy of the row that the client has kept, float32[m]; None for a study that keeps nothing. The algorithm's
            part comes first. It is the whole row that is returned, as all of it takes effect with the release.

    Raises a ManentError where a layer refuses what the client would send.
    """
    stack, part = plan.stacks[assignment.sum], plan.kept.get(assignment.sum)
    row = None if kept is None else _next_row(plan, found.memory, kept)
    if row is None or part is None:
        return stack.client(found.vector[None], assignment.arrays, random)[0], row
    vectors, row[None, part] = stack.remember(found.vector[None], row[None, part], assignment.arrays, random)
    return vectors[0], row


def _next_row(plan: Plan, own: Vector | None, kept: Callable[[], Vector]) -> Vector:
    """What a client is to keep, before the layers: where the algorithm says nothing, what it had."""
    if own is not None and not plan.kept:
        return np.asarray(own, np.float32)
    row = kept()
    if own is not None:
        row[: plan.own] = own
    return row
