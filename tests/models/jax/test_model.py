"""What only the JAX model promises: programs of few shapes, threads instead of processes, functions that are told apart."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
import manent as mn  # noqa: E402
from manent.core.canonical import canonical, to_plain  # noqa: E402
from manent.core.training import LocalTraining  # noqa: E402
from manent.models import JaxModel, SoftmaxModel  # noqa: E402
from manent.models.jax.devices import DEVICES  # noqa: E402
from manent.models.jax.training import SMALL, aligned, padded  # noqa: E402

jnp = jax.numpy


def softmax_init(key: Any) -> Any:
    return {"w": jax.random.normal(key, (6, 3)), "b": jnp.zeros(3)}


def softmax_apply(p: Any, x: Any) -> Any:
    return x @ p["w"] + p["b"]


@functools.cache
def softmax() -> JaxModel:
    """Shared, for the programs that it has compiled."""
    return JaxModel(softmax_init, softmax_apply, "cross_entropy", classes=3)


def rows(count: int, seed: int = 0) -> mn.Examples:
    rng = np.random.default_rng(seed)
    return mn.Examples(rng.standard_normal((count, 6), dtype=np.float32), rng.integers(0, 3, count))


def federation(sizes: list[int]) -> mn.Federation:
    clients = tuple(mn.Client(f"c{i}", rows(size, i), rows(4, 100 + i)) for i, size in enumerate(sizes))
    return mn.Federation(clients, mn.data.federation.Schema(shape=(6,), classes=3))


# Training.


def test_a_class_that_a_network_rules_out_costs_nothing() -> None:
    """Its score is minus infinity; the others train as if it were not there."""
    ruled_out = jnp.array([0.0, 0.0, 0.0, -jnp.inf])

    def apply(p: Any, x: Any) -> Any:
        return jnp.pad(softmax_apply(p, x), ((0, 0), (0, 1))) + ruled_out

    ours, theirs = JaxModel(softmax_init, apply, "cross_entropy", classes=4), softmax()
    work = LocalTraining(
        theirs.init(np.random.default_rng(1)), [np.arange(8), np.arange(8, 16)], mn.LocalSGD(lr=0.1, steps=2), 0.1
    )
    (one,), (other,) = ours.train([work], [rows(16)]), theirs.train([work], [rows(16)])
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert np.abs(one.update).max() > 0.01
    np.testing.assert_allclose(one.update, other.update, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [7, None])
def test_padding_changes_nothing(batch_size: int | None) -> None:
    """Clients of any size train as in numpy, whose arrays are not padded."""
    ours, theirs = softmax(), SoftmaxModel(6, 3)
    local = mn.LocalSGD(lr=0.1, epochs=2, batch_size=batch_size, momentum=0.5)
    for count in (1, 2, 6, 7, 8, 15, 16, 17, 40):
        data, start = rows(count, count), ours.init(np.random.default_rng(count))
        work = LocalTraining(start, local.batches(count, np.random.default_rng(0)), local, local.lr)
        parts = ours.layout.unflatten(start)
        given = theirs.layout.flatten({"weight": parts["w"].T, "bias": parts["b"]})
        there = LocalTraining(given, work.batches, local, local.lr)
        (trained,), (expected,) = ours.train([work], [data]), theirs.train([there], [data])
        found, wanted = ours.layout.unflatten(trained.vector), theirs.layout.unflatten(expected.vector)
        np.testing.assert_allclose(found["w"].T, wanted["weight"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["b"], wanted["bias"], rtol=1e-4, atol=1e-5)
        assert trained.loss == pytest.approx(expected.loss, rel=1e-5)


def test_clients_of_many_sizes_need_few_programs() -> None:
    model = JaxModel(softmax_init, softmax_apply, "cross_entropy", classes=3)
    local = mn.LocalSGD(lr=0.1, epochs=1, batch_size=10)
    for count in range(17, 200, 3):
        batches = local.batches(count, np.random.default_rng(count))
        model.train([LocalTraining(model.init(np.random.default_rng(0)), batches, local, 0.1)], [rows(count)])
    assert len(model._programs.compiled) <= 4


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For networks this small, torch's threads cost more than they bring."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def two_layers(first: Any) -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return first(torch.nn.Sequential(torch.nn.Linear(64, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10)))


def in_jax(network: Any) -> JaxModel:
    """The same network with the same first weights."""
    given = {n: p.detach().numpy().T for n, p in network.named_parameters()}

    def apply(p: Any, x: Any) -> Any:
        hidden = jax.nn.relu(x @ p["0.weight"] + p["0.bias"])
        return hidden @ p["2.weight"] + p["2.bias"]

    return JaxModel(lambda key: {n: jnp.asarray(a) for n, a in given.items()}, apply, "cross_entropy", classes=10)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("algorithm", [mn.FedAvg, mn.SCAFFOLD, functools.partial(mn.FedProx, mu=0.1)])
def test_a_study_in_jax_and_in_torch_agrees_for_ten_rounds(algorithm: Any) -> None:
    from manent.models import TorchModel

    ours = two_layers(in_jax)
    theirs = two_layers(lambda network: TorchModel(network, "cross_entropy", initial="given"))
    data = mn.data.digits(clients=30, split=mn.data.Dirichlet(0.5), flat=True)
    local = mn.LocalSGD(lr=0.1, epochs=1, batch_size=10)
    vectors = []
    for model in (ours, theirs):
        study = mn.Study(algorithm(model, local), rounds=10, cohort=mn.Cohort(size=10))
        run = mn.simulate(study, data, seed=3, workers=2 if model is ours else 0, evaluate_every=10)
        parts = model.layout.unflatten(np.asarray(run.state["model"]))
        names = ("0.weight", "0.bias", "2.weight", "2.bias")
        vectors.append(np.concatenate([(parts[n].T if model is ours else parts[n]).reshape(-1) for n in names]))
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-3, atol=2e-4)
    assert np.linalg.norm(vectors[0] - two_layers(torch_vector)) > 1


def torch_vector(network: Any) -> np.ndarray:
    return np.concatenate([p.detach().numpy().reshape(-1) for p in network.parameters()])


# Simulation.


@pytest.fixture(scope="module")
def data() -> mn.Federation:
    return federation([6, 9, 4, 31, 5, 7, 18, 3, 12, 6])


def scaffold(rounds: int = 4) -> mn.Study:
    return mn.Study(mn.SCAFFOLD(softmax(), mn.LocalSGD(lr=0.05, epochs=1, batch_size=4)), rounds)


@pytest.fixture(scope="module")
def reference(data: mn.Federation) -> mn.Run:
    return mn.simulate(scaffold(), data, workers=0, seed=3, conditions=mn.Conditions(drop_before_upload=0.2))


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_bits_do_not_depend_on_the_threads(data: mn.Federation, reference: mn.Run, workers: int) -> None:
    run = mn.simulate(scaffold(), data, workers=workers, seed=3, conditions=mn.Conditions(drop_before_upload=0.2))
    for name in run.state:
        assert run.state[name].tobytes() == reference.state[name].tobytes()
    for ours, theirs in ((run.history, reference.history), (run.probe, reference.probe)):
        assert [{**row, "seconds": 0} for row in ours] == [{**row, "seconds": 0} for row in theirs]


@pytest.mark.parametrize("offset", [0, 4, 16, 60])
@pytest.mark.parametrize("rows", [1, 100])
def test_large_arrays_begin_on_a_cache_line(offset: int, rows: int) -> None:
    raw = np.zeros(rows * 100 * 4 + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    array = raw[start : start + rows * 400].view(np.float32).reshape(rows, 100)
    array[:] = np.arange(rows)[:, None]
    for given in (array, array[:, ::2]):
        found = aligned(given)
        assert found.dtype == given.dtype
        assert np.array_equal(found, given)
        assert found.nbytes < SMALL or (found.ctypes.data % 64 == 0 and found.flags.c_contiguous)
    assert (aligned(array) is array) == (offset == 0 or rows == 1)
    assert padded(array, 128).ctypes.data % 64 == 0


def test_a_program_runs_in_the_thread_that_asks() -> None:
    """Where JAX copies an array in its own pool, the program goes there too, and the threads of a simulation wait in a row."""
    script = """
        import threading, time
        import numpy as np
        import manent as mn
        start = np.zeros((784, 200), np.float32)
        model = mn.JaxModel(lambda key: start, lambda w, x: x @ w, "cross_entropy", classes=200)
        raw = np.zeros(1000 * 784 + 17, np.float32)
        at = (-raw.ctypes.data % 64) // 4 + 4  # 16 bytes after the start of a cache line
        x = raw[at : at + 1000 * 784].reshape(1000, 784)
        data = mn.Examples(x, np.zeros(1000, np.int64))
        vector = raw[at : at + 784 * 200].copy()
        model.gradient(vector, data)  # compiles
        took = {}
        def work():
            before = time.thread_time(), time.process_time()
            for _ in range(20):
                model.gradient(vector, data)
            took["here"], took["all"] = time.thread_time() - before[0], time.process_time() - before[1]
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        print(took["here"] / took["all"])
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert float(found.stdout) > 0.8


