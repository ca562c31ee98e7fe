"""Privacy loss distributions, by dp-accounting: pessimistic, so that each gives an upper bound."""

from __future__ import annotations

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

    Args:
        sample: size of the population, sampling probability, largest size that is not cut.
    """
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_truncated_subsampled_gaussian_mechanism(
        *sample, z, neighboring_relation=relation_of(relation), value_discretization_interval=interval
    )
