"""Private local training as a declaration, and its step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput, Refused
from manent.core.examples import Examples
from manent.core.protocols import check_private
from manent.core.training import LocalSGD, LocalTraining, descend_privately
from manent.core.training.dpsgd import DPSGD, LARGEST_BATCH, clip_factors, private_gradient

PRIVATE = DPSGD(1.0, 1.0, sampling_probability=0.1)


class Told:
    """Draws what it is told, and remembers what it was asked."""

    secure = False

    def __init__(self, *batches: list[int], noise: float = 0.0) -> None:
        self.batches, self.noise, self.asked = list(batches), noise, []

    def rows(self, probability: float, examples: int) -> np.ndarray:
        self.asked.append((probability, examples))
        return np.array(self.batches.pop(0), np.int64)

    def noisy(self, total: np.ndarray, clip_norm: float, noise_multiplier: float) -> np.ndarray:
        self.asked.append((clip_norm, noise_multiplier))
        return total + self.noise


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"clip_norm": 0.0, "examples": 10}, "clip_norm"),
        ({"clip_norm": math.inf, "examples": 10}, "clip_norm"),
        ({"clip_norm": True, "examples": 10}, "clip_norm"),
        ({"clip_norm": 1.0, "noise_multiplier": 0.0, "examples": 10}, "noise_multiplier"),
        ({"clip_norm": 1.0, "noise_multiplier": math.nan, "examples": 10}, "noise_multiplier"),
        ({"clip_norm": 1.0}, "either sampling_probability or examples"),
        ({"clip_norm": 1.0, "examples": 10, "sampling_probability": 0.1}, "either sampling_probability or examples"),
        ({"clip_norm": 1.0, "sampling_probability": 0.0}, "sampling_probability <= 1"),
        ({"clip_norm": 1.0, "sampling_probability": 1.5}, "sampling_probability <= 1"),
        ({"clip_norm": 1.0, "examples": 0}, "examples >= 1"),
        ({"clip_norm": 1.0, "examples": 2.5}, "examples >= 1"),
    ],
)
def test_what_is_no_declaration_is_refused(settings, why):
    with pytest.raises(InvalidInput, match=why):
        DPSGD(**settings)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"epochs": 2, "batch_size": 4}, "Set steps="),
        ({"steps": (2, 4), "batch_size": 4}, "needs steps as one number"),
        ({"steps": 3}, "needs batch_size"),
        ({"steps": 3, "batch_size": 4, "max_grad_norm": 1.0}, "max_grad_norm or privacy"),
        ({"steps": 3, "batch_size": 4, "privacy": DPSGD(1.0, examples=3)}, "at most 3, the examples"),
        ({"steps": 3, "batch_size": 4, "privacy": 1.0}, "privacy=DPSGD"),
    ],
)
def test_what_does_not_fit_private_training_is_refused(settings, why):
    with pytest.raises(InvalidInput, match=why):
        LocalSGD(lr=0.1, **{"privacy": PRIVATE, **settings})


def test_momentum_adam_and_decay_come_after_the_noise_and_are_allowed():
    for settings in ({"momentum": 0.9}, {"optimizer": "adam"}, {"weight_decay": 0.1}):
        assert LocalSGD(lr=0.1, steps=2, batch_size=4, privacy=PRIVATE, **settings).sampling_probability == 0.1


def test_the_probability_is_declared():
    assert LocalSGD(lr=1, steps=1, batch_size=4, privacy=DPSGD(1.0, examples=200)).sampling_probability == 0.02
    assert LocalSGD(lr=1, steps=1, batch_size=4).sampling_probability is None
    assert LocalSGD(lr=1, steps=1, batch_size=4, privacy=PRIVATE).with_noise(2.5).privacy.noise_multiplier == 2.5
    with pytest.raises(InvalidInput, match="no privacy"):
        LocalSGD(lr=1, steps=1).with_noise(1.0)


def test_privacy_and_its_noise_are_part_of_the_declaration():
    private = LocalSGD(lr=0.1, steps=2, batch_size=4, privacy=PRIVATE)
    forms = [private, private.with_noise(2.0), LocalSGD(lr=0.1, steps=2, batch_size=4)]
    assert len({canonical(to_plain(form)) for form in forms}) == 3


@pytest.mark.parametrize("examples", [1, 7, 5000])
def test_batches_are_asked_of_the_draws_whatever_the_size_of_the_data(examples):
    local = LocalSGD(lr=0.1, steps=3, batch_size=4, privacy=PRIVATE)
    told = Told([0], [], [0])
    assert [b.tolist() for b in local.batches(examples, np.random.default_rng(0), draws=told)] == [[0], [], [0]]
    assert told.asked == [(0.1, examples)] * 3
    with pytest.raises(Refused, match="private source"):
        local.batches(examples, np.random.default_rng(0))


def test_a_straggler_takes_fewer_private_steps():
    local = LocalSGD(lr=0.1, steps=10, batch_size=4, privacy=PRIVATE)
    assert len(local.batches(5, np.random.default_rng(0), 0.25, Told(*[[]] * 10))) == 3


@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=20), st.floats(1e-10, 1e10))
def test_factors_clip_and_never_lengthen(norms, clip_norm):
    factors = clip_factors(np.array(norms) ** 2, clip_norm)
    assert np.all((factors > 0) & (factors <= 1))
    assert np.all(factors * np.array(norms) <= clip_norm * (1 + 1e-12))
    assert np.all((factors == 1) | (factors * np.array(norms) >= clip_norm * (1 - 1e-12)))


def test_what_is_not_finite_weighs_nothing():
    np.testing.assert_array_equal(clip_factors(np.array([math.nan, math.inf, 0.0, 4.0]), 1.0), [0, 0, 1, 0.5])


def clipped(vector: np.ndarray, data: Examples, clip_norm: float) -> tuple[np.ndarray, float]:
    return data.x.astype(np.float64).sum(axis=0), float(len(data))


def test_the_divisor_is_the_expected_size_and_an_empty_batch_is_noise():
    told = Told(noise=8.0)
    gradient = private_gradient(clipped, 2, PRIVATE, 4, told)
    x = np.ones((3, 2), np.float32)
    loss, g = gradient(np.zeros(2, np.float32), x, np.zeros(3))
    np.testing.assert_array_equal(g, [11 / 4, 11 / 4])
    assert (loss, g.dtype) == (1.0, np.float32)
    loss, g = gradient(np.zeros(2, np.float32), x[:0], np.zeros(0))
    np.testing.assert_array_equal(g, [2, 2])
    assert loss == 0
    assert told.asked == [(1.0, 1.0)] * 2


def test_nothing_is_trained_without_noise_or_a_source_of_it():
    with pytest.raises(Refused, match="private source"):
        private_gradient(clipped, 2, PRIVATE, 4, None)
    with pytest.raises(Refused, match="training needs noise"):
        private_gradient(clipped, 2, DPSGD(1.0, examples=4), 4, Told())
    work = LocalTraining(np.zeros(2, np.float32), [slice(None)], LocalSGD(lr=1, steps=1), 1.0)
    with pytest.raises(Refused, match="no private gradients"):
        descend_privately(clipped, 2, work, Examples(np.zeros((1, 2)), np.zeros(1)))


def test_a_batch_beyond_the_proven_size_is_stopped():
    gradient = private_gradient(clipped, 1, PRIVATE, 4, Told())
    rows = np.broadcast_to(np.float32(0), (LARGEST_BATCH + 1, 1))
    with pytest.raises(InvalidInput, match="1,048,576"):
        gradient(np.zeros(1, np.float32), rows, rows[:, 0])


def test_penalty_prox_and_shift_are_added_after_the_noise():
    local = LocalSGD(lr=1.0, steps=1, batch_size=2, privacy=PRIVATE, weight_decay=0.5)
    start = np.array([1.0, 2.0], np.float32)
    work = LocalTraining(
        start, [np.array([], np.int64)], local, 1.0, prox=0.25, anchor=np.zeros(2, np.float32),
        shift=np.array([10.0, 20.0], np.float32), draws=Told(noise=8.0),
    )  # fmt: skip
    data = Examples(np.zeros((1, 2), np.float32), np.zeros(1))
    trained = descend_privately(clipped, 2, work, data, lambda w: 100 * w)
    # noise / expected size, penalty, weight decay, prox, shift
    np.testing.assert_allclose(start - trained.vector, 8 / 2 + 100 * start + 0.5 * start + 0.25 * start + work.shift)


def test_a_model_without_gradients_of_examples_is_refused():
    with pytest.raises(Refused, match="object does not give the gradients of single examples"):
        check_private(object())


def test_a_clip_norm_that_is_missing_is_asked_for():
    with pytest.raises(InvalidInput, match="found None. Give a number in that range: the L2 norm"):
        DPSGD(clip_norm=None, examples=10)
    with pytest.raises(InvalidInput, match="found 'a'. Give a number in that range, or None"):
        DPSGD(1.0, "a", examples=10)
    with pytest.raises(InvalidInput, match="Give one of the two"):
        DPSGD(1.0)
