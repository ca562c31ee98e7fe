"""Arguments of every algorithm: what is out of range, or of another type, is refused when the algorithm is made."""

from __future__ import annotations

import math

import pytest

from manent.algorithms import SCAFFOLD, Evaluation, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedDyn, FedNova, FedProx, FedYogi
from manent.core.errors import InvalidInput
from manent.core.training import LocalSGD
from manent.models import LinearModel

NUMBERS = [
    (FedAvg, "server_lr"),
    (FedAvgM, "server_lr"),
    (FedAvgM, "momentum"),
    (FedProx, "server_lr"),
    (FedProx, "mu"),
    (FedNova, "server_lr"),
    (FedNova, "mu"),
    (FedDyn, "alpha"),
    (SCAFFOLD, "server_lr"),
    *((adaptive, name) for adaptive in (FedAdagrad, FedAdam, FedYogi) for name in ("server_lr", "beta1", "beta2", "tau")),
]
ALGORITHMS = list(dict.fromkeys(algorithm for algorithm, _ in NUMBERS))


@pytest.mark.parametrize("value", ["abc", None, math.nan, math.inf, True, [0.1]], ids=repr)
@pytest.mark.parametrize(("algorithm", "name"), NUMBERS)
def test_what_is_no_number_is_refused(algorithm, name, value):
    with pytest.raises(InvalidInput, match=f"{algorithm.__name__} expects .*{name}.*found"):
        algorithm(LinearModel(3), LocalSGD(lr=0.1, steps=1), **{name: value})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_unknown_weighting_is_refused(algorithm):
    with pytest.raises(
        InvalidInput, match=f"{algorithm.__name__} expects weighting as one of 'examples', 'equal'; found 'sizes'"
    ):
        algorithm(LinearModel(3), LocalSGD(lr=0.1, steps=1), weighting="sizes")


def test_an_unknown_control_is_refused():
    with pytest.raises(InvalidInput, match="control as one of 'difference', 'gradient'"):
        SCAFFOLD(LinearModel(3), LocalSGD(lr=0.1, steps=1), control="none")


@pytest.mark.parametrize("value", [0, 1.5, "2", None, True])
def test_an_evaluation_comes_every_so_many_rounds(value):
    with pytest.raises(InvalidInput, match="Evaluation expects every >= 1"):
        Evaluation(every=value)
