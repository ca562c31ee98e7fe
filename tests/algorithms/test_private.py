"""Private training under every algorithm: what leaves a client depends on its data through noised gradients alone."""

from __future__ import annotations

import numpy as np
import pytest

import manent as mn
from manent.core.protocols import ClientContext
from tests.algorithms.federations import make

LOCAL = mn.LocalSGD(lr=0.1, steps=3, batch_size=4, privacy=mn.DPSGD(0.5, 1.0, sampling_probability=0.3))
MODEL = mn.LogisticModel(4, initial="uniform")
DATA = make("logistic", [12, 13, 14])
ALGORITHMS = {
    "FedAvg": mn.FedAvg(MODEL, LOCAL),
    "FedProx": mn.FedProx(MODEL, LOCAL),
    "SCAFFOLD": mn.SCAFFOLD(MODEL, LOCAL),
    "FedDyn": mn.FedDyn(MODEL, LOCAL),
    "FedNova": mn.FedNova(MODEL, LOCAL),
    "FedAdam": mn.FedAdam(MODEL, LOCAL),
}


class Silent:
    """Replaces every gradient by zeros: what is then left of a client's data in its vector did not pass the noise."""

    secure = False

    def rows(self, probability, examples):
        return np.arange(min(examples, 5))

    def noisy(self, total, clip_norm, noise_multiplier):
        return np.zeros_like(total)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_of_the_data_goes_around_the_noise(name):
    algorithm = ALGORITHMS[name]
    state = algorithm.init(DATA.public, np.random.default_rng(0))
    assignment = algorithm.assign(state, 1, 0)
    layout = algorithm.memory(DATA.public)
    memory = None if layout is None else np.full(layout.size, 0.5, np.float32)
    sent = []
    for client in DATA.clients:
        context = ClientContext("the same", 1, 7, draws=Silent())
        (contribution,) = algorithm.answer(assignment, [client], [memory], [context])
        sent.append(contribution.vector)
    np.testing.assert_array_equal(sent[0], sent[1])
    np.testing.assert_array_equal(sent[0], sent[2])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_weight_travels(name):
    (train,) = ALGORITHMS[name].sums(DATA.public)
    assert "weight" not in train.layout
    assert train.divisor is None


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_privately(name):
    run = mn.simulate(mn.Study(ALGORITHMS[name], 2), DATA, workers=0, random=mn.InsecureTestRNG(0))
    again = mn.simulate(mn.Study(ALGORITHMS[name], 2), DATA, workers=0, random=mn.InsecureTestRNG(0))
    other = mn.simulate(mn.Study(ALGORITHMS[name], 2), DATA, workers=0, random=mn.InsecureTestRNG(1))
    np.testing.assert_array_equal(run.state["model"], again.state["model"])
    assert np.all(run.state["model"] != other.state["model"])


def test_batches_and_noise_do_not_come_from_the_seed():
    models = [mn.simulate(mn.Study(ALGORITHMS["FedAvg"], 1), DATA, seed=3, workers=w).state["model"] for w in (0, 0, 2)]
    assert np.all(models[0] != models[1])
    assert np.all(models[0] != models[2])


def test_without_a_source_of_noise_nothing_is_trained():
    algorithm = ALGORITHMS["FedAvg"]
    assignment = algorithm.assign(algorithm.init(DATA.public, np.random.default_rng(0)), 1, 0)
    with pytest.raises(mn.Refused, match="private source"):
        algorithm.answer(assignment, DATA.clients[:1], [None], [ClientContext("client 0", 1, 7)])


def test_a_gradient_without_noise_is_refused():
    with pytest.raises(mn.Refused, match="control='difference'"):
        mn.SCAFFOLD(MODEL, LOCAL, control="gradient")
