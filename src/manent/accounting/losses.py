"""Privacy loss distributions, by dp-accounting: pessimistic, so that each gives an upper bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manent.accounting.protocol import NeighboringRelation


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
    """The worst PLD of an epsilon-differentially private release."""
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld

    parameters = common.DifferentialPrivacyParameters(epsilon, 0.0)
    return pld.from_privacy_parameters(parameters, value_discretization_interval=interval)


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

    dp-accounting's size is that of the larger of two neighbours: it counts the unit among those that are drawn. Of a population
    of n, one unit may leave or another come, so that under "add_or_remove" the larger one has n or n + 1 units; neither is
    always the worse. Under the other relations both have n.

    Args:
        sample: size of the population, sampling probability, largest size that is not cut.
    """
    from dp_accounting.pld import privacy_loss_distribution as pld

    population, *rest = sample
    sizes = (population, population + 1) if relation == "add_or_remove" else (population,)
    options: Any = {"neighboring_relation": relation_of(relation), "value_discretization_interval": interval}
    return Worst(tuple(pld.from_truncated_subsampled_gaussian_mechanism(size, *rest, z, **options) for size in sizes))


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