def test_programs_that_run_at_the_same_time_have_devices_of_their_own() -> None:
    with DEVICES.one() as first, DEVICES.one() as second:
        assert DEVICES[first].client is not DEVICES[second].client
    with DEVICES.one() as again:
        assert again == first


def test_functions_may_close_over_arrays_of_one_device(data: mn.Federation) -> None:
    shift = jnp.arange(3.0)
    model = JaxModel(softmax_init, lambda p, x: softmax_apply(p, x) + shift, "cross_entropy", classes=3)
    study = mn.Study(mn.FedAvg(model, mn.LocalSGD(lr=0.1, epochs=1, batch_size=5)), 2)
    alone, together = (mn.simulate(study, data, workers=workers) for workers in (0, 3))
    assert alone.state["model"].tobytes() == together.state["model"].tobytes()
    start = model.init(np.random.default_rng(0))
    meeting, found = threading.Barrier(3), []

    def score() -> None:
        with DEVICES.one():
            meeting.wait()
            found.append(model.scores(start, data.clients[0].train.x))

    threads = [threading.Thread(target=score) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(found[0], other) for other in found)


def test_nothing_is_forked_and_no_thread_stays(data: mn.Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    before = set(threading.enumerate())
    mn.simulate(scaffold(1), data, workers=2)
    assert set(threading.enumerate()) <= before


def test_a_failing_client_is_named_and_the_threads_end(data: mn.Federation) -> None:
    study = mn.Study(mn.FedAvg(softmax(), mn.LocalSGD(lr=1e38, epochs=3, batch_size=4)), 2)
    before = set(threading.enumerate())
    with pytest.raises(mn.ClientFailed, match=r"diverged"):
        mn.simulate(study, data, workers=2)
    assert set(threading.enumerate()) <= before


def test_training_with_private_examples_runs_in_threads(data: mn.Federation) -> None:
    privacy = mn.DPSGD(clip_norm=1.0, noise_multiplier=1.0, examples=10)
    study = mn.Study(mn.FedAvg(softmax(), mn.LocalSGD(lr=0.1, steps=3, batch_size=4, privacy=privacy), weighting="equal"), 2)
    run = mn.simulate(study, data, workers=2)
    assert np.isfinite(np.asarray(run.state["model"])).all()


def started(code: str, *before: str) -> str:
    text = "\n".join([*before, textwrap.dedent(code)])
    done = subprocess.run([sys.executable, "-W", "always", "-c", text], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


DIGEST = """
    import os, hashlib
    import numpy as np
    from tests.models.jax.test_model import softmax, rows, mn, LocalTraining
    local = mn.LocalSGD(lr=0.1, epochs=2, batch_size=5)
    work = LocalTraining(softmax().init(np.random.default_rng(0)), local.batches(23, np.random.default_rng(1)), local, 0.1)
    print(hashlib.sha256(softmax().train([work], [rows(23)])[0].vector.tobytes()).hexdigest())
    assert "PJRT_NPROC" not in os.environ
"""


def test_jax_may_be_started_before_which_is_said() -> None:
    alone, after = started(DIGEST), started(DIGEST, "import jax", "jax.numpy.ones(3)")
    assert "JAX was started before" in after
    assert "JAX was started before" not in alone
    assert alone.splitlines()[0] == next(line for line in after.splitlines() if len(line) == 64)


# What is refused.


def refused(match: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(mn.InvalidInput, match=match):
        JaxModel(*arguments, **options)


def test_a_declaration_that_does_not_fit_is_refused() -> None:
    def of(tree: Any) -> Any:
        return lambda key: tree

    named = {"loss": "cross_entropy", "classes": 3}
    refused("'a.1' as int32", of({"a": [jnp.ones(2), jnp.ones(2, int)]}), softmax_apply, **named)
    refused("bfloat16", of(jnp.ones(2, jnp.bfloat16)), softmax_apply, **named)
    refused("no parameter", of({}), softmax_apply, **named)
    refused("pytree of arrays", of({"f": jax.nn.relu}), softmax_apply, **named)
    refused("pytree of arrays", lambda key: 1 / 0 if key.missing else 0, softmax_apply, **named)
    refused("as a function", 3, softmax_apply, **named)
    refused("as a function", softmax_init, None, **named)
    refused("Unknown loss", softmax_init, softmax_apply, "hinge")
    refused("found kind", softmax_init, softmax_apply, "mse", kind="binary")
    refused("say kind", softmax_init, softmax_apply, lambda s, y: 0.0)
    refused("name or a function", softmax_init, softmax_apply, 3)
    refused("classes of at least 2", softmax_init, softmax_apply, "cross_entropy")


def test_functions_that_do_not_fit_the_data_are_refused() -> None:
    def of(apply: Any = softmax_apply, loss: Any = "cross_entropy", classes: int = 3) -> JaxModel:
        return JaxModel(softmax_init, apply, loss, kind="multiclass", classes=classes)

    def mean(s: Any, y: Any) -> Any:
        return (jax.nn.logsumexp(s, axis=-1) - s[jnp.arange(len(y)), y]).mean()

    of(loss=mean).check(rows(9), "here")
    for model, word in (
        (of(lambda p, x: (x - x.mean(axis=0)) @ p["w"]), "GroupNorm"),
        (of(lambda p, x: x @ p["w"][:-1]), "fails on"),
        (of(lambda p, x: x[:, 0]), "must give scores"),
        (of(classes=4), "must give scores"),
        (of(loss=lambda s, y: mean(s, y) * len(y)), "mean of their losses"),
        (of(loss=lambda s, y: s), "must be a scalar"),
    ):
        with pytest.raises(mn.InvalidInput, match=f"^here: .*{word}"):
            model.check(rows(9), "here")


def test_numbers_that_jax_cannot_hold_are_refused() -> None:
    model = JaxModel(lambda key: jnp.ones((7, 3)), lambda p, x: p[x].mean(axis=1), "cross_entropy", classes=3)
    model.check(mn.Examples(np.full((4, 2), 6), np.zeros(4, np.int64)), "here")
    with pytest.raises(mn.InvalidInput, match="32 bits"):
        model.check(mn.Examples(np.full((4, 2), 2**32 + 1), np.zeros(4, np.int64)), "here")
    with pytest.raises(mn.InvalidInput, match="int64"):
        model.check(mn.Examples(np.full((4, 2), 6, np.int8), np.zeros(4, np.int64)), "here")


# The declaration.


def test_parameters_keep_their_names_and_their_tree() -> None:
    tree = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "scales": [jnp.full((), 2.0), jnp.ones(1)]}
    model = JaxModel(lambda key: tree, lambda p, x: x @ p["dense"]["kernel"], "mse")
    entries = model.layout.blocks[0].entries
    assert [(e.name, e.shape) for e in entries] == [
        ("dense.bias", (3,)), ("dense.kernel", (2, 3)), ("scales.0", ()), ("scales.1", (1,)),
    ]  # fmt: skip
    vector = model.init(np.random.default_rng(0))
    again = model.tree(vector)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), again, tree)))
    with pytest.raises(mn.InvalidInput):
        model.tree(vector[:-1])


