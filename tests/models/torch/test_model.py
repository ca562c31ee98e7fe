"""What only the torch model promises: equal passes, a private network, tensors that stay out of the vector, randomness."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from manent.core.canonical import canonical, to_plain  # noqa: E402
from manent.core.errors import InvalidInput  # noqa: E402
from manent.core.examples import Examples  # noqa: E402
from manent.core.training import LocalSGD, LocalTraining  # noqa: E402
from manent.models import TorchModel  # noqa: E402
from manent.models.torch import training as torch_training  # noqa: E402

STACKS = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 3)), (6,), 3),
    "no bias": (lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)), (6,), 3),
    "nested": (lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(8, 5), nn.ReLU()), nn.Linear(5, 3)), (2, 4), 3),
    "relu first": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.ReLU(), nn.Linear(4, 3)), (6,), 3),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
            nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5),
            nn.ReLU(), nn.Linear(5, 3),
        ),
        (1, 14, 14),
        3,
    ),
    "average": (
        lambda: nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, groups=2, dilation=2), nn.ReLU(),
            nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Flatten(), nn.Linear(16, 3),
        ),
        (4, 14, 14),
        3,
    ),
    "logistic": (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)), (6,), 2),
    "regression": (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)), (6,), 0),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As workers do: for networks this small, torch's threads cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(shape: tuple[int, ...], classes: int, rows: int = 23, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, *shape), dtype=np.float32)
    return Examples(x, rng.integers(0, classes, rows) if classes else rng.standard_normal(rows, dtype=np.float32))


def work_of(model: TorchModel, rows: int, seed: int = 0, lr: float = 0.1, **extra: Any) -> LocalTraining:
    local = LocalSGD(lr=lr, epochs=2, batch_size=5, **extra)
    return LocalTraining(
        model.init(np.random.default_rng(1)), local.batches(rows, np.random.default_rng(0)), local, lr, seed=seed
    )


def autograd(model: TorchModel) -> TorchModel:
    model._network.stack = None
    return model


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("local", [{}, {"momentum": 0.5}, {"weight_decay": 0.2}, {"max_grad_norm": 0.1}])
def test_the_pass_by_hand_equals_autograd(name: str, local: dict[str, float]) -> None:
    network, shape, classes = STACKS[name]
    loss = {0: "mse", 2: "binary_cross_entropy", 3: "cross_entropy"}[classes]
    by_hand = TorchModel(network(), loss)
    reference = autograd(TorchModel(network(), loss))
    data = draw(shape, classes)
    assert by_hand._network.stack is not None
    work = work_of(by_hand, len(data), **local)
    (mine,), (expected,) = by_hand.train([work], [data]), reference.train([work], [data])
    np.testing.assert_allclose(mine.vector, expected.vector, rtol=1e-4, atol=1e-5)
    assert mine.loss == pytest.approx(expected.loss, rel=1e-4)
    np.testing.assert_allclose(by_hand.gradient(work.start, data), reference.gradient(work.start, data), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        by_hand.evaluate(work.start, data).scores, reference.evaluate(work.start, data).scores, rtol=1e-4, atol=1e-5
    )


def test_the_plain_step_equals_torch_itself() -> None:
    """Against torch.optim.SGD, so that both passes are not wrong together."""
    network, shape, classes = STACKS["convolutions"]
    model, data = TorchModel(network(), "cross_entropy"), draw(shape, classes)
    work = work_of(model, len(data), weight_decay=0.05)
    module = model.module(work.start).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.05)
    for batch in work.batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(torch.from_numpy(data.x[batch])), torch.from_numpy(data.y[batch])).backward()
        optimizer.step()
    expected = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    np.testing.assert_allclose(model.train([work], [data])[0].vector, expected, rtol=1e-4, atol=1e-5)


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3))
    network[2].weight = network[0].weight
    return network


def repeated() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 3))


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 3))
    network[0].register_forward_hook(lambda module, x, y: y * 2)
    return network


def frozen() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    network[0].weight.requires_grad = False
    return network


NOT_PLAIN = {
    "tied": tied,
    "repeated": repeated,
    "hooked": hooked,
    "frozen": frozen,
    "dropout": lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3)),
    "softmax": lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1)),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plainly_a_stack_goes_through_autograd(name: str) -> None:
    network = NOT_PLAIN[name]()
    model, data = TorchModel(network, "cross_entropy", classes=3, initial="given"), draw((4,), 3)
    assert model._network.stack is None
    work = LocalTraining(model.init(np.random.default_rng(0)), [slice(None)], LocalSGD(lr=0.1, steps=1), 0.1)
    (trained,) = model.train([work], [data])
    if name != "dropout":
        reference = copy.deepcopy(network)
        loss = nn.functional.cross_entropy(reference(torch.from_numpy(data.x)), torch.from_numpy(data.y))
        loss.backward()
        steps = [(p - 0.1 * p.grad).detach().reshape(-1) for p in reference.parameters() if p.requires_grad]
        np.testing.assert_allclose(trained.vector, torch.cat(steps).numpy(), rtol=1e-4, atol=1e-6)


def test_the_network_given_is_never_touched() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    model, data = TorchModel(network, "cross_entropy"), draw((6,), 3, rows=20)
    model.train([work_of(model, 20)], [data])
    model.init(np.random.default_rng(0))
    model.module(model.init(np.random.default_rng(0))).train()(torch.from_numpy(data.x))
    assert not network.training
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_statistics_of_batchnorm_travel_in_their_block() -> None:
    model = TorchModel(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), "cross_entropy")
    assert [e.name for e in model.layout.blocks[1].entries] == ["1.running_mean", "1.running_var"]
    data = draw((6,), 3, rows=20)
    work = LocalTraining(model.init(np.random.default_rng(0)), [slice(None)], LocalSGD(lr=0.0, steps=1), 0.0)
    (trained,) = model.train([work], [data])
    module = model.module(work.start)
    with torch.no_grad():
        hidden = module[0](torch.from_numpy(data.x)).numpy()
    found = model.layout.unflatten(trained.vector)
    np.testing.assert_allclose(found["1.running_mean"], 0.1 * hidden.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["1.running_var"], 0.9 + 0.1 * hidden.var(axis=0, ddof=1), rtol=1e-4)
    assert model.module(trained.vector)[1].running_mean.numpy() == pytest.approx(found["1.running_mean"])


def test_counters_do_not_leak_between_clients() -> None:
    """momentum=None averages over num_batches_tracked, which is no part of the vector."""
    network = nn.Sequential(nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3))
    model, data = TorchModel(network, "cross_entropy"), draw((6,), 3, rows=20)
    work = work_of(model, 20)
    first, second = model.train([work, work], [data, data])
    np.testing.assert_array_equal(first.vector, second.vector)


class Assigning(nn.Module):
    """Replaces its buffers rather than change them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("scale", torch.ones(1), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Any) -> Any:
        if self.training:
            self.seen = self.seen + x.mean()
            self.calls = self.calls + 1
        return self.layer(x) * self.scale * (1 + self.calls.float())


