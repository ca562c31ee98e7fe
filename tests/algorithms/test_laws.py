"""Laws that tie the algorithms to each other and to centralised training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent.algorithms.fednova import accumulated
from manent.algorithms.gradient import Terms
from manent.core.examples import join
from manent.core.protocols import Assignment, ClientContext
from manent.core.randomness import repeatable
from manent.core.training import LocalTraining
from manent.core.vectors import Layout
from manent.engines.memory import ClientMemory
from tests.algorithms.federations import KINDS, make, model_for

few = settings(max_examples=15, deadline=None)
kinds = st.sampled_from(KINDS)
sizes = st.lists(st.integers(2, 12), min_size=1, max_size=5)
locals_ = st.builds(
    mn.LocalSGD,
    lr=st.floats(0.01, 0.1),
    epochs=st.integers(1, 3),
    batch_size=st.one_of(st.none(), st.integers(1, 5)),
    momentum=st.sampled_from([0.0, 0.5]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    max_grad_norm=st.sampled_from([None, 1.0]),
)


def train(algorithm, data, rounds=3, seed=0, cohort=None, conditions=None):
    study = mn.Study(algorithm=algorithm, rounds=rounds, cohort=cohort or mn.Cohort())
    return mn.simulate(study, data, seed=seed, workers=0, conditions=conditions, evaluate_every=rounds)


def model_of(*args, **options):
    return train(*args, **options).state["model"]


@few
@given(kinds, locals_, st.integers(2, 12), st.integers(0, 100))
def test_fedavg_with_one_client_is_that_clients_own_training(kind, local, size, seed):
    data, model = make(kind, [size]), model_for(kind)
    got = model_of(mn.FedAvg(model, local), data, rounds=1, seed=seed)
    rng = repeatable(seed, "training", 1, "client-0")
    start = model.init(repeatable(seed, "init"))
    work = LocalTraining(start, local.batches(size, rng), local, local.lr)
    (own,) = model.train([work], [data.clients[0].train])
    np.testing.assert_allclose(got, own.vector, rtol=1e-6, atol=1e-6)


@few
@given(kinds, sizes, st.floats(0.01, 0.2), st.integers(1, 5))
def test_full_batch_and_one_step_is_centralised_gradient_descent(kind, sizes, lr, rounds):
    data, model = make(kind, sizes), model_for(kind)
    got = model_of(mn.FedSGD(model, lr), data, rounds=rounds)
    pooled = join([client.train for client in data.clients])
    vector = model.init(repeatable(0, "init")).astype(np.float64)
    for _ in range(rounds):
        vector -= lr * model.gradient(vector.astype(np.float32), pooled)
    np.testing.assert_allclose(got, vector, atol=1e-6, rtol=1e-6)


@few
@given(kinds, sizes, locals_, st.integers(0, 100))
def test_fedprox_with_zero_is_fedavg(kind, sizes, local, seed):
    data, model = make(kind, sizes), model_for(kind)
    fedavg = model_of(mn.FedAvg(model, local), data, seed=seed)
    np.testing.assert_array_equal(model_of(mn.FedProx(model, local, mu=0.0), data, seed=seed), fedavg)


@few
@given(kinds, sizes, st.floats(0.01, 0.1), st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.1]))
def test_fednova_with_equal_steps_is_fedavg(kind, sizes, lr, steps, momentum, mu):
    local = mn.LocalSGD(lr=lr, steps=steps, batch_size=2, momentum=momentum)
    if momentum and mu:
        mu = 0.0
    data, model = make(kind, sizes), model_for(kind)
    fedavg = model_of(mn.FedProx(model, local, mu=mu), data)
    np.testing.assert_allclose(model_of(mn.FedNova(model, local, mu=mu), data), fedavg, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 30), st.floats(0.05, 0.95), st.floats(0.001, 0.5))
def test_the_accumulated_norms_are_sums_of_what_each_gradient_gets(steps, momentum, shrink):
    by_momentum = [(1 - momentum ** (steps - k)) / (1 - momentum) for k in range(steps)]
    assert accumulated(steps, momentum, 0) == pytest.approx(sum(by_momentum))
    assert accumulated(steps, 0, shrink) == pytest.approx(sum((1 - shrink) ** k for k in range(steps)))
    assert accumulated(steps, 0, 0) == steps


@few
@given(
    kinds,
    st.lists(st.integers(2, 8), min_size=2, max_size=6),
    st.sampled_from(["difference", "gradient"]),
    st.floats(0, 0.5),
    st.floats(0, 0.4),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_scaffolds_control_is_the_mean_of_the_clients(kind, sizes, control, before, late, rounds, seed):
    data, model = make(kind, sizes), model_for(kind)
    local = mn.LocalSGD(lr=0.05, epochs=1, batch_size=2)
    conditions = mn.Conditions(drop_before_training=before, drop_before_upload=late, drop_after_upload=0.1)
    study = mn.Study(mn.SCAFFOLD(model, local, control=control), rounds, mn.Cohort(size=max(1, len(sizes) - 1)))
    memory = []
    run = _run_keeping_memory(study, data, seed, conditions, memory)
    own = np.mean(memory, axis=0)
    np.testing.assert_allclose(run.state["control"], own, rtol=1e-4, atol=1e-5)


def _run_keeping_memory(study, data, seed, conditions, rows):
    """Simulate, and read every client's committed memory at the end."""

    class Kept(ClientMemory):
        def close(self):
            rows.extend(self.read(i, int(self.current[i])) for i in range(self.clients))
            super().close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("manent.engines.loop.ClientMemory", Kept)
        return mn.simulate(study, data, seed=seed, workers=0, conditions=conditions)


