"""Fixed-point numbers: for sums that are formed on whole numbers where nothing clips a client's vector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.layers import Form, Gathering, Place, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays, Layout
from manent.layers.order import refuse_order


@final
@dataclass(frozen=True)
class FixedPoint:
    """Each number as the nearest whole multiple of a step. Beyond a limit nothing is sent.

    It bounds single numbers, so that a ring holds their sum. It bounds no norm: noise needs Clip and Discretize instead. Where a
    summation hides its terms and the layers leave real numbers, the stack adds it by itself.

    Attributes:
        step: what the whole number 1 is worth, > 0. A sum of n numbers is off by at most n step / 2.
        limit: the largest size of a number, at least `step` and at most 2^52 steps. A client with a larger one, or with NaN,
            raises InvalidInput, and sends nothing.

    Raises:
        InvalidInput: for a value out of range.
    """

    step: float = 2.0**-20
    limit: float = 2.0**20
    place: ClassVar[Place] = "grid"

    def __post_init__(self) -> None:
        validate.sized("FixedPoint", "step", self.step)
        validate.sized("FixedPoint", "limit", self.limit)
        if self.step > self.limit:
            raise InvalidInput(f"FixedPoint expects step <= limit; found {self.step!r} and {self.limit!r}. Use a smaller step.")
        if self.limit / self.step > 2.0**52:
            raise InvalidInput(f"FixedPoint holds at most 2^52 steps; found {self.limit / self.step:.3g}. Use a larger step.")

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage, which gives whole numbers. Raises Refused for a wrong order."""
        refuse_order("FixedPoint", form)
        largest = math.ceil(self.limit / self.step)
        return FixedPointStage(Form(form.layout, self.step, largest=largest), form.layout, self.step, self.limit)


@dataclass(frozen=True)
class FixedPointStage(Stage):
    """See `FixedPoint`."""

    layout: Layout
    step: float
    limit: float

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """int64[k, d]. Raises InvalidInput, naming the block, for a number beyond the limit."""
        for row in vectors:
            if len(row) and not np.abs(row).max() <= self.limit:
                raise InvalidInput(self._beyond(row))
        return np.rint(np.asarray(vectors, np.float64) / self.step).astype(np.int64)

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        """float64[d], in the unit of the vectors."""
        return total.astype(np.float64) * self.step, state

    def _beyond(self, row: Array) -> str:
        block = next(
            b.name for b in self.layout.blocks if not np.abs(row[self.layout.slice(b.name)]).max(initial=0) <= self.limit
        )
        return (
            f"A number of block {block!r} is beyond {self.limit:g}, which FixedPoint holds. If training did not diverge, add "
            f"FixedPoint(limit=...) to the study's layers, or send means (weighting='equal')."
        )