def test_assigned_buffers_reach_the_vector() -> None:
    model, data = TorchModel(Assigning(), "cross_entropy"), draw((4,), 3, rows=20)
    assert [e.name for e in model.layout.blocks[1].entries] == ["seen"]
    work = LocalTraining(model.init(np.random.default_rng(0)), [slice(None)] * 2, LocalSGD(lr=0.1, steps=2), 0.1)
    first, second = model.train([work, work], [data, data])
    np.testing.assert_allclose(first.vector[-2:], 2 * data.x.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(first.vector, second.vector)
    np.testing.assert_array_equal(model.evaluate(work.start, data).scores, model.evaluate(work.start, data).scores)


def test_dropout_is_repeatable_and_leaves_the_generator_alone() -> None:
    model, data = TorchModel(NOT_PLAIN["dropout"](), "cross_entropy"), draw((4,), 3)
    state = torch.get_rng_state()
    one, again = (model.train([work_of(model, len(data), seed=1)], [data])[0].vector for _ in range(2))
    other = model.train([work_of(model, len(data), seed=2**100)], [data])[0].vector
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)


def test_first_weights_follow_the_layers_own_rules() -> None:
    network = nn.Sequential(nn.Linear(400, 30), nn.BatchNorm1d(30), nn.Linear(30, 3))
    state = torch.get_rng_state()
    model = TorchModel(network, "cross_entropy")
    found = model.layout.unflatten(model.init(np.random.default_rng(3)))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.abs(found["0.weight"]).max() == pytest.approx(1 / 20, rel=0.01)
    assert (found["1.weight"] == 1).all()
    assert (found["1.running_var"] == 1).all()


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.layer(x * self.scale)


