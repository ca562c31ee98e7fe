"""scikit-learn estimators as models. manent reads the estimator's settings, computes the gradients in numpy, and gives the
coefficients back to the estimator.

How scikit-learn itself would fit (solver, iterations, tolerance, learning rate) plays no part: `LocalSGD` says how to train.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import numpy as np

from manent.core import validate
from manent.core.canonical import to_plain
from manent.core.errors import InvalidInput, MissingExtra
from manent.core.metrics import Task
from manent.core.vectors import Array, Block, Entry, Layout, Vector
from manent.models.numpy import DenseModel, Weights

try:
    from sklearn.base import clone
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier, SGDRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
except ImportError:  # pragma: no cover
    raise MissingExtra("scikit-learn", "sklearn", "SklearnModel") from None

_CLASSIFIERS = (LogisticRegression, SGDClassifier, MLPClassifier)
_REGRESSORS = (LinearRegression, Ridge, SGDRegressor, MLPRegressor)
_NETWORKS = (MLPClassifier, MLPRegressor)


@dataclass(frozen=True, eq=False)
class SklearnModel(DenseModel):
    """A scikit-learn estimator as a model.

    Linear models start at zero. MLPs start with random weights, drawn as scikit-learn draws them (Glorot and Bengio 2010). The
    estimator's L2 penalty becomes `l2`, which adds l2/2 |W|^2 to the mean loss (for regression, to the mean squared error). N is
    `examples`:

    | estimator                                   | l2        |
    |---------------------------------------------|-----------|
    | LinearRegression                            | 0         |
    | Ridge, MLPRegressor                         | 2 alpha/N |
    | SGDRegressor(loss="squared_error")          | 2 alpha   |
    | LogisticRegression                          | 1/(C N)   |
    | SGDClassifier(loss="log_loss"), two classes | alpha     |
    | MLPClassifier                               | alpha/N   |

    Attributes:
        estimator: it is cloned, and never changed.
        features: how many columns x has, at least 1.
        classes: the number of classes of a classifier; 0 for a regressor.
        examples: N, how many training examples all clients have together. Needed where l2 depends on N.

    Raises InvalidInput for another estimator, or a setting that a sum of clients' gradients cannot follow (an L1 penalty,
    class weights, positive coefficients), with what to change.
    """

    estimator: Any
    features: int
    classes: int = 0
    examples: int | None = None

    def __post_init__(self) -> None:
        name = type(self.estimator).__name__
        if type(self.estimator) not in _CLASSIFIERS + _REGRESSORS:
            known = ", ".join(c.__name__ for c in _CLASSIFIERS + _REGRESSORS)
            raise InvalidInput(f"SklearnModel takes one of {known}; found {name}.")
        validate.count("SklearnModel", "features", self.features)
        if not validate.is_count(self.classes, 2) and isinstance(self.estimator, _CLASSIFIERS):
            raise InvalidInput(f"{name} is a classifier; say how many classes there are: classes=2 or more.")
        if self.classes != 0 and isinstance(self.estimator, _REGRESSORS):
            raise InvalidInput(f"{name} is a regressor and has no classes; leave classes out.")
        if self.examples is not None:
            validate.count("SklearnModel", "examples", self.examples)
        object.__setattr__(self, "estimator", clone(self.estimator))
        _refuse(self.estimator.get_params(deep=False), name, self.classes)
        self.l2  # noqa: B018  # raises for a penalty that needs `examples`

    @cached_property
    def kind(self) -> Task:  # type: ignore[override]
        """The task, "regression", "binary" or "multiclass", by the number of classes."""
        if self.classes == 0:
            return "regression"
        return "binary" if self.classes == 2 else "multiclass"

    @cached_property
    def l2(self) -> float:  # type: ignore[override]
        """The L2 penalty; see the table. Raises InvalidInput where it depends on `examples`, and those are not given."""
        settings, rows = self.estimator.get_params(deep=False), self.examples
        match self.estimator:
            case LinearRegression():
                return 0.0
            case SGDClassifier():
                return 0.0 if settings["penalty"] is None else float(settings["alpha"])
            case SGDRegressor():
                return 0.0 if settings["penalty"] is None else 2 * float(settings["alpha"])
            case LogisticRegression():
                off = settings["penalty"] is None
                spread, none = 0.0 if off else 1 / float(settings["C"]), "C=float('inf')"
            case MLPClassifier():
                spread, none = float(settings["alpha"]), "alpha=0"
            case _:
                spread, none = 2 * float(settings["alpha"]), "alpha=0"
        if spread and rows is None:
            raise InvalidInput(
                f"The penalty of {type(self.estimator).__name__} belongs to a whole data set, which no client has. Give "
                f"SklearnModel(..., examples=N) with the number of training examples of all clients together, or set {none}."
            )
        return spread / rows if rows else 0.0

    @cached_property
    def activation(self) -> str:  # type: ignore[override]
        """Of the hidden layers of an MLP; "identity" for a linear model."""
        return str(self.estimator.activation) if isinstance(self.estimator, _NETWORKS) else "identity"

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of units in each layer, the input first."""
        hidden: tuple[int, ...] = ()
        if isinstance(self.estimator, _NETWORKS):
            hidden = tuple(int(n) for n in np.atleast_1d(self.estimator.hidden_layer_sizes))
        return (self.features, *hidden, self.classes if self.classes > 2 else 1)

    @cached_property
    def layout(self) -> Layout:
        """Block "parameters", with tensors named as the estimator's attributes: "coef_", "intercept_", "coefs_.0" and so on."""
        if isinstance(self.estimator, _NETWORKS):
            pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
            tensors = [Entry(f"coefs_.{i}", pair) for i, pair in enumerate(pairs)]
            return Layout(
                (Block("parameters", (*tensors, *(Entry(f"intercepts_.{i}", (n,)) for i, (_, n) in enumerate(pairs)))),)
            )
        rows = () if isinstance(self.estimator, LinearRegression | Ridge | SGDRegressor) else (self.sizes[-1],)
        coefficients = Entry("coef_", (*rows, self.features))
        intercept = Entry("intercept_", () if isinstance(self.estimator, LinearRegression | Ridge) else (self.sizes[-1],))
        return Layout((Block("parameters", (coefficients, intercept) if self.estimator.fit_intercept else (coefficients,)),))

    def weights(self, vector: Array) -> Weights:
        """The weights and the intercept of each layer, as views of a vector [d]."""
        pieces = self.layout.unflatten(vector)
        if isinstance(self.estimator, _NETWORKS):
            return [(pieces[f"coefs_.{i}"], pieces[f"intercepts_.{i}"]) for i in range(len(self.sizes) - 1)]
        intercept = pieces.get("intercept_")
        return [(pieces["coef_"].reshape(-1, self.features).T, None if intercept is None else intercept.reshape(-1))]

    def init(self, rng: np.random.Generator) -> Vector:
        """First weights: zeros for a linear model; for an MLP uniform on +-sqrt(6 / (inputs + outputs)), 2 for 6 if logistic."""
        vector = np.zeros(self.layout.size, np.float32)
        if isinstance(self.estimator, _NETWORKS):
            for W, b in self.weights(vector):
                edge = ((2.0 if self.activation == "logistic" else 6.0) / sum(W.shape)) ** 0.5
                for part in (W, b):
                    if part is not None:
                        part[...] = rng.uniform(-edge, edge, part.shape)
        return vector

    def fitted(self, vector: Vector) -> Any:
        """A fitted clone of the estimator. Its predict and predict_proba give this model's answers."""
        pieces = {name: np.array(piece, np.float64) for name, piece in self.layout.unflatten(vector).items()}
        if isinstance(self.estimator, _NETWORKS):
            estimator, layers = self._primed(), range(len(self.sizes) - 1)
            estimator.coefs_ = [pieces[f"coefs_.{i}"] for i in layers]
            estimator.intercepts_ = [pieces[f"intercepts_.{i}"] for i in layers]
            return estimator
        estimator = clone(self.estimator)
        estimator.coef_, estimator.n_features_in_ = pieces["coef_"], self.features
        estimator.intercept_ = pieces.get("intercept_", np.zeros(self.sizes[-1]) if self.classes else 0.0)
        if self.classes:
            estimator.classes_ = np.arange(self.classes)
        return estimator

    def vector(self, estimator: Any) -> Vector:
        """float32[d], the vector of a fitted estimator. Raises InvalidInput, naming the tensor, where it does not fit."""
        pieces: dict[str, Array] = {}
        for entry in self.layout.blocks[0].entries:
            name, _, layer = entry.name.partition(".")
            found = getattr(estimator, name, None)
            if found is None:
                raise InvalidInput(f"The {type(estimator).__name__} is not fitted: it has no {name}. Fit it first.")
            if layer and int(layer) >= len(found):
                raise InvalidInput(
                    f"The {type(estimator).__name__} has {len(found)} layers; the model has {len(self.sizes) - 1}."
                )
            values = np.asarray(found[int(layer)] if layer else found)
            pieces[entry.name] = values.reshape(entry.shape) if values.size == 1 and entry.shape in ((), (1,)) else values
        return self.layout.flatten(pieces)

    def to_plain(self) -> dict[str, Any]:
        """The declaration as plain data: the estimator's type and settings."""
        settings = {
            k: v if isinstance(v, bool | int | float | str | tuple | None) else repr(v) for k, v in self._settings.items()
        }
        return {
            "estimator": type(self.estimator).__name__,
            "settings": to_plain(settings),
            "features": self.features,
            "classes": self.classes,
            "l2": self.l2,
            "kind": self.kind,
            "layout": to_plain(self.layout),
        }

    @property
    def _settings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.estimator.get_params(deep=False)
        return found

    def _primed(self) -> Any:
        """An MLP that scikit-learn has set up by a short fit, with the estimator's own settings put back."""
        estimator = clone(self.estimator)
        token = {
            "solver": "adam",
            "max_iter": 1,
            "early_stopping": False,
            "batch_size": "auto",
            "verbose": False,
            "random_state": 0,
        }
        rows = max(self.classes, 2)
        y = np.arange(rows) if self.classes else np.arange(rows, dtype=np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.set_params(**token).fit(np.zeros((rows, self.features)), y)
        return estimator.set_params(**{name: self._settings[name] for name in token})


def _refuse(settings: dict[str, Any], name: str, classes: int) -> None:
    """Raises InvalidInput for settings that change what is minimised in a way that a sum of clients' gradients cannot follow."""
    rules: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
        ("penalty", lambda v: v in ("l1", "elasticnet"), "penalty='l2', or none"),
        ("l1_ratio", lambda v: name == "LogisticRegression" and bool(v), "l1_ratio=0"),
        ("class_weight", lambda v: v is not None, "class_weight=None"),
        ("positive", bool, "positive=False"),
        ("dual", bool, "dual=False"),
        ("alpha", lambda v: name == "Ridge" and np.ndim(v) > 0, "one number for alpha"),
        ("loss", lambda v: name == "SGDClassifier" and v != "log_loss", "loss='log_loss'"),
        ("loss", lambda v: name == "SGDRegressor" and v != "squared_error", "loss='squared_error'"),
        ("loss", lambda v: name == "MLPRegressor" and v != "squared_error", "loss='squared_error'"),
        ("solver", lambda v: v == "liblinear" and classes > 2, "another solver (liblinear is one against the rest)"),
        ("C", lambda v: not 0 < v <= inf, "C > 0"),
    )
    for setting, wrong, cure in rules:
        if setting in settings and wrong(settings[setting]):
            raise InvalidInput(f"{name} with {setting}={settings[setting]!r} cannot be trained here; use {cure}.")
    if name == "SGDClassifier" and classes > 2:
        raise InvalidInput("SGDClassifier trains one against the rest; for more than two classes use LogisticRegression.")
