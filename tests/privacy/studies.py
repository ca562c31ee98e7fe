"""Small private studies, and vectors to put through stacks."""

from __future__ import annotations

from typing import Any

import numpy as np

import manent as mn
from manent.core.layers import Gathering
from manent.core.protocols import SumSpec
from manent.core.vectors import Block, Entry, Layout
from manent.privacy.stack import Stack, build
from tests.algorithms.federations import make, model_for

LOCAL = mn.LocalSGD(lr=0.05, epochs=1, batch_size=3)
DATA = make("softmax", [6] * 20)
MODEL = model_for("softmax")
FEDAVG = mn.FedAvg(MODEL, LOCAL, weighting="equal")
ROUNDS, APART = 12, 4  # of what layers are told of a sum in `stack`
CENTRAL = (mn.Clip(0.5), mn.CentralNoise(1.0))


def budget(epsilon: float = 8.0, **changes: Any) -> mn.Budget:
    values = {"delta": 1e-3, "privacy_unit": "client", "neighboring_relation": "add_or_remove", **changes}
    return mn.Budget(epsilon, **values)


def study(layers: Any = CENTRAL, rounds: int = 3, **changes: Any) -> mn.Study:
    return mn.Study(**{"algorithm": FEDAVG, "rounds": rounds, "layers": layers, **changes})


def spec(size: int, name: str = "train", **changes: Any) -> SumSpec:
    half = size // 2
    blocks = [Block(f"part {i}", (Entry(f"entry {i}", (n,)),)) for i, n in enumerate((half, size - half)) if n]
    return SumSpec(name, Layout(tuple(blocks)), "a test", **{"scalable": True, **changes})


def stack(layers: Any, size: int = 10, clients: int = 20, minimum: int = 1, z: float | None = None) -> Stack:
    return build(spec(size), layers, Gathering(float(clients), minimum, clients, z, ROUNDS, APART))


def vectors(count: int, size: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(count, size))).astype(np.float32)