def test_a_module_that_cannot_be_drawn_is_named() -> None:
    network = nn.Sequential(Bare())
    with pytest.raises(InvalidInput, match=r"'0' \(Bare\).*initial=\"given\""):
        TorchModel(network, "cross_entropy")
    model = TorchModel(network, "cross_entropy", initial="given")
    expected = torch.nn.utils.parameters_to_vector(network.parameters()).detach().numpy()
    np.testing.assert_array_equal(model.init(np.random.default_rng(0)), expected)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other[0].scale += 1
    assert canonical(to_plain(TorchModel(other, "cross_entropy", initial="given"))) != canonical(to_plain(model))


def test_frozen_weights_stay_and_are_part_of_the_study() -> None:
    network = frozen()
    model = TorchModel(network, "cross_entropy")
    assert [e.name for e in model.layout.blocks[0].entries] == ["0.bias", "2.weight", "2.bias"]
    data = draw((4,), 3)
    module = model.module(model.train([work_of(model, len(data))], [data])[0].vector)
    assert torch.equal(module[0].weight, network[0].weight)
    with torch.no_grad():
        network[0].weight += 1
    assert canonical(to_plain(TorchModel(network, "cross_entropy"))) != canonical(to_plain(model))


def test_a_seeded_study_does_not_depend_on_the_weights_given() -> None:
    one, other = (TorchModel(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "cross_entropy", classes=4) for _ in range(2))
    assert canonical(to_plain(one)) == canonical(to_plain(other))
    np.testing.assert_array_equal(one.init(np.random.default_rng(0)), other.init(np.random.default_rng(0)))


def test_double_networks_and_sparse_tables_become_one_float32_vector() -> None:
    network = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3)).double()
    model = TorchModel(network, "cross_entropy")
    rng = np.random.default_rng(0)
    data = Examples(rng.integers(0, 9, (20, 2)), rng.integers(0, 3, 20))
    model.check(data, "here")
    assert np.isfinite(model.train([work_of(model, 20, momentum=0.5)], [data])[0].vector).all()
    with pytest.raises(InvalidInput, match="index"):
        model.check(Examples(data.x + 1, data.y), "here")


def test_a_parameter_that_no_output_needs_stands_still() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.used(x)

    model, data = TorchModel(Idle(), "cross_entropy"), draw((4,), 3)
    work = work_of(model, len(data), momentum=0.5)
    vector = model.train([work], [data])[0].vector
    np.testing.assert_array_equal(vector[15:], work.start[15:])
    assert np.all(vector[:15] != work.start[:15])


def test_a_batch_of_one_row_under_batchnorm_is_explained() -> None:
    model, data = (
        TorchModel(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), "cross_entropy"),
        draw((6,), 3, 21),
    )
    with pytest.raises(InvalidInput, match="Choose another batch_size"):
        model.train([work_of(model, 21)], [data])


