"""How a sum ends: what the reducer decides, the release with the server's noise, and the row of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import AnyCall, ServerParty
from manent.core.protocols import AlgorithmTraits, Assignment, traits
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array
from manent.network.server.documents import StudyRecord
from manent.privacy.check import Plan
from manent.rounds.reducer import Abandon, Answered, Applied, Deadline, Effect, Failed, Opened, Progress, Release, follow
from manent.rounds.server import Stepped, abandoned_reason, assignment_bytes, assignment_of, crossed, released, rules_of
from manent.rounds.spending import abandoned_counts
from manent.rounds.state import State
from manent.summation.parties import wire
from manent.summation.parties.wire import Kind


@dataclass(frozen=True)
class Ending:
    """How a sum ended.

    Attributes:
        state: the study's next state; None where the sum was abandoned.
        progress: where the study goes on.
        row: of the history.
        spent: whether it counts as a release.
        included: the public keys, in hexadecimal, of those whose vectors are in the sum.
        reason: why it was abandoned; "" where it was released.
    """

    state: State | None
    progress: Progress
    row: dict[str, Any]
    spent: bool
    included: Sequence[str] = ()
    reason: str = ""

    @property
    def released(self) -> bool:
        """Whether the sum was released."""
        return self.state is not None


def ended(plan: Plan, study: StudyRecord, state: State, party: ServerParty, random: PrivateRandom) -> Ending:
    """The end of a sum whose party is done or has aborted.

    It draws the server's noise. Store what it returns once, or throw it away unseen; see `rounds.server.released`.

    Raises ProtocolAbort where the study has no such sum.
    """
    assignment = _assignment(plan, study, state)
    places = {key: position for position, key in enumerate(party.cohort)}
    answered = tuple(sorted(places[key] for key in party.survivors)) if party.phase == "done" else ()
    count, rules = len(party.cohort), rules_of(plan)
    counts = {"asked": count, "answers": party.uploads, "sent": assignment_bytes(assignment), "sent_to": count}
    row = {"round": study.round, "sum": assignment.sum, **crossed(plan, assignment.sum, **counts)}
    progress, effects = follow(study.progress, rules, Opened(count), Answered(answered), Deadline())
    total = None
    if _releases(effects):
        try:
            total = _total(plan, assignment.sum, party)
        except ProtocolAbort as error:
            progress, effects = follow(progress, rules, Failed(str(error)))
    if total is None:
        abandoned = next((effect.reason for effect in effects if isinstance(effect, Abandon)), "")
        reason = abandoned_reason(plan, party.reason or abandoned)
        return Ending(None, progress, {**row, "abandoned": reason}, abandoned_counts(plan, party.uploads), (), reason)
    stepped, progress = _released(plan, state, progress, assignment, total, len(answered), random)
    included = [key.hex() for key in party.survivors]
    return Ending(stepped.state, progress, {**row, **stepped.report}, True, included)


def nobody(plan: Plan, study: StudyRecord, state: State, name: str, count: int, random: PrivateRandom) -> Ending:
    """The end of a sum for which too few clients were drawn, so that nobody is asked.

    Where noise hides how many were drawn, it is released all the same, as noise alone; see `ended`.
    """
    sent = assignment_bytes(_assignment(plan, study, state))
    row = {"round": study.round, "sum": name, **crossed(plan, name, asked=count, answers=0, sent=sent, sent_to=0)}
    progress, effects = follow(study.progress, rules_of(plan), Opened(count), Deadline())
    if _releases(effects):
        stack = plan.stacks[name]
        total = np.zeros(stack.layout.size, stack.dtype)
        stepped, progress = _released(plan, state, progress, _assignment(plan, study, state), total, 0, random)
        return Ending(stepped.state, progress, {**row, **stepped.report}, True)
    reason = abandoned_reason(plan, f"{count} clients were drawn; at least {plan.gathering.minimum} are needed.")
    return Ending(None, progress, {**row, "abandoned": reason}, False, (), reason)


def _assignment(plan: Plan, study: StudyRecord, state: State) -> Assignment:
    """What clients were sent for the sum. Raises InvalidInput where the study has none, Refused as `assignment_of`."""
    found = assignment_of(plan, state, study.round, study.index)
    if found is None:
        raise InvalidInput(f"Round {study.round} has no sum {study.index}; the study does not go by its state alone.")
    return found


def _releases(effects: Sequence[Effect]) -> bool:
    return any(isinstance(effect, Release) for effect in effects)


def _released(
    plan: Plan, state: State, at: Progress, assignment: Assignment, total: Array, answers: int, random: PrivateRandom
) -> tuple[Stepped, Progress]:
    """The study after the release of a total, and where it goes on; see `rounds.server.released`."""
    stepped = released(plan, state, at, assignment, total, answers, random)
    return stepped, follow(at, rules_of(plan), Applied(stepped.more))[0]


def _total(plan: Plan, sum: str, party: ServerParty) -> Array:
    """The total; formed part by part where the algorithm takes it so, and nothing stands between. Raises ProtocolAbort."""
    parted = sum == "train" and not plan.stacks[sum].stages and traits(plan.study.algorithm, AlgorithmTraits).parted
    return party.parted if parted else party.total


def closed_frame(call: AnyCall, released: bool) -> bytes:
    """What the cohort is told at the end."""
    return wire.frame(Kind.CLOSED, call.context, bytes([0 if released else 1]))
