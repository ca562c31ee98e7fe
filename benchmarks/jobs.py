"""Two jobs on which many simulators were measured: McMahan et al. 2017's networks on MNIST, two shards for each client."""

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
    """The job's network as a plain stack; or, for job A, as a module of which nothing but autograd knows how to train it."""
    import torch
    from peers.shared import network
    from torch import nn

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(784, 200), nn.Linear(200, 200), nn.Linear(200, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # As ReLU, but not by a layer that manent knows: else it would find out that this is a plain stack.
            hidden = self.two(self.one(x).clamp(min=0)).clamp(min=0)
            scores: torch.Tensor = self.three(hidden)
            return scores

    return mn.TorchModel(network(job) if plain_stack else Other(), "cross_entropy")


def jax_model(job: str, start: Path) -> Any:
    """The job's network in JAX, beginning with the weights of a torch model's vector in a file."""
    import jax

    tree = _leaves(job, np.load(start, allow_pickle=False))
    apply = _dense if job == "A" else _convolutional
    return mn.JaxModel(lambda key: jax.tree.map(jax.numpy.asarray, tree), apply, "cross_entropy", classes=10)


def _dense(p: dict[str, Any], x: Any) -> Any:
    import jax

    for name in ("one", "two"):
        x = jax.nn.relu(x @ p[f"{name}.w"] + p[f"{name}.b"])
    return x @ p["three.w"] + p["three.b"]


def _convolutional(p: dict[str, Any], x: Any) -> Any:
    """A convolution is a product of patches and a matrix, which XLA does faster on a CPU than a convolution."""
    import jax

    x = x.transpose(0, 2, 3, 1)
    for name in ("one", "two"):
        rows, columns = x.shape[1:3]
        wide = jax.numpy.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        pieces = [wide[:, i : i + rows, j : j + columns] for i in range(5) for j in range(5)]
        x = jax.numpy.concatenate(pieces, axis=-1) @ p[f"{name}.w"] + p[f"{name}.b"]
        x = x.reshape(len(x), rows // 2, 2, columns // 2, 2, -1).max(axis=(2, 4))
        x = jax.nn.relu(x)
    x = jax.nn.relu(x.reshape(len(x), -1) @ p["three.w"] + p["three.b"])
    return x @ p["four.w"] + p["four.b"]


def _leaves(job: str, vector: np.ndarray) -> dict[str, Any]:
    """torch's flat vector as matrices [inputs, outputs]; images have their channels last."""
    a = [("one", (200, 784)), ("two", (200, 200)), ("three", (10, 200))]
    b = [("one", (32, 1, 5, 5)), ("two", (64, 32, 5, 5)), ("three", (512, 64, 7, 7)), ("four", (10, 512))]
    found, at = {}, 0
    for name, shape in a if job == "A" else b:
        weight = vector[at : (at := at + int(np.prod(shape)))].reshape(shape)
        found[f"{name}.b"] = vector[at : (at := at + shape[0])]
        found[f"{name}.w"] = np.moveaxis(weight, 1, -1).reshape(shape[0], -1).T.copy()
    return found


def write(job: Job, data: mn.Federation, rounds: int, folder: Path) -> None:
    """Write what another loop needs to do the same: arrays, first weights, and each round's cohort and orders of rows."""
    samples = len(data.clients[0].train)
    cohorts = [mn.Cohort(size=job.cohort).draw(job.clients, repeatable(SEED, "cohort", r, 0)) for r in range(1, rounds + 1)]
    orders = np.empty((rounds, job.cohort, samples), np.int64)
    for index, cohort in enumerate(cohorts):
        for position, client in enumerate(cohort):
            rng = ClientContext(data.clients[client].name, index + 1, SEED).rng("training")
            orders[index, position] = np.concatenate([np.arange(samples)[batch] for batch in job.local.batches(samples, rng)])
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