BAD = {
    "no module": (lambda: TorchModel(3, "mse"), "nn.Module"),
    "unknown loss": (lambda: TorchModel(nn.Linear(2, 1), "hinge"), "cross_entropy"),
    "loss of another kind": (lambda: TorchModel(nn.Linear(2, 1), "mse", kind="binary"), "regression"),
    "function without kind": (lambda: TorchModel(nn.Linear(2, 1), lambda s, y: s.mean()), "kind="),
    "no classes": (lambda: TorchModel(nn.Conv2d(1, 3, 3), "cross_entropy"), "classes="),
    "lazy": (lambda: TorchModel(nn.LazyLinear(3), "cross_entropy"), "lazy"),
    "nothing to train": (lambda: TorchModel(nn.ReLU(), "mse"), "trainable"),
    "initial": (lambda: TorchModel(nn.Linear(2, 1), "mse", initial="zeros"), "given"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_declarations_are_refused(name: str) -> None:
    make, word = BAD[name]
    with pytest.raises(InvalidInput, match=word):
        make()


def test_scores_that_torch_would_broadcast_are_refused() -> None:
    model, data = TorchModel(nn.Linear(4, 2), "mse"), draw((4,), 0)
    with pytest.raises(InvalidInput, match=r"must give scores \(1,\); found \(1, 2\)"):
        model.check(data, "here")
    vector = TorchModel(nn.Linear(4, 3), lambda s, y: s.sum(dim=1), kind="multiclass")
    with pytest.raises(InvalidInput, match="scalar"):
        vector.check(draw((4,), 3), "here")


def test_next_characters_may_be_one_a_row_or_one_a_position() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (12, 4))
    each = TorchModel(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)), "cross_entropy")
    last = TorchModel(nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 5)), "cross_entropy")
    for model, y, shape in ((each, rng.integers(0, 5, (12, 4)), (12, 4, 5)), (last, rng.integers(0, 5, 12), (12, 5))):
        data = Examples(x, y)
        model.check(data, "here")
        scored = model.evaluate(model.init(rng), data)
        assert scored.scores.shape == shape
        expected = nn.functional.cross_entropy(torch.from_numpy(scored.scores.reshape(-1, 5)), torch.from_numpy(y.reshape(-1)))
        assert scored.loss == pytest.approx(expected.item(), rel=1e-5)


def test_models_travel_between_processes() -> None:
    model, data = TorchModel(nn.Sequential(nn.Linear(6, 3)), "cross_entropy"), draw((6,), 3)
    work = work_of(model, len(data))
    expected = model.train([work], [data])[0].vector
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.train([work], [data])[0].vector, expected)
    assert canonical(to_plain(twin)) == canonical(to_plain(model))


@pytest.mark.parametrize("plain_stack", [True, False])
def test_training_works_after_a_fork(plain_stack: bool) -> None:
    network, shape, classes = STACKS["convolutions"]
    model, data = TorchModel(network(), "cross_entropy"), draw(shape, classes)
    if not plain_stack:
        autograd(model)
    work = work_of(model, len(data))
    expected = model.train([work], [data])[0].vector
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            os.write(write, model.train([work], [data])[0].vector.tobytes())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        found = np.frombuffer(pipe.read(), np.float32)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(found, expected)


def test_odd_memory_is_read_as_it_is() -> None:
    model, data = TorchModel(nn.Linear(6, 3), "cross_entropy"), draw((6,), 3)
    vector = model.init(np.random.default_rng(0))
    backwards = Examples(data.x[::-1], data.y[::-1])
    expected = model.evaluate(vector, data).scores[::-1]
    np.testing.assert_allclose(model.evaluate(vector, backwards).scores, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gathered", [1, 300, 1 << 18])
def test_batches_gathered_together_are_the_batches(monkeypatch: pytest.MonkeyPatch, gathered: int) -> None:
    monkeypatch.setattr(torch_training, "GATHERED", gathered)
    x, y = torch.arange(60.0).reshape(20, 3), torch.arange(20)
    batches = [
        np.arange(7),
        slice(None),
        np.array([3, 3]),
        np.array([19]),
        np.array([], np.int64),
        slice(2, 5),
        np.arange(20)[::-1],
    ]
    found = list(torch_training._batches(x, y, batches))
    assert len(found) == len(batches)
    for batch, (inputs, targets) in zip(batches, found, strict=True):
        assert torch.equal(inputs, torch.from_numpy(x.numpy()[batch].copy()))
        assert torch.equal(targets, torch.from_numpy(y.numpy()[batch].copy()))
