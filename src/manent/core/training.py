"""Local training, declared as data: one kernel of which every gradient algorithm chooses the arguments.

The step is  g = grad(w; batch) + weight_decay * w + prox * (w - anchor) + shift,  then plain, momentum or Adam descent.
Each model carries it out in its own framework; `descend` is the plain form in numpy and the reference for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.core.vectors import Array, Vector

Batch = NDArray[np.int64] | slice
Count = int | tuple[int, int]


@dataclass(frozen=True)
class Constant:
    """The same learning rate in every round."""

    def factor(self, round: int) -> float:
        return 1.0


@dataclass(frozen=True)
class ExponentialDecay:
    """Multiply the learning rate by `rate` every `every` rounds."""

    rate: float
    every: int = 1

    def factor(self, round: int) -> float:
        return float(self.rate ** ((round - 1) // self.every))


@dataclass(frozen=True)
class CosineDecay:
    """From 1 to `floor` over `rounds` rounds along half a cosine (Loshchilov and Hutter 2017, eq. 5, no restart)."""

    rounds: int
    floor: float = 0.0

    def factor(self, round: int) -> float:
        done = min((round - 1) / max(self.rounds - 1, 1), 1.0)
        return float(self.floor + (1 - self.floor) * 0.5 * (1 + np.cos(np.pi * done)))


@dataclass(frozen=True)
class WarmUp:
    """Linear from 1/rounds to 1 over the first `rounds` rounds, then 1."""

    rounds: int

    def factor(self, round: int) -> float:
        return min(round / self.rounds, 1.0)


Schedule = Constant | ExponentialDecay | CosineDecay | WarmUp


@dataclass(frozen=True)
class LocalSGD:
    """What each client does with its own data in a round.

    Attributes:
        lr: learning rate.
        epochs: passes over the client's data, or a pair (low, high) drawn uniformly for each client and round.
        steps: gradient steps instead of epochs, or such a pair; batches go through the data in shuffled passes.
        batch_size: examples a step; None takes all of them.
        momentum: heavy-ball momentum, set to zero at the start of each round.
        weight_decay: L2 coefficient added to the gradient.
        max_grad_norm: clip the L2 norm of each step's data gradient to this. This is no privacy mechanism.
        schedule: how lr changes over rounds.
        optimizer: "sgd", or "adam" (Kingma and Ba 2015, beta .9 and .999, tiny 1e-8), restarted each round.
    """

    lr: float
    epochs: Count | None = None
    steps: Count | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    schedule: Schedule = Constant()
    optimizer: Literal["sgd", "adam"] = "sgd"

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise InvalidInput(f"LocalSGD needs either epochs or steps; found epochs={self.epochs}, steps={self.steps}.")
        for name, count in (("epochs", self.epochs), ("steps", self.steps)):
            if count is None:
                continue
            low, high = count if isinstance(count, tuple) else (count, count)
            if not 1 <= low <= high:
                raise InvalidInput(f"LocalSGD expects {name} of at least 1, or 1 <= low <= high; found {count}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise InvalidInput(f"LocalSGD expects batch_size >= 1 or None (all examples); found {self.batch_size}.")
        for name, value in (("lr", self.lr), ("weight_decay", self.weight_decay)):
            if not (np.isfinite(value) and value >= 0):
                raise InvalidInput(f"LocalSGD expects a finite {name} >= 0; found {value}.")
        if not 0 <= self.momentum < 1:
            raise InvalidInput(f"LocalSGD expects 0 <= momentum < 1; found {self.momentum}.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise InvalidInput(f"LocalSGD expects max_grad_norm > 0 or None; found {self.max_grad_norm}.")

    @property
    def plain_sgd(self) -> bool:
        """Whether a step is w - lr * g and nothing else (what control variates assume)."""
        return self.optimizer == "sgd" and self.momentum == 0

    def batches(self, examples: int, rng: np.random.Generator, work: float = 1.0) -> list[Batch]:
        """The batches of one client in one round: index arrays, or slice(None) for all rows.

        Args:
            examples: rows that the client has, at least 1.
            work: share of the declared work that it does, in (0, 1]; a straggler does less, and at least one step.
        """
        size = min(self.batch_size or examples, examples)
        steps_per_epoch = ceil(examples / size)
        if self.epochs is not None:
            steps = max(1, ceil(_draw(self.epochs, rng) * work)) * steps_per_epoch
        else:
            steps = max(1, ceil(_draw(self.steps or 1, rng) * work))
        if size == examples:
            return [slice(None)] * steps
        batches: list[Batch] = []
        while len(batches) < steps:
            order = rng.permutation(examples)
            batches.extend(order[start : start + size] for start in range(0, examples, size))
        return batches[:steps]


def _draw(count: Count, rng: np.random.Generator) -> int:
    return int(rng.integers(count[0], count[1] + 1)) if isinstance(count, tuple) else count


@dataclass(frozen=True)
class LocalTraining:
    """One client's training in one round, fully resolved: what `Model.train` carries out.

    Attributes:
        start: float32[d], the model to begin with.
        batches: one for each step.
        local: the declaration (momentum, decay, clipping, optimiser).
        lr: learning rate of this round.
        prox: strength of the pull towards the anchor.
        anchor: float32[p] over the parameter block, or None for the start.
        shift: float32[p] added to every gradient, or None.
        seed: for what is random inside the model (dropout masks).
    """

    start: Vector
    batches: list[Batch]
    local: LocalSGD
    lr: float
    prox: float = 0.0
    anchor: Vector | None = None
    shift: Vector | None = None
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What training gives back: the new model float32[d], and the mean loss over the steps (known to the client alone)."""

    vector: Vector
    loss: float


