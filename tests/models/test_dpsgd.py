"""Clipped sums in torch: both ways and a loop agree on every kind of layer, and what mixes examples is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import manent as mn  # noqa: E402
from manent.accounting import Budget, epsilon, example_event, example_noise  # noqa: E402
from manent.core.errors import InvalidInput, Refused  # noqa: E402
from manent.core.examples import Examples  # noqa: E402
from manent.core.training import LocalSGD, LocalTraining  # noqa: E402
from manent.core.training.dpsgd import DPSGD, clip_factors  # noqa: E402
from manent.crypto.random import InsecureTestRNG  # noqa: E402
from manent.crypto.samplers.gradients import ExactDraws  # noqa: E402
from manent.models import TorchModel  # noqa: E402
from manent.models import chain as exact_chain  # noqa: E402
from manent.models.torch import private as torch_private  # noqa: E402
from manent.models.torch import seeded  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As workers do: for networks this small, torch's threads cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Own(nn.Module):
    """Any network as a module of its own: nobody can see from outside that it treats rows by themselves."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Any) -> Any:
        return self.inside(x)


def frozen_first() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    network[0].requires_grad_(False)
    network[2].bias.requires_grad_(False)
    return network


CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 3), (6,)),
    "no bias": (lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.GELU(), nn.Linear(5, 3, bias=False)), (6,)),
    "nested, in place": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Sequential(nn.Linear(8, 5), nn.ReLU(inplace=True)), nn.Linear(5, 4), nn.SELU(inplace=True),
            nn.Linear(4, 3),
        ),
        (2, 4),
    ),
    "linear on sequences": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.SiLU(), nn.Linear(5, 2), nn.Flatten(), nn.Linear(14, 3)),
        (7, 4),
    ),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (5, 3), padding=(2, 1)), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=(2, 1), bias=False),
            nn.Tanh(), nn.MaxPool2d((1, 2), (1, 1)), nn.Flatten(), nn.Linear(24, 5), nn.Sigmoid(), nn.Identity(), nn.Linear(5, 3),
        ),
        (2, 12, 10),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (5, 3), padding=(2, 1)), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=(2, 1), bias=False),
            nn.GroupNorm(3, 6), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
        ),
        (2, 12, 10),
    ),
    "pool first": (
        lambda: nn.Sequential(nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.LayerNorm(27), nn.Linear(27, 3)),
        (2, 8, 8),
    ),
    "norm over several axes": (
        lambda: nn.Sequential(
            nn.LayerNorm((2, 4)), nn.GroupNorm(2, 2), nn.Flatten(), nn.LayerNorm(8, bias=False), nn.Linear(8, 3),
        ),
        (2, 4),
    ),
    "frozen": (frozen_first, (6,)),
}  # fmt: skip


def text_network() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 4, padding_idx=2), nn.Linear(4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(30, 3))


def draw(name: str, rows: int = 17, seed: int = 0) -> tuple[nn.Module, Examples]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    if name == "embedding":
        return text_network(), Examples(rng.integers(0, 7, (rows, 6)), y)
    make, shape = CHAINS[name]
    return make(), Examples(rng.standard_normal((rows, *shape), dtype=np.float32), y)


def loop(model: TorchModel, vector: Any, data: Examples, clip_norm: float) -> Any:
    total = np.zeros(model.layout.size)
    for row in range(len(data)):
        own = model.gradient(vector, data[row : row + 1]).astype(np.float64)
        total += own * clip_factors(np.array([own @ own]), clip_norm)[0]
    return total


def start(model: TorchModel) -> Any:
    """Weights away from zero: norms draw their scale as one and their shift as zero."""
    vector = model.init(np.random.default_rng(1))
    return vector + np.random.default_rng(2).normal(0, 0.2, len(vector)).astype(np.float32)


EXACT = ("linear", "images")
"""The networks of which `models.chain` knows every layer."""


@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
@pytest.mark.parametrize("name", [*CHAINS, "embedding"])
def test_chain_and_loop_agree(name: str, clip_norm: float) -> None:
    network, data = draw(name)
    chained = TorchModel(network, "cross_entropy")
    assert (chained._clipped.chain is not None) == (name in EXACT)
    vector = start(chained)
    expected = loop(chained, vector, data, clip_norm)
    assert np.abs(expected).max() > 1e-3
    total, loss = chained.clipped_gradient_sum(vector, data, clip_norm)
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=2e-6)
    alone = TorchModel(Own(network), "cross_entropy", classes=3)
    assert alone._clipped.chain is None
    by_itself, again = alone.clipped_gradient_sum(vector, data, clip_norm)
    np.testing.assert_allclose(by_itself, expected, rtol=1e-4, atol=2e-6)
    assert loss == pytest.approx(again, rel=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_passes_of_few_rows_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, data = draw(name)
    model = TorchModel(network, "cross_entropy")
    vector = start(model)
    whole, loss = model.clipped_gradient_sum(vector, data, 0.05)
    monkeypatch.setattr(exact_chain, "ROWS", 5)
    parts, again = model.clipped_gradient_sum(vector, data, 0.05)
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-15)
    assert loss == pytest.approx(again, rel=1e-12)