@few
@given(kinds, st.lists(st.integers(2, 8), min_size=2, max_size=5), st.integers(0, 1000))
def test_a_dropped_clients_memory_is_not_committed(kind, sizes, seed):
    data, model = make(kind, sizes), model_for(kind)
    local = mn.LocalSGD(lr=0.05, steps=2, batch_size=2)
    memory = []
    study = mn.Study(mn.SCAFFOLD(model, local), 1)
    conditions = mn.Conditions(drop_before_upload=0.5)
    _run_keeping_memory(study, data, seed, conditions, memory)
    for client, row in zip(data.clients, memory, strict=True):
        answered = conditions.fate(seed, 1, 0, client.name).answers
        everyone_dropped = not any(conditions.fate(seed, 1, 0, c.name).answers for c in data.clients)
        assert bool(np.any(row)) == (answered and not everyone_dropped)


@few
@given(kinds, sizes, st.integers(0, 100))
def test_feddyn_with_one_step_follows_its_paper(kind, sizes, seed):
    """Two rounds of Algorithm 1, written out."""
    data, model = make(kind, sizes), model_for(kind)
    lr, alpha = 0.05, 0.1
    got = model_of(mn.FedDyn(model, mn.LocalSGD(lr=lr, steps=2), alpha=alpha), data, rounds=2, seed=seed)
    theta = model.init(repeatable(seed, "init")).astype(np.float64)
    g = [np.zeros_like(theta) for _ in data.clients]
    h = np.zeros_like(theta)
    for _ in range(2):
        models = []
        for k, client in enumerate(data.clients):
            w = theta.copy()
            for _ in range(2):
                gradient = model.gradient(w.astype(np.float32), client.train)
                w = w - lr * (gradient - g[k] + alpha * (w - theta))
            g[k] = g[k] - alpha * (w - theta)
            models.append(w)
        h = h - alpha * sum(w - theta for w in models) / len(models)
        theta = np.mean(models, axis=0) - h / alpha
    np.testing.assert_allclose(got, theta, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make_algorithm", "rule"),
    [
        (mn.FedAdagrad, lambda v, u, b: v + u**2),
        (mn.FedAdam, lambda v, u, b: b * v + (1 - b) * u**2),
        (mn.FedYogi, lambda v, u, b: v - (1 - b) * u**2 * np.sign(v - u**2)),
    ],
)
def test_adaptive_servers_follow_reddis_algorithm_2(make_algorithm, rule):
    data, model = make("softmax", [5, 9, 3]), model_for("softmax")
    local = mn.LocalSGD(lr=0.05, epochs=1, batch_size=2)
    got = model_of(make_algorithm(model, local, server_lr=0.1, beta1=0.8, beta2=0.95, tau=0.01), data, rounds=3)
    x = model.init(repeatable(0, "init")).astype(np.float64)
    m, v = np.zeros_like(x), np.full_like(x, 0.01**2)
    for round in range(1, 4):
        update, weight = np.zeros_like(x), 0
        for client in data.clients:
            n = len(client.train)
            batches = local.batches(n, repeatable(0, "training", round, client.name))
            (own,) = model.train([LocalTraining(x.astype(np.float32), batches, local, 0.05)], [client.train])
            update, weight = update + n * (own.vector - x.astype(np.float32)), weight + n
        u = update / weight
        m, v = 0.8 * m + 0.2 * u, rule(v, u, 0.95)
        x = x + 0.1 * m / (np.sqrt(v) + 0.01)
    np.testing.assert_allclose(got, x, rtol=1e-3, atol=1e-4)


