"""Models that need only numpy: linear, logistic and softmax regression, and the dense network that they are built on.

With s for the scores, the mean loss over the rows is

    regression    mean (s - y)^2
    binary        mean log(1 + e^s) - y s
    multiclass    mean logsumexp(s) - s_y

as in Bishop, Pattern Recognition and Machine Learning (2006), sections 3.1 and 4.3. A model's `l2` adds l2/2 |W|^2 to what is
minimised, without the intercepts. Reported losses do not include it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from manent.core import validate
from manent.core.canonical import to_plain
from manent.core.examples import Examples
from manent.core.metrics import Scored, Task
from manent.core.training import LocalTraining, Trained, descend, descend_privately
from manent.core.vectors import Array, Block, Entry, Layout, Vector
from manent.models.chain import CURVES, Dense, Layer, clipped_sum
from manent.models.checks import check_features, check_single_targets, check_targets

__all__ = ["LinearModel", "LogisticModel", "SoftmaxModel"]

Initial = Literal["zeros", "uniform"]
Weights = list[tuple[Array, Array | None]]  # (W [inputs, outputs], intercept [outputs] or None), layer by layer; views


def _sigmoid(s: Array) -> Array:
    e = np.exp(-np.abs(s))
    p: Array = np.where(s >= 0, 1 / (1 + e), e / (1 + e))
    return p


# For hidden layers: the function, and its derivative as a function of its value.
_ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "identity": (lambda s: s, lambda a: np.ones_like(a)),
    "relu": (lambda s: np.maximum(s, 0), lambda a: (a > 0).astype(a.dtype)),
    "tanh": (lambda s: np.tanh(s), lambda a: 1 - a * a),
    "logistic": (_sigmoid, lambda a: a * (1 - a)),
}


def loss_and_slope(kind: Task, scores: Array, y: Array) -> tuple[float, Array]:
    """The mean loss of scores [n, outputs] against targets y [n], and its derivative by the scores, [n, outputs]."""
    rows = len(y)
    if kind == "multiclass":
        shifted = scores - scores.max(axis=1, keepdims=True)
        slope = np.exp(shifted)
        total = slope.sum(axis=1, keepdims=True)
        picked = np.arange(rows), y
        loss = (np.log(total[:, 0]) - shifted[picked]).mean()
        slope /= total
        slope[picked] -= 1
        return float(loss), slope / scores.dtype.type(rows)
    s, target = scores[:, 0], y.astype(scores.dtype, copy=False)
    if kind == "binary":
        return float((np.logaddexp(s, 0) - target * s).mean()), ((_sigmoid(s) - target) / s.dtype.type(rows))[:, None]
    error = s - target
    return float((error * error).mean()), (error * s.dtype.type(2 / rows))[:, None]


class DenseModel(ABC):
    """A fully connected network on x [n, features]. Without hidden layers it is a linear model. A subclass lays out the vector.

    It computes in the type of the vector, float32 or float64.

    Attributes:
        features: how many columns x has.
        kind, classes: as in `core.protocols.Model`.
        l2: adds l2/2 |W|^2 to what is minimised.
        activation: of the hidden layers: "identity", "relu", "tanh" or "logistic".
    """

    features: int
    classes: int
    l2: float
    kind: Task
    activation: str = "identity"

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """How a vector is cut: one block, "parameters"."""

    @abstractmethod
    def weights(self, vector: Array) -> Weights:
        """The weights and the intercept of each layer, as views of a vector [d]."""

    def train(self, works: Sequence[LocalTraining], data: Sequence[Examples]) -> Sequence[Trained]:
        """Carries out each client's local training, one client after another."""
        return [self._train(work, part) for work, part in zip(works, data, strict=True)]

    @np.errstate(over="ignore", invalid="ignore")  # whoever takes the vector reports training that diverges
    def _train(self, work: LocalTraining, data: Examples) -> Trained:
        if work.local.privacy is None:
            return descend(self._gradient, self.layout.size, work, data)
        return descend_privately(self.clipped_gradient_sum, self.layout.size, work, data, self._penalty if self.l2 else None)

    @np.errstate(over="ignore", invalid="ignore")
    def gradient(self, vector: Vector, data: Examples) -> Vector:
        """[d], the gradient of the mean loss over all rows, l2 included. Raises InvalidInput for a vector of another size."""
        self.layout.check_size(vector)
        return self._gradient(vector, data.x, data.y)[1]

    def check_private(self) -> None:
        """Does nothing: all these models give gradients of single examples."""
        return

    def clipped_gradient_sum(self, vector: Vector, data: Examples, clip_norm: float) -> tuple[Array, float]:
        """float64[d], the sum of the rows' clipped gradients, without l2; and the sum of losses. See `core.training.dpsgd`."""
        self.layout.check_size(vector)
        total, layers = np.zeros(self.layout.size), list[Layer]()
        for (W, b), (dW, db) in zip(self.weights(vector), self.weights(total), strict=True):
            if layers and self.activation in CURVES:
                layers.append(CURVES[self.activation]())
            layers.append(Dense(W, b, dW, db))
        return total, clipped_sum(layers, self.kind, data.x, data.y, clip_norm)

    def _penalty(self, vector: Array) -> Array:
        """[d], the gradient of l2/2 |W|^2."""
        gradient = np.zeros_like(vector)
        for (W, _), (dW, _) in zip(self.weights(vector), self.weights(gradient), strict=True):
            np.multiply(W, vector.dtype.type(self.l2), out=dW)
        return gradient

    @np.errstate(over="ignore", invalid="ignore")
    def evaluate(self, vector: Vector, data: Examples) -> Scored:
        """The scores, [n] or [n, classes], and the mean loss without l2 (0 where there are no rows)."""
        self.layout.check_size(vector)
        scores = self._forward(vector, data.x)[-1]
        loss = loss_and_slope(self.kind, scores, data.y)[0] if len(data) else 0.0
        return Scored(self._squeeze(scores), data.y, loss)

    @np.errstate(over="ignore", invalid="ignore")
    def scores(self, vector: Vector, x: Array) -> Array:
        """Logits [n] (binary) or [n, classes] (multiclass), or predictions [n] (regression), for x [n, features]."""
        self.layout.check_size(vector)
        return self._squeeze(self._forward(vector, x)[-1])

    def check(self, data: Examples, where: str) -> None:
        """Raises InvalidInput, saying where, for data whose shape, type or labels do not fit."""
        check_features(data.x, self.features, where)
        check_single_targets(data, where)
        check_targets(data, self.kind, self.classes, where)

    def _squeeze(self, scores: Array) -> Array:
        return scores if self.kind == "multiclass" else scores[:, 0]

    def _forward(self, vector: Array, x: Array) -> list[Array]:
        """The input, and then each layer's output. The last output are the scores [n, outputs]."""
        act, _ = _ACTIVATIONS[self.activation]
        weights, values = self.weights(vector), [x]
        for depth, (W, b) in enumerate(weights, start=1):
            s = values[-1] @ W
            if b is not None:
                s += b
            values.append(act(s) if depth < len(weights) else s)
        return values

    def _gradient(self, vector: Array, x: Array, y: Array) -> tuple[float, Array]:
        _, derivative = _ACTIVATIONS[self.activation]
        values = self._forward(vector, x)
        loss, slope = loss_and_slope(self.kind, values[-1], y)
        gradient = np.empty_like(vector)
        layers = list(zip(self.weights(vector), self.weights(gradient), strict=True))
        for depth in range(len(layers) - 1, -1, -1):
            (W, _), (dW, db) = layers[depth]
            np.matmul(values[depth].T, slope, out=dW)
            if self.l2:
                dW += vector.dtype.type(self.l2) * W
            if db is not None:
                slope.sum(axis=0, out=db)
            if depth:
                slope = (slope @ W.T) * derivative(values[depth])
        return loss, gradient