def test_an_example_that_is_not_finite_contributes_nothing_in_any_way() -> None:
    for name in ("images", "convolutions", "linear on sequences", "norm over several axes"):
        network, data = draw(name)
        x = data.x.copy()
        x[3] = np.nan
        others = np.delete(np.arange(17), 3)
        for model in (TorchModel(network, "cross_entropy"), TorchModel(Own(network), "cross_entropy", classes=3)):
            vector = start(model)
            total, _ = model.clipped_gradient_sum(vector, Examples(x, data.y), 0.05)
            expected, _ = model.clipped_gradient_sum(vector, data[others], 0.05)
            np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-6)
    network, data = draw("embedding")
    model = TorchModel(network, "cross_entropy")
    vector = start(model)
    table = model.layout.unflatten(vector)["0.weight"]
    table[5] = np.nan  # a view: every text with a 5 in it has no finite gradient
    clean = ~(data.x == 5).any(axis=1)
    assert 0 < clean.sum() < 17
    total, _ = model.clipped_gradient_sum(vector, data, 0.05)
    np.testing.assert_allclose(total, model.clipped_gradient_sum(vector, data[clean], 0.05)[0], rtol=1e-4, atol=1e-6)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.outer(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Centred(nn.Module):
    """Takes the mean of the batch away from every row: no gradient of a sum is the sum of the rows' own."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.last(x - x.mean(0) + 1)


def shared() -> nn.Module:
    inner = nn.Linear(6, 6)
    return nn.Sequential(inner, nn.Tanh(), inner, nn.Linear(6, 3))


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3))
    network[2].weight = network[0].weight
    return network


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    network[0].register_forward_hook(double)
    return network


def double(module: Any, entered: Any, left: Any) -> Any:
    return left * 2


@pytest.mark.parametrize("make", [Twice, Centred, shared, tied, hooked])
def test_what_is_no_plain_chain_passes_row_by_row(make: Callable[[], nn.Module]) -> None:
    _, data = draw("linear")
    model = TorchModel(make(), "cross_entropy")
    assert model._clipped.chain is None
    vector = start(model)
    np.testing.assert_allclose(
        model.clipped_gradient_sum(vector, data, 0.3)[0], loop(model, vector, data, 0.3), rtol=1e-4, atol=2e-6
    )


def test_a_chain_that_would_not_see_rows_is_not_taken_for_one() -> None:
    """Without an axis of rows, torch takes the first axis for channels."""
    chain = torch_private.chain_of(nn.Sequential(nn.Conv2d(4, 1, 1), nn.Flatten(), nn.Linear(9, 3)), 3)
    assert chain is not None
    assert torch_private.fits(chain, np.zeros((5, 4, 3, 3), np.float32))
    assert not torch_private.fits(chain, np.zeros((4, 3, 3), np.float32))
    assert not torch_private.fits(chain, np.zeros((5, 4, 3, 3), np.int64))


def test_a_loss_of_ones_own_is_taken_of_each_row() -> None:
    def spread(scores: Any, y: Any) -> Any:
        return (scores - y).square().mean() + scores.var(unbiased=False)  # the second part mixes the rows of a batch

    model = TorchModel(nn.Sequential(nn.Linear(6, 1)), spread, kind="regression")
    assert model._clipped.chain is None
    rng = np.random.default_rng(0)
    data = Examples(rng.standard_normal((9, 6), dtype=np.float32), rng.standard_normal(9, dtype=np.float32))
    vector = start(model)
    np.testing.assert_allclose(model.clipped_gradient_sum(vector, data, 0.3)[0], loop(model, vector, data, 0.3), atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.BatchNorm1d(6), "'1.inside' is BatchNorm1d"),
        (nn.BatchNorm1d(6, affine=False, track_running_stats=False), "'1.inside' is BatchNorm1d"),
        (nn.SyncBatchNorm(6), "'1.inside' is SyncBatchNorm"),
        (nn.InstanceNorm1d(6, track_running_stats=True), "'1.inside' is InstanceNorm1d"),
    ],
)
def test_what_mixes_examples_is_refused_by_name(layer: nn.Module, name: str) -> None:
    model = TorchModel(nn.Sequential(nn.Linear(6, 6), Own(layer), nn.Linear(6, 3)), "cross_entropy", initial="given")
    local = LocalSGD(lr=0.1, steps=1, batch_size=2, privacy=DPSGD(1.0, 1.0, examples=20))
    for refused in (
        model.check_private,
        lambda: mn.FedAvg(model, local).sums(mn.data.heart_disease().public),
        lambda: model.train(
            [LocalTraining(model.init(np.random.default_rng(0)), [np.array([0])], local, 0.1)], [draw("linear")[1]]
        ),
    ):
        with pytest.raises(Refused, match="mixes the examples") as caught:
            refused()
        if refused != model.train:
            assert name in str(caught.value)
    TorchModel(nn.Sequential(nn.InstanceNorm1d(6), nn.Linear(6, 3)), "cross_entropy").check_private()


class Counting(nn.Module):
    """Keeps a running mean of what it sees, as a persistent buffer; its output does not depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, x: Any) -> Any:
        self.seen = 0.9 * self.seen + 0.1 * x.detach().mean(0)
        return self.last(x)


