"""Local training in torch: the kernel of `core.training`, in few operations in place on flat vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manent.core.examples import Examples
from manent.core.training import Batch, LocalSGD, LocalTraining, Trained
from manent.core.vectors import Vector
from manent.models.torch.network import Network, explained
from manent.models.torch.random import seeded

GATHERED = 1 << 18  # bytes of rows that are put into order at a time; they stay in the processor's cache


def train(network: Network, work: LocalTraining, data: Examples) -> Trained:
    """Carries out one client's training, without privacy. Raises InvalidInput where the network does not fit the data."""
    network.load(work.start)
    network.mode(training=True)
    x, y = network.tensor(data.x), network.tensor(data.y)
    through = network.through(x, data.y)
    local = work.local
    folds = local.plain_sgd and local.max_grad_norm is None
    total = 0.0
    with (
        explained("training", data.x),
        seeded(work.seed, network.random, network.device),
        torch.set_grad_enabled(through is network.autograd),
    ):
        step = _Folded(network, work) if folds else _Stored(network, work)
        for inputs, targets in _batches(x, y, work.batches):
            loss = through.backward(inputs, targets, step.targets, step.keep, step.scale)
            step.finish()
            total += loss.item()
    return Trained(work.start, network.less(work.start), total / len(work.batches))


def _batches(x: Tensor, y: Tensor, batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of each batch, in order. Small batches are gathered several at a time, at most GATHERED bytes."""
    start = 0
    while start < len(batches):
        group = _alike(batches, start, x)
        start += max(len(group), 1)
        if not group:
            batch = batches[start - 1]
            yield x[batch], y[batch]
            continue
        rows, sizes = torch.from_numpy(np.concatenate(group)).to(x.device), [len(batch) for batch in group]
        inputs, targets = x.index_select(0, rows), y.index_select(0, rows)
        yield from zip(inputs.split_with_sizes(sizes), targets.split_with_sizes(sizes), strict=True)


def _alike(batches: Sequence[Batch], start: int, x: Tensor) -> list[NDArray[np.int64]]:
    """The batches from `start` on that are gathered together; none where the first is a slice."""
    group: list[NDArray[np.int64]] = []
    left = GATHERED
    for number in range(start, len(batches)):
        batch = batches[number]
        if isinstance(batch, slice):
            break
        left -= len(batch) * x[:1].nbytes
        if group and left < 0:
            break
        group.append(batch)
    return group


class _Folded:
    """Plain SGD: w <- (1 - lr (decay + prox)) w - lr g + lr (prox anchor - shift). The pass does the first two terms."""

    def __init__(self, network: Network, work: LocalTraining) -> None:
        self.weights, self.targets, self.scale = network.weights, network.views, -work.lr
        self.keep = 1 - work.lr * (work.local.weight_decay + work.prox)
        pull = pull_of(work, len(network.weights))
        self.pull = None if pull is None else network.tensor(pull).mul_(-work.lr)

    def finish(self) -> None:
        if self.pull is not None:
            self.weights.add_(self.pull)


class _Stored:
    """The step with clipping, momentum or Adam, which need the gradient: the pass writes it to a buffer, and then steps."""

    keep, scale = 0.0, 1.0

    def __init__(self, network: Network, work: LocalTraining) -> None:
        self.weights = network.weights
        self.gradient, self.targets = network.gradient
        self.limit, self.lr = work.local.max_grad_norm, work.lr
        self.decay = work.local.weight_decay + work.prox
        pull = pull_of(work, len(network.weights))
        self.pull = None if pull is None else network.tensor(pull)
        self.rule = _Adam(self.weights) if work.local.optimizer == "adam" else _Momentum(work.local)

    def finish(self) -> None:
        g = self.gradient
        if self.limit is not None:
            norm = torch.linalg.vector_norm(g).item()
            if norm > self.limit:
                g.mul_(self.limit / norm)
        if self.decay:
            g.add_(self.weights, alpha=self.decay)
        if self.pull is not None:
            g.add_(self.pull)
        self.rule.step(self.weights, g, self.lr)


def pull_of(work: LocalTraining, parameters: int) -> Vector | None:
    """float32[p], shift - prox * anchor, the part of the gradient that is the same in each step: a new array, or None."""
    if not work.prox:
        return None if work.shift is None else work.shift.copy()
    anchor = work.start[:parameters] if work.anchor is None else work.anchor
    pull: Vector = np.float32(-work.prox) * anchor
    return pull if work.shift is None else pull + work.shift


class _Momentum:
    """Heavy ball: b = momentum * b + g, where b begins as the first g. Without momentum, g itself."""

    def __init__(self, local: LocalSGD) -> None:
        self.momentum = local.momentum
        self.buffer: Tensor | None = None

    def step(self, weights: Tensor, g: Tensor, lr: float) -> None:
        if self.momentum:
            self.buffer = g.clone() if self.buffer is None else self.buffer.mul_(self.momentum).add_(g)
            g = self.buffer
        weights.add_(g, alpha=-lr)


class _Adam:
    """Adam with bias correction and its published defaults (Kingma and Ba 2015, Algorithm 1)."""

    def __init__(self, weights: Tensor) -> None:
        self.m, self.v, self.taken = torch.zeros_like(weights), torch.zeros_like(weights), 0

    def step(self, weights: Tensor, g: Tensor, lr: float) -> None:
        self.taken += 1
        self.m.mul_(0.9).add_(g, alpha=0.1)
        self.v.mul_(0.999).addcmul_(g, g, value=0.001)
        size = self.v.div(1 - 0.999**self.taken).sqrt_().add_(1e-8)
        weights.addcdiv_(self.m, size, value=-lr / (1 - 0.9**self.taken))
