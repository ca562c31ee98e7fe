"""Every algorithm, one row each: the protocol's laws."""

from __future__ import annotations

import json

import numpy as np
import pytest

import manent as mn
from manent.core.canonical import canonical
from manent.core.protocols import ClientContext, Released
from manent.core.randomness import repeatable
from tests.algorithms.federations import make, model_for

LOCAL = mn.LocalSGD(lr=0.05, epochs=1, batch_size=3)
MODEL = model_for("softmax")

# One row an implementation.
ALGORITHMS = {
    "FedAvg": mn.FedAvg(MODEL, LOCAL),
    "FedAvg, equal weights": mn.FedAvg(MODEL, LOCAL, weighting="equal"),
    "FedAvg with evaluation": mn.FedAvg(MODEL, LOCAL, evaluation=mn.Evaluation(2)),
    "FedSGD": mn.FedSGD(MODEL, 0.1),
    "FedProx": mn.FedProx(MODEL, LOCAL, mu=0.1),
    "SCAFFOLD": mn.SCAFFOLD(MODEL, LOCAL),
    "SCAFFOLD, control by gradient": mn.SCAFFOLD(MODEL, LOCAL, control="gradient"),
    "FedNova": mn.FedNova(MODEL, LOCAL),
    "FedDyn": mn.FedDyn(MODEL, LOCAL, alpha=0.1),
    "FedAvgM": mn.FedAvgM(MODEL, LOCAL, server_lr=0.3),
    "FedAdagrad": mn.FedAdagrad(MODEL, LOCAL),
    "FedAdam": mn.FedAdam(MODEL, LOCAL),
    "FedYogi": mn.FedYogi(MODEL, LOCAL),
    "Mean": mn.Mean("age"),
    "Histogram": mn.Histogram("age", bins=4),
}


@pytest.fixture(params=ALGORITHMS, ids=list(ALGORITHMS))
def algorithm(request):
    return ALGORITHMS[request.param]


@pytest.fixture(scope="module")
def data():
    base = make("softmax", [6, 9, 4, 11])
    column = mn.Column("age", "years", 0, 20)
    clients = []
    for number, client in enumerate(base.clients):
        parts = [
            mn.Examples(p.x, p.y, {"age": np.arange(len(p), dtype=np.float64) + number}) for p in (client.train, client.test)
        ]
        clients.append(mn.Client(client.name, *parts))
    return mn.Federation(clients=tuple(clients), schema=mn.Schema(shape=(4,), classes=3, columns=(column,)), name="test")


def run(algorithm, data, rounds=3, **options):
    study = mn.Study(algorithm, rounds if hasattr(algorithm, "model") else 1)
    return mn.simulate(study, data, **{"workers": 0, **options})


def test_what_is_declared_is_what_is_sent(algorithm, data):
    public = data.public
    specs = {spec.name: spec for spec in algorithm.sums(public)}
    state = algorithm.init(public, np.random.default_rng(0))
    memory = algorithm.memory(public)
    rows = [None if memory is None else np.zeros(memory.size, np.float32) for _ in data.clients]
    contexts = [ClientContext(client.name, 2, 0) for client in data.clients]
    index = 0
    while (assignment := algorithm.assign(state, 2, index)) is not None:
        spec = specs[assignment.sum]
        before = {name: array.copy() for name, array in assignment.arrays.items()}
        answers = algorithm.answer(assignment, data.clients, rows, contexts)
        assert len(answers) == len(data.clients)
        for answer in answers:
            spec.layout.check_size(answer.vector)
            assert np.isfinite(answer.vector).all()
            assert (answer.memory is None) or answer.memory.shape == (memory.size,)
        for name, array in assignment.arrays.items():
            np.testing.assert_array_equal(array, before[name], err_msg=f"{name} was modified")
        total = np.sum([answer.vector for answer in answers], axis=0, dtype=np.float64)
        kept = {name: np.array(array) for name, array in state.items()}
        new, report = algorithm.apply(state, assignment, Released(total, len(answers), 2))
        for name, array in kept.items():
            np.testing.assert_array_equal(state[name], array, err_msg=f"apply modified the old state's {name}")
        assert all(isinstance(value, float) for value in report.values())
        state, index = new, index + 1
    assert index >= 1


def test_a_batch_of_clients_is_each_client_by_itself(algorithm, data):
    public = data.public
    state = algorithm.init(public, np.random.default_rng(0))
    memory = algorithm.memory(public)
    rows = [None if memory is None else np.full(memory.size, 0.01, np.float32) for _ in data.clients]
    contexts = [ClientContext(client.name, 1, 0) for client in data.clients]
    assignment = algorithm.assign(state, 1, 0)
    together = algorithm.answer(assignment, data.clients, rows, contexts)
    for i, answer in enumerate(together):
        (alone,) = algorithm.answer(assignment, data.clients[i : i + 1], rows[i : i + 1], contexts[i : i + 1])
        np.testing.assert_array_equal(answer.vector, alone.vector)


def test_the_state_is_arrays_and_the_result_comes_from_it(algorithm, data):
    done = run(algorithm, data)
    assert all(isinstance(array, np.ndarray) for array in done.state.values())
    assert done.result
    assert all(np.isfinite(array).all() for array in done.result.values())


def test_equal_bits_for_any_number_of_workers(algorithm, data):
    one, two, three = (run(algorithm, data, workers=workers) for workers in (1, 2, 3))
    for name in one.state:
        assert one.state[name].tobytes() == two.state[name].tobytes() == three.state[name].tobytes()


def test_it_is_plain_data_with_a_stable_hash(algorithm, data):
    study = mn.Study(algorithm)
    assert canonical(json.loads(canonical(study.to_plain()))) == canonical(study.to_plain())
    assert study.hash == mn.Study(algorithm).hash != mn.Study(algorithm, rounds=2).hash


def test_nobody_answering_leaves_the_state(algorithm, data):
    done = run(algorithm, data, rounds=2, conditions=mn.Conditions(drop_before_upload=1.0))
    fresh = algorithm.init(data.public, repeatable(0, "init"))
    assert all("abandoned" in row for row in done.history)
    for name, array in fresh.items():
        np.testing.assert_array_equal(done.state[name], array)


def test_training_algorithms_lower_the_loss(algorithm, data):
    if not hasattr(algorithm, "model"):
        pytest.skip("trains nothing")
    done = run(algorithm, data, rounds=15)
    first, last = done.series("loss", "train")[1][[0, -1]]
    assert last < first
