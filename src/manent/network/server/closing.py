"""How a sum ends: what the reducer says of it, the release with the server's noise, and the row of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manent.core.errors import ProtocolAbort
from manent.core.parties import AnyCall, ServerParty
from manent.core.protocols import AlgorithmTraits, traits
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.network.server.documents import StudyRecord
from manent.network.server.states import State, assignment_of, crossed, step_state
from manent.privacy.check import Plan
from manent.rounds.reducer import (
    Abandon,
    Answered,
    Applied,
    Deadline,
    Effect,
    Event,
    Failed,
    Opened,
    Progress,
    Release,
    Rules,
    step,
)
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind


@dataclass(frozen=True)
class Ending:
    """How a sum ended.

    Attributes:
        state: after a release; None where it was abandoned.
        progress: where the study goes on.
        row: of the history.
        spent: whether it counts as released.
        included: public keys of those whose vectors are in the sum.
    """

    state: State | None
    progress: Progress
    row: dict[str, Any]
    spent: bool
    included: Sequence[str] = ()
    reason: str = ""

    @property
    def released(self) -> bool:
        return self.state is not None


def ended(plan: Plan, study: StudyRecord, state: State, party: ServerParty, random: PrivateRandom) -> Ending:
    """The end of a sum whose party is done or has aborted. It draws the server's noise: see `step_state`."""
    assignment = assignment_of(plan, state, study.round, study.index)
    if assignment is None:
        raise ProtocolAbort(f"Round {study.round} has no sum {study.index}.")
    places = {key: position for position, key in enumerate(party.cohort)}
    answered = tuple(sorted(places[key] for key in party.survivors)) if party.phase == "done" else ()
    count, sent = len(party.cohort), sum(array.nbytes for array in assignment.arrays.values())
    row = {"round": study.round, "sum": assignment.sum, **crossed(plan, assignment.sum, count, party.uploads, sent)}
    progress, effects = _follow(plan, study.progress, Opened(count), Answered(answered), Deadline())
    total = None
    if any(isinstance(effect, Release) for effect in effects):
        try:
            total = _total(plan, assignment.sum, party)
        except ProtocolAbort as error:
            progress, effects = _follow(plan, progress, Failed(str(error)))
    abandoned = next((effect.reason for effect in effects if isinstance(effect, Abandon)), "")
    if total is None:
        reason = "Fewer answers than the noise is sized for." if plan.divisor is not None else party.reason or abandoned
        return Ending(None, progress, {**row, "abandoned": reason}, plan.abandoned_is_spent and party.uploads > 0, (), reason)
    stepped = step_state(plan, state, study.round, study.index, total, len(answered), random)
    progress, _ = _follow(plan, progress, Applied(stepped.more))
    included = [key.hex() for key in party.survivors]
    return Ending(stepped.state, progress, {**row, **stepped.report}, True, included)


def _total(plan: Plan, sum: str, party: ServerParty) -> Array:
    """The total; formed part by part where the algorithm takes it so, and nothing stands between. Raises ProtocolAbort."""
    parted = sum == "train" and not plan.stacks[sum].stages and traits(plan.study.algorithm, AlgorithmTraits).parted
    return party.parted if parted else party.total


def nobody(plan: Plan, study: StudyRecord, state: State, name: str, count: int, random: PrivateRandom) -> Ending:
    """A sum for which too few were drawn: nobody is asked. Where noise hides how many were drawn, it is released all the same."""
    row = {"round": study.round, "sum": name, **crossed(plan, name, count, 0, 0)}
    progress, effects = _follow(plan, study.progress, Opened(count), Deadline())
    if any(isinstance(effect, Release) for effect in effects):
        stack = plan.stacks[name]
        total = np.zeros(stack.layout.size, stack.dtype)
        stepped = step_state(plan, state, study.round, study.index, total, 0, random)
        progress, _ = _follow(plan, progress, Applied(stepped.more))
        return Ending(stepped.state, progress, {**row, **stepped.report}, True)
    reason = f"{count} clients were drawn; at least {plan.gathering.minimum} are needed."
    reason = "Fewer answers than the noise is sized for." if plan.divisor is not None else reason
    return Ending(None, progress, {**row, "abandoned": reason}, False, (), reason)


def _follow(plan: Plan, progress: Progress, *events: Event) -> tuple[Progress, list[Effect]]:
    rules = Rules(plan.study.rounds, plan.gathering.minimum)
    effects: list[Effect] = []
    for event in events:
        progress, found = step(progress, event, rules)
        effects += found
    return progress, effects


def closed_frame(call: AnyCall, released: bool) -> bytes:
    """What the cohort is told at the end."""
    return wire.frame(Kind.CLOSED, call.context, bytes([0 if released else 1]))
