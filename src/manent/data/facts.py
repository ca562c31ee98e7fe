"""What is known of a federation's data: rows, labels or target values, and how much clients differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Labels:
    """Classes, counted over each client's train and test rows.

    Attributes:
        counts: int64[clients, classes]; every position of a sequence counts.
        names: of the classes.
    """

    counts: NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Each client's label distribution, [clients, classes]."""
        shares: NDArray[np.float64] = self.counts / self.counts.sum(axis=1, keepdims=True)
        return shares

    @property
    def pooled(self) -> NDArray[np.float64]:
        """The label distribution of all rows together, [classes]."""
        total: NDArray[np.float64] = self.counts.sum(axis=0) / self.counts.sum()
        return total

    @property
    def distances(self) -> NDArray[np.float64]:
        """Each client's total variation distance to the pooled distribution, half the sum of |p - q|, [clients] in [0, 1]."""
        distances: NDArray[np.float64] = np.abs(self.shares - self.pooled).sum(axis=1) / 2
        return distances


@dataclass(frozen=True)
class Numbers:
    """A regression target over each client's train and test rows: mean and standard deviation, float64[clients]."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    pooled_mean: float
    unit: str


@dataclass(frozen=True, repr=False)
class Facts:
    """How many rows each client has, what their targets are, and how much clients differ.

    Attributes:
        train, test: rows of each client, int64[clients].
        target: `Labels`, or `Numbers` for regression.
        heterogeneity: for classes, the mean over rows of their client's total variation distance to the pooled label
            distribution: 0 if all clients are alike, towards 1 if they share nothing. For regression, the share of the
            target's variance that lies between clients (eta squared): 0 if all have one mean, 1 if a client's rows are all equal.
        by_chance: the same measure if the same rows were dealt at random to clients of the same sizes (small clients
            differ by chance alone); compare the two.
    """

    name: str
    clients: tuple[str, ...]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    target: Labels | Numbers
    heterogeneity: float
    by_chance: float
