"""Small federations and models for the laws of the algorithms."""

from __future__ import annotations

import numpy as np

from manent.core.examples import Client, Examples, Schema
from manent.core.randomness import repeatable
from manent.data import Federation
from manent.models.numpy import LinearModel, LogisticModel, SoftmaxModel


def make(kind: str, sizes: list[int], seed: int = 0, features: int = 4) -> Federation:
    """Clients of the given sizes whose data follow slightly different laws."""
    rng = repeatable(seed, "test data", kind)
    clients = []
    for number, size in enumerate(sizes):
        x = (rng.normal(size=(size, features)) + 0.3 * number).astype(np.float32)
        w = rng.normal(size=(features, 3))
        scores = x @ w
        y = {
            "linear": scores[:, 0].astype(np.float32),
            "logistic": (scores[:, 0] > 0).astype(np.int64),
            "softmax": scores.argmax(1).astype(np.int64),
        }[kind]
        clients.append(Client(f"client-{number}", Examples(x, y), Examples(x[: size // 2 + 1], y[: size // 2 + 1])))
    classes = {"linear": None, "logistic": 2, "softmax": 3}[kind]
    return Federation(clients=tuple(clients), schema=Schema(shape=(features,), classes=classes), name=kind)


def model_for(kind: str, features: int = 4) -> LinearModel | LogisticModel | SoftmaxModel:
    if kind == "linear":
        return LinearModel(features)
    return LogisticModel(features) if kind == "logistic" else SoftmaxModel(features, 3)


KINDS = ("linear", "logistic", "softmax")
