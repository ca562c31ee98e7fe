"""The numpy models against closed forms, and at extreme scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.core.training import LocalSGD, LocalTraining
from manent.models import LinearModel, LogisticModel, SoftmaxModel
from manent.models.numpy import loss_and_slope

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3), dtype=np.float32)


def descended(model, y, steps=4000, lr=0.3):
    local = LocalSGD(lr=lr, steps=steps)
    work = LocalTraining(model.init(np.random.default_rng(0)), [slice(None)] * steps, local, lr)
    return model.train([work], [Examples(X, y)])[0].vector


def test_linear_regression_ends_at_least_squares():
    y = (X @ [1, -2, 3] + 0.5 + RNG.standard_normal(40)).astype(np.float32)
    design = np.column_stack([X, np.ones(40)]).astype(float)
    np.testing.assert_allclose(descended(LinearModel(3), y), np.linalg.lstsq(design, y, rcond=None)[0], atol=1e-3)
    ridge = np.linalg.solve(design.T @ design * 2 / 40 + np.diag([0.4] * 3 + [0]), design.T @ y * 2 / 40)
    np.testing.assert_allclose(descended(LinearModel(3, l2=0.4), y), ridge, atol=1e-3)


def test_two_class_softmax_is_logistic_regression():
    y = RNG.integers(0, 2, 40)
    logistic, softmax = descended(LogisticModel(3), y), SoftmaxModel(3, 2).layout.unflatten(descended(SoftmaxModel(3, 2), y))
    np.testing.assert_allclose(softmax["weight"][1] - softmax["weight"][0], logistic[:3], atol=1e-3)


@given(st.floats(-(2.0**99), 2.0**99, width=32), st.integers(0, 1))
def test_losses_are_finite_at_any_score(score, label):
    for kind, scores in (("binary", [[score]]), ("multiclass", [[score, 0.0]]), ("multiclass", [[score, score]])):
        loss, slope = loss_and_slope(kind, np.array(scores, np.float32), np.array([label]))
        assert np.isfinite(loss)
        assert loss >= 0
        assert np.isfinite(slope).all()
        assert np.abs(slope).max() <= 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", [LinearModel(3), LogisticModel(3), SoftmaxModel(3, 2)], ids=lambda m: type(m).__name__)
def test_training_that_diverges_says_so_by_its_numbers_alone(model):
    """Whoever takes the vector looks at whether it is finite; warnings of numpy would come once for each operation."""
    y = X[:, 0] if model.kind == "regression" else (X[:, 0] > 0).astype(np.int64)
    for lr in (1e18, 1e38):
        local = LocalSGD(lr=lr, steps=3)
        work = LocalTraining(model.init(np.random.default_rng(0)), [slice(None)] * 3, local, lr)
        trained = model.train([work], [Examples(1e9 * X, y)])[0]
        assert np.abs(trained.vector[np.isfinite(trained.vector)]).max(initial=0) > 1e15 or not np.isfinite(trained.vector).all()
        model.evaluate(trained.vector, Examples(1e9 * X, y))
        model.scores(trained.vector, X)
        model.gradient(trained.vector, Examples(X, y))


def test_uniform_weights_have_the_range_of_torch():
    model = LogisticModel(100, initial="uniform")
    weights = model.init(np.random.default_rng(0))
    assert 0.09 < np.abs(weights).max() <= 0.1
    assert not LogisticModel(100).init(np.random.default_rng(0)).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearModel(0),
        lambda: LinearModel(3, l2=-1.0),
        lambda: LinearModel(3, initial="ones"),
        lambda: SoftmaxModel(3, 1),
    ],
)
def test_bad_declarations_are_refused(make):
    with pytest.raises(InvalidInput, match="expects"):
        make()
