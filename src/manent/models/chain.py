"""Sums of the clipped gradients of single examples, for layers one after another; exact in the sense of `models.exact`.

One backward pass gives the slope at each layer's output. The slope and the layer's input together are each example's gradient.
For a dense layer the norm follows without the gradient, as |a b'| = |a| |b| (Goodfellow 2015, "Efficient per-example gradient
computations"). The weighted sum is one product of the same inputs and slopes, without a second backward pass (Bu, Wang, Zha,
Karypis 2023, "Differentially private optimization on large model at small cost"). So for dense layers no example's gradient is
ever stored.

Every gradient and its squared norm are functions of the example and the weights alone, to the last bit. See
`core.training.dpsgd.SUM_SLACK`.
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
from manent.models.exact import (
    EXACT,
    Factor,
    Multiply,
    Reals,
    bits_for,
    multiply,
    powers,
    round_in_place,
    rounded,
    sigmoid,
    sizes,
    softmax,
    squares,
    tanh,
)

STORED = 1 << 22
"""The most numbers that a pass stores for one layer; a pass of fewer rows gives the same bits."""

CACHED = 1 << 18
"""The most numbers in the windows of a convolution at a time: 2 MiB, which a processor's cache holds."""

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
        self, weight: Array, bias: Array | None, total: Array, total_bias: Array | None, multiply: Multiply = multiply
    ) -> None:
        """`weight` is [entering, leaving]; the totals are views of the sum, in the same shapes, None where nothing is trained."""
        self.matrix, self.bias, self.multiply = weight, None if bias is None else bias.astype(np.float64), multiply
        self.forth, self.back = Factor(weight, multiply), None
        self.total, self.total_bias = total, total_bias

    back: Factor | None

    def forward(self, x: Array) -> Array:
        self.x = x.astype(np.float64)
        found = self.forth.product(self.x)
        if self.bias is not None:
            found += self.bias
        return found

    def backward(self, slope: Array) -> Array:
        self.back = self.back or Factor(self.matrix.T, self.multiply)
        return self.back.product(slope.astype(np.float64))

    def term(self, slope: Array) -> Term:
        return _Outer(self, self.x, slope.astype(np.float64))

    def stored(self) -> int:
        return 0


