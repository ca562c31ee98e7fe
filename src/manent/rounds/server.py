"""The server's half of a round, written once: simulations and the network's server call the same functions.

From a state follow the assignment that clients are sent, and from the state and a total the next state. What differs between
engines is where the answers come from and how a step is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.protocols import AlgorithmTraits, Assignment, Released, traits
from manent.core.randomness import PrivateRandom, repeatable
from manent.core.vectors import Array, Arrays
from manent.privacy.check import Plan
from manent.rounds.reducer import Progress, Rules
from manent.rounds.state import State

ROW = frozenset({"round", "sum", "cohort", "answers", "bytes_up", "bytes_down", "abandoned"})
"""What every row of the history says by itself. The report of an algorithm uses none of these names."""


def rules_of(plan: Plan) -> Rules:
    """What the reducer needs of a plan."""
    return Rules(plan.study.rounds, plan.gathering.minimum)


def first_state(plan: Plan, seed: int, initial: Array | None = None) -> State:
    """The state before the first sum: the same for every engine with the same seed.

    Args:
        initial: float32[d], the model's first vector, where the code that draws it is not here; None draws it from the seed.

    Raises InvalidInput for an initial vector that does not fit, or for a study that trains no model.
    """
    algorithm = plan.study.algorithm
    arrays: dict[str, Array] = dict(algorithm.init(plan.public, repeatable(seed, "init")))
    if initial is not None:
        model = traits(algorithm, AlgorithmTraits).model
        if model is None:
            raise InvalidInput("A first vector was given for a study that trains no model.")
        model.layout.check_size(initial)
        model.layout.check_finite(initial)
        arrays["model"] = np.array(initial, np.float32)
    return State(arrays, {name: stack.init() for name, stack in plan.stacks.items()})


def assignment_of(plan: Plan, state: State, round: int, index: int) -> Assignment | None:
    """What clients are sent for a sum: the algorithm's arrays and those of the layers; None where the round has no such sum.

    Raises Refused where this round's sum would break what the noise was sized for.
    """
    given = plan.study.algorithm.assign(state.arrays, round, index)
    if given is None:
        return None
    layers = state.layers[given.sum]
    plan.stacks[given.sum].check_round(layers, round)
    return completed(plan, given, layers)


def completed(plan: Plan, given: Assignment, layers: Arrays) -> Assignment:
    """The algorithm's assignment with the arrays that clients need of the layers' state."""
    return Assignment(given.sum, {**given.arrays, **plan.stacks[given.sum].sends(layers)})


@dataclass(frozen=True)
class Stepped:
    """A study after a release.

    Attributes:
        state: the next state.
        total: float64[d], as the algorithm was given it: noise included.
        report: what the history says, by name; finite numbers only.
        more: whether the round needs another sum.
    """

    state: State
    total: Array
    report: Mapping[str, float]
    more: bool


def released(
    plan: Plan, state: State, at: Progress, assignment: Assignment, total: Array, answers: int, random: PrivateRandom
) -> Stepped:
    """Release a sum: the layers' server halves, with the server's noise, then the algorithm's next state.

    Call it once for a sum, and store what it returns or throw it away unseen. Two totals with different draws of the
    noise would let their difference, and the noise, be worked out.

    Args:
        at: the round, and which of its sums this is.
        total: [d'], as the summation formed it.
        answers: how many vectors are in it. With a public divisor the algorithm is told the expected number instead.
        random: the source of the noise.

    Raises InvalidInput where the algorithm's report uses a name of the history's own (`ROW`).
    """
    name, expected = assignment.sum, plan.divisor
    total, layers = plan.stacks[name].server(total, state.layers[name], random)
    counted = answers if expected is None else max(1, round(expected))
    given = Released(total, counted, at.round, expected)
    arrays, report = plan.study.algorithm.apply(state.arrays, assignment, given)
    taken = sorted(ROW.intersection(report))
    if taken:
        raise InvalidInput(
            f"{type(plan.study.algorithm).__name__} reports {', '.join(map(repr, taken))}, which the history says by itself. "
            f"Choose another name in the report that `apply` returns."
        )
    more = plan.study.algorithm.assign(arrays, at.round, at.index + 1) is not None
    return Stepped(State(arrays, {**state.layers, name: layers}), total, finite(report), more)


def result_of(plan: Plan, state: State) -> dict[str, Array]:
    """What the study was for: the model, or the arrays that answer a query."""
    return {name: np.asarray(array) for name, array in plan.study.algorithm.result(state.arrays).items()}


def abandoned_reason(plan: Plan, reason: str) -> str:
    """Why a sum was abandoned, as the history says it. Of a private sum it does not tell how many answered."""
    return reason if plan.divisor is None else "Fewer answers than the noise is sized for."


def upload_bytes(plan: Plan, sum: str) -> int:
    """Bytes of one client's vector on its way to the server."""
    form = plan.stacks[sum].form
    return -(-form.layout.size * plan.summation.bits(form, plan.gathering.most) // 8)


def crossed(plan: Plan, sum: str, *, asked: int, answers: int, sent: int, sent_to: int) -> dict[str, Any]:
    """The part of a history row about who took part and how many bytes were sent: "cohort", "answers", "bytes_up", "bytes_down".

    The history is released too, so for a private sum all counts are the expected ones.

    Args:
        sent: bytes of the assignment.
        sent_to: how many clients it went to.
    """
    if plan.divisor is not None:
        asked = answers = sent_to = round(plan.divisor)
    up = upload_bytes(plan, sum) * answers
    return {"cohort": asked, "answers": answers, "bytes_up": up, "bytes_down": sent * sent_to}


def assignment_bytes(assignment: Assignment) -> int:
    """Bytes of what one client is sent."""
    return sum(array.nbytes for array in assignment.arrays.values())


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The values that are finite: JSON knows no NaN, and a metric may have no value (AUC of one class)."""
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}
