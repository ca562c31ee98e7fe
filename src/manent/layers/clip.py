"""Clipping: the bound on what one client can change, on which every guarantee rests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from manent.core import validate
from manent.core.layers import Form, Gathering, Place, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays
from manent.layers.order import refuse_order

Order = Literal[1, 2]
CHUNK = 1 << 14
"""How many numbers are worked on at a time. Buffers of this size stay in the cache: fresh pages cost more than the arithmetic."""


@final
@dataclass(frozen=True)
class Clip:
    """Scale a client's whole vector down to a norm of at most `norm`: one norm over all its blocks together.

    McMahan, Ramage, Talwar, Zhang 2018, "Learning Differentially Private Recurrent Language Models" (flat clipping).

    | case | what holds |
    |---|---|
    | guarantee | none by itself: it is the sensitivity, `norm`, on which noise is sized |
    | a vector within the norm | is not changed |
    | NaN or infinity in a vector | the client sends zeros |
    | squares beyond float64 | the vector is scaled down all the same |

    Attributes:
        norm: in the unit of the vector, from 1e-50 to 1e50: squares of what is near it are numbers of float64.
        order: 2 for the Euclidean norm; 1 for the sum of sizes, which Laplace noise needs.

    Raises:
        InvalidInput: for a value out of range.
    """

    norm: float
    order: Order = 2
    place: ClassVar[Place] = "clip"

    def __post_init__(self) -> None:
        validate.sized("Clip", "norm", self.norm)
        validate.one_of("Clip", "order", self.order, (1, 2))

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage, whose form is bounded. Raises Refused for a wrong order."""
        refuse_order("Clip", form)
        bound = float(self.norm)
        return ClipStage(Form(form.layout, l1=bound if self.order == 1 else None, l2=bound, largest=bound), self.order)


@dataclass(frozen=True)
class ClipStage(Stage):
    """See `Clip`."""

    order: Order

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """[k, d], each within the norm."""
        bound = self.form.l2 or 0.0
        return together([clip(row, bound, self.order) for row in vectors], vectors.shape[1])


def clip(row: Array, bound: float, order: Order = 2) -> Array:
    """A vector [d] scaled down in float64 to a norm of at most `bound`, up to rounding; zeros where it is not finite."""
    found = norm(row, order)
    if found <= bound:
        return row
    return np.multiply(row, bound / found, dtype=np.float64) if math.isfinite(found) else _beyond(row, bound, order)


def norm(row: Array, order: Order = 2) -> float:
    """The norm of a vector [d] in float64. It is not finite where a coordinate is not, or where squares are beyond float64."""
    total, buffer = 0.0, np.empty(min(CHUNK, len(row)))
    with np.errstate(all="ignore"):
        for start in range(0, len(row), CHUNK):
            part = row[start : start + CHUNK]
            numbers = buffer[: len(part)]
            np.copyto(numbers, part)
            total += float(np.dot(numbers, numbers)) if order == 2 else float(np.abs(numbers).sum())
    return math.sqrt(total) if order == 2 else total


def _beyond(row: Array, bound: float, order: Order) -> Array:
    """What `clip` gives for a vector whose norm overflows: zeros, unless every coordinate is finite."""
    row = row.astype(np.float64)
    if not np.isfinite(row).all():
        return np.zeros_like(row)
    row /= np.abs(row).max()
    return np.asarray(row * (bound / norm(row, order)))


def together(rows: list[Array], size: int) -> Array:
    """[k, d] of k vectors of this size. One vector is not copied."""
    if len(rows) == 1:
        return rows[0][None]
    return np.stack(rows) if rows else np.zeros((0, size))
