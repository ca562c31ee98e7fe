"""Local training, declared as data: one kernel, whose arguments each gradient algorithm chooses.

One step computes  g = grad(w; batch) + weight_decay * w + prox * (w - anchor) + shift  and then descends along g: plainly, with
momentum, or by Adam. Each model file carries this out in its own framework. `descend` does it in numpy and is the reference for
the others. In private training grad is clipped and noised first (`core.training.dpsgd`); the other terms do not depend on data.
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
from manent.core.training.dpsgd import DPSGD, ClippedSum, PrivateDraws, needed, private_gradient, refuse_weights
from manent.core.training.schedules import Constant, Schedule
from manent.core.vectors import Array, Vector

Batch = NDArray[np.int64] | slice
Count = int | tuple[int, int]


@dataclass(frozen=True)
class LocalSGD:
    """What each client does with its own data in one round.

    Attributes:
        lr: learning rate.
        epochs: passes over the client's data; or a pair (low, high), from which a number is drawn for each client and round.
        steps: gradient steps, instead of epochs; or such a pair. Batches go through the data in shuffled passes.
        batch_size: examples in one step. None takes all of the client's examples.
        momentum: heavy-ball momentum in [0, 1). The buffer starts at zero in each round.
        weight_decay: w times this is added to the gradient (an L2 penalty).
        max_grad_norm: the L2 norm of each step's data gradient is clipped to this; None clips nothing. It is not a privacy
            mechanism: it clips a batch's mean, not each example.
        schedule: how lr changes over the rounds.
        optimizer: "sgd", or "adam" (Kingma and Ba 2015; betas 0.9 and 0.999, epsilon 1e-8), which restarts in each round.
        privacy: makes each step private for single examples. It needs `steps` as one number, and `batch_size`, which is then the
            expected size of randomly drawn batches.

    Raises InvalidInput for both or neither of epochs and steps, for any number out of range or of another type, and for privacy
    together with what it excludes.
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
                f"LocalSGD with privacy needs steps as one number, because a number of passes tells how many rows there are; "
                f"found epochs={self.epochs}, steps={self.steps}. Set steps=; E epochs are about E / sampling_probability steps."
            )
        if self.max_grad_norm is not None:
            raise InvalidInput(
                f"LocalSGD takes max_grad_norm or privacy, not both; found max_grad_norm={self.max_grad_norm}. Leave it out: "
                f"DPSGD clips the gradient of each example."
            )
        privacy.check(self.batch_size)

    @property
    def plain_sgd(self) -> bool:
        """Whether each step is w - lr * g, without momentum or Adam, as control variates assume."""
        return self.optimizer == "sgd" and self.momentum == 0

    @property
    def sampling_probability(self) -> float | None:
        """The probability with which each example enters a batch of private training; None in other training."""
        return None if self.privacy is None else self.privacy.probability(self.batch_size or 1)

    def with_noise(self, noise_multiplier: float) -> LocalSGD:
        """A copy with this noise multiplier. Raises InvalidInput where training is not private."""
        if self.privacy is None:
            raise InvalidInput("LocalSGD has no privacy to set the noise of; declare privacy=DPSGD(...).")
        return replace(self, privacy=replace(self.privacy, noise_multiplier=noise_multiplier))

    def batches(
        self, examples: int, rng: np.random.Generator, work: float = 1.0, draws: PrivateDraws | None = None
    ) -> list[Batch]:
        """One client's batches of one round: row numbers int64[b], or slice(None) for all rows. A private batch may be empty.

        Args:
            examples: how many rows the client has, at least 1.
            rng: decides the order of rows, and the number of epochs or steps where a pair is declared.
            work: the share of the declared work that the client does, in (0, 1]. A straggler does less, but at least one step.
            draws: draws the batches of private training, independently of `rng`.

        Raises Refused where training is private and `draws` is None.
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
    """One client's training in one round, with every choice made: what `Model.train` carries out.

    Attributes:
        start: float32[d], the model to begin with.
        batches: the rows of each step, one entry a step.
        local: the declaration: momentum, weight decay, clipping, optimiser.
        lr: this round's learning rate.
        prox: how strongly each step is pulled towards the anchor.
        anchor: float32[p], p the number of parameters; None means the start.
        shift: float32[p], added to each gradient; None adds nothing.
        seed: decides what is random inside the model, such as dropout masks.
        draws: draws the noise of private training; None in other training.
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
    """The outcome of one client's training.

    Attributes:
        start: float32[d], the model that training began with.
        update: float32[d], the new model minus the start.
        loss: the mean loss over the steps. Only the client knows it.
    """

    start: Vector
    update: Vector
    loss: float

    @property
    def vector(self) -> Vector:
        """float32[d], the new model, up to rounding."""
        found: Vector = self.start + self.update
        return found


Gradient = Callable[[Vector, Array, Array], tuple[float, Vector]]


def descend(gradient: Gradient, parameters: int, work: LocalTraining, data: Examples) -> Trained:
    """Carries out the kernel in numpy.

    Args:
        gradient: a function of (vector, x, y) that returns (mean loss, gradient float32[p]).
        parameters: p; the first p coordinates of the vector are trained, the rest stay.
        work: what to do.
        data: the client's rows, to which the batches refer.
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
    """Carries out the kernel in numpy with private gradients.

    Args:
        clipped: the model's `clipped_gradient_sum`.
        parameters, work, data: as in `descend`.
        penalty: the gradient [p] of the model's own penalty, such as l2. It depends on the vector alone, not on data, so it is
            added after the noise.

    Raises Refused where the training is not private, the noise is not known, there is nothing to draw it from, or the model's
    weights are outside the declared range (`core.training.dpsgd.LARGEST_WEIGHT`).
    """
    privacy, batch_size = work.local.privacy, work.local.batch_size
    if privacy is None or batch_size is None:
        raise Refused("Training without privacy=DPSGD(...) has no private gradients.")
    refuse_weights(work.start)
    private = private_gradient(clipped, parameters, privacy, batch_size, work.draws)

    def gradient(vector: Vector, x: Array, y: Array) -> tuple[float, Vector]:
        loss, g = private(vector, x, y)
        return loss, g if penalty is None else g + penalty(vector)

    return descend(gradient, parameters, work, data)


class _Momentum:
    """Heavy ball: b = momentum * b + g, where b begins as the first g."""

    def __init__(self, momentum: float) -> None:
        self.momentum = np.float32(momentum)
        self.buffer: Vector | None = None

    def direction(self, g: Vector) -> Vector:
        if not self.momentum:
            return g
        self.buffer = g if self.buffer is None else self.momentum * self.buffer + g
        return self.buffer


class _Adam:
    """Adam with bias correction and its published defaults (Kingma and Ba 2015, Algorithm 1)."""

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
