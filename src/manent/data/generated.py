"""Data made by a formula: the synthetic federation of FedProx."""

from __future__ import annotations

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.examples import Client, Examples, Schema
from manent.core.randomness import repeatable
from manent.data.federation import Federation

FEATURES, CLASSES = 60, 10


def synthetic(
    alpha: float, beta: float, clients: int = 30, *, iid: bool = False, test_fraction: float = 0.1, seed: int = 0
) -> Federation:
    """Synthetic(alpha, beta) of FedProx (Li et al. 2020, sec. 5.1 and app. C.1). Each client has a linear classifier of its own.

    For each client: u ~ N(0, alpha), B ~ N(0, beta); W [60, 10] and b [10] ~ N(u, 1); v [60] ~ N(B, 1);
    x ~ N(v, diag(j ** -1.2)), j = 1..60; y = argmax(x W + b); rows: floor(lognormal(4, 2)) + 50. As in the authors' code, the
    second parameter of each N is a standard deviation. x is float32[n, 60], y int64[n].

    Args:
        alpha: how much the clients' classifiers differ.
        beta: how much the clients' inputs differ.
        clients: how many clients.
        iid: all clients share W and b ~ N(0, 1), and v = 0. Then alpha and beta must be 0.
        test_fraction: the last test_fraction of a client's rows are its test part, in [0, 1).
        seed: decides everything random.

    Raises InvalidInput for arguments out of range, and for iid with alpha or beta above 0.
    """
    validate.not_negative("synthetic", "alpha", alpha)
    validate.not_negative("synthetic", "beta", beta)
    validate.count("synthetic", "clients", clients)
    validate.fraction("synthetic", "test_fraction", test_fraction, one=False)
    if iid and (alpha or beta):
        raise InvalidInput(f"With iid=True clients do not differ, so alpha and beta must be 0; found alpha={alpha}, beta={beta}.")
    sizes = repeatable(seed, "synthetic sizes").lognormal(4, 2, clients).astype(np.int64) + 50
    spread = np.arange(1, FEATURES + 1) ** -0.6  # the square root of j ** -1.2
    shared = repeatable(seed, "synthetic shared")
    one_w, one_b = shared.normal(0, 1, (FEATURES, CLASSES)), shared.normal(0, 1, CLASSES)
    holders, width = [], len(str(clients - 1))
    for index, size in enumerate(sizes):
        rng = repeatable(seed, "synthetic", index)
        u, centre = rng.normal(0, alpha), rng.normal(0, beta)
        w, b = rng.normal(u, 1, (FEATURES, CLASSES)), rng.normal(u, 1, CLASSES)
        v = rng.normal(centre, 1, FEATURES)
        if iid:
            w, b, v = one_w, one_b, np.zeros(FEATURES)
        x = v + spread * rng.normal(0, 1, (size, FEATURES))
        rows = Examples(x.astype(np.float32), (x @ w + b).argmax(axis=1).astype(np.int64))
        train = int((1 - test_fraction) * size)
        holders.append(Client(f"client-{index:0{width}}", rows[:train], rows[train:] if train < size else None))
    name = "synthetic_iid" if iid else f"synthetic({alpha:g}, {beta:g})"
    return Federation(tuple(holders), Schema(shape=(FEATURES,), classes=CLASSES), name)
