"""Sums of the clipped gradients of single examples, for layers one after another; exact in the sense of `models.exact`.

One backward pass gives the slope at each layer's output. The slope and the layer's input together are each example's gradient.
For a dense layer the norm follows without the gradient, as |a b'| = |a| |b| (Goodfellow 2015, "Efficient per-example gradient
computations"). The weighted sum is one product of the same inputs and slopes, without a second backward pass (Bu, Wang, Zha,
Karypis 2023, "Differentially private optimization on large model at small cost"). So for dense layers no example's gradient is
ever stored.

Every gradient is held as whole numbers times a power of two, and its squared norm is a sum of whole numbers: both are functions
of the example and the weights alone, to the last bit. See `core.training.dpsgd.SUM_SLACK`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from manent.core.metrics import Task
from manent.core.training.dpsgd import clip_factors
from manent.core.vectors import Array
from manent.models.exact import EXACT, Factor, Reals, bits_for, sigmoid, softmax, squares, tanh, whole

STORED = 1 << 21
"""The most numbers that a pass stores for one layer; a pass of fewer rows gives the same bits."""

ROWS = 4096
"""The most rows in one pass."""


class Term(Protocol):
    """The gradients of one layer's parameters, for each example of a pass."""

    def squares(self) -> Reals:
        """float64[n], the squared norm of each example's gradient."""
        ...

    def add(self, factors: Reals) -> None:
        """Adds each example's gradient times its factor [n], where that is not zero, to the layer's part of the total."""
        ...


class Layer(Protocol):
    """One layer. `forward` keeps what `backward` and `term` need."""

    def forward(self, x: Array) -> Array:
        """The layer's output, of [n, ...]."""
        ...

    def backward(self, slope: Array) -> Array:
        """The slope at the input, from the slope at the output."""
        ...

    def term(self, slope: Array) -> Term | None:
        """The gradients of the parameters; None where there are none."""
        ...

    def stored(self) -> int:
        """How many numbers a pass stores for one row, besides the row itself; known after a first `forward`."""
        ...


class _Plain:
    def term(self, slope: Array) -> Term | None:
        return None

    def stored(self) -> int:
        return 0


@final
class Relu(_Plain):
    """max(x, 0)."""

    def forward(self, x: Array) -> Array:
        self.open = x > 0
        found: Array = np.maximum(x, np.zeros((), x.dtype))  # NaN stays
        return found

    def backward(self, slope: Array) -> Array:
        return np.where(self.open, slope, np.zeros((), slope.dtype))


@final
class Curve(_Plain):
    """A function of each number, and its derivative as a function of its value."""

    def __init__(self, function: Callable[[Reals], Reals], derivative: Callable[[Array], Array]) -> None:
        self.function, self.derivative = function, derivative

    def forward(self, x: Array) -> Array:
        self.value = self.function(x.astype(np.float64)).astype(np.float32)
        return self.value

    def backward(self, slope: Array) -> Array:
        found: Array = slope * self.derivative(self.value)
        return found


CURVES: dict[str, Callable[[], Layer]] = {
    "relu": Relu,
    "tanh": lambda: Curve(tanh, lambda a: 1 - a * a),
    "logistic": lambda: Curve(sigmoid, lambda a: a * (1 - a)),
}
"""Activations by name; "identity" is no layer."""


@final
class Flat(_Plain):
    """Each row as one vector."""

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, slope: Array) -> Array:
        return slope.reshape(self.shape)


