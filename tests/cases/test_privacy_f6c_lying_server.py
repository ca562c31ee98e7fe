"""Weights that cancel, from a server that lies, must not let one example move the clipped sum by more than it may.

Such weights make the scores of other rows as small as rounding errors. A library that rounds a row otherwise when the batch has
another shape, or the row another place, then gives these rows other gradients as a whole.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import manent as mn
from manent.core.errors import Refused
from manent.core.training import LocalSGD, LocalTraining
from manent.core.training.dpsgd import LARGEST_WEIGHT, SUM_SLACK
from manent.crypto.random import InsecureTestRNG
from manent.crypto.samplers.gradients import ExactDraws

CLIP = 1.0


def cancelling(rng: Any, rows: int, features: int, scale: float) -> tuple[Any, Any]:
    """Weights [features], and rows [rows, features] that are orthogonal to them up to rounding; all but the first are equal."""
    w = (rng.choice([-1, 1], features) * rng.uniform(0.5, 1, features) * scale).astype(np.float32)
    wide = w.astype(np.float64)
    x = rng.normal(size=(rows, features))
    x -= np.outer(x @ wide, wide) / (wide @ wide)
    x = x.astype(np.float32)
    x[1:] = x[1]
    x[0] = 0
    return w, x


def torch_linear(features: int) -> Any:
    from torch import nn

    from manent.models.torch import TorchModel

    return TorchModel(nn.Sequential(nn.Linear(features, 1)), "binary_cross_entropy")


def torch_any(features: int) -> Any:
    from torch import nn

    from manent.models.torch import TorchModel

    return TorchModel(nn.Sequential(nn.Linear(features, 1), nn.LeakyReLU(0.5)), "binary_cross_entropy")


def jax_linear(features: int) -> Any:
    import jax.numpy as jnp

    from manent.models import JaxModel

    return JaxModel(lambda key: (jnp.zeros(features), jnp.zeros(1)), lambda p, x: x @ p[0] + p[1], "binary_cross_entropy")


def perceptron(features: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    from manent.models.sklearn import SklearnModel

    return SklearnModel(MLPClassifier((5,), alpha=0, activation="tanh"), features, 2)


MODELS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "numpy": ("numpy", mn.LogisticModel),
    "sklearn": ("sklearn", perceptron),
    "torch": ("torch", torch_linear),
    "torch, any module": ("torch", torch_any),
    "jax": ("jax", jax_linear),
}


@pytest.fixture(params=MODELS)
def make(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    needs, made = MODELS[request.param]
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    return made


def moved(model: Any, vector: Any, x: Any, y: Any, left_out: int) -> float:
    """By how much the sum moves, in clip norms, when a row leaves and the others change their places."""
    rest = np.delete(np.arange(len(x)), left_out)[::-1]
    whole, _ = model.clipped_gradient_sum(vector, mn.Examples(x, y), CLIP)
    less, _ = model.clipped_gradient_sum(vector, mn.Examples(x[rest], y[rest]), CLIP)
    return float(np.linalg.norm(whole - less)) / CLIP


@pytest.mark.parametrize("scale", [1e9, 1.0])
def test_weights_that_cancel_move_the_sum_by_one_clip_norm_at_most(make: Callable[[int], Any], scale: float) -> None:
    rng, found = np.random.default_rng(1), []
    for features in (64, 300):
        model = make(features)
        hidden = model.layout.size // (features + 1)
        for rows in (3, 4, 5, 8, 9, 16, 17, 33, 64, 65, 103):
            w, x = cancelling(rng, rows, features, scale)
            vector = model.init(rng)
            vector[: features * hidden] = np.repeat(w, hidden) if hidden > 1 else w
            found.append(moved(model, vector, x, np.zeros(rows, np.int64), 0))
    assert max(found) <= 1 + SUM_SLACK


def test_inputs_of_very_different_size_move_it_by_one_at_most(make: Callable[[int], Any]) -> None:
    rng, model, found = np.random.default_rng(2), make(64), []
    for rows in (7, 40):
        x = (rng.normal(size=(rows, 64)) * 10.0 ** rng.integers(-12, 12, (rows, 64))).astype(np.float32)
        x[::3] = x[0]
        y = rng.integers(0, 2, rows)
        vector = model.init(rng) + (rng.normal(size=model.layout.size) * 10.0 ** rng.integers(-6, 6, model.layout.size))
        found += [moved(model, vector.astype(np.float32), x, y, left_out) for left_out in (0, 1, rows - 1)]
    assert max(found) <= 1 + SUM_SLACK


def test_each_row_has_the_same_bits_in_every_batch(make: Callable[[int], Any]) -> None:
    """All rows but one add nothing, as their gradients are not finite: the sum is that row's own, bit for bit."""
    rng, model = np.random.default_rng(3), make(64)
    w, x = cancelling(rng, 30, 64, 1e3)
    x[0] = rng.normal(size=64)
    vector = model.init(rng)
    vector[:64] += w
    x[2:] = np.nan
    y = np.zeros(30, np.int64)
    one, _ = model.clipped_gradient_sum(vector, mn.Examples(x[1:2], y[:1]), CLIP)
    assert np.linalg.norm(one) > 0
    for place in (0, 1, 3, 7, 15, 16, 28):
        moved_rows = x[2:].copy()
        moved_rows[min(place, 27)] = x[1]
        found, _ = model.clipped_gradient_sum(vector, mn.Examples(moved_rows, y[: len(moved_rows)]), CLIP)
        np.testing.assert_array_equal(found, one)