def test_fedavgm_without_momentum_is_fedavg():
    data, model = make("logistic", [5, 9, 3]), model_for("logistic")
    local = mn.LocalSGD(lr=0.05, epochs=2, batch_size=2)
    fedavg = model_of(mn.FedAvg(model, local), data)
    np.testing.assert_allclose(model_of(mn.FedAvgM(model, local, momentum=0.0), data), fedavg, atol=1e-7)


@few
@given(kinds, sizes, st.integers(0, 50))
def test_equal_weights_give_the_plain_mean(kind, sizes, seed):
    data, model = make(kind, sizes), model_for(kind)
    local = mn.LocalSGD(lr=0.05, epochs=1, batch_size=3)
    got = model_of(mn.FedAvg(model, local, weighting="equal"), data, rounds=1, seed=seed)
    start = model.init(repeatable(seed, "init"))
    own = []
    for client in data.clients:
        batches = local.batches(len(client.train), repeatable(seed, "training", 1, client.name))
        own.append(model.train([LocalTraining(start, batches, local, 0.05)], [client.train])[0].vector)
    np.testing.assert_allclose(got, np.mean(own, axis=0, dtype=np.float64), atol=1e-6)


def test_control_variates_refuse_momentum():
    with pytest.raises(mn.InvalidInput, match="plain SGD"):
        mn.SCAFFOLD(model_for("linear"), mn.LocalSGD(lr=0.1, steps=1, momentum=0.9))


def test_the_evaluation_sum_equals_the_pooled_metric():
    data, model = make("logistic", [5, 9, 30]), model_for("logistic")
    algorithm = mn.FedAvg(model, mn.LocalSGD(lr=0.1, epochs=1), evaluation=mn.Evaluation(2, ("accuracy", "loss", "f1")))
    run = train(algorithm, data, rounds=4)
    rows = [row for row in run.history if row["sum"] == "evaluate"]
    assert [row["round"] for row in rows] == [2, 4]
    pooled = join([client.test for client in data.clients])
    expected = run.model.evaluate(pooled)
    assert rows[-1]["accuracy"] == pytest.approx(expected["accuracy"])
    assert rows[-1]["loss"] == pytest.approx(expected["loss"], rel=1e-4)


class Aliasing(mn.FedAvg):
    """Terms that are all the update itself, or views of it."""

    def extra_blocks(self):
        return self.parameter_block("again"), self.parameter_block("plain")

    def memory(self, public):
        return Layout((self.parameter_block("kept"),))

    def terms(self, update, work, assignment, memory, client):
        return Terms({"update": update, "again": update[:]}, {"plain": update}, memory=update)


def test_terms_may_be_the_update_itself():
    data, algorithm = make("softmax", [7]), Aliasing(model_for("softmax"), mn.LocalSGD(lr=0.3, epochs=1, batch_size=3))
    client, start = data.clients[0], algorithm.model.init(np.random.default_rng(0))
    assignment = Assignment("train", {"model": start})
    [found] = algorithm.answer(assignment, [client], [None], [ClientContext(client.name, 1, 0)])
    layout = algorithm.train_layout
    update = found.vector[layout.slice("plain")]
    assert np.abs(update).max() > 0.01
    assert np.array_equal(found.memory, update)
    for name in ("update", "again"):
        assert np.array_equal(found.vector[layout.slice(name)], np.float32(7) * update)
