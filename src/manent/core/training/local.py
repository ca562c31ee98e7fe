"""Local training, declared as data: one kernel of which every gradient algorithm chooses the arguments.

The step is  g = grad(w; batch) + weight_decay * w + prox * (w - anchor) + shift,  then plain, momentum or Adam descent.
Each model carries it out in its own framework; `descend` is the plain form in numpy and the reference for the others.
With privacy, grad is clipped and noised first (`core.dpsgd`); what is added to it does not depend on data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.examples import Examples
from manent.core.training.dpsgd import DPSGD, ClippedSum, PrivateDraws, needed, private_gradient
from manent.core.training.schedules import Constant, Schedule
from manent.core.vectors import Array, Vector

Batch = NDArray[np.int64] | slice
Count = int | tuple[int, int]


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
        privacy: makes every step private for single examples. It needs a number of steps, and a batch_size, which is then the
            expected size of batches that are drawn at random.
    """

    lr: float
    _: KW_ONLY
    epochs: Count | None = None
    steps: Count | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    schedule: Schedule = field(default_factory=Constant)
    optimizer: Literal["sgd", "adam"] = "sgd"
    privacy: DPSGD | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise InvalidInput(f"LocalSGD needs either epochs or steps; found epochs={self.epochs}, steps={self.steps}.")
        for name, count in (("epochs", self.epochs), ("steps", self.steps)):
            if count is None:
                continue
            bounds = count if isinstance(count, tuple) else (count, count)
            if len(bounds) != 2 or not all(map(validate.is_count, bounds)) or bounds[0] > bounds[1]:
                raise InvalidInput(f"LocalSGD expects {name} of at least 1, or 1 <= low <= high; found {count!r}.")
        if self.batch_size is not None:
            validate.count("LocalSGD", "batch_size", self.batch_size, " or None (all examples)")
        validate.not_negative("LocalSGD", "lr", self.lr)
        validate.not_negative("LocalSGD", "weight_decay", self.weight_decay)
        validate.fraction("LocalSGD", "momentum", self.momentum, one=False)
        if self.max_grad_norm is not None:
            validate.positive("LocalSGD", "max_grad_norm", self.max_grad_norm, " or None (no clipping)", infinite=True)
        validate.one_of("LocalSGD", "optimizer", self.optimizer, ("sgd", "adam"))
        if self.privacy is not None:
            self._check_private(self.privacy)

    def _check_private(self, privacy: DPSGD) -> None:
        if not isinstance(privacy, DPSGD):
            raise InvalidInput(f"LocalSGD expects privacy=DPSGD(...) or None; found {privacy!r}.")
        if not validate.is_count(self.steps):
            raise InvalidInput(
                f"LocalSGD with privacy needs one declared number of steps, as passes over the data tell how many they are; "
                f"found epochs={self.epochs}, steps={self.steps}. Set steps=, for E epochs about E / sampling probability."
            )
        if self.max_grad_norm is not None:
            raise InvalidInput(
                f"LocalSGD takes max_grad_norm or privacy, not both; found max_grad_norm={self.max_grad_norm}. Leave it out: "
                f"DPSGD clips the gradient of each example."
            )
        privacy.check(self.batch_size)

    @property
    def plain_sgd(self) -> bool:
        """Whether a step is w - lr * g and nothing else (what control variates assume)."""
        return self.optimizer == "sgd" and self.momentum == 0

    @property
    def sampling_probability(self) -> float | None:
        """With which an example enters a batch of private training; None where batches go through the data."""
        return None if self.privacy is None else self.privacy.probability(self.batch_size or 1)

    def with_noise(self, noise_multiplier: float) -> LocalSGD:
        """The same with the noise of private training set. Raises InvalidInput where training is not private."""
        if self.privacy is None:
            raise InvalidInput("LocalSGD has no privacy to set the noise of; declare privacy=DPSGD(...).")
        return replace(self, privacy=replace(self.privacy, noise_multiplier=noise_multiplier))

    def batches(
        self, examples: int, rng: np.random.Generator, work: float = 1.0, draws: PrivateDraws | None = None
    ) -> list[Batch]:
        """The batches of one client in one round: index arrays, or slice(None) for all rows. Private ones may be empty.

        Args:
            examples: rows that the client has, at least 1.
            work: share of the declared work that it does, in (0, 1]; a straggler does less, and at least one step.
            draws: where private batches are drawn; they do not depend on `rng`.

        Raises Refused where training is private and there are no draws.
        """
        q = self.sampling_probability
        if q is not None:
            return [needed(draws).rows(q, examples) for _ in range(max(1, ceil(_draw(self.steps or 1, rng) * work)))]
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
        draws: the noise of private training.
    """

    start: Vector
    batches: list[Batch]
    local: LocalSGD
    lr: float
    _: KW_ONLY
    prox: float = 0.0
    anchor: Vector | None = None
    shift: Vector | None = None
    seed: int = 0
    draws: PrivateDraws | None = None


@dataclass(frozen=True)
class Trained:
    """What training gives back.

    Attributes:
        start: the model that it began with, float32[d].
        update: the new model less that one, float32[d].
        loss: the mean over the steps, known to the client alone.
    """

    start: Vector
    update: Vector
    loss: float

    @property
    def vector(self) -> Vector:
        """The new model, float32[d], to rounding."""
        found: Vector = self.start + self.update
        return found


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
    return Trained(work.start, np.subtract(vector, work.start, out=vector), losses / len(work.batches))


def descend_privately(
    clipped: ClippedSum, parameters: int, work: LocalTraining, data: Examples, penalty: Callable[[Vector], Array] | None = None
) -> Trained:
    """The kernel with private gradients, for models that give `clipped_gradient_sum`.

    Args:
        penalty: the gradient [p] of what the model adds to its loss, a function of the vector alone; it is added after the noise.

    Raises Refused where the noise is not known, or there is nothing to draw it from.
    """
    privacy, batch_size = work.local.privacy, work.local.batch_size
    if privacy is None or batch_size is None:
        raise Refused("Training without privacy=DPSGD(...) has no private gradients.")
    private = private_gradient(clipped, parameters, privacy, batch_size, work.draws)

    def gradient(vector: Vector, x: Array, y: Array) -> tuple[float, Vector]:
        loss, g = private(vector, x, y)
        return loss, g if penalty is None else g + penalty(vector)

    return descend(gradient, parameters, work, data)


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