def test_statistics_of_the_data_do_not_leave_private_training() -> None:
    model, (_, data) = TorchModel(Counting(), "cross_entropy"), draw("linear")
    local = LocalSGD(lr=0.1, steps=2, batch_size=4, privacy=DPSGD(1.0, 1.0, examples=20))
    begun = model.init(np.random.default_rng(0))
    work = LocalTraining(begun, [np.arange(5)] * 2, local, 0.1, draws=ExactDraws(InsecureTestRNG(0)))
    (trained,) = model.train([work], [data])
    where = model.layout.slice("statistics")
    np.testing.assert_array_equal(trained.vector[where], begun[where])
    assert np.all(trained.vector[: where.start] != begun[: where.start])


@pytest.mark.parametrize("own", [False, True])
def test_dropout_is_drawn_for_every_example_and_from_the_seed(own: bool) -> None:
    network: nn.Module = nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    model = TorchModel(Own(network) if own else network, "cross_entropy", classes=3)
    row = draw("linear")[1][:1]
    data = Examples(np.repeat(row.x, 8, axis=0), np.repeat(row.y, 8))
    local = LocalSGD(lr=0.1, steps=1, batch_size=4, privacy=DPSGD(1.0, 1.0, examples=20))

    def trained(seed: int) -> Any:
        work = LocalTraining(start(model), [np.arange(8)], local, 0.1, seed=seed, draws=ExactDraws(InsecureTestRNG(0)))
        return model.train([work], [data])[0].vector

    np.testing.assert_array_equal(trained(1), trained(1))
    assert np.any(trained(1) != trained(2))
    before = torch.random.get_rng_state()
    trained(3)
    assert torch.equal(before, torch.random.get_rng_state())
    others = draw("linear", 8)[1]
    with seeded(0):
        eight, _ = model.clipped_gradient_sum(start(model), others, 1e6)
    ones = []
    for row in range(8):
        with seeded(0):
            ones.append(model.clipped_gradient_sum(start(model), others[row : row + 1], 1e6)[0])
    np.testing.assert_array_equal(eight, sum(ones))  # the masks follow the example, not its place
    hidden = [np.abs(one[300:350]) > 0 for one in ones]  # the bias of the first layer
    assert len({mask.tobytes() for mask in hidden}) == 8  # not one mask for all


def test_data_that_the_network_rejects_are_explained() -> None:
    for network in (nn.Sequential(nn.Linear(6, 3)), Own(nn.Linear(6, 3))):
        model = TorchModel(network, "cross_entropy", classes=3)
        with pytest.raises(InvalidInput, match="fails on training data"):
            model.clipped_gradient_sum(start(model), Examples(np.zeros((4, 5), np.float32), np.zeros(4, np.int64)), 1.0)


def test_heart_disease_is_learnt_within_a_budget() -> None:
    """Better than the commoner answer at every hospital, at epsilon 4; the noise is that of a test source, drawn the same."""
    data = mn.data.heart_disease()
    budget, rounds = Budget(4.0, 1e-5, "example", "add_or_remove"), 5
    local = LocalSGD(lr=1.0, steps=20, batch_size=32, privacy=DPSGD(0.5, examples=125))
    model = mn.LogisticModel(len(data.public.schema.features))
    local = local.with_noise(example_noise(local, rounds, model.layout.size, budget))
    assert 3.9 < epsilon(example_event(local, rounds, model.layout.size), 1e-5, "add_or_remove").epsilon <= 4
    found = []
    for seed in range(4):
        study = mn.Study(mn.FedAvg(model, local), rounds)
        run = mn.simulate(study, data, workers=0, random=InsecureTestRNG(seed), evaluate_every=rounds)
        found.append(run.probe[-1]["clients"]["accuracy"]["mean"])
    answers = [np.bincount(client.test.y, minlength=2) for client in data.clients if client.test is not None]
    commoner = np.mean([counts.max() / counts.sum() for counts in answers])
    assert np.mean(found) > 0.7, (found, commoner)
