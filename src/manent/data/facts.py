"""What is known of a federation's data: rows, labels or target values, and how much clients differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Labels:
    """How often each class occurs in each client's train and test rows.

    Attributes:
        counts: int64[clients, classes]. Each position of a sequence counts.
        names: the classes' names.
    """

    counts: NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def shares(self) -> NDArray[np.float64]:
        """float64[clients, classes], each client's distribution of labels."""
        shares: NDArray[np.float64] = self.counts / self.counts.sum(axis=1, keepdims=True)
        return shares

    @property
    def pooled(self) -> NDArray[np.float64]:
        """float64[classes], the distribution of labels in all rows together."""
        total: NDArray[np.float64] = self.counts.sum(axis=0) / self.counts.sum()
        return total

    @property
    def distances(self) -> NDArray[np.float64]:
        """float64[clients], each client's total variation distance to the pooled labels: half the sum of |p - q|, in [0, 1]."""
        distances: NDArray[np.float64] = np.abs(self.shares - self.pooled).sum(axis=1) / 2
        return distances


@dataclass(frozen=True)
class Numbers:
    """A regression target in each client's train and test rows.

    Attributes:
        mean: float64[clients], each client's mean.
        sd: float64[clients], each client's standard deviation.
        pooled_mean: the mean of all rows.
        unit: the target's unit, or "".
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    pooled_mean: float
    unit: str


@dataclass(frozen=True, repr=False)
class Facts:
    """How many rows each client has, what their targets are, and how much clients differ.

    Attributes:
        name: the federation's name.
        clients: the clients' names.
        train, test: int64[clients], how many rows each client has.
        target: `Labels`, or `Numbers` for regression.
        heterogeneity: how much clients differ, from 0 to 1. For classes: the mean over all rows of the total variation distance
            between their client's labels and the pooled labels; 0 if all clients are alike, near 1 if they share no label. For
            regression: the share of the target's variance that lies between clients (eta squared); 0 if all clients have the
            same mean, 1 if the rows within each client are equal.
        by_chance: the same measure if the same rows were dealt at random to clients of the same sizes. Compare the two: small
            clients differ by chance alone.
    """

    name: str
    clients: tuple[str, ...]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    target: Labels | Numbers
    heterogeneity: float
    by_chance: float
