"""What every model must do to be trained privately: `clipped_gradient_sum`, and the kernel around it; rows as for models."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from manent.core.errors import Refused
from manent.core.examples import Examples
from manent.core.training import LocalSGD, LocalTraining, descend
from manent.core.training.dpsgd import DPSGD, clip_factors
from manent.crypto.random import InsecureTestRNG
from manent.crypto.samplers.gradients import ExactDraws, grid_sensitivity, on_grid
from tests.conformance.test_models import ROWS, Row, one_thread, parameters, start_of


@pytest.fixture(params=[name for name, row in ROWS.items() if not row.batch_coupled])
def private(request: pytest.FixtureRequest) -> Iterator[Row]:
    row = ROWS[request.param]
    if importlib.util.find_spec(row.needs) is None:
        pytest.skip(f"{row.needs} is not installed")
    with one_thread() if row.needs == "torch" else nullcontext():
        yield row


class WithoutNoise:
    secure = False

    def rows(self, probability: float, examples: int) -> Any:
        raise AssertionError("batches are drawn before training")

    def noisy(self, total: Any, clip_norm: float, noise_multiplier: float) -> Any:
        return total


def away(model: Any, seed: int = 7) -> Any:
    """A vector at which no gradient is zero."""
    vector = start_of(model)
    vector[parameters(model)] += np.random.default_rng(seed).normal(0, 0.2, parameters(model).stop).astype(np.float32)
    return vector


def penalty(model: Any, vector: Any) -> Any:
    """The gradient of what a model adds to its loss: it is no part of an example's own."""
    return model._penalty(vector) if getattr(model, "l2", 0) else np.zeros(parameters(model).stop, np.float32)


def one_by_one(model: Any, vector: Any, data: Examples, clip_norm: float) -> Any:
    """The clipped sum, the slow way."""
    total = np.zeros(parameters(model).stop)
    for row in range(len(data)):
        own = (model.gradient(vector, data[row : row + 1]) - penalty(model, vector)).astype(np.float64)
        total += own * clip_factors(np.array([own @ own]), clip_norm)[0]
    return total


@pytest.mark.parametrize("clip_norm", [1e-3, 0.5, 1e6])
def test_the_sum_is_that_of_a_loop_over_the_examples(private: Row, clip_norm: float) -> None:
    model, data = private.make(), private.data(4, 20)
    model.check_private()
    vector = away(model)
    total, loss = model.clipped_gradient_sum(vector, data, clip_norm)
    assert total.dtype == np.float64
    np.testing.assert_allclose(total, one_by_one(model, vector, data, clip_norm), rtol=1e-4, atol=3e-6 * min(clip_norm, 1))
    assert loss == pytest.approx(20 * model.evaluate(vector, data).loss, rel=1e-4)
    assert np.linalg.norm(total) <= 20 * clip_norm * (1 + 1e-6)


def test_without_clipping_it_is_the_gradient(private: Row) -> None:
    model, data = private.make(), private.data(5, 30)
    vector = away(model)
    total, _ = model.clipped_gradient_sum(vector, data, 1e9)
    np.testing.assert_allclose(total / 30 + penalty(model, vector), model.gradient(vector, data), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("clip_norm", [0.01, 100.0])
def test_an_example_changes_the_integers_by_at_most_the_sensitivity(private: Row, clip_norm: float) -> None:
    """In exact integers. Every example in turn is left out, and the others are in another order."""
    model, data = private.make(), private.data(6, 12)
    vector = away(model)
    whole = on_grid(model.clipped_gradient_sum(vector, data, clip_norm)[0], clip_norm)
    for left_out in range(12):
        others = np.random.default_rng(left_out).permutation(np.delete(np.arange(12), left_out))
        rest = on_grid(model.clipped_gradient_sum(vector, data[others], clip_norm)[0], clip_norm)
        square = sum((int(a) - int(b)) ** 2 for a, b in zip(whole, rest, strict=True))
        assert square <= grid_sensitivity(len(whole)) ** 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_an_example_whose_gradient_is_not_finite_contributes_nothing(private: Row, value: float) -> None:
    model, data = private.make(), private.data(6, 12)
    if data.x.dtype != np.float32:
        pytest.skip("its inputs are whole numbers")
    x = data.x.copy()
    x[5] = value
    vector = away(model)
    others = np.delete(np.arange(12), 5)
    with np.errstate(all="ignore"):
        total, _ = model.clipped_gradient_sum(vector, Examples(x, data.y), 0.5)
    expected, _ = model.clipped_gradient_sum(vector, data[others], 0.5)
    if value == 3e38 and not np.allclose(total, expected, rtol=1e-4, atol=1e-6):
        # Some loss has a finite gradient even there: then it is clipped like any other.
        assert np.linalg.norm(total - expected) <= 0.5 * (1 + 1e-5)
    else:
        np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-6)


