"""The arrays of a study between two sums: the algorithm's and the layers' state, and the step from one to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.protocols import Assignment, Released
from manent.core.randomness import PrivateRandom, repeatable
from manent.core.vectors import Array, Arrays
from manent.privacy.check import Plan
from manent.storage.arrays import array_pieces, read_arrays


@dataclass(frozen=True)
class State:
    """What a study has come to.

    Attributes:
        arrays: the algorithm's.
        layers: each sum's stack's, by the sum's name.
    """

    arrays: Arrays
    layers: Mapping[str, Arrays]

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Its bytes, in pieces."""
        found = {f"state.{name}": np.asarray(array) for name, array in self.arrays.items()}
        for sum, arrays in self.layers.items():
            found |= {f"layers.{sum}/{name}": np.asarray(array) for name, array in arrays.items()}
        return array_pieces(found)

    @classmethod
    def read(cls, chunks: Iterable[bytes], size: int, plan: Plan) -> State:
        """The state that `pieces` gave, of so many bytes."""
        found = read_arrays(chunks, size)
        state = {name.removeprefix("state."): array for name, array in found.items() if name.startswith("state.")}
        layers = {}
        for sum in plan.stacks:
            head = f"layers.{sum}/"
            layers[sum] = {name.removeprefix(head): array for name, array in found.items() if name.startswith(head)}
        return cls(state, layers)


def first_state(plan: Plan, seed: int, initial: Array | None) -> State:
    """The state before the first sum, as a simulation with this seed begins.

    Args:
        initial: float32[d], the model's first vector, where its code is not at hand.

    Raises InvalidInput for one that does not fit.
    """
    arrays: dict[str, Array] = dict(plan.study.algorithm.init(plan.public, repeatable(seed, "init")))
    if initial is not None:
        model = getattr(plan.study.algorithm, "model", None)
        if model is None:
            raise InvalidInput("A first vector was given for a study that trains no model.")
        model.layout.check_size(initial)
        model.layout.check_finite(initial)
        arrays["model"] = np.array(initial, np.float32)
    return State(arrays, {name: stack.init() for name, stack in plan.stacks.items()})


def assignment_of(plan: Plan, state: State, round: int, index: int) -> Assignment | None:
    """What clients are sent for a sum; None where the round has no such sum. Raises Refused where the noise does not cover it."""
    found = plan.study.algorithm.assign(state.arrays, round, index)
    if found is None:
        return None
    stack, layers = plan.stacks[found.sum], state.layers[found.sum]
    stack.check_round(layers, round)
    return Assignment(found.sum, {**found.arrays, **stack.sends(layers)})


@dataclass(frozen=True)
class Stepped:
    """A study after a release: its state, what the history says, and whether the round needs another sum."""

    state: State
    report: Mapping[str, float]
    more: bool


def step_state(plan: Plan, state: State, round: int, index: int, total: Array, answers: int, random: PrivateRandom) -> Stepped:
    """The server's halves of the layers (its noise among them) and the algorithm's next state.

    What comes back is to be stored once, or thrown away unseen: another draw of the noise beside it would take it off.
    """
    assignment = assignment_of(plan, state, round, index)
    if assignment is None:
        raise InvalidInput(f"Round {round} has no sum {index}; the study does not go by its state alone.")
    name, expected = assignment.sum, plan.divisor
    total, layers = plan.stacks[name].server(total, state.layers[name], random)
    counted = answers if expected is None else max(1, round_half(expected))
    arrays, report = plan.study.algorithm.apply(state.arrays, assignment, Released(total, counted, round, expected))
    after = State(arrays, {**state.layers, name: layers})
    more = plan.study.algorithm.assign(arrays, round, index + 1) is not None
    return Stepped(after, {name: float(value) for name, value in report.items() if np.isfinite(value)}, more)


def round_half(value: float) -> int:
    """To the nearest whole number."""
    return int(np.rint(value))


def result_of(plan: Plan, state: State) -> dict[str, Array]:
    """What the study was for."""
    return {name: np.asarray(array) for name, array in plan.study.algorithm.result(state.arrays).items()}


def crossed(plan: Plan, name: str, asked: int, answers: int, sent: int) -> dict[str, Any]:
    """What the history says of a sum's size: for a private one, what was expected."""
    form = plan.stacks[name].form
    up = -(-form.layout.size * plan.summation.bits(form, plan.gathering.most) // 8)
    if plan.divisor is not None:
        asked = answers = round_half(plan.divisor)
    return {"cohort": asked, "answers": answers, "bytes_up": up * answers, "bytes_down": sent * asked}
