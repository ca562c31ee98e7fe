"""Local training as data: the laws of batches, schedules, validation, and the kernel against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.core.training import (
    Constant,
    CosineDecay,
    ExponentialDecay,
    LocalSGD,
    LocalTraining,
    WarmUp,
    descend,
)

sizes = st.integers(1, 50)
batch_sizes = st.none() | st.integers(1, 60)


def rows(batch, examples: int) -> list[int]:
    return np.arange(examples)[batch].tolist()


@given(sizes, batch_sizes, st.integers(1, 4), st.integers(0, 2**20))
def test_every_epoch_is_a_permutation_with_its_last_partial_batch(examples, batch_size, epochs, seed):
    local = LocalSGD(lr=0.1, epochs=epochs, batch_size=batch_size)
    batches = [rows(b, examples) for b in local.batches(examples, np.random.default_rng(seed))]
    size = min(batch_size or examples, examples)
    per_epoch = math.ceil(examples / size)
    assert len(batches) == epochs * per_epoch
    for epoch in range(epochs):
        part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(row for batch in part for row in batch) == list(range(examples))
        assert [len(batch) for batch in part[:-1]] == [size] * (per_epoch - 1)
        assert len(part[-1]) == examples - size * (per_epoch - 1)


@given(sizes, batch_sizes, st.integers(1, 40), st.integers(0, 2**20))
def test_steps_go_through_shuffled_passes(examples, batch_size, steps, seed):
    batches = LocalSGD(lr=0.1, steps=steps, batch_size=batch_size).batches(examples, np.random.default_rng(seed))
    assert len(batches) == steps
    seen = np.bincount([row for batch in batches for row in rows(batch, examples)], minlength=examples)
    assert seen.max() - seen.min() <= 1


@given(sizes, batch_sizes, st.integers(1, 4), st.integers(0, 2**20))
def test_steps_and_epochs_of_the_same_length_are_the_same_batches(examples, batch_size, epochs, seed):
    by_epoch = LocalSGD(lr=1, epochs=epochs, batch_size=batch_size).batches(examples, np.random.default_rng(seed))
    by_step = LocalSGD(lr=1, steps=len(by_epoch), batch_size=batch_size).batches(examples, np.random.default_rng(seed))
    assert [rows(b, examples) for b in by_epoch] == [rows(b, examples) for b in by_step]


def test_shuffling_differs_between_epochs_and_seeds():
    local = LocalSGD(lr=0.1, epochs=2, batch_size=20)
    first, second = (rows(b, 20) for b in LocalSGD(lr=1, epochs=2, batch_size=20).batches(20, np.random.default_rng(0)))
    assert first == second == list(range(20))  # all rows at once need no order
    drawn = [np.concatenate(local.batches(40, np.random.default_rng(s))).tolist() for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][:40] != drawn[0][40:]


@given(sizes, batch_sizes, st.integers(1, 9), st.floats(0.001, 1), st.booleans())
def test_a_straggler_does_a_share_of_the_work_and_at_least_one_step(examples, batch_size, amount, work, by_epoch):
    local = LocalSGD(lr=1, batch_size=batch_size, **({"epochs": amount} if by_epoch else {"steps": amount}))
    full = local.batches(examples, np.random.default_rng(0))
    less = local.batches(examples, np.random.default_rng(0), work)
    unit = len(full) // amount
    assert len(less) % unit == 0
    assert unit <= len(less) <= len(full)
    assert work * amount <= len(less) / unit < work * amount + 1
    assert [rows(b, examples) for b in less] == [rows(b, examples) for b in full[: len(less)]]


def test_a_range_of_work_is_drawn_uniformly_with_both_ends():
    rng = np.random.default_rng(0)
    for name in ("epochs", "steps"):
        local = LocalSGD(lr=1, **{name: (2, 5)})
        counts = np.bincount([len(local.batches(3, rng)) for _ in range(800)], minlength=6)
        assert counts[:2].tolist() == [0, 0]
        assert (np.abs(counts[2:] - 200) < 60).all()


def test_schedules():
    assert [Constant().factor(r) for r in (1, 100)] == [1, 1]
    assert [ExponentialDecay(0.5, every=2).factor(r) for r in (1, 2, 3, 5)] == [1, 1, 0.5, 0.25]
    cosine = [CosineDecay(5, floor=0.2).factor(r) for r in (1, 3, 5, 9)]
    assert cosine == pytest.approx([1, 0.6, 0.2, 0.2])
    assert CosineDecay(1).factor(1) == 1
    assert [WarmUp(4).factor(r) for r in (1, 2, 4, 9)] == [0.25, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: ExponentialDecay(0.5, every=0), "every"),
        (lambda: ExponentialDecay(-0.5), "rate"),
        (lambda: ExponentialDecay(float("nan")), "rate"),
        (lambda: CosineDecay(0), "rounds"),
        (lambda: CosineDecay(5, floor=1.5), "floor"),
        (lambda: WarmUp(0), "rounds"),
    ],
)
def test_a_schedule_without_sense_is_refused(build, word):
    with pytest.raises(InvalidInput, match=word):
        build()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": None}, "either epochs or steps"),
        ({"steps": 3}, "either epochs or steps"),
        ({"epochs": 0}, "epochs of at least 1.*found 0"),
        ({"epochs": (3, 2)}, r"1 <= low <= high; found \(3, 2\)"),
        ({"epochs": (0, 2)}, "1 <= low"),
        ({"epochs": (1, 2, 3)}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"epochs": "2"}, "epochs"),
        ({"epochs": None, "steps": 2.0}, "steps"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"lr": -0.1}, "lr >= 0; found -0.1"),
        ({"lr": float("nan")}, "finite lr"),
        ({"lr": float("inf")}, "finite lr"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"momentum": 1}, "momentum < 1; found 1"),
        ({"momentum": -0.1}, "momentum"),
        ({"momentum": float("nan")}, "momentum"),
        ({"max_grad_norm": 0}, "max_grad_norm > 0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm"),
        ({"optimizer": "rmsprop"}, "optimizer.*sgd.*adam.*'rmsprop'"),
        ({"optimizer": ["sgd"]}, "optimizer"),
        ({"lr": "abc"}, "lr >= 0; found 'abc'"),
        ({"lr": None}, "lr >= 0; found None"),
        ({"lr": True}, "lr >= 0; found True"),
        ({"weight_decay": "0"}, "weight_decay"),
        ({"momentum": "0.9"}, "momentum"),
        ({"max_grad_norm": "1"}, "max_grad_norm"),
        ({"epochs": True}, "epochs"),
        ({"epochs": [1, 2]}, "epochs"),
    ],
)
def test_a_declaration_without_sense_is_refused(change, words):
    with pytest.raises(InvalidInput, match=words):
        LocalSGD(**({"lr": 0.1, "epochs": 1} | change))


def test_numbers_from_numpy_are_numbers():
    local = LocalSGD(lr=np.float32(0.5), epochs=np.int64(2), batch_size=np.int32(3))
    assert len(local.batches(6, np.random.default_rng(0))) == 4


def test_only_plain_descent_is_plain():
    assert LocalSGD(lr=1, steps=1, weight_decay=0.1, max_grad_norm=1).plain_sgd
    assert not LocalSGD(lr=1, steps=1, momentum=0.5).plain_sgd
    assert not LocalSGD(lr=1, steps=1, optimizer="adam").plain_sgd


# The kernel, on least squares with two parameters and one coordinate that is not trained.

DATA = Examples(
    np.random.default_rng(1).normal(size=(12, 2)).astype(np.float32), np.random.default_rng(2).normal(size=12).astype(np.float32)
)
START = np.array([0.5, -1.0, 7.0], np.float32)
BATCHES = [np.arange(4), np.arange(4, 8), slice(None), np.array([0, 11, 5])]


def gradient(vector, x, y):
    error = x @ vector[:2] - y
    return float((error**2).mean() / 2), (x.T @ error / np.float32(len(x))).astype(np.float32)


def reference(local: LocalSGD, lr: float, prox: float = 0.0, anchor=START[:2], shift=0.0):
    w, b, m, v = START[:2].astype(np.float64), None, np.zeros(2), np.zeros(2)
    for t, batch in enumerate(BATCHES, 1):
        x, y = DATA.x[batch].astype(np.float64), DATA.y[batch].astype(np.float64)
        g = x.T @ (x @ w - y) / len(x)
        g *= min(1, (local.max_grad_norm or np.inf) / np.linalg.norm(g))
        g = g + local.weight_decay * w + prox * (w - anchor) + shift
        b = g if b is None else local.momentum * b + g
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - lr * (adam if local.optimizer == "adam" else b)
    return w


@pytest.mark.parametrize("local", [{}, {"momentum": 0.9}, {"weight_decay": 0.3}, {"max_grad_norm": 0.2}, {"optimizer": "adam"}])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"prox": 0.7},
        {"prox": 0.7, "anchor": np.array([1.0, 2.0], np.float32)},
        {"shift": np.array([0.3, -0.2], np.float32)},
    ],
)
def test_the_kernel_is_the_plain_loop(local, extra):
    declared = LocalSGD(lr=0.1, steps=4, **local)
    start = START.copy()
    trained = descend(gradient, 2, LocalTraining(start, BATCHES, declared, 0.1, **extra), DATA)
    np.testing.assert_allclose(trained.vector[:2], reference(declared, 0.1, **extra), rtol=2e-5, atol=2e-6)
    assert trained.vector[2] == 7
    assert trained.vector.dtype == np.float32
    np.testing.assert_array_equal(start, START)


@pytest.mark.parametrize("local", [{"momentum": 0.9}, {"weight_decay": 0.3}, {"max_grad_norm": 0.2}, {"optimizer": "adam"}])
def test_every_option_changes_the_result(local):
    plain, other = (
        descend(gradient, 2, LocalTraining(START, BATCHES, LocalSGD(lr=0.1, steps=4, **options), 0.1), DATA).vector
        for options in ({}, local)
    )
    assert np.abs(plain - other).max() > 1e-3


def test_the_learning_rate_is_that_of_the_round():
    declared = LocalSGD(lr=123.0, steps=4)
    trained = descend(gradient, 2, LocalTraining(START, BATCHES, declared, 0.05), DATA)
    np.testing.assert_allclose(trained.vector[:2], reference(declared, 0.05), rtol=2e-5)


def test_the_loss_is_the_mean_over_the_steps():
    trained = descend(gradient, 2, LocalTraining(START, [slice(None)] * 3, LocalSGD(lr=0.0, steps=3), 0.0), DATA)
    assert trained.loss == pytest.approx(gradient(START, DATA.x, DATA.y)[0])