def test_functions_are_told_apart_by_what_they_close_over() -> None:
    def scaled(factor: Any) -> Any:
        return lambda p, x: softmax_apply(p, x) * factor

    class Bound:
        def __init__(self, text: str) -> None:
            self.text = text

        def __repr__(self) -> str:
            return f"Bound({self.text}) at {id(self):#x}"

        def apply(self, p: Any, x: Any) -> Any:
            return softmax_apply(p, x)

    def texts(*applies: Any) -> list[bytes]:
        return [canonical(to_plain(JaxModel(softmax_init, apply, "cross_entropy", classes=3))) for apply in applies]

    def itself(p: Any, x: Any) -> Any:
        return softmax_apply(p, x) if p else itself(p, x)

    applies = [scaled(1.0), scaled(2.0), scaled(np.ones(3)), scaled(jnp.zeros(3)), Bound("a").apply, Bound("b").apply]
    applies += [functools.partial(softmax_apply), jax.jit(softmax_apply), softmax_apply, itself]
    found = texts(*applies)
    assert found == texts(scaled(1.0), scaled(2.0), scaled(np.ones(3)), scaled(jnp.zeros(3)), *applies[4:])
    assert len(set(found)) == len(found) - 1  # jit changes nothing in what is computed
    assert texts(Bound("a").apply) == found[4:5]


def test_a_model_can_be_copied() -> None:
    model = copy.deepcopy(softmax())
    assert canonical(to_plain(model)) == canonical(to_plain(softmax()))
    assert model.evaluate(model.init(np.random.default_rng(0)), rows(5)).count == 5


def test_first_weights_are_those_of_init() -> None:
    rng = np.random.default_rng(4)
    key = jax.random.key(int(np.random.default_rng(4).integers(2**32)))
    np.testing.assert_allclose(softmax().tree(softmax().init(rng))["w"], softmax_init(key)["w"], rtol=1e-6)
