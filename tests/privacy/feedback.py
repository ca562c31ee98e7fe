"""A layer with memory on the clients, and an algorithm whose vectors are known, to test it with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manent.core.layers import Form, Stage
from manent.core.protocols import Assignment, ClientContext, Contribution, SumSpec
from manent.core.vectors import Block, Entry, Layout, scalar
from manent.layers.order import refuse_order

SIZE = 7


@dataclass(frozen=True)
class Feedback:
    """Error feedback: what a compressed vector leaves out is added to the client's next one.

    Karimireddy, Rebjock, Stich, Jaggi 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", Algorithm 2.

    Attributes:
        top: how many of the largest coordinates are sent.
        step: where given, they are rounded towards zero to whole multiples of it.
    """

    top: int
    step: float | None = None

    def enter(self, form, gathering):
        refuse_order("Feedback", form)
        return FeedbackStage(Form(form.layout), self.top, self.step)


@dataclass(frozen=True)
class FeedbackStage(Stage):
    top: int
    step: float | None

    def memory(self):
        return self.form.layout

    def remember(self, vectors, memory, sent, random):
        wanted = vectors + memory
        out = np.zeros_like(wanted)
        for row, full in zip(out, wanted, strict=True):
            largest = np.argsort(-np.nan_to_num(np.abs(full), nan=np.inf, posinf=np.inf), kind="stable")[: self.top]
            row[largest] = full[largest] if self.step is None else np.trunc(full[largest] / self.step) * self.step
        return out, wanted - out


@dataclass(frozen=True)
class Known:
    """Sums of vectors that anyone can work out: "one" in each round, "two" in every second one. Clients count the first.

    All numbers are multiples of 1/256 and small, so that float32 adds them exactly.
    """

    counting: bool = True

    def sums(self, public):
        return tuple(SumSpec(name, layout(name), "a test", every, scalable=True) for name, every in (("one", 1), ("two", 2)))

    def memory(self, public):
        return Layout((scalar("count"),)) if self.counting else None

    def check(self, client):
        pass

    def init(self, public, rng):
        return {"one": np.zeros(SIZE), "two": np.zeros(SIZE)}

    def assign(self, state, round, index):
        if index > 1 - round % 2:
            return None
        return Assignment(("one", "two")[index])

    def answer(self, assignment, clients, memory, contexts):
        answers = []
        for kept, context in zip(memory, contexts, strict=True):
            assert (kept is None) != self.counting
            counted = None if kept is None or assignment.sum == "two" else kept + 1
            answers.append(Contribution(vector(assignment.sum, context), counted))
        return answers

    def apply(self, state, assignment, released):
        return {**state, assignment.sum: state[assignment.sum] + released.total}, {}

    def result(self, state):
        return state


def layout(name):
    return Layout((Block(name, (Entry(f"{name} a", (3,)), Entry(f"{name} b", (SIZE - 3,)))),))


def vector(name, context: ClientContext):
    """float32[SIZE], what a client sends in one round."""
    return (context.rng(name).integers(-1000, 1001, SIZE) / 256).astype(np.float32)