def work_of(model: Any, batches: list[Any], draws: Any, **settings: Any) -> LocalTraining:
    local = LocalSGD(lr=0.1, steps=len(batches), batch_size=5, privacy=DPSGD(0.5, 1.0, sampling_probability=0.2), **settings)
    return LocalTraining(start_of(model), [np.array(b, np.int64) for b in batches], local, 0.1, draws=draws)


BATCHES = [[0, 3, 4], [], [1], [2, 3, 5, 7, 8, 11, 13], []]


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"optimizer": "adam"}, {"weight_decay": 0.3}])
def test_private_training_is_the_kernel_around_it(private: Row, settings: dict[str, Any]) -> None:
    model, data = private.make(), private.data(4, 20)
    work = work_of(model, BATCHES, WithoutNoise(), **settings)

    def gradient(vector: Any, x: Any, y: Any) -> tuple[float, Any]:
        return 0.0, (one_by_one(model, vector, Examples(x, y), 0.5) / 5 + penalty(model, vector)).astype(np.float32)

    expected = descend(gradient, parameters(model).stop, work, data)
    (trained,) = model.train([work], [data])
    np.testing.assert_allclose(trained.vector, expected.vector, rtol=2e-4, atol=3e-5)
    assert np.isfinite(trained.loss)


def test_empty_batches_take_noisy_steps(private: Row) -> None:
    model, data = private.make(), private.data(4, 20)
    (trained,) = model.train([work_of(model, [[], []], ExactDraws(InsecureTestRNG(1)))], [data])
    moved = trained.vector[parameters(model)] - start_of(model)[parameters(model)]
    assert np.all(moved != 0)
    # Two steps of noise 0.5 over the expected size 5, at a rate of 0.1; some models add a penalty.
    if not getattr(model, "l2", 0):
        assert np.sqrt((moved**2).mean()) == pytest.approx(0.1 * 0.1 * 2**0.5, rel=5 / len(moved) ** 0.5)


def test_a_client_without_examples_sends_the_same_noise_as_empty_batches(private: Row) -> None:
    """A client whose training fails sends what it would without an example."""
    model, data = private.make(), private.data(4, 20)
    with_rows, without = (
        model.train([work_of(model, [[], [], []], ExactDraws(InsecureTestRNG(1)))], [of])[0].update for of in (data, data[:0])
    )
    assert with_rows.tobytes() == without.tobytes()
    assert np.all(without[parameters(model)] != 0)


def test_noise_is_fresh_in_every_step_and_training(private: Row) -> None:
    model, data, draws = private.make(), private.data(4, 20), ExactDraws(InsecureTestRNG(1))
    first, second = (model.train([work_of(model, [[]], draws)], [data])[0].vector for _ in range(2))
    assert np.all(first[parameters(model)] != second[parameters(model)])


def test_nothing_is_trained_without_a_source_of_noise(private: Row) -> None:
    model = private.make()
    with pytest.raises(Refused, match="private source"):
        model.train([work_of(model, [[0]], None)], [private.data(4, 20)])


def test_what_mixes_examples_is_refused() -> None:
    pytest.importorskip("torch")
    for row in ROWS.values():
        if row.batch_coupled:
            model = row.make()
            with pytest.raises(Refused, match="GroupNorm"):
                model.check_private()
            with pytest.raises(Refused, match="GroupNorm"):
                model.clipped_gradient_sum(start_of(model), row.data(4, 20), 1.0)