@dataclass(frozen=True)
class _Outer:
    """Gradients that are outer products of an input and a slope."""

    layer: Dense
    inputs: Reals
    slopes: Reals

    def squares(self) -> Reals:
        entering = squares(self.inputs)
        if self.layer.total_bias is not None:
            entering += 1
        found = squares(self.slopes) * entering
        lost = ~np.isfinite(found)
        if lost.any():
            self.inputs[lost] = self.slopes[lost] = 0
        return found

    def add(self, factors: Reals) -> None:
        weighted = self.slopes * factors[:, None]
        total = self.layer.total.T
        total += self.layer.multiply(weighted.T, self.inputs)
        if self.layer.total_bias is not None:
            self.layer.total_bias += weighted.sum(axis=0)


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
        multiply: Multiply = multiply,
    ) -> None:
        """`weight` is [out, in, height, width]; `totals` are views of the sum, in the shapes of weight and bias."""
        self.bias, self.stride, self.padding = None if bias is None else bias.astype(np.float64), stride, padding
        self.size, self.multiply = (weight.shape[2], weight.shape[3]), multiply
        (self.total, self.total_bias), self.leaving = totals, len(weight)
        matrix = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)  # [out, height * width * in]
        self.bits = bits_for(matrix.shape[1])
        self.numbers, finite = rounded(matrix, self.bits)
        self.finite = bool(finite.all())
        self.units = powers(np.where(finite, sizes(matrix), 0.0))
        self.taps = -(-self.size[0] // stride[0]), -(-self.size[1] // stride[1])
        self.turned: Reals | None = None

    def forward(self, x: Array) -> Array:
        images, self.fine = rounded(_last(x), self.bits)
        self.padded = _padded(images, self.padding)
        self.places = _places(self.padded, self.size, self.stride)
        where = self.places[0] * self.places[1]
        found = np.empty((len(x), where * self.leaving), np.float32)
        bias = None if self.bias is None else np.tile(self.bias, where)  # a loop over a whole row is faster
        for block in self._blocks():
            windows = self._windows(block)
            scores = self.multiply(windows.reshape(-1, windows.shape[2]), self.numbers.T).reshape(found[block].shape)
            if bias is not None:
                scores += bias
            found[block] = scores
        return self._checked(found.reshape(len(x), *self.places, self.leaving), self.fine)

    def _blocks(self) -> list[slice]:
        return _blocks(self.padded, self.size, self.stride)

    def _windows(self, block: slice) -> Reals:
        """float64[n, places, height * width * in]."""
        windows = _windows(self.padded[block], self.size, self.stride)
        return windows.reshape(len(windows), -1, windows.shape[3])

    def backward(self, slope: Array) -> Array:
        self.turned = self._turned() if self.turned is None else self.turned
        taps, (below, beside), (tall, broad) = self.taps, self.stride, self.padding
        scaled = _last(slope).reshape(len(slope), -1) * np.tile(self.units, self.places[0] * self.places[1])
        fine = round_in_place(scaled, sizes(scaled), self._spare(taps[0] * taps[1] * self.leaving))
        padded = _padded(scaled.reshape(len(slope), *self.places, -1), (taps[0] - 1, taps[1] - 1))
        n, height, width, entering = self.padded.shape
        found = np.zeros((n, height - 2 * tall, width - 2 * broad, entering), np.float32)
        for block in _blocks(padded, taps, (1, 1)):
            windows = _windows(padded[block], taps, (1, 1))
            m, rows, columns, _ = windows.shape
            inner = self.multiply(windows.reshape(m * rows * columns, -1), self.turned).astype(np.float32)
            inner = inner.reshape(m, rows, columns, below, beside, entering).transpose(0, 1, 3, 2, 4, 5)
            images = inner.reshape(m, rows * below, columns * beside, entering)[:, tall : height - tall, broad : width - broad]
            found[block, : images.shape[1], : images.shape[2]] = images
        return self._checked(found, fine)

    def _turned(self) -> Reals:
        """The weights, so that `backward` is a convolution too: [taps * out, stride * in], whole in a unit that all share.

        A pixel of the image is one of stride[0] * stride[1] in a square, and taps[0] * taps[1] outputs next to each other see
        that square.
        """
        (high, wide), (below, beside), (down, right) = self.size, self.stride, self.taps
        weights = (self.numbers / self.units[:, None]).reshape(self.leaving, high, wide, -1)
        weights = np.pad(weights, ((0, 0), (0, down * below - high), (0, right * beside - wide), (0, 0)))
        weights = weights.reshape(self.leaving, down, below, right, beside, -1)[:, ::-1, :, ::-1]
        return weights.transpose(1, 3, 0, 2, 4, 5).reshape(down * right * self.leaving, -1)

    def _checked(self, images: Array, fine: NDArray[np.bool_]) -> Array:
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
        n, where = len(slope), self.places[0] * self.places[1]
        slopes = _last(slope).reshape(n, where, self.leaving)
        weights, biases = np.empty((n, *self.numbers.shape)), np.empty((n, 0 if self.total_bias is None else self.leaving))
        each, ones = np.empty(n), np.ones((1, where))
        for block in self._blocks():
            numbers, fine = rounded(slopes[block], self._spare(where))
            self.multiply(numbers.transpose(0, 2, 1), self._windows(block), weights[block])
            each[block] = squares(weights[block])
            if self.total_bias is not None:
                self.multiply(ones, numbers, biases[block, None])
                each[block] += squares(biases[block])
            each[block][~(fine & self.fine[block])] = np.nan
        return _Each(self, weights.reshape(n, -1), biases, each)

    def stored(self) -> int:
        return int(self.padded[0].size) + self.total.size


def _last(images: Array) -> Array:
    """[n, height, width, channels] of [n, channels, height, width], in one piece of memory."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _padded(images: Reals, padding: tuple[int, int]) -> Reals:
    """Images [n, height, width, channels] with zeros around them."""
    (tall, broad), (n, height, width, channels) = padding, images.shape
    if not tall and not broad:
        return images
    found = np.zeros((n, height + 2 * tall, width + 2 * broad, channels))
    found[:, tall : tall + height, broad : broad + width] = images
    return found


def _places(images: Reals, size: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """How many windows lie below and beside each other in images [n, height, width, channels]."""
    return (images.shape[1] - size[0]) // stride[0] + 1, (images.shape[2] - size[1]) // stride[1] + 1


def _windows(images: Reals, size: tuple[int, int], stride: tuple[int, int]) -> Reals:
    """float64[n, *places, height * width * channels], what each window of [n, height, width, channels] holds."""
    places, (n, line), (row, down, right, number) = (
        _places(images, size, stride),
        (len(images), size[1] * images.shape[3]),
        images.strides,
    )
    seen = np.lib.stride_tricks.as_strided(  # what is copied at a time is one line of a window
        images, (n, *places, size[0], line), (row, down * stride[0], right * stride[1], down, number), writeable=False
    )
    return seen.reshape(n, *places, size[0] * line)


def _blocks(images: Reals, size: tuple[int, int], stride: tuple[int, int]) -> list[slice]:
    """Slices of the images whose windows stay in the processor's cache."""
    down, right = _places(images, size, stride)
    rows = max(1, CACHED // (down * right * size[0] * size[1] * images.shape[3]))
    return [slice(start, start + rows) for start in range(0, len(images), rows)]


@dataclass(frozen=True)
class _Each:
    """Gradients that are stored: of the weights [n, out * height * width * in], and of the biases [n, out or 0]."""

    layer: Convolution
    weights: Reals
    biases: Reals
    each: Reals

    def squares(self) -> Reals:
        return self.each

    def add(self, factors: Reals) -> None:
        layer = self.layer
        out, entering, high, wide = layer.total.shape
        added = layer.multiply(factors[None], self.weights).reshape(out, high, wide, entering)
        layer.total += added.transpose(0, 3, 1, 2)
        if layer.total_bias is not None:
            layer.total_bias += layer.multiply(factors[None], self.biases)[0]


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