Gradient = Callable[[Vector, Array, Array], tuple[float, Vector]]


def descend(gradient: Gradient, parameters: int, work: LocalTraining, data: Examples) -> Trained:
    """The kernel in numpy, for models that give (loss, gradient float32[p]) of (vector, x, y).

    Args:
        parameters: p, how many leading coordinates of the vector are trained.
    """
    vector = work.start.copy()
    w = vector[:parameters]
    anchor = work.start[:parameters] if work.anchor is None else work.anchor
    rule = _Adam(parameters) if work.local.optimizer == "adam" else _Momentum(work.local.momentum)
    losses = 0.0
    for batch in work.batches:
        loss, g = gradient(vector, data.x[batch], data.y[batch])
        losses += loss
        if work.local.max_grad_norm is not None:
            norm = float(np.linalg.norm(g.astype(np.float64)))
            if norm > work.local.max_grad_norm:
                g = g * np.float32(work.local.max_grad_norm / norm)
        if work.local.weight_decay:
            g = g + np.float32(work.local.weight_decay) * w
        if work.prox:
            g = g + np.float32(work.prox) * (w - anchor)
        if work.shift is not None:
            g = g + work.shift
        w -= np.float32(work.lr) * rule.direction(g)
    return Trained(vector, losses / len(work.batches))


class _Momentum:
    """Heavy ball: b = momentum * b + g, started at the first g."""

    def __init__(self, momentum: float) -> None:
        self.momentum = np.float32(momentum)
        self.buffer: Vector | None = None

    def direction(self, g: Vector) -> Vector:
        if not self.momentum:
            return g
        self.buffer = g if self.buffer is None else self.momentum * self.buffer + g
        return self.buffer


class _Adam:
    """Adam with bias correction, at its published defaults."""

    def __init__(self, size: int) -> None:
        self.m, self.v, self.step = np.zeros(size, np.float32), np.zeros(size, np.float32), 0

    def direction(self, g: Vector) -> Vector:
        self.step += 1
        self.m = np.float32(0.9) * self.m + np.float32(0.1) * g
        self.v = np.float32(0.999) * self.v + np.float32(0.001) * g * g
        m = self.m / np.float32(1 - 0.9**self.step)
        v = self.v / np.float32(1 - 0.999**self.step)
        direction: Vector = m / (np.sqrt(v) + np.float32(1e-8))
        return direction