class _Regression(DenseModel):
    """What the three regressions share: the tensors "weight" and "bias", and the choice of first weights."""

    initial: Initial

    def __post_init__(self) -> None:
        name = type(self).__name__
        validate.count(name, "features", self.features)
        validate.not_negative(name, "l2", self.l2)
        validate.one_of(name, "initial", self.initial, ("zeros", "uniform"))
        if self.kind == "multiclass":
            validate.count(name, "classes", self.classes, minimum=2)

    @cached_property
    def layout(self) -> Layout:  # cached, as each step reads it
        """Block "parameters": "weight", [features] or [classes, features], and "bias", one number or [classes]."""
        many = (self.classes,) if self.kind == "multiclass" else ()
        return Layout((Block("parameters", (Entry("weight", (*many, self.features)), Entry("bias", many))),))

    def weights(self, vector: Array) -> Weights:
        """The only layer: W [features, outputs] and the intercept [outputs], as views of a vector [d]."""
        outputs = self.classes if self.kind == "multiclass" else 1
        cut = outputs * self.features
        return [(vector[:cut].reshape(outputs, self.features).T, vector[cut:])]

    def init(self, rng: np.random.Generator) -> Vector:
        """First weights: zeros, or uniform on +-1/sqrt(features)."""
        if self.initial == "zeros":
            return np.zeros(self.layout.size, np.float32)
        edge = self.features**-0.5
        return rng.uniform(-edge, edge, self.layout.size).astype(np.float32)

    def to_plain(self) -> dict[str, Any]:
        """The declaration as plain data."""
        return {name: to_plain(getattr(self, name)) for name in ("features", "classes", "l2", "initial")}


@dataclass(frozen=True)
class LinearModel(_Regression):
    """Least squares: s = x w + b, loss mean (s - y)^2.

    Attributes:
        features: how many columns x has, at least 1.
        l2: adds l2/2 |w|^2 to the loss; at least 0.
        initial: the first weights, "zeros" or "uniform" on +-1/sqrt(features), the range of torch.nn.Linear.

    Raises InvalidInput for a number out of range or of another type.
    """

    features: int
    l2: float = 0.0
    initial: Initial = "zeros"
    kind = "regression"
    classes = 0


@dataclass(frozen=True)
class LogisticModel(_Regression):
    """Logistic regression for labels 0 and 1; the score x w + b is the logit of 1.

    Attributes:
        features: how many columns x has, at least 1.
        l2: adds l2/2 |w|^2 to the loss; at least 0.
        initial: the first weights, "zeros" or "uniform" on +-1/sqrt(features), the range of torch.nn.Linear.

    Raises InvalidInput for a number out of range or of another type.
    """

    features: int
    l2: float = 0.0
    initial: Initial = "zeros"
    kind = "binary"
    classes = 2


@dataclass(frozen=True)
class SoftmaxModel(_Regression):
    """Softmax regression for labels 0 to classes - 1; scores [n, classes].

    Attributes:
        features: how many columns x has, at least 1.
        classes: how many classes there are, at least 2.
        l2: adds l2/2 |W|^2 to the loss; at least 0.
        initial: the first weights, "zeros" or "uniform" on +-1/sqrt(features), the range of torch.nn.Linear.

    Raises InvalidInput for a number out of range or of another type.
    """

    features: int
    classes: int
    l2: float = 0.0
    initial: Initial = "zeros"
    kind = "multiclass"