@pytest.mark.parametrize(("kind", "classes"), [("linear", 0), ("logistic", 2), ("softmax", 3)])
def test_a_million_honest_rows_move_it_by_one_at_most(kind: str, classes: int) -> None:
    """Nothing is divided by the number of rows and multiplied by it again: that rounds a million rows otherwise."""
    rng, rows = np.random.default_rng(4), (1 << 20) - 1
    model = {"linear": mn.LinearModel(3), "logistic": mn.LogisticModel(3)}.get(kind) or mn.SoftmaxModel(3, 3)
    x = np.repeat(rng.normal(size=(1, 3)).astype(np.float32), rows, axis=0)
    y = np.ones(rows, np.int64) if classes else np.full(rows, 0.7, np.float32)
    vector = rng.normal(size=model.layout.size).astype(np.float32)
    for clip_norm in (0.01, 1e3):
        whole, _ = model.clipped_gradient_sum(vector, mn.Examples(x, y), clip_norm)
        one, _ = model.clipped_gradient_sum(vector, mn.Examples(x[:1], y[:1]), clip_norm)
        less, _ = model.clipped_gradient_sum(vector, mn.Examples(x[:-1], y[:-1]), clip_norm)
        assert np.linalg.norm(whole - less) <= clip_norm * (1 + SUM_SLACK)
        np.testing.assert_allclose(whole, one * rows, rtol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2 * LARGEST_WEIGHT, -3e38])
def test_weights_outside_the_declared_range_are_refused(make: Callable[[int], Any], value: float) -> None:
    model = make(4)
    local = LocalSGD(lr=0.1, steps=1, batch_size=2, privacy=mn.DPSGD(1.0, 1.0, sampling_probability=0.5))
    data = mn.Examples(np.ones((3, 4), np.float32), np.zeros(3, np.int64))
    vector = model.init(np.random.default_rng(0))
    for batch in ([0, 1], []):  # whatever the data are
        draws = ExactDraws(InsecureTestRNG(0))
        vector[1] = 1.0
        model.train([LocalTraining(vector, [np.array(batch, np.int64)], local, 0.1, draws=draws)], [data])
        vector[1] = value
        with pytest.raises(Refused, match="at place 1. A server that sends such weights is wrong"):
            model.train([LocalTraining(vector, [np.array(batch, np.int64)], local, 0.1, draws=draws)], [data])
