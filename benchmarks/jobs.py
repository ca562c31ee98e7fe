"""Two jobs that many simulators were measured on: McMahan et al. 2017's networks on MNIST, two shards of sorted digits a client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import manent as mn
from manent.core.protocols import ClientContext
from manent.core.randomness import repeatable

SEED = 1


@dataclass(frozen=True)
class Job:
    """FedAvg with one epoch of SGD in batches of 10 on every client.

    Attributes:
        cohort: clients a round.
        flat: whether images are vectors.
    """

    name: str
    clients: int
    cohort: int
    lr: float
    flat: bool

    def data(self, folder: str | None) -> mn.Federation:
        """MNIST from a folder, or from where `mn.data.mnist` looks."""
        return mn.data.mnist(self.clients, mn.data.Shards(2), flat=self.flat, seed=SEED, folder=folder)

    @property
    def local(self) -> mn.LocalSGD:
        return mn.LocalSGD(lr=self.lr, epochs=1, batch_size=10)

    def study(self, model: Any, rounds: int) -> mn.Study:
        return mn.Study(mn.FedAvg(model, self.local), rounds, mn.Cohort(size=self.cohort))


JOBS = {"A": Job("A", 1000, 100, 0.1, True), "B": Job("B", 100, 10, 0.05, False)}


def torch_model(job: str, plain_stack: bool = True) -> Any:
    """The job's network as a plain stack; or, for job A, the same in a module of its own whose layers nobody can see from outside."""
    import torch
    from peers.shared import network
    from torch import nn

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(784, 200), nn.Linear(200, 200), nn.Linear(200, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = nn.functional.relu(self.two(nn.functional.relu(self.one(x))))
            scores: torch.Tensor = self.three(hidden)
            return scores

    return mn.TorchModel(network(job) if plain_stack else Other(), "cross_entropy")


def jax_model(job: str) -> Any:
    """The job's network in JAX."""
    raise NotImplementedError


def write(job: Job, data: mn.Federation, rounds: int, folder: Path) -> None:
    """Everything that another loop needs to do the same: arrays, first weights, and each round's cohort and orders of rows."""
    samples = len(data.clients[0].train)
    cohorts = [mn.Cohort(size=job.cohort).draw(job.clients, repeatable(SEED, "cohort", r, 0)) for r in range(1, rounds + 1)]
    orders = np.empty((rounds, job.cohort, samples), np.int64)
    for index, cohort in enumerate(cohorts):
        for position, client in enumerate(cohort):
            rng = ClientContext(data.clients[client].name, index + 1, SEED).rng("training")
            orders[index, position] = np.concatenate(job.local.batches(samples, rng))
    pooled = data.pooled()
    assert data.test is not None
    arrays = {
        "x": pooled.x,
        "y": pooled.y,
        "test_x": data.test.x,
        "test_y": data.test.y,
        "start": torch_model(job.name).init(repeatable(SEED, "init")),
        "cohorts": np.array(cohorts, np.int64),
        "orders": orders,
    }
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    facts = {"job": job.name, "clients": job.clients, "cohort": job.cohort, "samples": samples, "rounds": rounds}
    (folder / "job.json").write_text(json.dumps({**facts, "batch_size": 10, "lr": job.lr}))