def _strided(x: Array, down: int, right: int, size: tuple[int, int], stride: tuple[int, int]) -> Array:
    high, wide = ((x.shape[2 + i] - size[i]) // stride[i] * stride[i] + 1 for i in (0, 1))
    return x[:, :, down : down + high : stride[0], right : right + wide : stride[1]]


@final
class Dense:
    """x W + b for rows [n, entering]."""

    def __init__(self, weight: Array, bias: Array | None, total: Array, total_bias: Array | None) -> None:
        """`weight` is [entering, leaving]; the totals are views of the sum, in the same shapes, None where nothing is trained."""
        self.matrix, self.bias = weight, None if bias is None else bias.astype(np.float64)
        self.forth, self.back = Factor(weight), None
        self.total, self.total_bias = total, total_bias

    back: Factor | None

    def forward(self, x: Array) -> Array:
        self.x = x
        found = self.forth.product(x)
        if self.bias is not None:
            found += self.bias
        return found

    def backward(self, slope: Array) -> Array:
        self.back = self.back or Factor(self.matrix.T)
        return self.back.product(slope)

    def term(self, slope: Array) -> Term:
        inputs, inputs_scale, fine = whole(self.x, bits_for(self.x.shape[1]))
        slopes, slopes_scale, also = whole(slope, bits_for(slope.shape[1]))
        return _Outer(self, inputs, inputs_scale, slopes, slopes_scale, fine & also)

    def stored(self) -> int:
        return 0


@dataclass(frozen=True)
class _Outer:
    """Gradients that are outer products of an input and a slope, both whole numbers times a power of two a row."""

    layer: Dense
    inputs: Reals
    inputs_scale: Reals
    slopes: Reals
    slopes_scale: Reals
    finite: NDArray[np.bool_]

    def squares(self) -> Reals:
        entering = squares(self.inputs) * (self.inputs_scale * self.inputs_scale)
        if self.layer.total_bias is not None:
            entering += 1
        found = squares(self.slopes) * (self.slopes_scale * self.slopes_scale) * entering
        found[~self.finite] = np.nan
        return found

    def add(self, factors: Reals) -> None:
        weighted = self.slopes * (self.slopes_scale * factors)[:, None]
        entered = self.inputs * self.inputs_scale[:, None]
        self.layer.total += entered.T @ weighted
        if self.layer.total_bias is not None:
            self.layer.total_bias += weighted.sum(axis=0)


@final
class Convolution:
    """A convolution of images [n, channels, height, width], with zeros around them."""

    def __init__(
        self,
        weight: Array,
        bias: Array | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        totals: tuple[Array, Array | None],
    ) -> None:
        """`weight` is [out, in, height, width]; `totals` are views of the sum, in the shapes of weight and bias."""
        self.weight, self.bias, self.stride, self.padding = weight, bias, stride, padding
        self.size = weight.shape[2], weight.shape[3]
        matrix = weight.reshape(len(weight), -1).astype(np.float64)  # [out, in * height * width]
        self.matrix, self.total, self.total_bias = matrix, *totals
        self.bits = bits_for(matrix.shape[1])
        self.numbers, self.scale, self.finite = whole(matrix, self.bits)
        self.each = 0

    def forward(self, x: Array) -> Array:
        numbers, self.image_scale, self.fine = whole(x, self.bits)
        (tall, broad), (high, wide) = self.padding, self.size
        if tall or broad:
            numbers = np.pad(numbers, ((0, 0), (0, 0), (tall, tall), (broad, broad)))
        self.shape = numbers.shape
        windows = np.lib.stride_tricks.sliding_window_view(numbers, self.size, (2, 3))[:, :, :: self.stride[0], :: self.stride[1]]
        self.places = windows.shape[2], windows.shape[3]
        n, where, inside = len(x), self.places[0] * self.places[1], x.shape[1] * high * wide
        # [n, in * height * width, places]: the innermost copies are long
        self.windows = windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, inside, where)
        self.each = inside * where
        found: Reals = np.matmul(self.numbers, self.windows)
        found *= self.image_scale[:, None, None]
        found *= self.scale[:, None]
        if self.bias is not None:
            found += self.bias.astype(np.float64)[:, None]
        if not self.finite.all():
            found[:] = np.nan
        found[~self.fine] = np.nan
        return found.reshape(n, len(self.matrix), *self.places)

    def backward(self, slope: Array) -> Array:
        n, out = slope.shape[:2]
        flat = slope.reshape(n, out, -1) * self.scale[:, None]
        numbers, scale, fine = whole(flat, self._spare(out))
        found = np.matmul(self.numbers.T, numbers).reshape(n, -1, *self.size, *self.places)
        inner = np.zeros(self.shape)
        for down in range(self.size[0]):  # one sum of whole numbers a number, in this order
            for right in range(self.size[1]):
                _strided(inner, down, right, self.size, self.stride)[...] += found[:, :, down, right]
        inner *= scale[:, None, None, None]
        if not self.finite.all():
            inner[:] = np.nan
        inner[~fine] = np.nan
        tall, broad = self.padding
        return inner[:, :, tall : self.shape[2] - tall, broad : self.shape[3] - broad]

    def _spare(self, terms: int) -> int:
        """The bits that are left for the other factor, where `terms` products with numbers of self.bits are summed."""
        return max(min(EXACT - self.bits - max(terms - 1, 0).bit_length(), 24), 1)

    def term(self, slope: Array) -> Term:
        n, out = slope.shape[:2]
        where = self.places[0] * self.places[1]
        flat = slope.reshape(n, out, where)
        numbers, scale, fine = whole(flat, self._spare(where))
        gradients = np.matmul(numbers, self.windows.transpose(0, 2, 1)).reshape(n, -1)
        scale_of = scale * self.image_scale
        if self.total_bias is not None:
            # The bias has an input of 1, which is whole in the unit of the image.
            sums = numbers.sum(axis=2)
            gradients = np.concatenate([gradients, sums * (1 / self.image_scale)[:, None]], axis=1)
        whole_gradients, more, also = whole(gradients, bits_for(gradients.shape[1]))
        return _Each(self, whole_gradients, more * scale_of, fine & also & self.fine)

    def stored(self) -> int:
        return self.each + self.total.size


