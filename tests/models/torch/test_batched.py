"""Several clients in one batched torch program: what is batched, what is not, and that a simulation gives the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import manent as mn
from manent.core.canonical import canonical, to_plain
from manent.core.training import LocalTraining
from manent.models.torch.training import train

LOCAL = mn.LocalSGD(lr=0.1, epochs=2, batch_size=6, momentum=0.5)


@pytest.fixture(autouse=True)
def one_thread():
    """As workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def examples(seed, rows):
    rng = np.random.default_rng(seed)
    return mn.Examples(rng.standard_normal((rows, 6), dtype=np.float32), rng.integers(0, 3, rows))


def works_of(model, sizes, local=LOCAL):
    return [
        LocalTraining(model.init(np.random.default_rng(0)), local.batches(n, np.random.default_rng(i)), local, local.lr, seed=i)
        for i, n in enumerate(sizes)
    ]


class Own(nn.Module):
    """Not of torch's own making: it might draw random numbers, and does not."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


class Counting(Own):
    """Counts its passes, and so treats a client by what it did before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.passes += 1
        return super().forward(x) * (1 + 0.1 * self.passes)


class Branching(Own):
    """Looks at its data, which vmap cannot."""

    def forward(self, x):
        return super().forward(-x if x.sum() > 0 else x)


def normed():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def dropping():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))


@pytest.mark.parametrize("make", [Counting, Branching, normed, dropping])
def test_what_cannot_be_batched_trains_one_after_another_with_the_same_bits(make):
    model, sizes = mn.TorchModel(make(), "cross_entropy", together=4), (20, 15, 9)
    alone, data = replace(model, together=1), [examples(i, n) for i, n in enumerate(sizes)]
    works = works_of(model, sizes)
    for _ in range(2):
        for first, second in zip(model.train(works, data), alone.train(works, data), strict=True):
            np.testing.assert_array_equal(first.vector, second.vector)
            assert first.loss == second.loss
    assert not model._batched.able


@pytest.mark.parametrize(
    "local",
    [
        LOCAL,
        mn.LocalSGD(lr=0.1, steps=3),
        mn.LocalSGD(lr=0.1, steps=(2, 9), batch_size=6, max_grad_norm=0.5),
        mn.LocalSGD(lr=0.01, epochs=(1, 3), batch_size=6, optimizer="adam", weight_decay=0.1),
    ],
    ids=["momentum", "full batch", "clipped", "adam"],
)
def test_a_module_of_ones_own_is_batched(monkeypatch, local):
    model, sizes = mn.TorchModel(Own(), "cross_entropy", together=4), (20, 15, 20, 7, 13, 6)
    alone, data = replace(model, together=1), [examples(i, n) for i, n in enumerate(sizes)]
    works = works_of(model, sizes, local)
    expected = alone.train(works, data)
    monkeypatch.setattr("manent.models.torch.model.train", lambda *_: pytest.fail("trained alone"))
    for first, second in zip(model.train(works, data), expected, strict=True):
        np.testing.assert_allclose(first.vector, second.vector, rtol=2e-4, atol=3e-5)


def test_frozen_weights_and_constant_buffers_stay_as_given():
    network = Own()
    network.one.weight.requires_grad_(False)
    network.register_buffer("table", torch.arange(3.0), persistent=False)
    model = mn.TorchModel(network, "cross_entropy", together=4)
    works, data = works_of(model, (20, 15)), [examples(i, n) for i, n in enumerate((20, 15))]
    for found, work, part in zip(model.train(works, data), works, data, strict=True):
        np.testing.assert_allclose(found.vector, train(model._network, work, part).vector, rtol=2e-4, atol=3e-5)
    assert model._batched.able
    assert torch.equal(model.module(found.vector).one.weight, network.one.weight)


def test_data_that_do_not_fit_are_refused_and_others_still_batched():
    model = mn.TorchModel(Own(), "cross_entropy", together=4)
    works, data = works_of(model, (20, 15)), [examples(0, 20), mn.Examples(np.zeros((15, 5), np.float32), np.zeros(15, int))]
    with pytest.raises(mn.InvalidInput, match="training data"):
        model.train(works, data)
    model.train(works[:1], data[:1])
    assert model._batched.able


def test_want_of_memory_is_said(monkeypatch):
    model = mn.TorchModel(Own(), "cross_entropy", together=4)

    def full(*_):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(model._batched, "_gradients", full)
    with pytest.raises(mn.InvalidInput, match="lower TorchModel"):
        model.train(works_of(model, (20,)), [examples(0, 20)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said():
    with pytest.raises(mn.InvalidInput, match="finds no GPU"):
        mn.TorchModel(Own(), "cross_entropy", device="cuda")


@pytest.mark.parametrize(("option", "value"), [("device", "gpu"), ("together", 0), ("together", 2.5)])
def test_options_that_are_none_are_refused(option, value):
    with pytest.raises(mn.InvalidInput, match=option):
        mn.TorchModel(Own(), "cross_entropy", **{option: value})


def test_how_it_computes_is_no_part_of_the_study():
    model = mn.TorchModel(Own(), "cross_entropy")
    assert canonical(to_plain(model)) == canonical(to_plain(replace(model, together=8)))


def test_a_simulation_gives_the_same_within_rounding():
    whole = examples(0, 113)
    data = mn.data.from_arrays(whole.x, whole.y, by=np.repeat(np.arange(7), (20, 15, 9, 20, 7, 12, 30)))
    model = mn.TorchModel(Own(), "cross_entropy")
    runs = [
        mn.simulate(mn.Study(mn.FedProx(replace(model, together=t), LOCAL, mu=0.1), 5), data, seed=2, workers=2) for t in (1, 3)
    ]
    np.testing.assert_allclose(runs[0].state["model"], runs[1].state["model"], rtol=1e-3, atol=1e-4)
    assert runs[0].study.hash == runs[1].study.hash
