"""Estimators lent and taken back: equal answers, equal optima, refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.core.training import LocalSGD, LocalTraining
from manent.models import FittedModel, SklearnModel

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4), dtype=np.float32)

ESTIMATORS = {
    "logistic": (LogisticRegression(), 2),
    "softmax": (LogisticRegression(), 3),
    "no intercept": (LogisticRegression(fit_intercept=False), 3),
    "sgd": (SGDClassifier(loss="log_loss"), 2),
    "linear": (LinearRegression(), 0),
    "ridge": (Ridge(fit_intercept=False), 0),
    "sgd regressor": (SGDRegressor(), 0),
    "relu": (MLPClassifier(hidden_layer_sizes=(5, 3)), 3),
    "logistic network": (MLPClassifier(hidden_layer_sizes=4, activation="logistic", solver="lbfgs", early_stopping=True), 2),
    "identity": (MLPClassifier(hidden_layer_sizes=(5,), activation="identity", warm_start=True), 3),
    "regressor": (MLPRegressor(hidden_layer_sizes=(5, 4), activation="tanh"), 0),
}


def model_of(name: str) -> SklearnModel:
    estimator, classes = ESTIMATORS[name]
    return SklearnModel(estimator, 4, classes, examples=60)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_estimator_answers_as_the_model(name):
    model = model_of(name)
    vector = RNG.standard_normal(model.layout.size).astype(np.float32)
    estimator, fitted = model.fitted(vector), FittedModel(model, vector)
    np.testing.assert_allclose(estimator.predict(X), fitted.predict(X), rtol=1e-4, atol=1e-4)
    if model.classes:
        np.testing.assert_allclose(estimator.predict_proba(X), fitted.probabilities(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.vector(estimator), vector)
    assert estimator.get_params() == ESTIMATORS[name][0].get_params()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fitted_coefficients_are_taken_back(name):
    model, (estimator, classes) = model_of(name), ESTIMATORS[name]
    y = RNG.integers(0, classes, 60) if classes else X.sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, y)
    scores = FittedModel(model, model.vector(estimator)).predict(X)
    np.testing.assert_allclose(scores, estimator.predict(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("estimator", "classes"),
    [
        (LogisticRegression(C=0.3, tol=1e-8), 2),
        (LogisticRegression(C=0.3, tol=1e-8), 3),
        (LogisticRegression(C=np.inf, tol=1e-8), 3),
        (Ridge(alpha=7.0), 0),
        (LinearRegression(), 0),
    ],
)
def test_the_penalty_is_scikit_learns_own(estimator, classes):
    """Descent to the optimum ends where scikit-learn's solver does."""
    y = RNG.integers(0, classes, 60) if classes else (X.sum(axis=1) + RNG.standard_normal(60)).astype(np.float32)
    model = SklearnModel(estimator, 4, classes, examples=60)
    local = LocalSGD(lr=0.2, steps=3000)
    work = LocalTraining(model.init(RNG), [slice(None)] * 3000, local, 0.2)
    (trained,) = model.train([work], [Examples(X, y)])
    found = model.fitted(trained.vector)
    estimator.fit(X, y)
    np.testing.assert_allclose(found.coef_, estimator.coef_, atol=2e-3)


def test_the_penalty_of_networks_is_scikit_learns_own():
    """One full-batch step of scikit-learn's own SGD from our weights is one step of ours."""
    for kind, classes, y in (
        (MLPClassifier, 3, RNG.integers(0, 3, 60)),
        (MLPRegressor, 0, RNG.standard_normal(60).astype(np.float32)),
    ):
        settings = {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0.0, "batch_size": 60, "max_iter": 1, "alpha": 2.0}
        theirs = kind(hidden_layer_sizes=(5,), random_state=0, warm_start=True, **settings)
        model = SklearnModel(theirs, 4, classes, examples=60)
        start = model.init(np.random.default_rng(0))
        primed = model.fitted(start).set_params(warm_start=True)
        # scikit-learn halves the squared error, so its step is half of ours.
        lr = 0.1 if classes else 0.05
        work = LocalTraining(start, [slice(None)], LocalSGD(lr=lr, steps=1), lr)
        primed._optimizer = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            primed.fit(X, y)
        (trained,) = model.train([work], [Examples(X, y)])
        np.testing.assert_allclose(trained.vector, model.vector(primed), rtol=1e-4, atol=1e-5)


BAD = {
    "unknown": (lambda: SklearnModel(object(), 4), "SklearnModel takes"),
    "hinge": (lambda: SklearnModel(SGDClassifier(), 4, 2), "log_loss"),
    "l1": (lambda: SklearnModel(SGDClassifier(loss="log_loss", penalty="l1"), 4, 2), "penalty"),
    "elastic net": (lambda: SklearnModel(LogisticRegression(l1_ratio=0.5, solver="saga"), 4, 2, 60), "l1_ratio"),
    "class weights": (lambda: SklearnModel(LogisticRegression(class_weight="balanced"), 4, 2, 60), "class_weight"),
    "positive": (lambda: SklearnModel(LinearRegression(positive=True), 4), "positive"),
    "one against the rest": (lambda: SklearnModel(SGDClassifier(loss="log_loss"), 4, 3), "LogisticRegression"),
    "no classes": (lambda: SklearnModel(LogisticRegression(), 4), "classes="),
    "classes of a regressor": (lambda: SklearnModel(Ridge(), 4, 2), "no classes"),
    "no classes of a regressor": (lambda: SklearnModel(Ridge(), 4, None), "no classes"),
    "penalty without examples": (lambda: SklearnModel(LogisticRegression(), 4, 2), "examples=N"),
    "robust loss": (lambda: SklearnModel(SGDRegressor(loss="huber"), 4), "squared_error"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_followed_is_refused(name):
    make, word = BAD[name]
    with pytest.raises(InvalidInput, match=word):
        make()


def test_an_estimator_that_does_not_fit_is_refused():
    model = model_of("softmax")
    with pytest.raises(InvalidInput, match="not fitted"):
        model.vector(LogisticRegression())
    with pytest.raises(InvalidInput, match="coef_"):
        model.vector(LogisticRegression().fit(X[:, :2], RNG.integers(0, 3, 60)))