@dataclass(frozen=True)
class _Each:
    """Gradients that are stored, as whole numbers [n, weights and biases] times a power of two a row."""

    layer: Convolution
    numbers: Reals
    scale: Reals
    finite: NDArray[np.bool_]

    def squares(self) -> Reals:
        found = squares(self.numbers) * (self.scale * self.scale)
        found[~self.finite] = np.nan
        return found

    def add(self, factors: Reals) -> None:
        added = (factors * self.scale) @ self.numbers
        layer = self.layer
        layer.total += added[: layer.total.size].reshape(layer.total.shape)
        if layer.total_bias is not None:
            layer.total_bias += added[layer.total.size :]


def slopes(kind: Task, scores: Reals, y: Array) -> tuple[Reals, Array]:
    """float64[n], each row's loss, and float64[n, outputs], its derivative by the row's scores [n, outputs], for targets y [n].

    The losses are only as exact as the library; the derivatives do not depend on other rows.
    """
    if kind == "multiclass":
        picked = np.arange(len(y)), y
        largest = scores.max(axis=1, keepdims=True)
        logs = np.log(np.exp(scores - largest).sum(axis=1)) + largest[:, 0]
        slope = softmax(scores)
        losses: Reals = logs - scores[picked]
        slope[picked] -= 1
        return losses, slope
    s, target = scores[:, 0], y.astype(np.float64)
    if kind == "binary":
        return np.logaddexp(s, 0) - target * s, (sigmoid(s) - target)[:, None]
    error = s - target
    return error * error, (2 * error)[:, None]


def clipped_sum(layers: Sequence[Layer], kind: Task, x: Array, y: Array, clip_norm: float) -> float:
    """Adds the rows' clipped gradients to the totals of the layers, and returns the sum of losses.

    x is float32[n, ...], y [n]. A row whose gradient is not finite adds nothing.
    """
    loss, start = 0.0, 0
    rows = 16 if any(isinstance(layer, Convolution) for layer in layers) else max(1, min(ROWS, STORED // max(x[:1].size, 1)))
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, Dense | Convolution))
    with np.errstate(all="ignore"):
        while start < len(x):
            part = x[start : start + rows]
            flowing: Array = part
            for layer in layers:
                flowing = layer.forward(flowing if flowing.dtype == np.float32 else flowing.astype(np.float32))
            losses, slope = slopes(kind, flowing.astype(np.float64, copy=False), y[start : start + rows])
            loss += float(losses.sum())
            terms: list[Term] = []
            total = np.zeros(len(part))
            for index in range(len(layers) - 1, first - 1, -1):
                slope = slope.astype(np.float32, copy=False)
                term = layers[index].term(slope)
                if term is not None:
                    total += term.squares()
                    terms.append(term)
                if index > first:
                    slope = layers[index].backward(slope)
            factors = clip_factors(total, clip_norm)
            for term in terms:
                term.add(factors)
            start += len(part)
            most = max((layer.stored() for layer in layers), default=0)
            rows = max(1, min(ROWS, STORED // max(most, x[:1].size)))
    return loss
