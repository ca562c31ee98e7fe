"""Sums of the clipped gradients of single examples, for layers one after another; exact in the sense of `models.exact`.

One backward pass gives the slope at each layer's output. The slope and the layer's input together are each example's gradient.
For a dense layer the norm follows without the gradient, as |a b'| = |a| |b| (Goodfellow 2015, "Efficient per-example gradient
computations"). The weighted sum is one product of the same inputs and slopes, without a second backward pass (Bu, Wang, Zha,
Karypis 2023, "Differentially private optimization on large model at small cost"). So for dense layers no example's gradient is
ever stored.

Every gradient is held as multiples of a power of two, and its squared norm is an exact sum of such: both are functions of the
example and the weights alone, to the last bit. See `core.training.dpsgd.SUM_SLACK`.
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
from manent.models.exact import EXACT, Factor, Multiply, Reals, bits_for, powers, rounded, sigmoid, sizes, softmax, squares, tanh

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
        self.open = np.negative(x > 0, dtype=np.int32)  # all bits, or none
        found: Array = np.maximum(x, np.zeros((), x.dtype))  # NaN stays
        return found

    def backward(self, slope: Array) -> Array:
        found: Array = (slope.view(np.int32) & self.open).view(np.float32)  # several times as fast as a choice
        return found


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


@final
class Dense:
    """x W + b for rows [n, entering]."""

    def __init__(
        self, weight: Array, bias: Array | None, total: Array, total_bias: Array | None, multiply: Multiply = np.matmul
    ) -> None:
        """`weight` is [entering, leaving]; the totals are views of the sum, in the same shapes, None where nothing is trained."""
        self.matrix, self.bias, self.multiply = weight, None if bias is None else bias.astype(np.float64), multiply
        self.forth, self.back = Factor(weight, multiply), None
        self.total, self.total_bias = total, total_bias

    back: Factor | None

    def forward(self, x: Array) -> Array:
        self.x = x
        found = self.forth.product(x)
        if self.bias is not None:
            found += self.bias
        return found

    def backward(self, slope: Array) -> Array:
        self.back = self.back or Factor(self.matrix.T, self.multiply)
        return self.back.product(slope)

    def term(self, slope: Array) -> Term:
        inputs, fine = rounded(self.x, bits_for(self.x.shape[1]))
        slopes, also = rounded(slope, bits_for(slope.shape[1]))
        return _Outer(self, inputs, slopes, fine & also)

    def stored(self) -> int:
        return 0


@dataclass(frozen=True)
class _Outer:
    """Gradients that are outer products of an input and a slope, both rounded."""

    layer: Dense
    inputs: Reals
    slopes: Reals
    finite: NDArray[np.bool_]

    def squares(self) -> Reals:
        entering = squares(self.inputs)
        if self.layer.total_bias is not None:
            entering += 1
        found = squares(self.slopes) * entering
        found[~self.finite] = np.nan
        return found

    def add(self, factors: Reals) -> None:
        weighted = self.slopes * factors[:, None]
        layer = self.layer
        layer.total += layer.multiply(self.inputs.T, weighted)
        if layer.total_bias is not None:
            layer.total_bias += weighted.sum(axis=0)


@final
class Convolution:
    """A convolution of images [n, channels, height, width], with zeros around them.

    Inside, channels are the last axis, and a window is one row of a matrix. So what leaves has the strides of such images.
    """

    def __init__(
        self,
        weight: Array,
        bias: Array | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        totals: tuple[Array, Array | None],
        multiply: Multiply = np.matmul,
    ) -> None:
        """`weight` is [out, in, height, width]; `totals` are views of the sum, in the shapes of weight and bias."""
        self.bias, self.stride, self.padding = None if bias is None else bias.astype(np.float64), stride, padding
        self.size, self.multiply = weight.shape[2:], multiply
        (self.total, self.total_bias), self.leaving = totals, len(weight)
        matrix = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)  # [out, height * width * in]
        self.bits = bits_for(matrix.shape[1])
        self.numbers, finite = rounded(matrix, self.bits)
        self.finite = bool(finite.all())
        self.units = powers(np.where(finite, sizes(matrix), 0.0))
        self.whole = self.numbers / self.units[:, None]  # in a unit that is the same for all
        self.each = 0

    def forward(self, x: Array) -> Array:
        images = _last(x)
        n, height, width, entering = images.shape
        (tall, broad), (high, wide), (down, right) = self.padding, self.size, self.stride
        padded = np.zeros((n, height + 2 * tall, width + 2 * broad, entering))
        _, self.fine = rounded(images, self.bits, out=padded[:, tall : tall + height, broad : broad + width])
        self.shape = padded.shape
        self.places = (self.shape[1] - high) // down + 1, (self.shape[2] - wide) // right + 1
        where, inside = self.places[0] * self.places[1], high * wide * entering
        row, line, pixel, number = padded.strides
        windows = np.lib.stride_tricks.as_strided(  # the copies are as long as a line of a window
            padded, (n, *self.places, high, wide * entering), (row, line * down, pixel * right, line, number), writeable=False
        )
        self.windows = windows.reshape(n, where, inside)
        self.each = where * inside
        found = self.multiply(self.windows.reshape(-1, inside), self.numbers.T).reshape(n, *self.places, -1)
        if self.bias is not None:
            found += self.bias
        return self._checked(found, self.fine)

    def backward(self, slope: Array) -> Array:
        numbers, fine = rounded(_last(slope) * self.units, self._spare(self.leaving))
        found = self.multiply(numbers.reshape(-1, self.leaving), self.whole)
        found = found.reshape(len(slope), *self.places, *self.size, self.shape[3])
        inner = np.zeros(self.shape)
        (rows, columns), (below, beside) = self.places, self.stride
        for down in range(self.size[0]):  # one sum a number, in this order
            for right in range(self.size[1]):
                inner[:, down : down + rows * below : below, right : right + columns * beside : beside] += found[
                    :, :, :, down, right
                ]
        tall, broad = self.padding
        return self._checked(inner[:, tall : self.shape[1] - tall, broad : self.shape[2] - broad], fine)

    def _checked(self, images: Reals, fine: NDArray[np.bool_]) -> Array:
        """With channels as the second axis; NaN for rows that are not finite."""
        if not self.finite:
            images[:] = np.nan
        if not fine.all():
            images[~fine] = np.nan
        return images.transpose(0, 3, 1, 2)

    def _spare(self, terms: int) -> int:
        """The bits that are left for the other factor, where `terms` products with numbers of self.bits are summed."""
        return max(min(EXACT - self.bits - max(terms - 1, 0).bit_length(), 24), 1)

    def term(self, slope: Array) -> Term:
        n, where = self.windows.shape[:2]
        numbers, fine = rounded(_last(slope).reshape(n, where, self.leaving), self._spare(where))
        parts = [self.multiply(numbers.transpose(0, 2, 1), self.windows).reshape(n, -1)]
        if self.total_bias is not None:
            parts.append(numbers.sum(axis=1))
        largest = np.max([sizes(part) for part in parts], axis=0)
        bits = bits_for(sum(part.shape[1] for part in parts))
        return _Each(self, [rounded(part, bits, largest, part)[0] for part in parts], fine & self.fine & np.isfinite(largest))

    def stored(self) -> int:
        return self.each + self.total.size


def _last(images: Array) -> Array:
    """[n, height, width, channels] of [n, channels, height, width], in one piece of memory."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class _Each:
    """Gradients that are stored, rounded: of the weights [n, out * height * width * in], and of the biases [n, out] if any."""

    layer: Convolution
    parts: list[Reals]
    finite: NDArray[np.bool_]

    def squares(self) -> Reals:
        # Two exact sums in one unit, whose sum is exact.
        found: Reals = np.sum([squares(part) for part in self.parts], axis=0)
        found[~self.finite] = np.nan
        return found

    def add(self, factors: Reals) -> None:
        layer = self.layer
        added, *others = (layer.multiply(factors[None], part)[0] for part in self.parts)
        out, entering, high, wide = layer.total.shape
        layer.total += added.reshape(out, high, wide, entering).transpose(0, 3, 1, 2)
        if layer.total_bias is not None:
            layer.total_bias += others[0]


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
