"""Arguments of every algorithm: what is out of range, or of another type, is refused when the algorithm is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from manent.algorithms import SCAFFOLD, Evaluation, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedDyn, FedNova, FedProx, FedYogi
from manent.algorithms.gradient import GradientAlgorithm
from manent.core.errors import InvalidInput
from manent.core.examples import Public, Schema
from manent.core.protocols import Assignment, Released
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


LOCAL = LocalSGD(lr=0.1, steps=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parts_of_a_wrong_kind_are_refused(algorithm):
    name = algorithm.__name__
    with pytest.raises(InvalidInput, match=f"{name} expects the clients' training as local; found 0.1.*LocalSGD"):
        algorithm(LinearModel(3), 0.1)
    with pytest.raises(InvalidInput, match=f"{name} expects a model as model; found 13"):
        algorithm(13, LOCAL)
    with pytest.raises(InvalidInput, match=f"{name} expects a model as model; found LinearModel, a class. Call it"):
        algorithm(LinearModel, LOCAL)
    with pytest.raises(InvalidInput, match=f"{name} expects an evaluation or None as evaluation; found 5"):
        algorithm(LinearModel(3), LOCAL, evaluation=5)
    with pytest.raises(InvalidInput, match="found Evaluation, a class. Call it"):
        algorithm(LinearModel(3), LOCAL, evaluation=Evaluation)


@pytest.mark.parametrize("metrics", ["accuracy", 3, (1,), ("loss", None)], ids=repr)
def test_metrics_are_a_tuple_of_names(metrics):
    with pytest.raises(InvalidInput, match="Evaluation expects metrics as a tuple of names.*Write metrics="):
        Evaluation(metrics=metrics)
    assert Evaluation(metrics=["loss"]).names(LinearModel(3)) == ("loss",)


@dataclass(frozen=True)
class Own(GradientAlgorithm):
    """An algorithm whose step returns what it is told to."""

    returned: Any = None

    def slots(self, size):
        return {"m": np.zeros(size)}

    def step(self, parameters, state, totals):
        return self.returned


GOOD = np.zeros(4)  # three weights and an intercept


def applied(returned):
    algorithm = Own(LinearModel(3), LOCAL, returned=returned)
    state = algorithm.init(Public(Schema(), 1), np.random.default_rng(0))
    total = np.ones(algorithm.train_layout.size)
    return algorithm.apply(state, Assignment("train"), Released(total, 1, 1))[0]


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        (None, "must return a pair .parameters, state.*found a NoneType"),
        (GOOD, "must return a pair .parameters, state.*found an ndarray"),
        ((GOOD,), "must return a pair"),
        ((GOOD, GOOD), "must return a pair"),
        ((np.zeros(3), {}), r"parameters of the shape \(4,\), that of the model; found \(3,\)"),
        ((0.0, {}), r"found \(\)"),
        ((np.array(["a"] * 4), {}), "parameters as numbers"),
        ((GOOD, {"momentun": GOOD}), "returns the state 'momentun', but `slots` declares 'm'. Declare it there"),
        ((GOOD, {"model": GOOD}), "returns the state 'model', but"),
        ((GOOD, {"clients": np.array(3)}), "returns the state 'clients', but"),
        ((GOOD, {"m": np.zeros(3)}), r"the state 'm' with the shape \(3,\), but `slots` declares \(4,\)"),
    ],
)
def test_a_step_that_returns_something_else_is_refused(returned, why):
    with pytest.raises(InvalidInput, match=f"Own.step.*{why}"):
        applied(returned)


def test_a_step_may_leave_its_state_as_it_was():
    assert not applied((GOOD, {}))["m"].any()
    assert applied((GOOD, {"m": GOOD + 1}))["m"].all()
