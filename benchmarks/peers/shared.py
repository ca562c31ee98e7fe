"""What every bare or foreign loop reads: the job, its data as arrays in a folder, and the same network as a plain torch module.

numpy and torch only, so that any environment can import it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Work:
    """A job in a folder, as `jobs.write` leaves it.

    Attributes:
        facts: "job", "clients", "cohort", "samples", "batch_size", "lr", "rounds".
        x, y: all training rows, client after client, `samples` each; test_x, test_y.
        start: float32[d], the first weights.
        cohorts: int64[rounds, cohort]; orders: int64[rounds, cohort, samples], the order in which a client takes its rows.
    """

    def __init__(self, folder: str, mapped: bool = False) -> None:
        """`mapped` leaves the arrays in their files, which several processes share."""
        self.facts: dict[str, Any] = json.loads(Path(folder, "job.json").read_text())
        names = ("x", "y", "test_x", "test_y", "start", "cohorts", "orders")
        arrays = [np.load(Path(folder, f"{name}.npy"), "c" if mapped else None, allow_pickle=False) for name in names]
        self.x, self.y, self.test_x, self.test_y, self.start, self.cohorts, self.orders = arrays

    def rows(self, client: int) -> slice:
        """Where a client's rows lie."""
        samples = int(self.facts["samples"])
        return slice(client * samples, (client + 1) * samples)

    def accuracy(self, model: nn.Module) -> float:
        """On the test images."""
        with torch.no_grad():
            parts = zip(torch.from_numpy(self.test_x).split(500), torch.from_numpy(self.test_y).split(500), strict=True)
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
        return right / len(self.test_y)


@functools.cache
def work_in(folder: str) -> Work:
    """A job, read once a process."""
    return Work(folder, mapped=True)


def network(job: str) -> nn.Sequential:
    """McMahan et al. 2017, section 3: job A's 2NN (199,210 parameters), job B's CNN (1,663,370)."""
    if job == "A":
        return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    convolutions = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10))


def put(model: nn.Module, vector: Tensor) -> None:
    """Copy a flat vector into a model's parameters."""
    with torch.no_grad():
        pieces = vector.split([p.numel() for p in model.parameters()])
        for parameter, piece in zip(model.parameters(), pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))


def flat(model: nn.Module) -> Tensor:
    """A model's parameters as one fresh vector."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def descend(model: nn.Module, x: Tensor, y: Tensor, order: Tensor, batch_size: int, lr: float) -> None:
    """One epoch of SGD in batches of an order of the rows."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for rows in order.split(batch_size):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
