"""Discrete Gaussian noise in shares: each of several parties adds its own, and only the sum is seen.

A sum of discrete Gaussians is not quite a discrete Gaussian; `tau` says by how much.

| relation | guarantee of one sum (Kairouz, Liu and Steinke 2021, Proposition 14) |
|---|---|
| add_or_remove, zero_out | a Rényi curve: the smallest of three bounds, from both norms, tau and the dimension |
| replace_one | the same with both norms doubled |
| sampled | Poisson, except under replace_one, by the general bound; not by a fixed size |
| local_stddev below about 2 | tau times the dimension dominates: the loss is large, but bounded |
| a party that adds no noise | not covered: `parties` counts only those whose noise is certainly in the sum |
| PLD, zCDP | none: it is accounted by RDP |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from manent.accounting.protocol import CHANGE, Curve, Event, NeighboringRelation, set_count, set_positive
from manent.core import validate

_SUMMED = 100_000


@dataclass(frozen=True)
class DistributedDiscreteGaussian(Event):
    """A sum of whole numbers to which each of several parties has added its own discrete Gaussian noise.

    Attributes:
        local_stddev: sigma of one party's noise, in steps of the grid.
        parties: how many honest parties' noise is certainly in the sum.
        l2_sensitivity: the largest L2 norm of one unit's whole numbers, rounding included (see `rounded_norm`), in steps.
        l1_sensitivity: the largest L1 norm of the same.
        dimension: how many whole numbers.
    """

    local_stddev: float
    parties: int
    l2_sensitivity: float
    l1_sensitivity: float
    dimension: int

    def __post_init__(self) -> None:
        set_positive(self, "local_stddev", "l2_sensitivity", "l1_sensitivity")
        set_count(self, "parties", "dimension")

    def renyi(self, relation: NeighboringRelation, orders: tuple[float, ...]) -> Curve:
        """The smallest of three bounds (Kairouz, Liu and Steinke 2021, Proposition 14)."""
        alpha, change = np.asarray(orders, np.float64), CHANGE[relation]
        sigma, d = self.local_stddev * math.sqrt(self.parties), self.dimension
        two, one = change * self.l2_sensitivity / sigma, change * self.l1_sensitivity / sigma
        gap = tau(self.local_stddev, self.parties)
        bounds = (
            alpha / 2 * two**2 + gap * d,
            alpha / 2 * (two**2 + 2 * one * gap + gap**2 * d),
            alpha / 2 * (two + math.sqrt(d) * gap) ** 2,
        )
        smallest: Curve = np.minimum.reduce(bounds)
        return smallest

    def claims(self, relation: NeighboringRelation) -> tuple[str, ...]:
        """See `Event`."""
        return (f"At least {self.parties} honest parties have each added their noise to the sum.",)


def tau(local_stddev: float, parties: int) -> float:
    """How far a sum of discrete Gaussians is from a discrete Gaussian (Kairouz, Liu and Steinke 2021, Theorem 1).

    Args:
        local_stddev: of one party's noise, in steps of the grid; from 2 on the loss is negligible.
        parties: how many there are; with one, it is 0.
    """
    validate.positive("tau", "local_stddev", local_stddev)
    validate.count("tau", "parties", parties)
    k = np.arange(1, min(parties, _SUMMED + 1))
    terms = np.exp(-2 * math.pi**2 * min(local_stddev, validate.LARGEST) ** 2 * k / (k + 1))
    # The terms fall: the last one that is summed bounds each of the rest.
    rest = (parties - 1 - len(k)) * float(terms[-1]) if parties - 1 > len(k) else 0.0
    return float(10 * (terms.sum() + rest))


def rounded_norm(norm: float, dimension: int, beta: float = math.exp(-0.5)) -> float:
    """Bound on the L2 norm of a vector that is stochastically rounded to whole numbers, and drawn again while above the bound.

    Kairouz, Liu and Steinke 2021, Theorem 1 (with a grid step of 1).

    Args:
        norm: bound before rounding, in steps of the grid.
        dimension: how many numbers.
        beta: bound on the probability that it is drawn again; 0 for none.
    """
    validate.not_negative("rounded_norm", "norm", norm)
    validate.within("rounded_norm", "norm", norm, 0, validate.LARGEST)
    validate.count("rounded_norm", "dimension", dimension)
    validate.fraction("rounded_norm", "beta", beta)
    always = norm + math.sqrt(dimension)
    if beta == 0:
        return always
    usual = norm**2 + dimension / 4 + math.sqrt(-2 * math.log(beta)) * (norm + math.sqrt(dimension) / 2)
    return min(always, math.sqrt(usual))
