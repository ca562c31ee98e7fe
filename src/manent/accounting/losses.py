"""Privacy loss distributions, by dp-accounting: pessimistic, so that each gives an upper bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scipy.special import expit

from manent.accounting.protocol import NeighboringRelation

_AT_ONCE = 20_000


def relation_of(relation: NeighboringRelation) -> Any:
    """dp-accounting's name of a neighbouring relation."""
    from dp_accounting import NeighboringRelation as Relation

    return {
        "add_or_remove": Relation.ADD_OR_REMOVE_ONE,
        "replace_one": Relation.REPLACE_ONE,
        "zero_out": Relation.REPLACE_SPECIAL,
    }[relation]


def of_gaussian(z: float, relation: NeighboringRelation, interval: float, probability: float = 1.0) -> Any:
    """The PLD of one Gaussian release with noise multiplier z, on a Poisson sample of this probability."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_gaussian_mechanism(
        z, sampling_prob=probability, neighboring_relation=relation_of(relation), value_discretization_interval=interval
    )


def of_pure(epsilon: float, interval: float) -> Any:
    """The worst PLD of an epsilon-differentially private release, that of randomised response."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    losses = {math.ceil(epsilon / interval): float(expit(epsilon))}
    least = math.ceil(-epsilon / interval)
    losses[least] = losses.get(least, 0.0) + float(expit(-epsilon))
    return pld.PrivacyLossDistribution.create_from_rounded_probability(losses, 0.0, interval)


def width(z: float) -> float:
    """About how wide the privacy loss of a Gaussian release with noise multiplier z is."""
    return float(1 / (2 * z**2) + 10 / z)


def of_discrete_laplace(scale: float, sensitivity: int, interval: float, probability: float = 1.0) -> Any:
    """The PLD of one discrete Laplace release, on a Poisson sample of this probability; scale and sensitivity in steps."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_discrete_laplace_mechanism(
        1 / scale, sensitivity, sampling_prob=probability, value_discretization_interval=interval
    )


def of_truncated_gaussian(sample: tuple[int, float, int], z: float, relation: NeighboringRelation, interval: float) -> Any:
    """The PLD of one Gaussian release with noise multiplier z, on a Poisson sample that is cut.

    It is a mixture: where others fill the sample, the pair of a replacement, sampled as often as the unit is kept; else the pair
    of Poisson sampling (dp-accounting's `from_truncated_subsampled_gaussian_mechanism`, after arXiv 2508.15089). The size that
    it is made for is that of the larger of two neighbours: the unit is among those that are drawn. Of a population of n, one
    unit may leave or another come, so that under "add_or_remove" the larger one has n or n + 1 units; neither is always the
    worse. Under the other relations both have n.

    Args:
        sample: size of the population, sampling probability, largest size that is not cut.
    """
    from scipy.stats import binom

    population, q, largest = sample
    sizes = (population, population + 1) if relation == "add_or_remove" else (population,)
    whole = of_gaussian(z, relation, interval, q)
    cuts = [float(binom.sf(largest - 1, size - 1, q)) for size in sizes]
    if cuts[-1] == 0:
        return whole
    kept = max(float(binom.sf(largest, n, q)) * largest / n / cut for n, cut in zip(sizes, cuts, strict=True) if cut > 0)
    opposite = of_gaussian(z / 2, "replace_one", interval, min(kept, 1.0)) if kept > 0 else whole
    return Worst(tuple(opposite.compute_mixture(whole, cut) for cut in cuts))


def many(loss: Any, count: int) -> Any:
    """The PLD of so many releases of one. Beyond `_AT_ONCE`, dp-accounting first takes the count-th power of a size."""
    if count <= _AT_ONCE:
        return loss.self_compose(count)
    rest = count % _AT_ONCE
    total = loss.self_compose(_AT_ONCE).self_compose(count // _AT_ONCE)
    return together(total, loss.self_compose(rest)) if rest else total


@dataclass(frozen=True)
class Worst:
    """The worst of several PLDs, of one pair of neighbours each. A unit's releases are all seen by the same pair.

    Attributes:
        pairs: the smaller pair first, and the larger one last.
    """

    pairs: tuple[Any, ...]

    def self_compose(self, count: int) -> Worst:
        """So many of it."""
        return Worst(tuple(pair.self_compose(count) for pair in self.pairs))

    def get_epsilon_for_delta(self, delta: float) -> float:
        """The largest epsilon of all."""
        return max(float(pair.get_epsilon_for_delta(delta)) for pair in self.pairs)


def together(first: Any, second: Any) -> Any:
    """The PLD of two releases on the same data."""
    one, other = (loss.pairs if isinstance(loss, Worst) else (loss,) for loss in (first, second))
    if len(one) == len(other) == 1:
        return one[0].compose(other[0])
    pairs = max(len(one), len(other))
    return Worst(tuple(one[min(i, len(one) - 1)].compose(other[min(i, len(other) - 1)]) for i in range(pairs)))
